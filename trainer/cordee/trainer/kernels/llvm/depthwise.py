"""Depthwise convolutions and their gradients: each channel with a small kernel of its own, windows side by side.

Images with channels last are computed 16 channels at a time, planes 16 neighbours of a row at a time; nothing is
brought into another order. Rows outside the image are rows of zeros, columns outside are masked, so that what is no
number goes where it would in an image with a border of zeros. Products are added up place by place in the window, in
the same order for either layout. The gradient by the input is a convolution too, with the kernel turned around.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from cordee.trainer.kernels.llvm.layouts import lies, ones_row, zeros_row
from cordee.trainer.kernels.llvm.loops import Loop, Memory, Rows, Variable
from cordee.trainer.kernels.llvm.ufuncs import family
from cordee.trainer.kernels.llvm.values import INT, Value

__all__ = ["correlate", "ordered", "spread", "weigh"]

_MOST = 25
"""Places in a window: their loops are written out."""
_FEWEST = 8
"""Images of fewer channels, with channels last, are left to others."""
_BLOCK = 4
"""Rows of a plane that are computed together: what they see overlaps."""
_SUMS = 12
"""Sums that a loop keeps in registers."""

Sizes = tuple[int, ...]


class _Windows:
    """Windows with stride 1; `numbers` holds how many rows and columns are missing before the image."""

    def __init__(self, k: Rows, numbers: Memory, height: int, width: int) -> None:
        self.k = k
        self.kernel = height, width
        self.before = numbers.get(k.index(0)), numbers.get(k.index(1))

    def row(self, plane: Memory, length: Value, zeros: Memory, number: Value) -> Memory:
        """A row of the image; zeros if it has no row of this number."""
        k = self.k
        inside = (number >= 0) & (number < k.sizes["h"])
        pointer = k.where(inside, Value(k, plane.at(number * length).pointer), Value(k, zeros.pointer))
        return Memory(k, pointer.ref, "f")

    def lines(self, image: Memory, zeros: Memory, n: Value, y: Value) -> list[Memory]:
        """The rows that a row of windows sees; with channels last."""
        k = self.k
        length, top = k.sizes["w"] * k.sizes["c"], y - self.before[0]
        return [self.row(image.at(n * k.sizes["h"] * length), length, zeros, top + i) for i in range(self.kernel[0])]

    def pixels(
        self, lines: list[Memory], c: Value, mask: Value | None,
        body: Callable[[Value, int, Callable[[Callable[[int, int, int, Value], None]], None]], None],
    ) -> None:  # fmt: skip
        """`body(x, size, each)` for `size` windows of a row at once; `each(f)` calls `f(q, i, j, seen)` with what
        window `x + q` sees at a place: 16 channels. Of each window the places come in order."""
        k, size, wide = self.k, self.k.sizes["x"], self.k.sizes["w"]
        first, end = (_least(k, n, size) for n in (self.before[1], wide + self.before[1] - (self.kernel[1] - 1)))
        end = k.where(end < first, first, end)

        def see(x: Value, i: int, column: int, on_border: bool) -> Value:
            place = x - self.before[1] + column
            if not on_border:
                return lines[i].lanes(place * k.sizes["c"] + c, mask)
            inside = (place >= 0) & (place < wide)
            at = k.where(inside, place, k.index(0)) * k.sizes["c"] + c
            return k.where(inside, lines[i].lanes(at, mask), k.splat(k.real(0.0)))

        def block(x: Value, number: int, on_border: bool = False) -> None:
            def each(f: Callable[[int, int, int, Value], None]) -> None:
                for i in range(self.kernel[0]):
                    for column in range(number + self.kernel[1] - 1):
                        seen = see(x, i, column, on_border)
                        for q in range(max(0, column - self.kernel[1] + 1), min(number, column + 1)):
                            f(q, i, column - q, seen)

            body(x, number, each)

        k.blocks(first, end, _BLOCK, block)
        outside = first + size - end
        k.count(k.index(0), outside, 1, lambda i: block(k.where(i < first, i, i - first + end), 1, True))

    def neighbours(
        self, image: Memory, zeros: Memory, y: Value, size: int, x: Value, mask: Value | None,
        body: Callable[[int, int, int, Value], None],
    ) -> None:  # fmt: skip
        """In a plane: `body(q, i, j, seen)` with what 16 windows of row `y + q` see at a place, for
        `size` rows; of each the places come in order."""
        k, (height, width) = self.k, self.kernel
        masks = []
        for j in range(width):
            column = k.lane_numbers() + k.convert(x - self.before[1] + j, INT)
            inside = (column >= 0) & (column < k.convert(k.sizes["w"], INT))
            masks.append(inside if mask is None else inside & mask)
        for r in range(size + height - 1):
            row = self.row(image, k.sizes["w"], zeros, y - self.before[0] + r)
            for j in range(width):
                seen = row.lanes(x - self.before[1] + j, masks[j])
                for q in range(max(0, r - height + 1), min(size, r + 1)):
                    body(q, r - q, j, seen)


def _least(k: Rows, a: Value, b: Value) -> Value:
    """The smaller one, and at least 0."""
    least = k.where(a < b, a, b)
    return k.where(least < 0, k.index(0), least)


def _groups(height: int, width: int) -> list[range]:
    """Rows of the window whose sums are kept in registers together."""
    step = max(_SUMS // width, 1)
    return [range(first, min(first + step, height)) for first in range(0, height, step)]


# -- channels last -----------------------------------------------------------------------------------------------------


def _rows_correlate(height: int, width: int) -> Callable[..., None]:
    def body(k: Rows, a: Memory, weight: Memory, bias: Memory, zeros: Memory, numbers: Memory, out: Memory) -> None:
        windows, channels = _Windows(k, numbers, height, width), k.sizes["c"]

        def line(n: Value, y: Value) -> None:
            lines = windows.lines(a, zeros, n, y)
            results = out.at((n * k.sizes["y"] + y) * k.sizes["x"] * channels)

            def lanes(c: Value, mask: Value | None) -> None:
                factors = [weight.lanes(channels * t + c, mask) for t in range(height * width)]
                start = bias.lanes(c, mask)

                def block(x: Value, size: int, each: Any) -> None:
                    totals = [start] * size

                    def more(q: int, i: int, j: int, seen: Value) -> None:
                        totals[q] = k.fma(seen, factors[i * width + j], totals[q])

                    each(more)
                    for q, total in enumerate(totals):
                        results.put_lanes((x + q) * channels + c, total, mask)

                windows.pixels(lines, c, mask, block)

            k.lanes(channels, lanes)

        k.share(lambda n: k.count(k.index(0), k.sizes["y"], 1, lambda y: line(n, y)))

    return body


def _rows_weigh(height: int, width: int) -> Callable[..., None]:
    def body(k: Rows, g: Memory, a: Memory, zeros: Memory, numbers: Memory, out: Memory) -> None:
        windows, channels = _Windows(k, numbers, height, width), k.sizes["c"]
        samples, parts = k.sizes["n"], k.sizes["p"]

        def line(into: Memory, n: Value, y: Value) -> None:
            lines = windows.lines(a, zeros, n, y)
            slopes = g.at((n * k.sizes["y"] + y) * k.sizes["x"] * channels)

            def lanes(c: Value, mask: Value | None, group: range) -> None:
                zero = k.splat(k.real(0.0))
                sums = {(i, j): k.variable(zero) for i in group for j in range(width)}

                def block(x: Value, size: int, each: Any) -> None:
                    given = [slopes.lanes((x + q) * channels + c, mask) for q in range(size)]

                    def more(q: int, i: int, j: int, seen: Value) -> None:
                        if i in group:
                            total = sums[i, j]
                            total.set(k.fma(seen, given[q], total.get()))

                    each(more)

                windows.pixels(lines, c, mask, block)
                for (i, j), total in sums.items():
                    at = channels * (i * width + j) + c
                    into.put_lanes(at, into.lanes(at, mask) + total.get(), mask)

            for group in _groups(height, width):
                k.lanes(channels, lambda c, mask, group=group: lanes(c, mask, group))  # type: ignore[misc]

        def part(p: Value) -> None:
            into = out.at(p * channels * (height * width))
            k.clear(channels * (height * width), into)
            first, last = p * samples / parts, (p + 1) * samples / parts
            k.count(first, last, 1, lambda n: k.count(k.index(0), k.sizes["y"], 1, lambda y: line(into, n, y)))

        k.share(part)

    return body


# -- planes ------------------------------------------------------------------------------------------------------------


def _planes_correlate(height: int, width: int) -> Callable[..., None]:
    def body(k: Rows, a: Memory, weight: Memory, bias: Memory, zeros: Memory, numbers: Memory, out: Memory) -> None:
        windows, channels = _Windows(k, numbers, height, width), k.sizes["c"]

        def plane(m: Value) -> None:
            channel = m - m / channels * channels
            image = a.at(m * k.sizes["h"] * k.sizes["w"])
            results = out.at(m * k.sizes["y"] * k.sizes["x"])
            factors = [k.splat(weight.get(channel * (height * width) + t)) for t in range(height * width)]
            start = k.splat(bias.get(channel))

            def block(y: Value, size: int) -> None:
                def lanes(x: Value, mask: Value | None) -> None:
                    totals = [start] * size

                    def more(q: int, i: int, j: int, seen: Value) -> None:
                        totals[q] = k.fma(seen, factors[i * width + j], totals[q])

                    windows.neighbours(image, zeros, y, size, x, mask, more)
                    for q, total in enumerate(totals):
                        results.put_lanes((y + q) * k.sizes["x"] + x, total, mask)

                k.lanes(k.sizes["x"], lanes)

            k.blocks(k.index(0), k.sizes["y"], _BLOCK, block)

        k.share(plane)

    return body


def _planes_weigh(height: int, width: int) -> Callable[..., None]:
    def body(k: Rows, g: Memory, a: Memory, zeros: Memory, numbers: Memory, out: Memory) -> None:
        windows, channels = _Windows(k, numbers, height, width), k.sizes["c"]
        samples, parts = k.sizes["n"], k.sizes["p"]

        def plane(into: Memory, m: Value, group: range) -> None:
            image = a.at(m * k.sizes["h"] * k.sizes["w"])
            slopes = g.at(m * k.sizes["y"] * k.sizes["x"])
            sums: dict[tuple[int, int], Variable] = {
                (i, j): k.variable(k.splat(k.real(0.0))) for i in group for j in range(width)
            }

            def block(y: Value, size: int) -> None:
                def lanes(x: Value, mask: Value | None) -> None:
                    given = [slopes.lanes((y + q) * k.sizes["x"] + x, mask) for q in range(size)]

                    def more(q: int, i: int, j: int, seen: Value) -> None:
                        if i in group:
                            total = sums[i, j]
                            total.set(k.fma(seen, given[q], total.get()))

                    windows.neighbours(image, zeros, y, size, x, mask, more)

                k.lanes(k.sizes["x"], lanes)

            k.blocks(k.index(0), k.sizes["y"], _BLOCK, block)
            for (i, j), total in sums.items():
                at = k.index(i * width + j)
                into.put(at, into.get(at) + k.total(total.get()))

        def part(p: Value) -> None:
            size = height * width
            k.clear(channels * size, out.at(p * channels * size))
            first, last = p * samples / parts, (p + 1) * samples / parts

            def each(n: Value, c: Value) -> None:
                for group in _groups(height, width):
                    plane(out.at((p * channels + c) * size), n * channels + c, group)

            k.count(first, last, 1, lambda n: k.count(k.index(0), channels, 1, lambda c: each(n, c)))

        k.share(part)

    return body


# -- kernels -----------------------------------------------------------------------------------------------------------


@functools.cache
def _ufuncs(height: int, width: int) -> dict[str, Any]:
    def loop(name: str, kinds: str, body: Any, signature: str, shared: str) -> Loop:
        return Loop(f"{name}_{height}x{width}", kinds, body(height, width), signature, shared)

    return family(
        "depthwise",
        [
            loop("rows", "ffffq->f", _rows_correlate, "(n,h,w,c),(t,c),(c),(z),(d)->(n,y,x,c)", "n"),
            loop("rows_weigh", "fffq->f", _rows_weigh, "(n,y,x,c),(n,h,w,c),(z),(d)->(p,t,c)", "p"),
            loop("planes", "ffffq->f", _planes_correlate, "(m,h,w),(c,t),(c),(z),(d)->(m,y,x)", "m"),
            loop("planes_weigh", "fffq->f", _planes_weigh, "(n,c,y,x),(n,c,h,w),(z),(d)->(p,c,t)", "p"),
        ],
    )


def _loop(name: str, kernel: Sizes) -> Any:
    return _ufuncs(*kernel)[f"{name}_{kernel[0]}x{kernel[1]}"]


@functools.lru_cache(maxsize=128)
def _numbers(before: Sizes) -> Any:
    numbers = np.array(before, np.int64)
    numbers.flags.writeable = False
    return numbers


def _is_taken(channels: int, weight_shape: Sizes, window: Any, groups: int) -> bool:
    """Whether a convolution of float32 like this is computed here."""
    return (
        groups == channels
        and 1 < groups == weight_shape[0]
        and len(window.kernel) == 2
        and weight_shape[1:] == (1, *window.kernel)
        and len(window.places) <= _MOST
        and window.stride == window.dilation == (1, 1)
    )


def _with_channels_last(a: Any) -> bool | None:
    """Whether an image lies so; False: as planes; None: otherwise, or as is not computed here."""
    if a.dtype != np.float32 or a.ndim != 4 or not a.size:
        return None
    if a.flags.c_contiguous and a.shape[3] > 1:
        return False
    return True if a.shape[1] >= _FEWEST and a.transpose(0, 2, 3, 1).flags.c_contiguous else None


def _correlate(a: Any, weight: Any, bias: Any, before: Sizes, window: Any, size: Sizes) -> Any:
    """With so many windows; None where the image lies as it must not."""
    samples, channels, *sizes = a.shape
    last = _with_channels_last(a)
    if last is None:
        return None
    numbers, places, zeros = _numbers(before), weight.size // channels, zeros_row(sizes[1] * (channels if last else 1))
    if last:
        given, matrix = a.transpose(0, 2, 3, 1), np.ascontiguousarray(weight.reshape(channels, places).T)
        out = np.empty((samples, *size, channels), np.float32)
        _loop("rows", window.kernel)(given, matrix, bias, zeros, numbers, out=out)
        return out.transpose(0, 3, 1, 2)
    given, matrix = a.reshape(-1, *sizes), np.ascontiguousarray(weight).reshape(channels, places)
    out = np.empty((samples, channels, *size), np.float32)
    _loop("planes", window.kernel)(given, matrix, bias, zeros, numbers, out=out.reshape(-1, *size))
    return out


def correlate(input: Any, weight: Any, bias: Any, window: Any, groups: int) -> Any:
    """The convolution."""
    if input.ndim != 4 or not _is_taken(input.shape[1], weight.shape, window, groups):
        return NotImplemented
    bias = zeros_row(groups) if bias is None else bias
    if weight.dtype != np.float32 or not lies(bias, (groups,)):
        return NotImplemented
    out = _correlate(input, weight, bias, window.padding, window, window.size(input.shape[2:]))
    return NotImplemented if out is None else (out, None)


def spread(g: Any, weight: Any, sizes: Sizes, window: Any, groups: int) -> Any:
    """The gradient by the input."""
    if g.ndim != 4 or weight.dtype != np.float32 or not _is_taken(g.shape[1], weight.shape, window, groups):
        return NotImplemented
    if any(n > m for n, m in zip(g.shape[2:], window.size(sizes), strict=True)):
        return NotImplemented
    before = tuple([k - 1 - p for k, p in zip(window.kernel, window.padding, strict=True)])
    out = _correlate(g, weight[:, :, ::-1, ::-1], zeros_row(groups), before, window, sizes)
    return NotImplemented if out is None else out


def ordered(g: Any, input: Any, weight_shape: Sizes, window: Any, groups: int) -> Any:
    """The gradient of a result as the image lies (which may be known by its shape alone: then as it does itself)."""
    like = g if isinstance(input, tuple) else input
    if g.ndim != 4 or g.dtype != np.float32 or not _is_taken(g.shape[1], weight_shape, window, groups):
        return NotImplemented
    last = _with_channels_last(like)
    if last is None:
        return NotImplemented
    return np.ascontiguousarray(g.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if last else np.ascontiguousarray(g)


def weigh(g: Any, input: Any, window: Any, groups: int, _: Any = None, with_bias: bool = False) -> Any:
    """The gradients by the weight and by the bias."""
    if input.ndim != 4 or input.shape[0] != g.shape[0] or g.shape[1:2] != input.shape[1:2]:
        return NotImplemented
    shape = (groups, 1, *window.kernel)
    g = ordered(g, input, shape, window, groups)
    if g is NotImplemented or any(n > m for n, m in zip(g.shape[2:], window.size(input.shape[2:]), strict=True)):
        return NotImplemented
    samples, channels, *sizes = input.shape
    parts, places, numbers = min(samples, 32), len(window.places), _numbers(window.padding)
    if _with_channels_last(input):
        sums = np.empty((parts, places, channels), np.float32)
        given = g.transpose(0, 2, 3, 1), input.transpose(0, 2, 3, 1)
        _loop("rows_weigh", window.kernel)(*given, zeros_row(sizes[1] * channels), numbers, out=sums)
        out = np.ascontiguousarray(sums.sum(0).T)
        rows = given[0].reshape(samples, -1, channels)
        bias = (ones_row(rows.shape[1]) @ rows).sum(0) if with_bias else None
    else:
        sums = np.empty((parts, channels, places), np.float32)
        _loop("planes_weigh", window.kernel)(g, input, zeros_row(sizes[1]), numbers, out=sums)
        out, bias = sums.sum(0), g.reshape(samples, channels, -1).sum(2).sum(0) if with_bias else None
    return out.reshape(shape), bias
