"""The gamma function's logarithm, its derivatives, and the modified Bessel functions, on arrays.

NumPy has none of them. Everything rests on a few series with coefficients that are computed here, not copied: Bernoulli
numbers, ζ(n), factorials. float64 is good to about 1e-14 (relative, or absolute near a zero); lower precisions are
computed in float64. On a GPU, CuPy's are taken.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from cordee.trainer.ops.special import in_double, polynomial

__all__ = ["bessel_i", "digamma", "lgamma", "polygamma", "zeta"]


def _bernoulli(count: int) -> list[Fraction]:
    """B₂, B₄, …: `count` of them."""
    numbers = [Fraction(1)]
    for m in range(1, 2 * count + 1):
        numbers.append(-sum((Fraction(math.comb(m + 1, k)) * numbers[k] for k in range(m)), Fraction(0)) / (m + 1))
    return numbers[2::2]


_B = _bernoulli(10)


def _zeta_less_one(n: int) -> float:
    """ζ(n) - 1 by Euler and Maclaurin's sum, for whole n ≥ 2."""
    cut = 10.0
    total = math.fsum(k**-n for k in range(2, int(cut))) + cut ** (1 - n) / (n - 1) + 0.5 * cut**-n
    rising = float(n)
    for j, b in enumerate(_B, 1):
        total += float(b) / math.factorial(2 * j) * rising * cut ** (1 - n - 2 * j)
        rising *= (n + 2 * j - 1) * (n + 2 * j)
    return total


# log Γ(2 + z) = z · P(z) for |z| ≤ 1/2: P = 1 - γ + Σ (-1)^n (ζ(n) - 1) z^(n-1) / n
_EULER = 0.57721566490153286061
_AROUND_2 = (1.0 - _EULER, *((-1) ** n * _zeta_less_one(n) / n for n in range(2, 30)))
# log Γ(x) ≈ (x - 1/2) log x - x + log(2π)/2 + P(1/x²)/x, and its derivative, for x ≥ 8
_STIRLING = tuple(float(b / (2 * k * (2 * k - 1))) for k, b in enumerate(_B, 1))
_STIRLING_SLOPE = tuple(float(b / (2 * k)) for k, b in enumerate(_B, 1))


def _lgamma_positive(x: Any) -> Any:
    """log Γ for x > 0: Stirling's series from 8 on; below, the series around 2, reached by Γ(x + 1) = x Γ(x)."""
    out = np.empty_like(x)
    large = ~(x < 8.0)
    s = x[large]
    inverse = 1.0 / s
    out[large] = (s - 0.5) * (np.log(s) - 1.0) - 0.5 + 0.5 * math.log(2 * math.pi)
    out[large] += polynomial(inverse * inverse, _STIRLING) * inverse
    out[large] = np.where(np.isinf(s), s, out[large])
    s = x[~large]
    steps = np.round(s) - 2.0  # -2 … 6
    z = s - np.round(s)
    product = np.ones_like(s)
    for k in range(6):
        product *= np.where(steps > k, z + 2.0 + k, 1.0)
    # One step down is log1p(z), precise around the zero at 1; the second is the logarithm of x itself.
    down = np.where(steps < 0, np.log1p(z), 0.0) + np.where(steps < -1, np.log(s), 0.0)
    out[~large] = z * polynomial(z, _AROUND_2) + np.log(product) - down
    return out


def _lgamma64(x: Any) -> Any:
    out = np.empty_like(x)
    negative = x < 0
    out[~negative] = _lgamma_positive(x[~negative])
    s = x[negative]
    out[negative] = math.log(math.pi) - np.log(np.abs(np.sin(math.pi * (s - np.round(s))))) - _lgamma_positive(1.0 - s)
    return np.where(np.isneginf(x), np.inf, np.where(x == 0, np.inf, out))


_lgamma = in_double(_lgamma64, "gammaln")


def lgamma(xp: Any, a: Any) -> Any:
    """log |Γ|; infinite at both ends (CuPy's is SciPy's, which is -inf at the lower)."""
    out = _lgamma(xp, a)
    return out if xp is np else xp.where(a == -math.inf, math.inf, out)


def _digamma_positive(x: Any) -> Any:
    below = np.zeros_like(x)
    x = x.copy()
    for _ in range(10):
        small = x < 10.0
        below += np.where(small, 1.0 / x, 0.0)
        x += small
    inverse = 1.0 / x
    squared = inverse * inverse
    return np.log(x) - 0.5 * inverse - squared * polynomial(squared, _STIRLING_SLOPE) - below


def _digamma64(x: Any) -> Any:
    low = x < 0
    upper = _digamma_positive(np.where(low, 1.0 - x, np.where(x == 0, 1.0, x)))
    angle = math.pi * (x - np.round(x))
    with_pole = np.where(low & (angle == 0), np.nan, upper - math.pi / np.tan(np.where(low, angle, 1.0)))
    return np.where(low, with_pole, np.where(x == 0, -np.copysign(np.inf, x), upper))


digamma = in_double(_digamma64, "digamma")

_MOST_STEPS = 10_000


def zeta(s: int, q: Any) -> Any:
    """Hurwitz' ζ(s, q) = Σ 1 / (q + k)^s for whole s ≥ 2, float64 arrays; NaN where q is below -10000."""
    total = np.zeros_like(q)
    x = q.copy()
    lowest = float(q.min(initial=10.0, where=q > -_MOST_STEPS))
    for _ in range(int(max(0.0, 10.0 - lowest)) + 1):
        small = x < 10.0
        total += np.where(small, x ** float(-s), 0.0)
        x += small
    power = x ** float(-s)
    total += x * power / (s - 1) + 0.5 * power
    rising, inverse = float(s), 1.0 / x
    for j, b in enumerate(_B, 1):
        total += float(b) / math.factorial(2 * j) * rising * power * inverse
        rising *= (s + 2 * j - 1) * (s + 2 * j)
        inverse = inverse / (x * x)
    return np.where(x < 10.0, np.nan, np.where((q <= 0) & (q == np.floor(q)), np.inf, total))


def _polygamma64(x: Any, n: int) -> Any:
    if n == 1:  # by reflection, however far below 0
        low = x < 0.5
        sine = np.sin(math.pi * np.where(low, x - np.round(x), 0.5))
        up = zeta(2, np.where(low, 1.0 - x, x))
        return np.where(low, (math.pi / sine) ** 2 - up, up)
    return (-1.0) ** (n + 1) * math.factorial(n) * zeta(n + 1, x)


def polygamma(xp: Any, a: Any, n: int) -> Any:
    """The n-th derivative of digamma."""
    if n == 0:
        return digamma(xp, a)
    if xp is not np:
        from cupyx.scipy.special import polygamma as device_polygamma  # pyright: ignore[reportMissingImports]

        return device_polygamma(n, a)
    return in_double(lambda x: _polygamma64(x, n), "polygamma")(xp, a)


def _bessel_i64(x: Any, order: int, scaled: bool) -> Any:
    """I₀ or I₁: its power series, whose terms are all positive, up to 20, and Hankel's expansion beyond."""
    size = np.abs(x)
    near = ~(size > 20.0)
    quarter = np.where(near, size, 0.0) ** 2 / 4.0
    term = np.ones_like(x)
    total = np.ones_like(x)
    for k in range(1, 60):
        term = term * (quarter / (k * (k + order)))
        total += term
    if order:
        total *= 0.5 * np.where(near, size, 0.0)
    far = np.where(near, 20.0, size)
    term = np.ones_like(x)
    beyond = np.ones_like(x)
    for k in range(1, 28):
        term = term * (((2 * k - 1) ** 2 - 4 * order) / (8.0 * k * far))
        beyond += term
    beyond /= np.sqrt(2 * math.pi * far)
    # e^x in two halves: the whole overflows before the result does.
    half = np.exp(far * 0.5)
    value = np.where(near, total * np.exp(-size) if scaled else total, beyond if scaled else beyond * half * half)
    value = np.where(np.isnan(x), x, np.where(np.isinf(size), 0.0 if scaled else np.inf, value))
    return np.copysign(value, x) if order else value


_BESSEL = {
    (order, scaled): in_double(
        lambda x, order=order, scaled=scaled: _bessel_i64(x, order, scaled), f"i{order}{'e' if scaled else ''}"
    )
    for order in (0, 1)
    for scaled in (False, True)
}


def bessel_i(xp: Any, a: Any, order: int, scaled: bool = False) -> Any:
    """The modified Bessel function of the first kind of order 0 or 1; scaled by exp(-|a|) if asked."""
    return _BESSEL[order, scaled](xp, a)
