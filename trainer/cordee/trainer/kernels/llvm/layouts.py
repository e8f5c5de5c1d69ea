"""Which arrays the generated loops take, and what stands in for operands that are not there."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

__all__ = ["lies", "number", "ones_row", "zeros_row"]

_float32 = np.dtype(np.float32)


def lies(a: Any, shape: tuple[int, ...]) -> bool:
    """Whether it is float32 of this shape, in row-major order without gaps."""
    return a.dtype is _float32 and a.shape == shape and bool(a.flags.c_contiguous)


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
