"""Elementwise functions, by the array API's names: most are Cordee's, some under another name.

Rounding leaves integers as they are; the rest is as in Cordee.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cordee.trainer as ct
from cordee.trainer.array_api.dtypes import promoted
from cordee.trainer.tensors import Tensor

__all__ = [
    "abs",
    "acos",
    "acosh",
    "add",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "ceil",
    "clip",
    "conj",
    "copysign",
    "cos",
    "cosh",
    "divide",
    "equal",
    "exp",
    "expm1",
    "floor",
    "floor_divide",
    "greater",
    "greater_equal",
    "hypot",
    "imag",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "nextafter",
    "not_equal",
    "positive",
    "pow",
    "real",
    "reciprocal",
    "remainder",
    "round",
    "sign",
    "signbit",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "subtract",
    "tan",
    "tanh",
    "trunc",
]  # fmt: skip


def _named(call: Callable[..., Any], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    call.__name__ = call.__qualname__ = name
    call.__doc__ = function.__doc__
    return call


def _unary(name: str, ours: str = "") -> Callable[[Tensor], Tensor]:
    function = getattr(ct, ours or name)

    def call(x: Tensor, /) -> Tensor:
        return function(x)  # type: ignore[no-any-return]

    return _named(call, name, function)


def _rounding(name: str) -> Callable[[Tensor], Tensor]:
    function = getattr(ct, name)

    def call(x: Tensor, /) -> Tensor:
        return x.clone() if x.dtype.kind in "iu" else function(x)

    return _named(call, name, function)


def _binary(name: str, ours: str = "") -> Callable[[Any, Any], Tensor]:
    function = getattr(ct, ours or name)

    def call(x1: Any, x2: Any, /) -> Tensor:
        return function(*promoted(x1, x2))  # type: ignore[no-any-return]

    return _named(call, name, function)


abs = _unary("abs")
acos = _unary("acos")
acosh = _unary("acosh")
add = _binary("add")
asin = _unary("asin")
asinh = _unary("asinh")
atan = _unary("atan")
atan2 = _binary("atan2")
atanh = _unary("atanh")
bitwise_and = _binary("bitwise_and")
bitwise_invert = _unary("bitwise_invert", "bitwise_not")
bitwise_left_shift = _binary("bitwise_left_shift")
bitwise_or = _binary("bitwise_or")
bitwise_right_shift = _binary("bitwise_right_shift")
bitwise_xor = _binary("bitwise_xor")
ceil = _rounding("ceil")
conj = _unary("conj")
copysign = _binary("copysign")
cos = _unary("cos")
cosh = _unary("cosh")
divide = _binary("divide", "div")
equal = _binary("equal", "eq")
exp = _unary("exp")
expm1 = _unary("expm1")
floor = _rounding("floor")
floor_divide = _binary("floor_divide")
greater = _binary("greater", "gt")
greater_equal = _binary("greater_equal", "ge")
hypot = _binary("hypot")
imag = _unary("imag")
isfinite = _unary("isfinite")
isinf = _unary("isinf")
isnan = _unary("isnan")
less = _binary("less", "lt")
less_equal = _binary("less_equal", "le")
log = _unary("log")
log10 = _unary("log10")
log1p = _unary("log1p")
log2 = _unary("log2")
logaddexp = _binary("logaddexp")
logical_and = _binary("logical_and")
logical_not = _unary("logical_not")
logical_or = _binary("logical_or")
logical_xor = _binary("logical_xor")
maximum = _binary("maximum")
minimum = _binary("minimum")
multiply = _binary("multiply", "mul")
negative = _unary("negative", "neg")
nextafter = _binary("nextafter")
not_equal = _binary("not_equal", "ne")
positive = _unary("positive")
pow = _binary("pow")
real = _unary("real")
reciprocal = _unary("reciprocal")
remainder = _binary("remainder")
round = _rounding("round")
sign = _unary("sign")
signbit = _unary("signbit")
sin = _unary("sin")
sinh = _unary("sinh")
sqrt = _unary("sqrt")
square = _unary("square")
subtract = _binary("subtract", "sub")
tan = _unary("tan")
tanh = _unary("tanh")
trunc = _rounding("trunc")


def clip(x: Tensor, /, min: Any = None, max: Any = None) -> Tensor:
    """No element below `min` or above `max`; the dtype stays."""
    if min is None and max is None:
        return x.clone()
    return ct.clamp(x, min, max).to(x.dtype)  # type: ignore[no-any-return]
