"""The special functions as operations: error function, gamma function and their kin, each with its derivative."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.autograd.graph import unary
from cordee.trainer.autograd.record import NO_ERRORS, Sampler, op
from cordee.trainer.ops import gamma, special
from cordee.trainer.ops.arithmetic import as_mask
from cordee.trainer.ops.cases import any_values, positive_values, unit_values
from cordee.trainer.tensors import Tensor

__all__ = [
    "digamma", "erf", "erfc", "erfinv", "i0", "lgamma", "mvlgamma", "polygamma",
]  # fmt: skip

METHODS = "digamma erf erfc erfinv i0 lgamma mvlgamma polygamma"
INPLACE = "digamma erf erfc erfinv i0 lgamma mvlgamma polygamma"

_each = np.vectorize


def _away_from_poles(s: Sampler) -> list[Any]:
    return [s.case(s.positive(2, 3)), s.case(-0.5 - 0.2 * s.unit(3)), s.case(s.positive() + 8.0), s.case(s.positive(0))]


erf = unary(op(
    "erf", "the error function",
    forward=special.erf, vjps=(lambda F, g, out, a: g * (F.exp(-(a * a)) * (2.0 / math.sqrt(math.pi))),),
    saves=("a",), elementwise=True, expr="erf(a)", dtype="float", samples=any_values,
    reference=_each(math.erf, otypes=[float]), errors=NO_ERRORS,
))  # fmt: skip

erfc = unary(op(
    "erfc", "1 - erf(a), to full precision where that is small",
    forward=special.erfc, vjps=(lambda F, g, out, a: g * (F.exp(-(a * a)) * (-2.0 / math.sqrt(math.pi))),),
    saves=("a",), elementwise=True, expr="erfc(a)", dtype="float", samples=any_values,
    reference=_each(math.erfc, otypes=[float]), errors=NO_ERRORS,
))  # fmt: skip


erfcx = unary(op(
    "erfcx", "exp(a²) · erfc(a), which does not vanish",
    forward=special.erfcx, vjps=(lambda F, g, out, a: g * (a * out * 2.0 - 2.0 / math.sqrt(math.pi)),),
    saves=("a out",), elementwise=True, expr="erfcx(a)", dtype="float", samples=any_values,
    reference=lambda a: np.exp(np.asarray(a) ** 2) * _each(math.erfc, otypes=[float])(a), errors=NO_ERRORS,
))  # fmt: skip


def _erfinv_reference(a: Any) -> Any:
    """By bisection."""
    low, high = np.full(np.shape(a), -6.0), np.full(np.shape(a), 6.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = _each(math.erf, otypes=[float])(middle) < a
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


erfinv = unary(op(
    "erfinv", "the number whose error function is a",
    autocast="single on cuda",
    forward=special.erfinv, vjps=(lambda F, g, out, a: g * (F.exp(out * out) * (0.5 * math.sqrt(math.pi))),),
    saves=("out",), elementwise=True, expr="erfinv(a)", dtype="float", samples=unit_values,
    reference=_erfinv_reference, errors=NO_ERRORS,
))  # fmt: skip

lgamma = unary(op(
    "lgamma", "the logarithm of the gamma function's magnitude",
    forward=gamma.lgamma, vjps=(lambda F, g, out, a: g * F.digamma(a),),
    saves=("a",), elementwise=True, expr="lgamma(a)", dtype="float", samples=_away_from_poles,
    reference=_each(math.lgamma, otypes=[float]), errors=NO_ERRORS,
))  # fmt: skip


def _digamma_reference(a: Any) -> Any:
    """From the series -γ + Σ (1/(k + 1) - 1/(k + a)), its tail integrated."""
    a, n = np.asarray(a, float), 200_000
    k = np.arange(n)
    total = (1 / (k + 1) - 1 / (k + a[..., None])).sum(-1)
    tail = np.log((n + a - 0.5) / (n + 0.5)) + (1 / (n + 0.5) ** 2 - 1 / (n + a - 0.5) ** 2) / 24
    return -np.euler_gamma + total + tail


digamma = unary(op(
    "digamma", "the slope of lgamma",
    forward=gamma.digamma, vjps=(lambda F, g, out, a: g * F.polygamma(a, n=1),),
    saves=("a",), elementwise=True, expr="digamma(a)", dtype="float", samples=_away_from_poles,
    reference=_digamma_reference, errors=NO_ERRORS,
))  # fmt: skip


def _polygamma_reference(a: Any, n: int) -> Any:
    a, last = np.asarray(a, float), 20_000
    total = ((np.arange(last) + a[..., None]) ** -(n + 1.0)).sum(-1)
    x = last + a - 0.5
    total += x**-n / n - (n + 1) * x ** -(n + 2.0) / 24
    return (-1.0) ** (n + 1) * math.factorial(n) * total


POLYGAMMA = op(
    "polygamma", "the n-th derivative of digamma",
    forward=lambda xp, a, *, n: gamma.polygamma(xp, a, n),
    vjps=(lambda F, g, out, a, *, n: g * F.polygamma(a, n=n + 1),),
    saves=("a",), elementwise=True, expr="polygamma(n, a)", dtype="float", reference=_polygamma_reference,
    samples=lambda s: [
        s.case(s.positive(2, 3), n=1), s.case(s.positive(3), n=2), s.case(-0.5 - 0.2 * s.unit(3), n=1),
        s.case(s.positive(), n=3), s.case(s.positive(0), n=1),
    ],
    errors=NO_ERRORS,
)  # fmt: skip


def polygamma(n: int | Tensor, input: Tensor | int) -> Tensor:
    """The n-th derivative of digamma: of 0, digamma itself.

    n ≥ 2 is for inputs above -10000 (NaN below). As a method: `x.polygamma(n)`.

    Raises:
        ValueError: n is below 0.
    """
    if isinstance(n, Tensor):
        n, input = input, n  # the method's order
    if not isinstance(n, int) or n < 0:
        raise ValueError(f"polygamma: n must be a whole number of at least 0, not {n!r}")
    if not isinstance(input, Tensor):
        input = Tensor(input)
    return digamma(input) if n == 0 else POLYGAMMA.run(input, n=n)


def mvlgamma(input: Tensor, p: int) -> Tensor:
    """The logarithm of the multivariate gamma function of p dimensions, for inputs above (p - 1) / 2.

    Raises:
        ValueError: p is below 1.
    """
    if p < 1:
        raise ValueError(f"mvlgamma: p must be at least 1, not {p}")
    total = lgamma(input) + p * (p - 1) / 4 * math.log(math.pi)
    for j in range(1, p):
        total = total + lgamma(input - 0.5 * j)
    return total


def _bessel_reference(order: int) -> Any:
    """From its integral over an angle: mean of exp(a cos t) cos(order t)."""

    def compute(a: Any) -> Any:
        t = (np.arange(2000) + 0.5) * math.pi / 2000
        return (np.exp(np.asarray(a)[..., None] * np.cos(t)) * np.cos(order * t)).mean(-1)

    return compute


i0 = unary(op(
    "i0", "the modified Bessel function of the first kind, of order 0",
    forward=lambda xp, a: gamma.bessel_i(xp, a, 0), vjps=(lambda F, g, out, a: g * F.i1(a),),
    saves=("a",), elementwise=True, expr="i0(a)", dtype="float", samples=any_values,
    reference=_bessel_reference(0), errors=NO_ERRORS,
))  # fmt: skip


def _over(F: Any, out: Any, a: Any) -> Any:
    """I₁(a) / a, which is 1/2 at 0."""
    zero = as_mask(F, a == 0, a)
    return (out + zero * 0.5) / (a + zero)


i1 = unary(op(
    "i1", "the modified Bessel function of the first kind, of order 1",
    forward=lambda xp, a: gamma.bessel_i(xp, a, 1), vjps=(lambda F, g, out, a: g * (F.i0(a) - _over(F, out, a)),),
    saves=("a out",), elementwise=True, expr="i1(a)", dtype="float", samples=positive_values,
    reference=_bessel_reference(1), errors=NO_ERRORS,
))  # fmt: skip

i0e = unary(op(
    "i0e", "i0, times exp(-|a|)",
    forward=lambda xp, a: gamma.bessel_i(xp, a, 0, True),
    vjps=(lambda F, g, out, a: g * (F.i1e(a) - F.sign(a) * out),),
    saves=("a out",), elementwise=True, expr="i0e(a)", dtype="float", samples=positive_values,
    reference=lambda a: _bessel_reference(0)(a) * np.exp(-np.abs(a)), errors=NO_ERRORS,
))  # fmt: skip

i1e = unary(op(
    "i1e", "i1, times exp(-|a|)",
    forward=lambda xp, a: gamma.bessel_i(xp, a, 1, True),
    vjps=(lambda F, g, out, a: g * (F.i0e(a) - out * F.sign(a) - _over(F, out, a)),),
    saves=("a out",), elementwise=True, expr="i1e(a)", dtype="float", samples=positive_values,
    reference=lambda a: _bessel_reference(1)(a) * np.exp(-np.abs(a)), errors=NO_ERRORS,
))  # fmt: skip
