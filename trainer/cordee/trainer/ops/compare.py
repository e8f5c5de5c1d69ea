"""What yields truth or bits: comparisons, logic, bitwise arithmetic, what kind of number it is. Nothing is recorded."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from cordee.trainer.array import array_module, as_array, default_module, promote
from cordee.trainer.autograd.explain import explain_broadcast
from cordee.trainer.autograd.graph import Operand
from cordee.trainer.errors import ShapeError
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "allclose", "bitwise_and", "bitwise_left_shift", "bitwise_not", "bitwise_or", "bitwise_right_shift", "bitwise_xor",
    "eq", "equal", "gcd", "ge", "greater", "greater_equal", "gt", "is_nonzero", "isclose", "isfinite", "isinf", "isnan",
    "isneginf", "isposinf", "lcm", "le", "less", "less_equal", "logical_and", "logical_not", "logical_or",
    "logical_xor", "lt", "ne", "nextafter", "not_equal", "signbit",
]  # fmt: skip

METHODS = (
    "allclose bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor eq equal gcd ge "
    "greater greater_equal gt is_nonzero isclose isfinite isinf isnan isneginf isposinf lcm le less less_equal "
    "logical_and logical_not logical_or logical_xor lt ne nextafter not_equal signbit"
)
INPLACE = (
    "bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor eq gcd ge gt lcm le "
    "logical_and logical_not logical_or logical_xor lt ne nextafter"
)


def _raw(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.data
    if isinstance(value, np.ndarray) and default_module() is not np:
        return as_array(value)
    return value.item() if isinstance(value, np.generic) else value


def _array(value: Any) -> Tensor:
    return wrap(value if type(value) is np.ndarray else array_module(value).asarray(value))


def _pair(name: str, compute: Callable[[Any, Any], Any], doc: str) -> Callable[[Operand, Operand], Tensor]:
    def call(input: Operand, other: Operand) -> Tensor:
        a, b = _raw(input), _raw(other)
        try:
            return _array(compute(a, b))
        except ValueError as error:
            shapes = [tuple(getattr(x, "shape", ())) for x in (a, b)]
            raise ShapeError(
                f"{name}: {explain_broadcast(*shapes) or error} "
                f"(inputs: a of shape {shapes[0]}, b of shape {shapes[1]})"
            ) from error
        except TypeError as error:
            kinds = " and ".join(getattr(getattr(x, "dtype", None), "name", type(x).__name__) for x in (a, b))
            raise TypeError(f"{name}: not defined for {kinds}") from error

    call.__name__ = call.__qualname__ = name
    call.__doc__ = doc
    return call


def _holds(value: Any) -> Any:
    return value != 0


def _single(name: str, function: str, doc: str) -> Callable[[Tensor], Tensor]:
    def call(input: Tensor) -> Tensor:
        try:
            return _array(getattr(array_module(input.data), function)(input.data))
        except TypeError as error:
            raise TypeError(f"{name}: not defined for {input.dtype.name}") from error

    call.__name__ = call.__qualname__ = name
    call.__doc__ = doc
    return call


def _numpy(name: str) -> Callable[[Any, Any], Any]:
    return lambda a, b: getattr(array_module(a, b), name)(a, b)


eq = _pair("eq", operator.eq, "Where a == b.")
ne = _pair("ne", operator.ne, "Where a != b.")
lt = _pair("lt", operator.lt, "Where a < b.")
le = _pair("le", operator.le, "Where a <= b.")
gt = _pair("gt", operator.gt, "Where a > b.")
ge = _pair("ge", operator.ge, "Where a >= b.")
not_equal, less, less_equal, greater, greater_equal = ne, lt, le, gt, ge

bitwise_and = _pair("bitwise_and", operator.and_, "Where both hold; on integers, bit by bit.")
bitwise_or = _pair("bitwise_or", operator.or_, "Where either holds; on integers, bit by bit.")
bitwise_xor = _pair("bitwise_xor", operator.xor, "Where exactly one holds; on integers, bit by bit.")
bitwise_left_shift = _pair("bitwise_left_shift", operator.lshift, "The bits of a moved up by b places: a · 2^b.")
bitwise_right_shift = _pair(
    "bitwise_right_shift", operator.rshift, "The bits of a moved down by b places: a / 2^b, rounded down."
)
bitwise_not = _single("bitwise_not", "invert", "Where it does not hold; on integers, bit by bit.")
logical_and = _pair("logical_and", lambda a, b: _holds(a) & _holds(b), "Where both hold: are not zero.")
logical_or = _pair("logical_or", lambda a, b: _holds(a) | _holds(b), "Where either holds: is not zero.")
logical_xor = _pair("logical_xor", lambda a, b: _holds(a) ^ _holds(b), "Where exactly one holds: is not zero.")
logical_not = _single("logical_not", "logical_not", "Where it does not hold: is zero.")

gcd = _pair("gcd", _numpy("gcd"), "The greatest common divisor.")
lcm = _pair("lcm", _numpy("lcm"), "The least common multiple.")
nextafter = _pair("nextafter", _numpy("nextafter"), "The next floating-point number after a towards b.")

isnan = _single("isnan", "isnan", "Where the value is not a number.")
isinf = _single("isinf", "isinf", "Where the value is infinite.")
isfinite = _single("isfinite", "isfinite", "Where the value is a finite number.")


def isposinf(input: Tensor) -> Tensor:
    """Where the value is +infinity."""
    return wrap(input.data == np.inf)


def isneginf(input: Tensor) -> Tensor:
    """Where the value is -infinity."""
    return wrap(input.data == -np.inf)


def signbit(input: Tensor) -> Tensor:
    """Where the sign is negative, also of -0.0."""
    data = input.data
    return wrap(data < 0 if data.dtype.kind in "iub" else array_module(data).signbit(data))


def is_nonzero(input: Tensor) -> bool:
    """Whether the one element is not 0."""
    return bool(input)


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether both have the same shape and the same values."""
    return input.shape == other.shape and bool((input.data == other.data).all())


def isclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """Where |input - other| ≤ atol + rtol · |other|; infinities are close to themselves, NaN to itself if asked."""
    if rtol < 0 or atol < 0:
        raise ValueError(f"isclose: rtol ({rtol}) and atol ({atol}) must not be negative")
    a, b = input.data, other.data
    if a.dtype != b.dtype:
        raise TypeError(f"isclose: the tensors are {a.dtype.name} and {b.dtype.name}: convert one by .to(dtype)")
    xp = array_module(a)
    if a.dtype.kind == "V":
        a, b = a.astype(np.float32), b.astype(np.float32)
    try:
        return _array(xp.isclose(a, b, rtol, atol, equal_nan))
    except ValueError as error:
        raise ShapeError(f"isclose: {explain_broadcast(a.shape, b.shape) or error}") from error


def allclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all values differ by no more than atol + rtol · |other|."""
    if input.dtype != other.dtype:
        wanted = promote(input.dtype, other.dtype)
        input, other = input.detach().to(wanted), other.detach().to(wanted)
    return bool(isclose(input, other, rtol, atol, equal_nan).data.all())
