"""Depthwise convolution, one input channel per group: there is next to nothing to multiply, so it is a sum of images,
each shifted by a place in the window and scaled by the weight there.

Images have shape (C, N, *bordered sizes), results (C · m, N, *size): every channel has m kernels of its own. With
stride 1, the next window along a dimension lies a fixed distance further in memory. So whole images are shifted as long
vectors; that also computes windows that hang over an edge into the next row, which are cut off (or were zero).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from cordee.trainer.ops.windows import Sizes, Window

__all__ = ["correlate", "spread", "weigh"]

_CACHE_BYTES = 1 << 20


def correlate(xp: Any, image: Any, weight: Any, window: Window, size: Sizes, dtype: Any) -> Any:
    """The convolution, (C · m, N, *size)."""
    (channels, num_samples), sizes = image.shape[:2], image.shape[2:]
    factors = weight.reshape(channels, -1, len(window.places))
    out = xp.empty((channels, factors.shape[1], num_samples, *size), dtype)
    offsets = _offsets(sizes, window)
    for block in _blocks(xp, channels, out.nbytes):
        if offsets is not None:
            rows = image[block].reshape(block.stop - block.start, 1, -1)
            length = rows.shape[2] - offsets[-1]
            total = xp.empty((rows.shape[0], factors.shape[1], rows.shape[2]), dtype)
            _sum(xp, total[:, :, :length], (rows[:, :, o : o + length] for o in offsets), factors[block])
            out[block] = total.reshape(*total.shape[:2], num_samples, *sizes)[(..., *map(slice, size))]
        else:
            seen = (image[(block, None, slice(None), *view)] for _, view in window.views(size))
            _sum(xp, out[block], seen, factors[block])
    return out.reshape(channels * factors.shape[1], num_samples, *size)


def spread(xp: Any, g: Any, weight: Any, channels: int, sizes: Sizes, window: Window, dtype: Any) -> Any:
    """The gradient by the image, (C, N, *sizes), from that of the result."""
    num_samples, size = g.shape[1], g.shape[2:]
    factors = weight.reshape(channels, -1, len(window.places))
    g = g.reshape(channels, g.shape[0] // channels, num_samples, *size)
    image = xp.zeros((channels, num_samples, *sizes), dtype)
    offsets = _offsets(sizes, window)
    for block in _blocks(xp, channels, image.nbytes):
        for m in range(factors.shape[1]):
            if offsets is None:
                for i, (_, view) in enumerate(window.views(size)):
                    image[(block, slice(None), *view)] += g[block, m] * _column(factors[block, m, i], g.ndim - 1)
                continue
            wide = _widened(xp, g[block, m], sizes)
            rows = image[block].reshape(wide.shape[0], -1)  # a view: the image is contiguous
            length = wide.shape[1] - offsets[-1]
            for i, offset in enumerate(offsets):
                rows[:, offset : offset + length] += wide[:, :length] * _column(factors[block, m, i], 2)
    return image


def weigh(xp: Any, g: Any, image: Any, window: Window) -> Any:
    """The gradient by the weight, (C, m, places), from that of the result and the image."""
    (channels, num_samples), sizes, size = image.shape[:2], image.shape[2:], g.shape[2:]
    g = g.reshape(channels, g.shape[0] // channels, num_samples, *size)
    out = xp.empty((channels, g.shape[1], len(window.places)), g.dtype)
    offsets = _offsets(sizes, window)
    for block in _blocks(xp, channels, image.nbytes):
        for m in range(g.shape[1]):
            if offsets is None:
                part = g[block, m].reshape(block.stop - block.start, -1)
                for i, (_, view) in enumerate(window.views(size)):
                    seen = image[(block, slice(None), *view)].reshape(part.shape)
                    out[block, m, i] = xp.einsum("cl,cl->c", part, seen)
                continue
            wide = _widened(xp, g[block, m], sizes)
            rows = image[block].reshape(wide.shape)
            length = wide.shape[1] - offsets[-1]
            for i, offset in enumerate(offsets):
                out[block, m, i] = xp.einsum("cl,cl->c", wide[:, :length], rows[:, offset : offset + length])
    return out


def _blocks(xp: Any, channels: int, num_bytes: int) -> Iterator[slice]:
    """Channels in portions that fit into the cache together with what is computed from them."""
    step = max(1, channels * (_CACHE_BYTES // 2) // max(num_bytes, 1)) if xp is np else channels
    for start in range(0, channels, step):
        yield slice(start, min(start + step, channels))


def _offsets(sizes: Sizes, window: Window) -> list[int] | None:
    """How far the places in the window are apart in a flattened image; None where windows skip some of it."""
    if max(window.stride) > 1:
        return None
    steps = [d * math.prod(sizes[i + 1 :]) for i, d in enumerate(window.dilation)]
    return [sum(i * step for i, step in zip(place, steps, strict=True)) for place in window.places]


def _widened(xp: Any, g: Any, sizes: Sizes) -> Any:
    """(C, N, *size) with zeros behind, up to the bordered image's sizes: one vector per channel."""
    if g.shape[2:] == sizes:
        return g.reshape(g.shape[0], -1)
    wide = xp.zeros((*g.shape[:2], *sizes), g.dtype)
    wide[(slice(None), slice(None), *map(slice, g.shape[2:]))] = g
    return wide.reshape(g.shape[0], -1)


def _column(values: Any, ndim: int) -> Any:
    """One value per channel, to multiply arrays of so many dimensions with."""
    return values.reshape(-1, *(1,) * (ndim - 1))


def _sum(xp: Any, total: Any, parts: Iterator[Any], factors: Any) -> None:
    """Write the sum of parts, each times its factor per channel and kernel, into `total`."""
    product = None
    for i, part in enumerate(parts):
        factor = factors[:, :, i].reshape(*factors.shape[:2], *(1,) * (total.ndim - 2))
        if product is None:
            xp.multiply(part, factor, out=total)
            product = xp.empty_like(total)
        else:
            xp.multiply(part, factor, out=product)
            xp.add(total, product, out=total)
