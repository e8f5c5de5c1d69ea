"""Elementwise arithmetic: operands broadcast against each other, gradients are summed back by the walk."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.autograd.graph import Operand, apply, apply_one, binary, unary
from cordee.trainer.autograd.record import Sampler, op
from cordee.trainer.tensors import Tensor

__all__ = [
    "abs", "add", "clamp", "clip", "clone", "cos", "div", "exp", "expm1", "log", "log1p", "maximum", "minimum", "mul", "neg",
    "pow", "reciprocal", "rsqrt", "sign", "sin", "sqrt", "square", "sub", "where",
]  # fmt: skip

METHODS = (
    "abs add clamp clip clone cos div exp expm1 log log1p maximum minimum mul neg pow reciprocal rsqrt sign sin sqrt "
    "square sub"
)
INPLACE = "abs add clamp cos div exp expm1 log log1p mul neg pow reciprocal rsqrt sign sin sqrt square sub"


def _pairs(s: Sampler) -> list[Any]:
    return [
        s.case(s.normal(2, 3), s.normal(2, 3)),
        s.case(s.normal(2, 3), s.normal(3)),
        s.case(s.normal(3, 1), s.normal(2, 1, 4)),
        s.case(s.normal(), s.normal(2)),
        s.case(s.normal(2, 2), 1.5),
        s.case(-0.5, s.normal(3)),
    ]


def _positive_pairs(s: Sampler) -> list[Any]:
    return [
        s.case(s.normal(2, 3), s.positive(2, 3)),
        s.case(s.normal(2, 3), s.positive(3)),
        s.case(s.normal(3), s.positive(2, 1)),
        s.case(s.normal(2, 2), 1.5),
        s.case(-0.5, s.positive(3)),
    ]


def _corner_pairs(s: Sampler) -> list[Any]:
    return [
        s.case(s.distinct(2, 3), s.distinct(2, 3) + 0.05),
        s.case(s.distinct(4), 0.0),
        s.case(s.distinct(3, 1), s.distinct(2) + 0.05),
    ]


def _clash(s: Sampler) -> list[Any]:
    return [s.case(s.normal(2, 3), s.normal(2, 4)), s.case(s.normal(3), s.normal(2))]


def _any_values(s: Sampler) -> list[Any]:
    return [s.case(s.normal(2, 3)), s.case(s.normal()), s.case(s.normal(0, 2))]


def _positive_values(s: Sampler) -> list[Any]:
    return [s.case(s.positive(2, 3)), s.case(s.positive())]


def _corner_values(s: Sampler) -> list[Any]:
    return [s.case(s.distinct(2, 3)), s.case(s.distinct(5))]


# -- two operands ------------------------------------------------------------------------------------------------------

add = binary(op(
    "add", "a + b",
    forward=lambda xp, a, b: a + b,
    vjps=(lambda F, g, out, a, b: g, lambda F, g, out, a, b: g),
    saves=("", ""), elementwise=True, expr="a + b", samples=_pairs, reference=np.add, errors=_clash,
))  # fmt: skip

sub = binary(op(
    "sub", "a - b",
    forward=lambda xp, a, b: a - b,
    vjps=(lambda F, g, out, a, b: g, lambda F, g, out, a, b: -g),
    saves=("", ""), elementwise=True, expr="a - b", samples=_pairs, reference=np.subtract, errors=_clash,
))  # fmt: skip

mul = binary(op(
    "mul", "a · b",
    forward=lambda xp, a, b: a * b,
    vjps=(lambda F, g, out, a, b: g * b, lambda F, g, out, a, b: g * a),
    saves=("b", "a"), elementwise=True, expr="a * b", samples=_pairs, reference=np.multiply, errors=_clash,
))  # fmt: skip

div = binary(op(
    "div", "a / b",
    forward=lambda xp, a, b: a / b,
    vjps=(lambda F, g, out, a, b: g / b, lambda F, g, out, a, b: -g * out / b),
    saves=("b", "b out"), elementwise=True, expr="a / b", samples=_positive_pairs, reference=np.divide, errors=_clash,
))  # fmt: skip


def as_mask(F: Any, condition: Any, like: Any) -> Any:
    """1 where a condition holds, 0 elsewhere, to multiply with: many times faster than choosing by `where`."""
    return F.cast(condition, dtype=like.dtype, source=None)


def _larger(F: Any, g: Any, a: Any, b: Any) -> Any:
    """g where a > b, half of it where they are equal."""
    return g * (as_mask(F, a > b, g) + as_mask(F, a == b, g) * 0.5)


maximum = binary(op(
    "maximum", "the larger of a and b; where they are equal, the gradient is shared",
    forward=lambda xp, a, b: xp.maximum(a, b),
    vjps=(
        lambda F, g, out, a, b: _larger(F, g, a, b),
        lambda F, g, out, a, b: _larger(F, g, b, a),
    ),
    saves=("a b", "a b"), elementwise=True, expr="max(a, b)", samples=_corner_pairs, reference=np.maximum,
    errors=_clash,
))  # fmt: skip

minimum = binary(op(
    "minimum", "the smaller of a and b; where they are equal, the gradient is shared",
    forward=lambda xp, a, b: xp.minimum(a, b),
    vjps=(
        lambda F, g, out, a, b: _larger(F, g, b, a),
        lambda F, g, out, a, b: _larger(F, g, a, b),
    ),
    saves=("a b", "a b"), elementwise=True, expr="min(a, b)", samples=_corner_pairs, reference=np.minimum,
    errors=_clash,
))  # fmt: skip


def _log(F: Any, a: Any) -> Any:
    """The logarithm of a power's base; 0 of 0, whose powers stay 0.

    Of a number, a number: anything else of NumPy's would widen a float32 gradient.
    """
    if isinstance(a, (int, float)):
        return math.log(a) if a > 0 else 0.0 if a == 0 else math.nan
    return F.log(a + as_mask(F, a == 0, a))


_tensor_pow = binary(op(
    "pow", "a to the power of b, for a > 0",
    forward=lambda xp, a, b: xp.power(a, b),
    vjps=(lambda F, g, out, a, b: g * b * F.pow(a, b - 1.0), lambda F, g, out, a, b: g * out * _log(F, a)),
    saves=("a b", "a out"), elementwise=True, expr="pow(a, b)", reference=np.power, errors=_clash,
    samples=lambda s: [
        s.case(s.positive(2, 3), s.normal(3)),
        s.case(2.0, s.normal(3)),
        s.case(s.positive(2), s.normal()),
    ],
))  # fmt: skip


# NumPy's float32 `x**3` takes 30 times as long as x * x * x.
_POWERS: dict[float, Any] = {
    0.0: lambda xp, a: xp.ones_like(a),
    1.0: lambda xp, a: a.copy(),
    2.0: lambda xp, a: a * a,
    3.0: lambda xp, a: a * a * a,
    0.5: lambda xp, a: xp.sqrt(a),
    -1.0: lambda xp, a: 1 / a,
    -0.5: lambda xp, a: 1 / xp.sqrt(a),
}


def _power(xp: Any, a: Any, *, exponent: float) -> Any:
    special = _POWERS.get(exponent)
    return special(xp, a) if special is not None and a.dtype.kind == "f" else xp.power(a, exponent)


def _power_vjp(F: Any, g: Any, out: Any, a: Any, *, exponent: float) -> Any:
    if exponent == 0:
        return g * 0.0
    return g * exponent if exponent == 1 else g * (F.power(a, exponent=exponent - 1.0) * exponent)


POWER = op(
    "power", "a to a fixed power",
    forward=_power, vjps=(_power_vjp,), saves=("a",), elementwise=True, expr="pow(a, exponent)",
    reference=lambda a, exponent: a**exponent,
    samples=lambda s: [s.case(s.positive(2, 3), exponent=e) for e in (0, 1, 2, 3, 4, 0.5, -0.5, -1, 2.5)]
    + [s.case(s.normal(3), exponent=e) for e in (1, 2, 3)],
)  # fmt: skip


def pow(input: Operand, exponent: Operand) -> Tensor:
    """`input` to the power of `exponent`, a number or a tensor."""
    if isinstance(exponent, (int, float)) and isinstance(input, Tensor):
        return apply_one(POWER, input, exponent=exponent)
    return _tensor_pow(input, exponent)


# -- one operand -------------------------------------------------------------------------------------------------------

clone = unary(op(
    "clone", "the same values in memory of their own, in row-major order",
    forward=lambda xp, a: a.copy(), vjps=(lambda F, g, out, a: g,),
    saves=("",), elementwise=True, expr="a", dtype="first", samples=_any_values, reference=np.copy,
))  # fmt: skip

neg = unary(op(
    "neg", "-a",
    forward=lambda xp, a: -a, vjps=(lambda F, g, out, a: -g,),
    saves=("",), elementwise=True, expr="-a", samples=_any_values, reference=np.negative,
))  # fmt: skip

abs = unary(op(
    "abs", "the magnitude of a; gradient 0 at 0",
    forward=lambda xp, a: xp.abs(a), vjps=(lambda F, g, out, a: g * (F.sgn(a) if a.dtype.kind == "c" else F.sign(a)),),
    saves=("a",), elementwise=True, expr="abs(a)", samples=_corner_values, reference=np.abs, holomorphic=False,
))  # fmt: skip

sign = unary(op(
    "sign", "-1, 0 or 1; its gradient is 0",
    forward=lambda xp, a: xp.sign(a), vjps=(lambda F, g, out, a: g * 0.0,),
    saves=("",), elementwise=True, expr="sign(a)", samples=_corner_values, reference=np.sign,
))  # fmt: skip

exp = unary(op(
    "exp", "e to the power of a",
    forward=lambda xp, a: xp.exp(a), vjps=(lambda F, g, out, a: g * out,),
    saves=("out",), elementwise=True, expr="exp(a)", samples=_any_values, reference=np.exp,
))  # fmt: skip

expm1 = unary(op(
    "expm1", "exp(a) - 1, exact near 0",
    forward=lambda xp, a: xp.expm1(a), vjps=(lambda F, g, out, a: g * (out + 1.0),),
    saves=("out",), elementwise=True, expr="expm1(a)", samples=_any_values, reference=np.expm1,
))  # fmt: skip

log = unary(op(
    "log", "the natural logarithm",
    forward=lambda xp, a: xp.log(a), vjps=(lambda F, g, out, a: g / a,),
    saves=("a",), elementwise=True, expr="log(a)", samples=_positive_values, reference=np.log,
))  # fmt: skip

log1p = unary(op(
    "log1p", "log(1 + a), exact near 0",
    forward=lambda xp, a: xp.log1p(a), vjps=(lambda F, g, out, a: g / (a + 1.0),),
    saves=("a",), elementwise=True, expr="log1p(a)", samples=_positive_values, reference=np.log1p,
))  # fmt: skip

sqrt = unary(op(
    "sqrt", "the square root",
    forward=lambda xp, a: xp.sqrt(a), vjps=(lambda F, g, out, a: g * 0.5 / out,),
    saves=("out",), elementwise=True, expr="sqrt(a)", samples=_positive_values, reference=np.sqrt,
))  # fmt: skip

rsqrt = unary(op(
    "rsqrt", "1 / sqrt(a)",
    forward=lambda xp, a: 1 / xp.sqrt(a), vjps=(lambda F, g, out, a: g * -0.5 * (out * out * out),),
    saves=("out",), elementwise=True, expr="rsqrt(a)", samples=_positive_values, reference=lambda a: a**-0.5,
))  # fmt: skip

square = unary(op(
    "square", "a · a",
    forward=lambda xp, a: a * a, vjps=(lambda F, g, out, a: g * (a + a),),
    saves=("a",), elementwise=True, expr="a * a", samples=_any_values, reference=np.square,
))  # fmt: skip

reciprocal = unary(op(
    "reciprocal", "1 / a",
    forward=lambda xp, a: 1 / a, vjps=(lambda F, g, out, a: -g * (out * out),),
    saves=("out",), elementwise=True, expr="1 / a", samples=_positive_values, reference=np.reciprocal,
))  # fmt: skip

sin = unary(op(
    "sin", "the sine",
    forward=lambda xp, a: xp.sin(a), vjps=(lambda F, g, out, a: g * F.cos(a),),
    saves=("a",), elementwise=True, expr="sin(a)", samples=_any_values, reference=np.sin,
))  # fmt: skip

cos = unary(op(
    "cos", "the cosine",
    forward=lambda xp, a: xp.cos(a), vjps=(lambda F, g, out, a: -g * F.sin(a),),
    saves=("a",), elementwise=True, expr="cos(a)", samples=_any_values, reference=np.cos,
))  # fmt: skip


# -- choosing ----------------------------------------------------------------------------------------------------------

WHERE = op(
    "where", "a where the condition holds, b elsewhere",
    forward=lambda xp, condition, a, b: xp.where(condition, a, b),
    vjps=(
        None,
        lambda F, g, out, condition, a, b: F.where(condition, g, 0.0),
        lambda F, g, out, condition, a, b: F.where(condition, 0.0, g),
    ),
    saves=("", "condition", "condition"), elementwise=True, expr="condition ? a : b", reference=np.where,
    samples=lambda s: [
        s.case(s.mask(2, 3), s.normal(2, 3), s.normal(3)),
        s.case(s.mask(3), s.normal(2, 1), 0.5),
        s.case(s.mask(2, 1), 2.0, s.normal(3)),
    ],
    errors=lambda s: [s.case(s.mask(2, 3), s.normal(2, 4), 0.0)],
)  # fmt: skip


def where(condition: Operand, input: Operand, other: Operand) -> Tensor:
    """`input` where the condition holds, `other` elsewhere."""
    return apply(WHERE, condition, input, other)


CLAMP = op(
    "clamp", "a, held between min and max",
    forward=lambda xp, a, *, min, max: xp.clip(a, min, max),
    vjps=(lambda F, g, out, a, *, min, max: g * F.between(a, min=min, max=max),),
    saves=("a",), elementwise=True, expr="clamp(a, min, max)",
    reference=np.clip,
    samples=lambda s: [
        s.case(s.distinct(2, 3), min=-0.2, max=0.4),
        s.case(s.distinct(5), min=None, max=0.2),
        s.case(s.distinct(5), min=0.0, max=None),
    ],
)  # fmt: skip


def _between(xp: Any, a: Any, *, min: float | None, max: float | None) -> Any:
    inside = xp.ones(a.shape, bool) if min is None else a >= min
    return inside if max is None else inside & (a <= max)


BETWEEN = op(
    "between", "whether min ≤ a ≤ max; no gradient",
    forward=_between, vjps=(None,), saves=("",), elementwise=True, expr="a >= min && a <= max",
    reference=lambda a, min, max: (a >= min) & (a <= max),
    samples=lambda s: [s.case(s.distinct(2, 3), min=-0.2, max=0.4)],
)  # fmt: skip


def clamp(input: Tensor, min: float | None = None, max: float | None = None) -> Tensor:
    """`input`, held between two numbers; gradients pass where it was within."""
    if min is None and max is None:
        raise ValueError("clamp: give min, max, or both")
    return apply_one(CLAMP, input, min=min, max=max)


clip = clamp

CAST = op(
    "cast", "the same values in another dtype",
    forward=lambda xp, a, *, dtype, source: (a.real if a.dtype.kind == "c" and dtype.kind in "fiu" else a).astype(dtype),
    vjps=(lambda F, g, out, a, *, dtype, source: F.cast(g, dtype=source, source=dtype),),
    saves=("",), holomorphic=False, elementwise=True, expr="a", dtype=lambda *_, dtype, source: dtype, reference=lambda a, dtype, source: a.astype(dtype),
    samples=lambda s: [s.case(s.normal(2, 3), dtype=np.float64, source=np.float64)],
)  # fmt: skip
