"""Which arrays the generated loops take, and what stands in for operands that are not there."""

from __future__ import annotations

import functools
import math
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["KINDS", "ImageLayout", "as_bits", "from_bits", "image_layout", "lies", "number", "ones_row", "zeros_row"]

_float32, _bfloat16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)

KINDS = {_float32: "", _bfloat16: "_half"}
"""What a loop's name ends in that takes arrays of a type."""


def lies(a: Any, shape: tuple[int, ...], dtype: Any = _float32) -> bool:
    """Whether it is of this type (float32) and shape, in row-major order without gaps."""
    return a.dtype is dtype and a.shape == shape and bool(a.flags.c_contiguous)


def from_bits(a: Any, dtype: Any) -> Any:
    """What loops returned, in its type."""
    return a if a.dtype is dtype else a.view(dtype)


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


class ImageLayout:
    """How `(N, C, …)` lies in memory, as rows of channels or as planes, and the way back."""

    __slots__ = ("by_rows", "order", "shape", "view")

    def __init__(self, a: Any, order: tuple[int, ...], by_rows: bool) -> None:
        self.order, self.by_rows = order, by_rows
        ordered = a.transpose(order)
        self.shape = ordered.shape
        channels = a.shape[1]
        if by_rows:
            self.view: tuple[int, ...] = (a.size // channels, channels)
        elif order[0] == 1:  # channels before samples
            self.view = (1, channels, a.size // channels)
        else:
            self.view = (a.shape[0], channels, math.prod(a.shape[2:]))

    def of(self, a: Any) -> Any:
        """An array of the same shape as the loops take it: a view, or, if it lies differently, a copy."""
        return as_bits(np.ascontiguousarray(a.transpose(self.order))).reshape(self.view)

    def back(self, a: Any, dtype: Any) -> Any:
        return from_bits(a, dtype).reshape(self.shape).transpose(np.argsort(self.order))


def image_layout(a: Any) -> ImageLayout | None:
    """The layout of an image; None where there are gaps, or another order."""
    if a.dtype not in KINDS or a.ndim < 2 or not a.size:
        return None
    plain, ndim = tuple(range(a.ndim)), a.ndim
    last = (0, *range(2, ndim), 1)
    if a.flags.c_contiguous and (ndim == 2 or math.prod(a.shape[2:]) == 1):
        return ImageLayout(a, last, True)
    if a.flags.c_contiguous:
        return ImageLayout(a, plain, False)
    if a.transpose(last).flags.c_contiguous:
        return ImageLayout(a, last, True)
    first = (1, 0, *range(2, ndim))
    return ImageLayout(a, first, False) if ndim > 2 and a.transpose(first).flags.c_contiguous else None
