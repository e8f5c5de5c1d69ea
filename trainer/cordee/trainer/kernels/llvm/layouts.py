"""Which arrays the generated loops take, and what stands in for operands that are not there."""

from __future__ import annotations

import functools
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["KINDS", "as_bits", "lies", "number", "ones_row", "zeros_row"]

_float32, _bfloat16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)

KINDS = {_float32: "", _bfloat16: "_half"}
"""What a loop's name ends in that takes arrays of a type."""


def lies(a: Any, shape: tuple[int, ...], dtype: Any = _float32) -> bool:
    """Whether it is of this type (float32) and shape, in row-major order without gaps."""
    return a.dtype is dtype and a.shape == shape and bool(a.flags.c_contiguous)


def as_bits(a: Any) -> Any:
    """What is of bfloat16 as the bits that loops take; float32 as it is."""
    return a.view(np.uint16) if a.dtype is _bfloat16 else a


@functools.lru_cache(maxsize=64)
def ones_row(length: int) -> Any:
    """For a weight that is not there."""
    return _frozen(np.ones(length, np.float32))


@functools.lru_cache(maxsize=64)
def zeros_row(length: int) -> Any:
    """For a bias that is not there."""
    return _frozen(np.zeros(length, np.float32))


@functools.lru_cache(maxsize=256)
def number(value: float) -> Any:
    """A param as an operand."""
    return _frozen(np.array(value, np.float32))


def _frozen(a: Any) -> Any:
    a.flags.writeable = False
    return a
