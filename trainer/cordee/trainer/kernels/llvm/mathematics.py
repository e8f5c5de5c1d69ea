"""Functions of float32 by polynomials, on numbers or vectors, in the language of `values`.

Accurate to about two units in the last place; infinities, zeros and NaN as NumPy has them. exp and log follow Cephes
(Moshier 1989), tanh and erf the rational approximations of Eigen and XLA.
"""

from __future__ import annotations

import math

from cordee.trainer.kernels.llvm.values import FLOAT, INT, Code, Number, Value

__all__ = ["FUNCTIONS", "erf", "exp", "expm1", "log", "log1p", "sigmoid", "softplus", "tanh"]

_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4


def exp(code: Code, x: Value) -> Value:
    """e^x: 2^n · e^r, with |r| ≤ ln(2) / 2."""
    x = code.clamp(x, -104.0, 89.0)
    n = code.round(x * math.log2(math.e))
    r = code.fma(n, -_LN2_HIGH, x)
    r = code.fma(n, -_LN2_LOW, r)
    p = code.polynomial(
        r, 1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1
    )
    p = code.fma(p, r * r, r) + 1.0
    half = code.floor(n * 0.5)  # in two steps, so that neither power leaves the range of the normal numbers
    return p * _power_of_two(code, half) * _power_of_two(code, n - half)


def _power_of_two(code: Code, n: Value) -> Value:
    return code.from_bits((code.convert(n, INT) + 127) << 23)


def log(code: Code, x: Value) -> Value:
    """ln(x) = ln(m) + e · ln(2), with m between 1/√2 and √2."""
    tiny = x < 1.17549435e-38
    scaled = code.where(tiny, x * 8388608.0, x)
    bits = code.bits(scaled)
    exponent = code.convert((bits >> 23) - 126, FLOAT) - code.where(tiny, 23.0, code.like(0.0, x))
    m = code.from_bits((bits & 0x007FFFFF) | 0x3F000000)  # between 1/2 and 1
    small = m < math.sqrt(0.5)
    exponent = exponent - code.where(small, 1.0, code.like(0.0, x))
    m = m + code.where(small, m, code.like(0.0, x)) - 1.0
    square = m * m
    p = code.polynomial(
        m, 7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
        2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    )  # fmt: skip
    y = p * m * square
    y = code.fma(exponent, _LN2_LOW, y)
    y = code.fma(square, -0.5, y)
    result = code.fma(exponent, _LN2_HIGH, m + y)
    result = code.where(x.equals(math.inf), code.like(math.inf, x), result)
    result = code.where(x.equals(0.0), code.like(-math.inf, x), result)
    return code.where((x < 0.0) | x.differs(x), code.like(math.nan, x), result)


def expm1(code: Code, x: Value) -> Value:
    """e^x - 1, also where x is small: by a series there."""
    p = code.polynomial(x, 1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5)
    near = code.fma(p * x, x, x)
    return code.where(code.abs(x) < 0.35, near, exp(code, x) - 1.0)


def log1p(code: Code, x: Value) -> Value:
    """ln(1 + x), also where x is small: what 1 + x was rounded by is made up for."""
    u = x + 1.0
    made_up = log(code, u) * (x / (u - 1.0))
    return code.where(u.equals(1.0) | u.equals(math.inf), code.where(u.equals(1.0), x, u), made_up)


def sigmoid(code: Code, x: Value) -> Value:
    return 1.0 / (exp(code, -x) + 1.0)


def softplus(code: Code, x: Value) -> Value:
    """ln(1 + e^x), without overflow."""
    return code.maximum(x, 0.0) + log1p(code, exp(code, -code.abs(x)))


def tanh(code: Code, x: Value) -> Value:
    size, given = code.abs(x), x
    x = code.clamp(x, -7.90531110763549805, 7.90531110763549805)
    square = x * x
    top = code.polynomial(
        square, -2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
        1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03,
    )  # fmt: skip
    bottom = code.polynomial(
        square, 1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03
    )
    whole = code.where(size > 7.9, code.copysign(code.like(1.0, x), x), x * top / bottom)
    return code.where(size < 4e-4, given, whole)


def erf(code: Code, x: Value) -> Value:
    x = code.clamp(x, -4.0, 4.0)
    square = x * x
    top = code.polynomial(
        square, -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
        -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02,
    )  # fmt: skip
    bottom = code.polynomial(
        square, -1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
        -1.42647390514189e-02,
    )  # fmt: skip
    return code.clamp(x * top / bottom, -1.0, 1.0)


def _sign(code: Code, x: Value) -> Value:
    zero = code.like(0.0, x)
    return code.where(x > 0.0, 1.0, code.where(x < 0.0, -1.0, code.where(x.differs(x), x, zero)))


def _relu(code: Code, x: Value) -> Value:
    return code.maximum(x, 0.0)


def _rsqrt(code: Code, x: Value) -> Value:
    return 1.0 / code.sqrt(x)


def _maximum(code: Code, a: Value, b: Number) -> Value:
    return code.maximum(a, b)


FUNCTIONS = {
    "exp": exp, "log": log, "expm1": expm1, "log1p": log1p, "sigmoid": sigmoid, "softplus": softplus, "tanh": tanh,
    "erf": erf, "sign": _sign, "relu": _relu, "rsqrt": _rsqrt, "sqrt": Code.sqrt, "abs": Code.abs,
    "maximum": _maximum, "minimum": Code.minimum, "floor": Code.floor,
}  # fmt: skip
"""By the names that expressions of op records use."""
