"""Pooling of images whose channels are the last dimension in memory: 16 channels at a time, window by window.

Where a window hangs over the image's border, what is outside is left out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cordee.trainer.kernels.llvm.layouts import KINDS, as_bits, from_bits
from cordee.trainer.kernels.llvm.loops import Loop, Memory, Rows
from cordee.trainer.kernels.llvm.ufuncs import family
from cordee.trainer.kernels.llvm.values import INT, Value

__all__ = ["max_pool", "spread_pool", "sum_pool", "unpool"]

_FEWEST = 8
"""Images of fewer channels are left to NumPy."""


class _Windows:
    """The windows of an image: kernel, stride, padding and dilation, of height and width, as they come in a vector."""

    def __init__(self, k: Rows, numbers: Memory) -> None:
        self.k = k
        self.kernel, self.stride, self.padding, self.dilation = (
            [numbers.get(k.index(2 * i + j)) for j in range(2)] for i in range(4)
        )

    def each(self, body: Callable[[Value, Value, Value, Value], None]) -> None:
        """`body(n, y, x, place)` for each window of this thread's samples; `place` is that of its result's channels."""
        k = self.k
        high, wide, channels = (k.sizes[name] for name in "yxc")

        def sample(n: Value) -> None:
            def row(y: Value) -> None:
                k.count(k.index(0), wide, 1, lambda x: body(n, y, x, ((n * high + y) * wide + x) * channels))

            k.count(k.index(0), high, 1, row)

        k.share(sample)

    def inside(self, n: Value, y: Value, x: Value, body: Callable[[Value, Value], None]) -> None:
        """`body(number, place)` for each element of a window that is in the image; `number` is that in the window."""
        k = self.k
        height, width, channels = (k.sizes[name] for name in "hwc")
        down, right = y * self.stride[0] - self.padding[0], x * self.stride[1] - self.padding[1]

        def along(i: Value) -> None:
            row = down + i * self.dilation[0]

            def across(j: Value) -> None:
                column = right + j * self.dilation[1]
                place = ((n * height + row) * width + column) * channels
                k.when((column >= 0) & (column < width), lambda: body(i * self.kernel[1] + j, place))

            k.when((row >= 0) & (row < height), lambda: k.count(k.index(0), self.kernel[1], 1, across))

        k.count(k.index(0), self.kernel[0], 1, along)


def _max_pool(k: Rows, a: Memory, numbers: Memory, out: Memory, winner: Memory) -> None:
    """Of several that are the largest the first, of several NaN the last."""
    windows, channels = _Windows(k, numbers), k.sizes["c"]

    def window(n: Value, y: Value, x: Value, place: Value) -> None:
        def lanes(c: Value, mask: Value | None) -> None:
            best = k.variable(k.splat(k.real(-math.inf)))
            number = k.variable(k.splat(k.whole(-1)))

            def element(found: Value, at: Value) -> None:
                seen = a.lanes(at + c, mask)
                won = (seen > best.get()) | seen.differs(seen) | (number.get() < 0)
                best.set(k.where(won, seen, best.get()))
                number.set(k.where(won, k.splat(k.convert(found, INT)), number.get()))

            windows.inside(n, y, x, element)
            out.put_lanes(place + c, best.get(), mask)
            winner.put_lanes(place + c, number.get(), mask)

        k.lanes(channels, lanes)

    windows.each(window)


def _unpool(k: Rows, g: Memory, winner: Memory, numbers: Memory, into: Memory) -> None:
    windows, channels = _Windows(k, numbers), k.sizes["c"]
    _clear_samples(k, into)

    def window(n: Value, y: Value, x: Value, place: Value) -> None:
        def lanes(c: Value, mask: Value | None) -> None:
            slope, chosen = g.lanes(place + c, mask), winner.lanes(place + c, mask)

            def element(number: Value, at: Value) -> None:
                here = chosen.equals(k.splat(k.convert(number, INT)))
                known = into.lanes(at + c, mask)
                into.put_lanes(at + c, k.where(here, known + slope, known), mask)

            windows.inside(n, y, x, element)

        k.lanes(channels, lanes)

    windows.each(window)


def _clear_samples(k: Rows, into: Memory) -> None:
    """Zeros in this thread's samples."""
    size = k.sizes["h"] * k.sizes["w"] * k.sizes["c"]
    k.clear((k.last - k.first) * size, into.at(k.first * size))


def _sum_pool(k: Rows, a: Memory, numbers: Memory, out: Memory) -> None:
    windows, channels = _Windows(k, numbers), k.sizes["c"]

    def window(n: Value, y: Value, x: Value, place: Value) -> None:
        def lanes(c: Value, mask: Value | None) -> None:
            total = k.variable(k.splat(k.real(0.0)))
            windows.inside(n, y, x, lambda _, at: total.set(total.get() + a.lanes(at + c, mask)))
            out.put_lanes(place + c, total.get(), mask)

        k.lanes(channels, lanes)

    windows.each(window)


def _spread_pool(k: Rows, g: Memory, numbers: Memory, into: Memory) -> None:
    windows, channels = _Windows(k, numbers), k.sizes["c"]
    _clear_samples(k, into)

    def window(n: Value, y: Value, x: Value, place: Value) -> None:
        def lanes(c: Value, mask: Value | None) -> None:
            slope = g.lanes(place + c, mask)
            windows.inside(n, y, x, lambda _, at: into.put_lanes(at + c, into.lanes(at + c, mask) + slope, mask))

        k.lanes(channels, lanes)

    windows.each(window)


@functools.cache
def _ufuncs() -> dict[str, Any]:
    image, result = "(n,h,w,c)", "(n,y,x,c)"
    loops = []
    for x, ending in (("f", ""), ("h", "_half")):
        loops += [
            Loop(f"max_pool{ending}", f"{x}q->{x}u", _max_pool, f"{image},(p)->{result},{result}", "n"),
            Loop(f"unpool{ending}", f"{x}uq->{x}", _unpool, f"{result},{result},(p)->{image}", "n"),
            Loop(f"sum_pool{ending}", f"{x}q->{x}", _sum_pool, f"{image},(p)->{result}", "n"),
            Loop(f"spread_pool{ending}", f"{x}q->{x}", _spread_pool, f"{result},(p)->{image}", "n"),
        ]
    return family("pooling", loops)


def _last(a: Any) -> Any:
    """With channels last, as they lie, as the loops take them; None: they do not."""
    if a.dtype not in KINDS or a.ndim != 4 or not a.size or a.shape[1] < _FEWEST:
        return None
    turned = a.transpose(0, 2, 3, 1)
    return as_bits(turned) if turned.flags.c_contiguous else None


def _image(a: Any, dtype: Any) -> Any:
    """What a loop wrote, with its channels last, as an image of a dtype."""
    return from_bits(a, dtype).transpose(0, 3, 1, 2)


@functools.lru_cache(maxsize=128)
def _numbers(window: Any) -> Any:
    numbers = np.array([*window.kernel, *window.stride, *window.padding, *window.dilation], np.int64)
    numbers.flags.writeable = False
    return numbers


def _fits(image: tuple[int, ...], result: tuple[int, ...], window: Any) -> bool:
    return len(image) == 4 and (*image[:2], *window.size(image[2:])) == tuple(result)


def _is_too_wide(window: Any) -> bool:
    """Whether its border is: what refuses it is the NumPy version."""
    return any(2 * p > k for p, k in zip(window.padding, window.kernel, strict=True))


def _pooled(a: Any, window: Any, *dtypes: Any) -> list[Any]:
    """Memory for results."""
    sizes = window.size(a.shape[2:])
    return [np.empty((a.shape[0], *sizes, a.shape[1]), dtype) for dtype in dtypes]


def max_pool(a: Any, *, window: Any) -> Any:
    x = _last(a)
    if x is None or len(window.places) > 127 or _is_too_wide(window):
        return NotImplemented
    best, winner = _pooled(a, window, x.dtype, np.uint8)
    _ufuncs()["max_pool" + KINDS[a.dtype]](x, _numbers(window), out=(best, winner))
    return _image(best, a.dtype), winner.transpose(0, 3, 1, 2)


def unpool(a: Any, *, winner: Any, shape: Any, window: Any) -> Any:
    if winner.dtype != np.uint8 or a.shape != winner.shape or len(shape) != 4 or len(window.places) > 127:
        return NotImplemented
    chosen = winner.transpose(0, 2, 3, 1)
    if not chosen.flags.c_contiguous or a.dtype not in KINDS or not a.size or shape[1] < _FEWEST:
        return NotImplemented
    if not _fits(shape, a.shape, window):
        return NotImplemented
    slopes = as_bits(np.ascontiguousarray(a.transpose(0, 2, 3, 1)))
    into = np.empty((shape[0], *shape[2:], shape[1]), slopes.dtype)
    _ufuncs()["unpool" + KINDS[a.dtype]](slopes, chosen, _numbers(window), out=into)
    return _image(into, a.dtype)


def sum_pool(a: Any, *, window: Any) -> Any:
    x = _last(a)
    if x is None or _is_too_wide(window):
        return NotImplemented
    (out,) = _pooled(a, window, x.dtype)
    _ufuncs()["sum_pool" + KINDS[a.dtype]](x, _numbers(window), out=out)
    return _image(out, a.dtype)


def spread_pool(a: Any, *, shape: Any, window: Any) -> Any:
    x = _last(a)
    if x is None or not _fits(shape, a.shape, window):
        return NotImplemented
    into = np.empty((shape[0], *shape[2:], shape[1]), x.dtype)
    _ufuncs()["spread_pool" + KINDS[a.dtype]](x, _numbers(window), out=into)
    return _image(into, a.dtype)
