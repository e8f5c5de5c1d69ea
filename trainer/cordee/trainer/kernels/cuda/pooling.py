"""Pooling on a GPU: how its kernels are launched.

A result lies in memory as its image does, with channels last where that has them last. The largest of a window is the
first of several, or the last NaN, as on CPUs. It has not yet run on a device.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from cordee.trainer.kernels.cuda.launch import KINDS, blocks, function, inner

__all__ = ["max_pool", "spread_pool", "sum_pool", "unpool"]

_THREADS = 256
_MOST = (1 << 31) - 1
Sizes = tuple[int, ...]


def _takes(window: Any, *shapes: Sizes) -> bool:
    """Whether these images have something in them, and sizes that fit into the kernels' numbers."""
    return (
        1 <= len(window.kernel) <= 3
        and all(len(shape) == len(window.kernel) + 2 and math.prod(shape) for shape in shapes)
        and all(max(shape[1:]) + 2 * max(window.padding) < _MOST // 2 for shape in shapes)
    )


def _fits(window: Any) -> bool:
    return not any(2 * p > k for p, k in zip(window.padding, window.kernel, strict=True))


def _laid(a: Any) -> tuple[Any, bool]:
    """An image with channels last, or else in the order of its dimensions, and which of both."""
    last = (0, *range(2, a.ndim), 1)
    if not a.flags.c_contiguous and inner(a) == 1 and a.transpose(last).flags.c_contiguous:
        return a, True
    return importlib.import_module("cupy").ascontiguousarray(a), False


def _as(a: Any, channels_last: bool) -> Any:
    """An image laid so."""
    ascontiguousarray: Any = importlib.import_module("cupy").ascontiguousarray
    if not channels_last:
        return ascontiguousarray(a)
    ndim = a.ndim
    return ascontiguousarray(a.transpose(0, *range(2, ndim), 1)).transpose(0, ndim - 1, *range(1, ndim - 1))


def _empty(shape: Sizes, dtype: Any, channels_last: bool) -> Any:
    empty: Any = importlib.import_module("cupy").empty
    if not channels_last:
        return empty(shape, dtype)
    return empty((shape[0], *shape[2:], shape[1]), dtype).transpose(0, len(shape) - 1, *range(1, len(shape) - 1))


def _launch(
    kind: str, name: str, count: int, arrays: tuple[Any, ...], image: Sizes, size: Sizes, window: Any, last: bool
) -> None:
    spatial = len(window.kernel)
    lines = [(1, 1, 1, 1, 0, 1)] * (3 - spatial)
    lines += zip(image[2:], size, window.kernel, window.stride, window.padding, window.dilation, strict=True)
    numbers = [np.int32(number) for line in lines for number in line]
    channels = np.int32(image[1] if last else 1)
    function("pooling", kind, name)(
        blocks(count, _THREADS), (_THREADS,), (*arrays, np.int64(count), channels, *numbers)
    )  # fmt: skip


def max_pool(a: Any, *, window: Any) -> Any:
    kind = KINDS.get(a.dtype, "")
    if not kind or not _takes(window, a.shape) or not _fits(window):
        return NotImplemented
    image, last = _laid(a)
    size = window.size(a.shape[2:])
    few = len(window.places) < 256
    best = _empty((*a.shape[:2], *size), a.dtype, last)
    winner = _empty(best.shape, np.uint8 if few else np.int32, last)
    name = "max_pool_bytes" if few else "max_pool_words"
    _launch(kind, name, best.size, (image, best, winner), a.shape, size, window, last)
    return best, winner


def unpool(a: Any, *, winner: Any, shape: Sizes, window: Any) -> Any:
    kind = KINDS.get(a.dtype, "")
    name = {"uint8": "unpool_bytes", "int32": "unpool_words"}.get(winner.dtype.name, "")
    if not kind or not name or not _takes(window, a.shape, shape) or a.shape != winner.shape:
        return NotImplemented
    won, last = _laid(winner)
    into = _empty(tuple(shape), a.dtype, last)
    arrays = (_as(a, last), won, into)
    _launch(kind, name, into.size, arrays, tuple(shape), a.shape[2:], window, last)
    return into


def sum_pool(a: Any, *, window: Any) -> Any:
    kind = KINDS.get(a.dtype, "")
    if not kind or not _takes(window, a.shape) or not _fits(window):
        return NotImplemented
    image, last = _laid(a)
    size = window.size(a.shape[2:])
    out = _empty((*a.shape[:2], *size), a.dtype, last)
    _launch(kind, "sum_pool", out.size, (image, out), a.shape, size, window, last)
    return out


def spread_pool(a: Any, *, shape: Sizes, window: Any) -> Any:
    kind = KINDS.get(a.dtype, "")
    if not kind or not _takes(window, a.shape, shape) or a.shape != (*shape[:2], *window.size(shape[2:])):
        return NotImplemented
    sums, last = _laid(a)
    into = _empty(tuple(shape), a.dtype, last)
    _launch(kind, "spread_pool", into.size, (sums, into), tuple(shape), a.shape[2:], window, last)
    return into
