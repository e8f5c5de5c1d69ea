"""What has no gradient: comparisons, logic, rounding, whole-number division. Nothing here is recorded."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.explain import explain_broadcast
from cordee.trainer.autograd.graph import Operand
from cordee.trainer.errors import ShapeError
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "allclose", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "ceil", "eq", "equal", "floor",
    "floor_divide", "ge", "gt", "isfinite", "isinf", "isnan", "le", "logical_and", "logical_not", "logical_or",
    "logical_xor", "lt", "ne", "remainder", "round",
]  # fmt: skip

METHODS = (
    "allclose ceil eq equal floor floor_divide ge gt isfinite isinf isnan le logical_and logical_not logical_or logical_xor lt ne remainder round"
)
INPLACE = "ceil floor round remainder"


def _raw(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.data
    return value.item() if isinstance(value, np.generic) else value


def _array(value: Any) -> Tensor:
    return wrap(value if type(value) is np.ndarray else array_module(value).asarray(value))


def _pair(name: str, compute: Callable[[Any, Any], Any], doc: str) -> Callable[[Operand, Operand], Tensor]:
    def call(input: Operand, other: Operand) -> Tensor:
        a, b = _raw(input), _raw(other)
        try:
            return _array(compute(a, b))
        except ValueError as error:
            reason = explain_broadcast(getattr(a, "shape", ()), getattr(b, "shape", ()))
            raise ShapeError(f"{name}: {reason or error}") from error

    call.__name__ = call.__qualname__ = name
    call.__doc__ = doc
    return call


def _holds(value: Any) -> Any:
    return value != 0


def _single(name: str, doc: str) -> Callable[[Tensor], Tensor]:
    def call(input: Tensor) -> Tensor:
        return _array(getattr(array_module(input.data), name)(input.data))

    call.__name__ = call.__qualname__ = name
    call.__doc__ = doc
    return call


eq = _pair("eq", operator.eq, "Where a == b.")
ne = _pair("ne", operator.ne, "Where a != b.")
lt = _pair("lt", operator.lt, "Where a < b.")
le = _pair("le", operator.le, "Where a <= b.")
gt = _pair("gt", operator.gt, "Where a > b.")
ge = _pair("ge", operator.ge, "Where a >= b.")
bitwise_and = _pair("bitwise_and", operator.and_, "Where both hold; on integers, bit by bit.")
bitwise_or = _pair("bitwise_or", operator.or_, "Where either holds; on integers, bit by bit.")
bitwise_xor = _pair("bitwise_xor", operator.xor, "Where exactly one holds; on integers, bit by bit.")
logical_and = _pair("logical_and", lambda a, b: _holds(a) & _holds(b), "Where both hold: are not zero.")
logical_or = _pair("logical_or", lambda a, b: _holds(a) | _holds(b), "Where either holds: is not zero.")
logical_xor = _pair("logical_xor", lambda a, b: _holds(a) ^ _holds(b), "Where exactly one holds: is not zero.")
floor_divide = _pair("floor_divide", operator.floordiv, "a / b, rounded down.")
remainder = _pair("remainder", operator.mod, "What is left of a after whole multiples of b; of b's sign.")
floor = _single("floor", "Rounded down.")
ceil = _single("ceil", "Rounded up.")
round = _single("rint", "Rounded to the nearest whole number, halves to the even one.")
isnan = _single("isnan", "Where the value is not a number.")
isinf = _single("isinf", "Where the value is infinite.")
isfinite = _single("isfinite", "Where the value is a finite number.")
logical_not = _single("logical_not", "Where it does not hold: is zero.")
bitwise_not = _single("invert", "Where it does not hold; on integers, bit by bit.")


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether both have the same shape and the same values."""
    return input.shape == other.shape and bool((input.data == other.data).all())


def allclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all values differ by no more than atol + rtol · |other|."""
    return bool(array_module(input.data).allclose(input.data, other.data, rtol, atol, equal_nan))
