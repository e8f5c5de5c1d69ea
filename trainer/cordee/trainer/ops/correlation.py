"""How convolutions are computed: three kernels on arrays, each linear in its two arguments; here, by NumPy or CuPy.

The columns of many windows stand side by side (C · kernel × windows), so that a convolution is one large product. They
are many times larger than the image. Where they fit into the last-level cache, they are made once and kept for the
gradient; else for a tile of windows at a time, which stays in the second-level cache between being written and being
read, and once more for the gradient. Tiles depend on shapes alone, so the same call always adds up in the same order.
Results are kept in memory as (O, N, …) and seen as (N, O, …): the next convolution reads them in
just that order. Halves (float16, bfloat16) are multiplied and added up in single precision.

Depthwise convolutions go their own way (`depthwise.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from cordee.trainer.array import is_float
from cordee.trainer.kernels import kernel
from cordee.trainer.ops import depthwise
from cordee.trainer.ops.products import ones
from cordee.trainer.ops.windows import Sizes, Window, bordered, channels_first, gather, inside, scatter

__all__ = ["channel_sums", "correlate", "ordered", "spread", "weigh"]

_WHOLE_BYTES = 1 << 24
"""Columns that are made in one piece, and kept."""
_TILE_BYTES = 1 << 20
"""Columns of a tile, on a CPU: they and their product fit into a second-level cache."""
_DEVICE_BYTES = 1 << 28
"""On a GPU: both."""


class _Tile(NamedTuple):
    """Windows that are computed together: of some samples, and along the first dimension some rows of windows."""

    samples: slice
    rows: slice
    size: Sizes
    """How many windows, by dimension."""
    seen: slice
    """The rows of the bordered image that they see."""


def _tiles(xp: Any, num_samples: int, size: Sizes, bytes_per_window: int, window: Window) -> Iterator[_Tile]:
    if xp is np:
        whole = bytes_per_window * num_samples * math.prod(size) <= _WHOLE_BYTES
        limit = _WHOLE_BYTES if whole else _TILE_BYTES
    else:
        limit = _DEVICE_BYTES
    num_rows = max(1, limit // max(bytes_per_window * math.prod(size[1:]), 1))
    if num_rows >= size[0]:
        together = num_rows // size[0]
        for start in range(0, num_samples, together):
            yield _Tile(slice(start, min(start + together, num_samples)), slice(None), size, slice(None))
        return
    stride, reach = window.stride[0], window.dilation[0] * (window.kernel[0] - 1) + 1
    parts = -(-size[0] // num_rows)
    num_rows = -(-size[0] // parts)  # of nearly equal size
    for sample in range(num_samples):
        for top in range(0, size[0], num_rows):
            end = min(top + num_rows, size[0])
            seen = slice(top * stride, (end - 1) * stride + reach)
            yield _Tile(slice(sample, sample + 1), slice(top, end), (end - top, *size[1:]), seen)


def _by_group(a: Any, groups: int, num_rows: int) -> Any:
    """As a matrix, or one matrix per group."""
    return a.reshape((num_rows, -1) if groups == 1 else (groups, num_rows // groups, -1))


def _is_pointwise(window: Window) -> bool:
    return max(window.kernel) == 1 and max(window.stride) == 1 and max(window.padding) == 0


def _is_depthwise(channels: int, weight_shape: Sizes, groups: int) -> bool:
    return groups == channels and groups > 1 and weight_shape[1] == 1


def _is_half(a: Any) -> bool:
    return a.dtype.itemsize == 2 and is_float(a.dtype)


def _in_single(function: Any, xp: Any, a: Any, b: Any, *others: Any) -> Any:
    """The function of halves, computed in single precision: arrays of it become halves again."""
    found = function(xp, a.astype(np.float32), b.astype(np.float32), *others)
    dtype = xp.result_type(a.dtype, b.dtype)
    if isinstance(found, tuple):
        return tuple([None if each is None else each.astype(dtype) for each in found])
    return found.astype(dtype)


@kernel
def ordered(xp: Any, g: Any, input: Any, weight_shape: Sizes, window: Window, groups: int) -> Any:
    """The gradient of a convolution's result in the order in which `spread` and `weigh` read it: copied once.

    `input` may be a shape: that of an image that is not needed.
    """
    return channels_first(xp.ascontiguousarray(channels_first(g)))


def channel_sums(xp: Any, g: Any) -> Any:
    """The sum of each channel of (N, C, …)."""
    if _is_half(g):
        return channel_sums(xp, g.astype(np.float32)).astype(g.dtype)
    first = channels_first(g)
    if first.flags.c_contiguous:
        rows = first.reshape(first.shape[0], -1)
        return rows.dot(ones(xp, rows.shape[1], g.dtype))
    if g.flags.c_contiguous:
        rows = g.reshape(g.shape[0] * g.shape[1], -1)
        return rows.dot(ones(xp, rows.shape[1], g.dtype)).reshape(g.shape[:2]).sum(0)
    last = xp.moveaxis(g, 1, -1)
    if last.flags.c_contiguous and g.size:  # per sample first, so that single precision suffices
        rows = last.reshape(g.shape[0], -1, g.shape[1])
        return (ones(xp, rows.shape[1], g.dtype) @ rows).sum(0)
    return g.sum(axis=(0, *range(2, g.ndim)))


# -- forward -----------------------------------------------------------------------------------------------------------


@kernel
def correlate(xp: Any, input: Any, weight: Any, bias: Any, window: Window, groups: int) -> Any:
    """(N, C, …) with (O, C / groups, …), plus a bias: (N, O, …), and what `weigh` can use of it.

    That is an array, the columns, if they were made in one piece; what others than NumPy keep is a tuple.
    """
    if _is_half(input):
        return _in_single(correlate.reference, xp, input, weight, bias, window, groups)[0], None
    out, columns = _correlate(xp, input, weight, window, groups)
    return plus_bias(out, bias), columns


def plus_bias(out: Any, bias: Any) -> Any:
    """In place: `out` is new."""
    if bias is not None:
        out += bias.reshape(-1, *(1,) * (out.ndim - 2))
    return out


def _correlate(xp: Any, input: Any, weight: Any, window: Window, groups: int) -> Any:
    sizes, num_out = input.shape[2:], weight.shape[0]
    size, num_samples = window.size(sizes), input.shape[0]
    dtype = input.dtype if input.dtype == weight.dtype else xp.result_type(input.dtype, weight.dtype)
    first = channels_first(input)
    if _is_pointwise(window):
        columns = _by_group(first, groups, input.shape[1])
        out = _by_group(weight, groups, num_out) @ columns
        return channels_first(out.reshape(num_out, num_samples, *size)), None
    image = bordered(xp, first, window.border(sizes, size))
    if _is_depthwise(input.shape[1], weight.shape, groups):
        return channels_first(depthwise.correlate(xp, image, weight, window, size, dtype)), None
    num_rows = input.shape[1] * len(window.places)
    matrix, num_bytes = _by_group(weight, groups, num_out), num_rows * input.dtype.itemsize
    out = xp.empty((num_out, num_samples, *size), dtype) if not num_samples else None
    for tile in _tiles(xp, num_samples, size, num_bytes, window):
        columns = _columns(xp, image, tile, window, groups)
        part = (matrix @ columns).reshape(num_out, -1, *tile.size)
        if part.shape[1:] == (num_samples, *size):
            return channels_first(part), columns
        if out is None:
            out = xp.empty((num_out, num_samples, *size), dtype)
        out[:, tile.samples, tile.rows] = part
    return channels_first(out), None


def _columns(xp: Any, image: Any, tile: _Tile, window: Window, groups: int) -> Any:
    """What the windows of a tile see of a bordered image (C, N, …), as columns."""
    seen = image[:, tile.samples, tile.seen]
    columns = xp.empty((seen.shape[0], *window.kernel, seen.shape[1], *tile.size), image.dtype)
    return _by_group(gather(columns, seen, window, tile.size), groups, seen.shape[0] * len(window.places))


# -- the gradient by the input -----------------------------------------------------------------------------------------


@kernel
def spread(xp: Any, g: Any, weight: Any, sizes: Sizes, window: Window, groups: int) -> Any:
    """(N, O, …) with (O, C / groups, …): the gradient of `correlate` by its input, (N, C, *sizes)."""
    if _is_half(g):
        return _in_single(spread.reference, xp, g, weight, sizes, window, groups)
    num_samples, num_out, size = g.shape[0], weight.shape[0], g.shape[2:]
    channels, kernel = weight.shape[1] * groups, window.kernel
    dtype = g.dtype if g.dtype == weight.dtype else xp.result_type(g.dtype, weight.dtype)
    first = channels_first(g)
    matrix = _by_group(weight, groups, num_out).swapaxes(-1, -2)
    if _is_pointwise(window):
        out = matrix @ _by_group(first, groups, num_out)
        return channels_first(out.reshape(channels, num_samples, *sizes))
    border = window.border(sizes, size)
    if _is_depthwise(channels, weight.shape, groups):
        image = depthwise.spread(xp, first, weight, channels, _with_border(sizes, border), window, dtype)
    else:
        image = xp.zeros((channels, num_samples, *_with_border(sizes, border)), dtype)
        num_rows = channels * len(window.places)
        for tile in _tiles(xp, num_samples, size, num_rows * g.dtype.itemsize, window):
            part = first[:, tile.samples, tile.rows]
            columns = matrix @ _by_group(part, groups, num_out)
            columns = columns.reshape(channels, *kernel, *part.shape[1:])
            scatter(columns, image[:, tile.samples, tile.seen], window, tile.size)
    return channels_first(image[(..., *inside(sizes, border))])


def _with_border(sizes: Sizes, border: list[tuple[int, int]]) -> Sizes:
    return tuple(n + p + q for n, (p, q) in zip(sizes, border, strict=True))


# -- the gradient by the weight ----------------------------------------------------------------------------------------


@kernel
def weigh(xp: Any, g: Any, input: Any, window: Window, groups: int, kept: Any = None, with_bias: bool = False) -> Any:
    """(N, O, …) with (N, C, …): the gradients of `correlate` by its weight and by its bias (None: not asked for).

    `kept`: as it left it.
    """
    if _is_half(g):
        return _in_single(weigh.reference, xp, g, input, window, groups, None, with_bias)
    columns = None if isinstance(kept, tuple) else kept
    return _weigh(xp, g, input, window, groups, columns), channel_sums(xp, g) if with_bias else None


def _weigh(xp: Any, g: Any, input: Any, window: Window, groups: int, columns: Any) -> Any:
    num_out, channels, sizes, size = g.shape[1], input.shape[1], input.shape[2:], g.shape[2:]
    shape = (num_out, channels // groups, *window.kernel)
    first = channels_first(g)
    if columns is None and _is_pointwise(window):
        columns = _by_group(channels_first(input), groups, channels)
    if columns is not None:
        return (_by_group(first, groups, num_out) @ columns.swapaxes(-1, -2)).reshape(shape)
    if g.shape[0] != input.shape[0] or any(n > m for n, m in zip(size, window.size(sizes), strict=True)):
        raise ValueError("the gradient is not of such a convolution")
    image = bordered(xp, channels_first(input), window.border(sizes, size))
    if _is_depthwise(channels, shape, groups):
        return depthwise.weigh(xp, first, image, window).reshape(shape)
    total = None
    num_bytes = channels * len(window.places) * input.dtype.itemsize
    for tile in _tiles(xp, g.shape[0], size, num_bytes, window):
        columns = _columns(xp, image, tile, window, groups)
        part = _by_group(first[:, tile.samples, tile.rows], groups, num_out) @ columns.swapaxes(-1, -2)
        total = part if total is None else xp.add(total, part, out=total)
    return xp.zeros(shape, g.dtype) if total is None else total.reshape(shape)
