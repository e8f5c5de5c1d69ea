"""Special functions on arrays that NumPy does not have: the error function and its kin.

float64 follows W. J. Cody's rational approximations as arranged in FreeBSD's `s_erf.c` (Sun Microsystems, 1993; freely
usable), to about 1 unit in the last place; float32's erf takes one rational approximation for all arguments, as Eigen
does. The others compute lower precisions in float64, and round once. On a GPU, CuPy has them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["erf", "erfc", "erfcx", "erfinv", "in_double", "polynomial"]

# erf(x) ≈ x · P(x²) / Q(x²) on [-4, 4], in single precision
_P32 = (
    -1.60960333262415e-02, -2.95459980854025e-03, -7.34990630326855e-04, -5.69250639462346e-05,
    -2.10102402082508e-06, 2.77068142495902e-08, -2.72614225801306e-10,
)  # fmt: skip
_Q32 = (
    -1.42647390514189e-02, -7.37332916720468e-03, -1.68282697438203e-03, -2.13374055278905e-04,
    -1.45660718464996e-05,
)  # fmt: skip

# |x| < 0.84375: erf(x) = x + x · P(x²) / Q(x²)
_PP = (
    1.28379167095512558561e-01, -3.25042107247001499370e-01, -2.84817495755985104766e-02, -5.77027029648944159157e-03,
    -2.37630166566501626084e-05,
)  # fmt: skip
_QQ = (
    1.0, 3.97917223959155352819e-01, 6.50222499887672944485e-02, 5.08130628187576562776e-03,
    1.32494738004321644526e-04, -3.96022827877536812320e-06,
)  # fmt: skip
# |x| < 1.25: erf(x) = c + P(|x| - 1) / Q(|x| - 1)
_ERX = 8.45062911510467529297e-01
_PA = (
    -2.36211856075265944077e-03, 4.14856118683748331666e-01, -3.72207876035701323847e-01, 3.18346619901161753674e-01,
    -1.10894694282396677476e-01, 3.54783043256182359371e-02, -2.16637559486879084300e-03,
)  # fmt: skip
_QA = (
    1.0, 1.06420880400844228286e-01, 5.40397917702171048937e-01, 7.18286544141962662868e-02,
    1.26171219808761642112e-01, 1.36370839120290507362e-02, 1.19844998467991074170e-02,
)  # fmt: skip
# beyond: erf(x) = 1 - exp(-x² - 0.5625 + R(1/x²) / S(1/x²)) / |x|, with two sets of coefficients
_RA = (
    -9.86494403484714822705e-03, -6.93858572707181764372e-01, -1.05586262253232909814e01, -6.23753324503260060396e01,
    -1.62396669462573470355e02, -1.84605092906711035994e02, -8.12874355063065934246e01, -9.81432934416914548592e00,
)  # fmt: skip
_SA = (
    1.0, 1.96512716674392571292e01, 1.37657754143519042600e02, 4.34565877475229228821e02,
    6.45387271733267880336e02, 4.29008140027567833386e02, 1.08635005541779435134e02, 6.57024977031928170135e00,
    -6.04244152148580987438e-02,
)  # fmt: skip
_RB = (
    -9.86494292470009928597e-03, -7.99283237680523006574e-01, -1.77579549177547519889e01, -1.60636384855821916062e02,
    -6.37566443368389627722e02, -1.02509513161107724954e03, -4.83519191608651397019e02,
)  # fmt: skip
_SB = (
    1.0, 3.03380607434824582924e01, 3.25792512996573918826e02, 1.53672958608443695994e03,
    3.19985821950859553908e03, 2.55305040643316442583e03, 4.74528541206955367215e02, -2.24409524465858183362e01,
)  # fmt: skip


def polynomial(x: Any, coefficients: tuple[float, ...]) -> Any:
    """Σ coefficients[k] · x^k."""
    total = x * coefficients[-1]
    for c in coefficients[-2:0:-1]:
        total += c
        total *= x
    total += coefficients[0]
    return total


def in_double(function: Any, name: str) -> Any:
    """`function`, which is written for float64 arrays with dimensions, for every array; CuPy's of that name there."""

    def compute(xp: Any, a: Any) -> Any:
        if xp is not np:
            import cupyx.scipy.special as device  # pyright: ignore[reportMissingImports]

            return getattr(device, name)(a)
        dtype = a.dtype
        if dtype.kind in "iub":
            dtype = np.dtype("float64")
        held = a.astype(np.float64, order="C").reshape(-1)
        return function(held).reshape(a.shape).astype(dtype, copy=False)

    return compute


def erf(xp: Any, a: Any) -> Any:
    """The error function of every element."""
    if xp is not np:
        from cupyx.scipy.special import erf as device_erf  # pyright: ignore[reportMissingImports]

        return device_erf(a)
    if a.dtype == np.float64 or a.dtype.kind in "iub":
        return _erf64(np.asarray(a, np.float64))
    held = np.clip(np.asarray(a, np.float32), -4.0, 4.0)
    squared = held * held
    out = polynomial(squared, _P32)
    out *= held
    out /= polynomial(squared, _Q32)
    return out.astype(a.dtype, copy=False)


def _erf64(x: Any) -> Any:
    size = np.minimum(np.abs(x), 6.0)
    out = np.empty_like(size)
    small, middle = size < 0.84375, (size >= 0.84375) & (size < 1.25)
    s = size[small]
    out[small] = s + s * polynomial(s * s, _PP) / polynomial(s * s, _QQ)
    s = size[middle] - 1.0
    out[middle] = _ERX + polynomial(s, _PA) / polynomial(s, _QA)
    large = ~(size < 1.25)  # also NaN
    out[large] = 1.0 - _tail(size[large])
    return np.copysign(out, x)


def _tail(x: Any) -> Any:
    """1 - erf(x) for x ≥ 1.25, to full relative precision down to where it underflows."""
    inverse = 1.0 / (x * x)
    exponent = np.where(
        x < 1 / 0.35,
        polynomial(inverse, _RA) / polynomial(inverse, _SA),
        polynomial(inverse, _RB) / polynomial(inverse, _SB),
    )
    # exp(-x²) in two factors: the square of x with its lower half cut off is exact.
    cut = (x.view(np.int64) & ~0xFFFFFFFF).view(np.float64)
    return np.exp(-cut * cut - 0.5625) * np.exp((cut - x) * (cut + x) + exponent) / x


def _erfc64(x: Any) -> Any:
    size = np.abs(x)
    out = np.empty_like(size)
    small, middle = size < 0.84375, (size >= 0.84375) & (size < 1.25)
    s = x[small]
    part = s * polynomial(s * s, _PP) / polynomial(s * s, _QQ)
    out[small] = np.where(s < 0.25, 1.0 - (s + part), 0.5 - (s - 0.5 + part))
    s = size[middle] - 1.0
    ratio = polynomial(s, _PA) / polynomial(s, _QA)
    out[middle] = np.where(x[middle] < 0, 1.0 + _ERX + ratio, 1.0 - _ERX - ratio)
    large = ~(size < 1.25)
    tail = _tail(np.minimum(size[large], 30.0))
    out[large] = np.where(x[large] < 0, 2.0 - tail, tail)
    return out


erfc = in_double(_erfc64, "erfc")


def _erfcx64(x: Any) -> Any:
    out = np.empty_like(x)
    small = x < 1.25
    s = x[small]
    out[small] = np.exp(s * s) * _erfc64(s)
    s = x[~small]
    inverse = 1.0 / (s * s)
    first, last = s < 1 / 0.35, s > 26.0
    exponent = np.where(
        first,
        polynomial(inverse, _RA) / polynomial(inverse, _SA),
        polynomial(inverse, _RB) / polynomial(inverse, _SB),
    )
    far = polynomial(inverse, _ERFCX_FAR)
    out[~small] = np.where(last, far / math.sqrt(math.pi), np.exp(exponent - 0.5625)) / s
    return out


_ERFCX_FAR = (1.0, -0.5, 0.75, -1.875, 6.5625, -29.53125, 162.421875, -1055.7421875)  # (-1)^k (2k - 1)!! / 2^k

erfcx = in_double(_erfcx64, "erfcx")


def _erfinv64(y: Any) -> Any:
    """A start by M. Giles ("Approximating the erfinv function", 2010), good to single precision, and Newton's steps.

    From 1/2 on they solve log erfc(x) = log(1 - |y|), which is precise near 1, where erf(x) = y has lost its digits.
    """
    size = np.abs(y)
    w = -np.log((1.0 - size) * (1.0 + size))
    near, far = w < 5.0, w > 16.0
    root = np.sqrt(np.where(near | far, 9.0, w))
    x = np.minimum(size, 1.0) * np.where(
        near, polynomial(np.where(near, w, 0.0) - 2.5, _GILES_NEAR), polynomial(root - 3.0, _GILES_FAR)
    )
    x = np.where(far, np.sqrt(np.maximum(np.minimum(w, 40.0) + math.log(2) - 0.5 * np.log(math.pi * w), 1.0)), x)
    half, rest = size < 0.5, 1.0 - size
    for _ in range(3):
        slope = 2.0 / math.sqrt(math.pi) * np.exp(-x * x)
        left = _erfc64(x)
        x = x - np.where(half, (_erf64(x) - size) / slope, np.log(rest / left) * left / slope)
    x = np.where(size == 1.0, np.inf, np.where(size > 1.0, np.nan, x))
    return np.where(y == 0, y, np.copysign(x, y))


_GILES_NEAR = (
    1.50140941, 0.246640727, -0.00417768164, -0.00125372503, 0.000218580870, -4.39150654e-06, -3.5233877e-06,
    3.43273939e-07, 2.81022636e-08,
)  # fmt: skip
_GILES_FAR = (
    2.83297682, 1.00167406, 0.00943887047, -0.0076224613, 0.00573950773, -0.00367342844, 0.00134934322, 0.000100950558,
    -0.000200214257,
)  # fmt: skip

erfinv = in_double(_erfinv64, "erfinv")
