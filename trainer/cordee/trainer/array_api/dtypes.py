"""Dtypes in the array API: casting, promotion, limits, kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from cordee.trainer.array import default_dtype, device_name, is_complex, is_float
from cordee.trainer.errors import DeviceError
from cordee.trainer.tensors import Tensor

__all__ = ["astype", "can_cast", "finfo", "iinfo", "isdtype", "result_type"]

KINDS: dict[str, str] = {
    "bool": "b",
    "signed integer": "i",
    "unsigned integer": "u",
    "integral": "iu",
    "real floating": "f",
    "complex floating": "c",
    "numeric": "iufc",
}


def kind_of(dtype: Any) -> str:
    """NumPy's letter for a dtype, "f" for bfloat16 too."""
    return "f" if is_float(dtype) else dtype.kind


def default_complex() -> np.dtype[Any]:
    """The complex dtype that goes with the default dtype."""
    return np.dtype("complex128" if default_dtype() == np.float64 else "complex64")


def check_device(device: Any) -> None:
    """There is one device per process; another one's name is an error."""
    if device is not None and device != device_name():
        raise DeviceError(
            f"this process computes on {device_name()}, not on {device!r}: CORDEE_DEVICE chooses the device"
        )


def astype(x: Tensor, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Tensor:
    """The values in another dtype; without `copy` the tensor itself where nothing is to be done."""
    check_device(device)
    if is_complex(x.dtype) and not is_complex(np.dtype(dtype)):
        raise TypeError(
            f"astype: {x.dtype.name} does not become {np.dtype(dtype).name}: take real(x), imag(x) or abs(x)"
        )
    made = x.to(dtype)
    return made.clone() if copy and made is x else made


def _of(thing: Any) -> Any:
    return thing.dtype if isinstance(thing, Tensor) else thing


def can_cast(from_: Any, to: Any, /) -> bool:
    """Whether type promotion leads from one dtype (or a tensor's) to the other."""
    return bool(np.can_cast(_of(from_), to))


def result_type(*arrays_and_dtypes: Any) -> np.dtype[Any]:
    """The dtype that these become together; Python numbers take part by their kind only."""
    if not arrays_and_dtypes:
        raise ValueError("result_type: at least one tensor, dtype or number is needed")
    things = [_of(thing) for thing in arrays_and_dtypes]
    if all(isinstance(thing, (bool, int, float, complex)) for thing in things):
        made = np.result_type(*things)
        return {"f": default_dtype(), "c": default_complex()}.get(made.kind, made)
    return np.result_type(*things)


def promoted(*operands: Any) -> tuple[Any, ...]:
    """Tensors in their common dtype (numbers as they are): also those without dimensions, unlike in PyTorch."""
    dtypes = {operand.dtype for operand in operands if isinstance(operand, Tensor)}
    if len(dtypes) < 2:
        return operands
    dtype = np.result_type(*dtypes)
    return tuple(operand.to(dtype) if isinstance(operand, Tensor) else operand for operand in operands)


@dataclass(frozen=True)
class FloatLimits:
    """What `finfo` tells."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class IntegerLimits:
    """What `iinfo` tells."""

    bits: int
    max: int
    min: int
    dtype: np.dtype[Any]


def finfo(type: Any, /) -> FloatLimits:
    """The limits of a floating dtype (of a complex one: of its parts)."""
    dtype = np.dtype(_of(type))
    if kind_of(dtype) not in "fc":
        raise TypeError(f"finfo: {dtype.name} is no floating dtype; iinfo is for integers")
    found = np.finfo(dtype) if dtype.kind in "fc" else ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    limits = (float(found.eps), float(found.max), float(found.min), float(found.smallest_normal))
    return FloatLimits(int(found.bits), *limits, np.dtype(found.dtype))


def iinfo(type: Any, /) -> IntegerLimits:
    """The limits of an integer dtype."""
    dtype = np.dtype(_of(type))
    if dtype.kind not in "iu":
        raise TypeError(f"iinfo: {dtype.name} is no integer dtype; finfo is for floating ones")
    found = np.iinfo(dtype)
    return IntegerLimits(int(found.bits), int(found.max), int(found.min), dtype)


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a dtype is this one, or of this kind ("numeric", "real floating", …), or one of several."""
    if isinstance(kind, tuple):
        return any(isdtype(dtype, one) for one in kind)
    if isinstance(kind, str):
        if kind not in KINDS:
            raise ValueError(f"isdtype: unknown kind {kind!r}; known are {', '.join(KINDS)}")
        return kind_of(dtype) in KINDS[kind]
    return bool(dtype == kind)
