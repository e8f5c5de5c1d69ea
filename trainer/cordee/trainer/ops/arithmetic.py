"""Elementwise arithmetic: operands broadcast against each other, gradients are summed back by the walk.

Dtypes promote as in PyTorch (`cordee.trainer.result_type`): numbers are weak, and tensors without dimensions do not
widen those of their kind that have some. Unlike there, a Python number that does not fit a whole-number dtype is
refused (`uint8` + 300) instead of wrapped.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.array import default_dtype, is_float
from cordee.trainer.autograd.graph import Operand, binary, unary
from cordee.trainer.autograd.out import into
from cordee.trainer.autograd.record import NO_ERRORS, op
from cordee.trainer.kernels import kernel
from cordee.trainer.ops.cases import (
    any_values,
    clash,
    corner_values,
    pairs,
    positive_pairs,
    positive_values,
)
from cordee.trainer.tensors import Tensor

__all__ = [
    "abs", "absolute", "add", "addcdiv", "addcmul", "clone", "div", "divide", "float_power", "ldexp", "lerp", "mul",
    "multiply", "neg", "negative", "positive", "pow", "reciprocal", "rsqrt", "rsub", "sign", "sqrt", "square",
    "sub", "subtract", "true_divide",
]  # fmt: skip

METHODS = (
    "abs absolute add addcdiv addcmul clone div divide float_power ldexp lerp mul multiply neg negative positive pow "
    "reciprocal rsqrt sign sqrt square sub subtract true_divide"
)
INPLACE = (
    "abs absolute add addcdiv addcmul div divide float_power ldexp lerp mul multiply neg negative pow reciprocal rsqrt "
    "sign sqrt square sub subtract true_divide"
)


# -- two operands ------------------------------------------------------------------------------------------------------

plain_add = binary(op(
    "add", "a + b",
    forward=lambda xp, a, b: a + b,
    vjps=(lambda F, g, out, a, b: g, lambda F, g, out, a, b: g),
    saves=("", ""), elementwise=True, expr="a + b", samples=pairs, reference=np.add, errors=clash,
))  # fmt: skip

plain_sub = binary(op(
    "sub", "a - b",
    forward=lambda xp, a, b: a - b,
    vjps=(lambda F, g, out, a, b: g, lambda F, g, out, a, b: -g),
    saves=("", ""), elementwise=True, expr="a - b", samples=pairs, reference=np.subtract, errors=clash,
))  # fmt: skip

mul = binary(op(
    "mul", "a · b",
    forward=lambda xp, a, b: a * b,
    vjps=(lambda F, g, out, a, b: g * b, lambda F, g, out, a, b: g * a),
    saves=("b", "a"), elementwise=True, expr="a * b", samples=pairs, reference=np.multiply, errors=clash,
))  # fmt: skip

plain_div = binary(op(
    "div", "a / b",
    forward=lambda xp, a, b: a / b,
    vjps=(lambda F, g, out, a, b: g / b, lambda F, g, out, a, b: -g * out / b),
    saves=("b", "b out"), elementwise=True, expr="a / b", dtype="float", samples=positive_pairs, reference=np.divide,
    errors=clash,
))  # fmt: skip


def add(input: Operand, other: Operand, *, alpha: float = 1, out: Tensor | None = None) -> Tensor:
    """`input + alpha * other`."""
    if out is not None:
        return into(out, add(input, other, alpha=alpha))
    return plain_add(input, other if alpha == 1 else other * alpha)


def sub(input: Operand, other: Operand, *, alpha: float = 1, out: Tensor | None = None) -> Tensor:
    """`input - alpha * other`."""
    if out is not None:
        return into(out, sub(input, other, alpha=alpha))
    return plain_sub(input, other if alpha == 1 else other * alpha)


def rsub(input: Operand, other: Operand, *, alpha: float = 1) -> Tensor:
    """`other - alpha * input`."""
    return sub(other, input, alpha=alpha)


def div(input: Operand, other: Operand, *, rounding_mode: str | None = None, out: Tensor | None = None) -> Tensor:
    """`input / other`; `rounding_mode="trunc"` rounds towards zero, `"floor"` down (and whole numbers stay whole)."""
    if out is not None:
        return into(out, div(input, other, rounding_mode=rounding_mode))
    if rounding_mode is None:
        return plain_div(input, other)
    from cordee.trainer.ops.rounding import rounded_division

    return rounded_division(input, other, rounding_mode)


def as_mask(F: Any, condition: Any, like: Any) -> Any:
    """1 where a condition holds, 0 elsewhere, to multiply with: many times faster than choosing by `where`."""
    return F.cast(condition, dtype=like.dtype, source=None)


def _log(F: Any, a: Any) -> Any:
    """The logarithm of a power's base; 0 of 0, whose powers stay 0.

    Of a number, a number: anything else of NumPy's would widen a float32 gradient.
    """
    if isinstance(a, (int, float)):
        return math.log(a) if a > 0 else 0.0 if a == 0 else math.nan
    return F.log(a + as_mask(F, a == 0, a))


def _pow_base_vjp(F: Any, g: Any, out: Any, a: Any, b: Any) -> Any:
    """g · b · a^(b - 1); 0 where b is 0, also at a = 0."""
    flat = b == 0
    if isinstance(b, (int, float)):
        return g * 0.0 if flat else g * (F.pow(a, b - 1.0) * b)
    return g * b * F.pow(a, b - 1.0 + as_mask(F, flat, b))


def _pow_exponent_vjp(F: Any, g: Any, out: Any, a: Any, b: Any) -> Any:
    """g · a^b · log(a); at a = 0, 0 for b ≥ 0 and -inf below, as PyTorch has it."""
    slope = g * (out * _log(F, a))
    if isinstance(a, (int, float)):
        return slope if a != 0 else F.where(b < 0, g * -math.inf, slope)
    below = (a == 0) & (b < 0)
    if not (below if F.raw else below.data).any():
        return slope
    return F.where(below, g * -math.inf, slope)


_tensor_pow = binary(op(
    "pow", "a to the power of b",
    autocast="single on cuda",
    forward=lambda xp, a, b: xp.power(a, b),
    vjps=(_pow_base_vjp, _pow_exponent_vjp),
    saves=("a b", "a b out"), elementwise=True, expr="pow(a, b)", reference=np.power, errors=clash,
    samples=lambda s: [
        s.case(s.positive(2, 3), s.normal(3)),
        s.case(2.0, s.normal(3)),
        s.case(s.positive(2), s.normal()),
        s.case(s.positive(2, 0), s.normal(2, 1)),
    ],
))  # fmt: skip


# NumPy's float32 `x**3` takes 30 times as long as x * x * x.
_POWERS: dict[float, Any] = {
    0.0: lambda xp, a: xp.ones_like(a),
    1.0: lambda xp, a: a.copy(),
    2.0: lambda xp, a: a * a,
    3.0: lambda xp, a: a * a * a,
    0.5: lambda xp, a: xp.sqrt(a),
    -1.0: lambda xp, a: xp.reciprocal(a),
    -0.5: lambda xp, a: xp.reciprocal(xp.sqrt(a)),
}


def _power(xp: Any, a: Any, *, exponent: float) -> Any:
    special = _POWERS.get(exponent)
    if special is not None and is_float(a.dtype):
        return special(xp, a)
    if a.dtype.kind == "V":  # bfloat16's power knows no weak numbers
        return xp.power(a.astype(np.float32), exponent).astype(a.dtype)
    if a.dtype.kind in "iub" and isinstance(exponent, float):
        a = a.astype(default_dtype())
    return xp.power(a, exponent)


def _power_vjp(F: Any, g: Any, out: Any, a: Any, *, exponent: float) -> Any:
    if exponent == 0:
        return g * 0.0
    return g * exponent if exponent == 1 else g * (F.power(a, exponent=exponent - 1.0) * exponent)


POWER = op(
    "power", "a to a fixed power",
    autocast="single on cuda",
    forward=_power, vjps=(_power_vjp,), saves=("a",), elementwise=True, expr="pow(a, exponent)",
    dtype=lambda a, *, exponent: default_dtype() if a.kind in "iub" and isinstance(exponent, float) else a,
    reference=lambda a, exponent: a**exponent, errors=NO_ERRORS,
    samples=lambda s: [s.case(s.positive(2, 3), exponent=e) for e in (0, 1, 2, 3, 4, 0.5, -0.5, -1, 2.5)]
    + [s.case(s.normal(3), exponent=e) for e in (1, 2, 3)]
    + [s.case(s.positive(), exponent=2.5), s.case(s.positive(0, 2), exponent=3)],
)  # fmt: skip


def pow(input: Operand, exponent: Operand) -> Tensor:
    """`input` to the power of `exponent`, a number or a tensor.

    Raises:
        ShapeError: a whole number to a negative whole power, which is none.
    """
    if isinstance(exponent, (int, float)) and isinstance(input, Tensor):
        return POWER.run(input, exponent=exponent)
    return _tensor_pow(input, exponent)


def float_power(input: Operand, exponent: Operand) -> Tensor:
    """`pow` in float64, whatever the dtypes."""
    base, power = [x.to(np.float64) if isinstance(x, Tensor) else x for x in (input, exponent)]
    return pow(base, power)


def ldexp(input: Operand, other: Operand) -> Tensor:
    """`input · 2^other`."""
    return mul(input, pow(2.0, other))


def lerp(input: Tensor, end: Operand, weight: Operand) -> Tensor:
    """From `input` to `end` in a straight line: `input + weight · (end - input)`."""
    return plain_add(input, mul(weight, plain_sub(end, input)))


def addcmul(input: Operand, tensor1: Operand, tensor2: Operand, *, value: float = 1) -> Tensor:
    """`input + value · tensor1 · tensor2`."""
    return add(input, mul(tensor1, tensor2), alpha=value)


def addcdiv(input: Operand, tensor1: Operand, tensor2: Operand, *, value: float = 1) -> Tensor:
    """`input + value · tensor1 / tensor2`."""
    return add(input, plain_div(tensor1, tensor2), alpha=value)


# -- one operand -------------------------------------------------------------------------------------------------------

clone = unary(op(
    "clone", "the same values in memory of their own, in row-major order",
    forward=lambda xp, a: a.copy(), vjps=(lambda F, g, out, a: g,),
    saves=("",), elementwise=True, expr="a", dtype="first", samples=any_values, reference=np.copy, errors=NO_ERRORS,
))  # fmt: skip

neg = unary(op(
    "neg", "-a",
    forward=lambda xp, a: -a, vjps=(lambda F, g, out, a: -g,),
    saves=("",), elementwise=True, expr="-a", samples=any_values, reference=np.negative, errors=NO_ERRORS,
))  # fmt: skip

abs = unary(op(
    "abs", "the magnitude of a; gradient 0 at 0",
    forward=lambda xp, a: xp.abs(a), vjps=(lambda F, g, out, a: g * (F.sgn(a) if a.dtype.kind == "c" else F.sign(a)),),
    saves=("a",), elementwise=True, expr="abs(a)", samples=corner_values, reference=np.abs, holomorphic=False,
    dtype=lambda a: np.dtype(f"f{a.itemsize // 2}") if a.kind == "c" else a, errors=NO_ERRORS,
))  # fmt: skip

sign = unary(op(
    "sign", "-1, 0 or 1; its gradient is 0",
    forward=lambda xp, a: a.copy() if a.dtype.kind == "b" else xp.sign(a), vjps=(lambda F, g, out, a: g * 0.0,),
    saves=("",), elementwise=True, expr="sign(a)", samples=corner_values, reference=np.sign, errors=NO_ERRORS,
))  # fmt: skip

sqrt = unary(op(
    "sqrt", "the square root",
    forward=lambda xp, a: xp.sqrt(a), vjps=(lambda F, g, out, a: g * 0.5 / out,),
    saves=("out",), elementwise=True, expr="sqrt(a)", dtype="float", samples=positive_values, reference=np.sqrt,
    errors=NO_ERRORS,
))  # fmt: skip

rsqrt = unary(op(
    "rsqrt", "1 / sqrt(a)",
    autocast="single on cuda",
    forward=lambda xp, a: 1 / xp.sqrt(a), vjps=(lambda F, g, out, a: g * -0.5 * (out * out * out),),
    saves=("out",), elementwise=True, expr="rsqrt(a)", dtype="float", samples=positive_values,
    reference=lambda a: a**-0.5, errors=NO_ERRORS,
))  # fmt: skip

square = unary(op(
    "square", "a · a",
    forward=lambda xp, a: a * a, vjps=(lambda F, g, out, a: g * (a + a),),
    saves=("a",), elementwise=True, expr="a * a", samples=any_values, reference=np.square, errors=NO_ERRORS,
))  # fmt: skip

reciprocal = unary(op(
    "reciprocal", "1 / a",
    autocast="single on cuda",
    forward=lambda xp, a: 1 / a, vjps=(lambda F, g, out, a: -g * (out * out),),
    saves=("out",), elementwise=True, expr="1 / a", dtype="float", samples=positive_values,
    reference=lambda a: 1 / a, errors=NO_ERRORS,
))  # fmt: skip


def positive(input: Tensor) -> Tensor:
    """The tensor itself; refused for bool."""
    if input.dtype.kind == "b":
        raise TypeError("positive: a bool tensor has no sign")
    return input


@kernel
def _cast(xp: Any, a: Any, *, dtype: Any) -> Any:
    return (a.real if a.dtype.kind == "c" and dtype.kind in "fiu" else a).astype(dtype)


CAST = op(
    "cast", "the same values in another dtype",
    forward=lambda xp, a, *, dtype, source: _cast(xp, a, dtype=dtype),
    vjps=(lambda F, g, out, a, *, dtype, source: F.cast(g, dtype=source, source=dtype),),
    saves=("",), elementwise=True, expr="a", dtype=lambda *_, dtype, source: dtype, holomorphic=False,
    reference=lambda a, dtype, source: a.astype(dtype), errors=NO_ERRORS,
    samples=lambda s: [
        s.case(s.normal(2, 3), dtype=np.float64, source=np.float64),
        s.case(s.normal(0), dtype=np.float64, source=np.float64),
    ],
)  # fmt: skip

absolute, multiply, negative, subtract, divide, true_divide = abs, mul, neg, sub, div, div
