"""Dtypes as values to ask about: how they promote, what converts to what, and their limits.

The rules are PyTorch's: bool < whole numbers < floating-point < complex; of one kind, the wider wins; a Python number,
or a tensor without dimensions, only decides where it is of a higher kind than all tensors with dimensions. Unlike
PyTorch, uint16, uint32 and uint64 promote too (as NumPy says).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from cordee.trainer.array import DTypeLike, bfloat16, default_dtype, is_complex, is_float, promote
from cordee.trainer.tensors import Tensor

__all__ = [
    "can_cast", "finfo", "iinfo", "is_floating_point", "is_tensor", "numel", "promote_types",
    "result_type",
]  # fmt: skip


def promote_types(type1: DTypeLike, type2: DTypeLike) -> np.dtype[Any]:
    """The dtype of arithmetic between tensors of these dtypes."""
    return promote(np.dtype(type1), np.dtype(type2))


def result_type(tensor1: Any, tensor2: Any) -> np.dtype[Any]:
    """The dtype of arithmetic between these two: tensors or numbers."""
    with_dimensions: list[Any] = []
    without: list[Any] = []
    numbers: list[Any] = []
    for operand in (tensor1, tensor2):
        if not hasattr(operand, "dtype"):
            numbers.append(type(operand))
        else:
            (with_dimensions if operand.ndim else without).append(np.dtype(operand.dtype))
    found: np.dtype[Any] | None = None
    for dtypes in (with_dimensions, without, numbers):
        if not dtypes:
            continue
        weaker = promote(*dtypes)
        found = weaker if found is None else _weakly(found, weaker)
    assert found is not None
    return found


def _kind(dtype: np.dtype[Any]) -> int:
    return 3 if is_complex(dtype) else 2 if is_float(dtype) else 0 if dtype.kind == "b" else 1


def _weakly(strong: np.dtype[Any], weak: np.dtype[Any]) -> np.dtype[Any]:
    """`strong`, unless the weak one is of a higher kind; complex numbers take the strong one's width."""
    if _kind(weak) <= _kind(strong):
        return strong
    return promote(strong, complex) if _kind(weak) == 3 and _kind(strong) == 2 else weak


def can_cast(from_: DTypeLike, to: DTypeLike) -> bool:
    """Whether values of one dtype may become another: not complex to real, floating to whole, or anything to bool."""
    source, target = np.dtype(from_), np.dtype(to)
    return _kind(source) <= _kind(target)


@dataclass(frozen=True)
class _FloatLimits:
    bits: int
    eps: float
    max: float
    min: float
    tiny: float
    smallest_normal: float
    resolution: float
    dtype: str


@dataclass(frozen=True)
class _IntLimits:
    bits: int
    max: int
    min: int
    dtype: str


def finfo(dtype: DTypeLike = None) -> _FloatLimits:
    """The limits of a floating dtype (the default one's, if none is given): eps, max, min, tiny, resolution, bits.

    Raises:
        TypeError: the dtype is not floating.
    """
    wanted = default_dtype() if dtype is None else np.dtype(dtype)
    if not (is_float(wanted) or is_complex(wanted)):
        raise TypeError(f"finfo is for floating dtypes, not {wanted.name}: use iinfo")
    info: Any = ml_dtypes.finfo(wanted) if wanted == bfloat16 else np.finfo(wanted)  # type: ignore[no-untyped-call]
    tiny = float(info.smallest_normal)
    return _FloatLimits(
        info.bits, float(info.eps), float(info.max), float(info.min), tiny, tiny, float(info.resolution), wanted.name
    )


def iinfo(dtype: DTypeLike) -> _IntLimits:
    """The limits of a whole-number dtype: max, min, bits.

    Raises:
        TypeError: the dtype is not one of whole numbers.
    """
    wanted = np.dtype(dtype)
    if wanted.kind not in "iu":
        raise TypeError(f"iinfo is for whole-number dtypes, not {wanted.name}: use finfo")
    info: Any = np.iinfo(wanted.name)
    return _IntLimits(info.bits, int(info.max), int(info.min), wanted.name)


def is_tensor(obj: Any) -> bool:
    """Whether this is a tensor."""
    return isinstance(obj, Tensor)


def is_floating_point(input: Tensor) -> bool:
    """Whether the tensor's numbers are real floating-point ones."""
    return is_float(input.dtype)


def numel(input: Tensor) -> int:
    """How many elements the tensor has."""
    return input.data.size
