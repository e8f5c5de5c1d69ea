"""Batch normalisation, where an image's channels are the last dimension in memory ("rows" of channels), and where each
channel is a plane of its own.

Mean and variance come out of one pass over memory: of a piece that fits into the cache at once, both are computed, the
second from what the first found; pieces are merged as Chan, Golub and LeVeque (1979) merge them. Which pieces there
are, and in which order they are merged, depends on shapes alone, so that the bits do not depend on who shares the work.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from cordee.trainer.kernels.llvm.layouts import KINDS, image_layout, lies, number, ones_row, zeros_row
from cordee.trainer.kernels.llvm.loops import Loop, Memory, Rows
from cordee.trainer.kernels.llvm.ufuncs import family
from cordee.trainer.kernels.llvm.values import FLOAT, Value

__all__ = ["batch_norm", "batch_norm_grad", "channel_affine"]

_PIECE = 2048
"""Elements of a plane at once."""
_BLOCK = 4
"""Rows that are added to sums at once."""


# -- planes: a channel's elements lie together -------------------------------------------------------------------------


class _Moments:
    """How many, their mean, and the sum of their squared distances from it, while pieces are merged: of one channel, or
    of 16."""

    def __init__(self, k: Rows, mean: Value, squares: Value) -> None:
        self.k = k
        self.mean, self.squares = k.variable(mean), k.variable(squares)

    def merge(self, before: Value, count: Value, mean: Value, squares: Value) -> None:
        """With `count` more; `before` is how many there were."""
        k = self.k
        share = count / (before + count)
        step = mean - self.mean.get()
        self.squares.set(self.squares.get() + squares + step * step * (before * share))
        self.mean.set(k.fma(k.splat(step) if step.is_vector else step, share, self.mean.get()))


def _pieces(k: Rows, length: Value, body: Callable[[Value, Value], None]) -> None:
    """`body(start, size)` for each piece of so many elements."""

    def piece(start: Value) -> None:
        rest = length - start
        body(start, k.where(rest < _PIECE, rest, k.index(_PIECE)))

    k.count(k.index(0), length, _PIECE, piece)


def _batch_norm_planes(
    k: Rows, x: Memory, weight: Memory, bias: Memory, eps: Memory, out: Memory, mean: Memory, var: Memory,
    inverse: Memory,
) -> None:  # fmt: skip
    samples, channels, length = (k.sizes[name] for name in "bcs")
    count = k.convert(samples * length, FLOAT)
    margin, zero = eps.get(k.index(0)), k.index(0)

    def channel(c: Value) -> None:
        moments = _Moments(k, k.real(0.0), k.real(0.0))

        def sample(b: Value) -> None:
            plane = x.at((b * channels + c) * length)

            def piece(start: Value, size: Value) -> None:
                source, here = plane.at(start), k.convert(size, FLOAT)
                centre = k.sum_lanes(size, source.lanes) / here
                squares = k.sum_lanes(size, lambda i, mask: _square(source.lanes(i, mask) - centre))
                moments.merge(k.convert(b * length + start, FLOAT), here, centre, squares)

            _pieces(k, length, piece)

        k.count(zero, samples, 1, sample)
        centre, spread = moments.mean.get(), moments.squares.get() / count
        factor = 1.0 / k.sqrt(spread + margin)
        for place, value in ((mean, centre), (var, spread), (inverse, factor)):
            place.put(c, value)
        scale, shift = factor * weight.get(c), bias.get(c)

        def write(b: Value) -> None:
            at = (b * channels + c) * length
            source, target = x.at(at), out.at(at)
            k.lanes(
                length,
                lambda i, mask: target.put_lanes(i, k.fma(source.lanes(i, mask) - centre, scale, shift), mask),
                2,
            )

        k.count(zero, samples, 1, write)

    k.share(channel)


def _square(value: Value) -> Value:
    return value * value


def _batch_norm_grad_planes(
    k: Rows, g: Memory, x: Memory, weight: Memory, mean: Memory, inverse: Memory, into: Memory, of_weight: Memory,
    of_bias: Memory,
) -> None:  # fmt: skip
    samples, channels, length = (k.sizes[name] for name in "bcs")
    count = k.convert(samples * length, FLOAT)
    zero = k.index(0)

    def channel(c: Value) -> None:
        centre, factor = mean.get(c), inverse.get(c)
        total, dots = k.variable(k.real(0.0)), k.variable(k.real(0.0))

        def sample(b: Value) -> None:
            at = (b * channels + c) * length
            slope, source = g.at(at), x.at(at)

            def piece(start: Value, size: Value) -> None:
                slopes, values = slope.at(start), source.at(start)

                def terms(i: Value, mask: Value | None) -> tuple[Value, Value]:
                    value = slopes.lanes(i, mask)
                    return value, value * (values.lanes(i, mask) - centre)

                more, more_dots = k.sums_lanes(size, terms, 2)
                total.set(total.get() + more)
                dots.set(dots.get() + more_dots)

            _pieces(k, length, piece)

        k.count(zero, samples, 1, sample)
        along = dots.get() * factor
        of_weight.put(c, along)
        of_bias.put(c, total.get())
        scale = factor * weight.get(c)
        shift, tilt = total.get() / count, along * factor / count

        def write(b: Value) -> None:
            at = (b * channels + c) * length
            slope, source, target = g.at(at), x.at(at), into.at(at)

            def lanes(i: Value, mask: Value | None) -> None:
                value = slope.lanes(i, mask) - shift - (source.lanes(i, mask) - centre) * tilt
                target.put_lanes(i, value * scale, mask)

            k.lanes(length, lanes, 2)

        k.count(zero, samples, 1, write)

    k.share(channel)


def _affine_planes(k: Rows, x: Memory, mean: Memory, scale: Memory, shift: Memory, out: Memory) -> None:
    channels, length = k.sizes["c"], k.sizes["s"]

    def plane(b: Value, c: Value) -> None:
        at = (b * channels + c) * length
        centre, factor, addend, source, target = mean.get(c), scale.get(c), shift.get(c), x.at(at), out.at(at)
        k.lanes(
            length,
            lambda i, mask: target.put_lanes(i, k.fma(source.lanes(i, mask) - centre, factor, addend), mask),
            2,
        )

    k.share(lambda b: k.count(k.index(0), channels, 1, lambda c: plane(b, c)))


# -- rows: a channel is a column ---------------------------------------------------------------------------------------


def _add_rows(
    k: Rows, first: Value, last: Value, terms: Callable[[Value, Value, Value | None], tuple[Value, ...]], *sums: Memory
) -> None:
    """Add to each of `sums` what `terms(row, i, mask)` says, for several rows at once."""
    length = k.sizes["n"]

    def block(r: Value, size: int) -> None:
        def lanes(i: Value, mask: Value | None) -> None:
            found = [terms(r + j, i, mask) for j in range(size)]
            for place, values in zip(sums, zip(*found, strict=True), strict=True):
                more = values[0] if size == 1 else (values[0] + values[1]) + (values[2] + values[3])
                place.put_lanes(i, place.lanes(i, mask) + more, mask)

        k.lanes(length, lanes)

    k.blocks(first, last, _BLOCK, block)


def _parts(k: Rows, body: Callable[[Value, Value, Value], None]) -> None:
    """`body(p, first, last)` for this thread's parts of all rows."""
    num_rows, parts = k.sizes["r"], k.sizes["p"]
    k.share(lambda p: body(p, p * num_rows / parts, (p + 1) * num_rows / parts))


def _column_moments(k: Rows, x: Memory, height: Memory, moments: Memory) -> None:
    """Mean and squared distances of each part's columns, `height` rows at a time; behind them, a piece's own."""
    length, rows = k.sizes["n"], height.get(k.index(0))

    def part(p: Value, first: Value, last: Value) -> None:
        mean, squares, piece_mean, piece_squares = (moments.at((p * 4 + i) * length) for i in range(4))
        k.clear(length, mean, squares)
        end = k.variable(first)

        def more(_: Value) -> None:
            start = end.get()
            end.set(k.where(last - start < rows, last, start + rows))
            here, before = k.convert(end.get() - start, FLOAT), k.convert(start - first, FLOAT)
            k.clear(length, piece_mean, piece_squares)
            _add_rows(k, start, end.get(), lambda r, i, mask: (x.lanes(r * length + i, mask),), piece_mean)
            k.lanes(length, lambda i, mask: piece_mean.put_lanes(i, piece_mean.lanes(i, mask) / here, mask))

            def terms(r: Value, i: Value, mask: Value | None) -> tuple[Value, ...]:
                return (_square(x.lanes(r * length + i, mask) - piece_mean.lanes(i, mask)),)

            _add_rows(k, start, end.get(), terms, piece_squares)

            def merge(i: Value, mask: Value | None) -> None:
                known = _Moments(k, mean.lanes(i, mask), squares.lanes(i, mask))
                known.merge(before, here, piece_mean.lanes(i, mask), piece_squares.lanes(i, mask))
                mean.put_lanes(i, known.mean.get(), mask)
                squares.put_lanes(i, known.squares.get(), mask)

            k.lanes(length, merge)

        k.count(k.index(0), (last - first + rows - 1) / rows, 1, more)

    _parts(k, part)


def _merged_moments(k: Rows, moments: Memory, rows: Memory, mean: Memory, var: Memory) -> None:
    """All parts' moments as one's; `rows` is how many rows there are."""
    length, parts = k.sizes["n"], k.sizes["p"]
    num_rows = rows.get(k.index(0))

    def columns(i: Value, mask: Value | None) -> None:
        known = _Moments(k, k.splat(k.real(0.0)), k.splat(k.real(0.0)))

        def part(p: Value) -> None:
            first, last = p * num_rows / parts, (p + 1) * num_rows / parts
            at = p * length * 4 + i
            known.merge(
                k.convert(first, FLOAT), k.convert(last - first, FLOAT), moments.lanes(at, mask),
                moments.lanes(at + length, mask),
            )  # fmt: skip

        k.count(k.index(0), parts, 1, part)
        mean.put_lanes(i, known.mean.get(), mask)
        var.put_lanes(i, known.squares.get() / k.convert(num_rows, FLOAT), mask)

    k.lanes(length, columns)


def _affine_rows(k: Rows, x: Memory, mean: Memory, scale: Memory, shift: Memory, out: Memory) -> None:
    length = k.sizes["n"]

    def row(r: Value) -> None:
        source, target = x.at(r * length), out.at(r * length)

        def lanes(i: Value, mask: Value | None) -> None:
            value = source.lanes(i, mask) - mean.lanes(i, mask)
            target.put_lanes(i, k.fma(value, scale.lanes(i, mask), shift.lanes(i, mask)), mask)

        k.lanes(length, lanes)

    k.share(row)


def _column_dots(k: Rows, g: Memory, x: Memory, mean: Memory, sums: Memory) -> None:
    """Of each part's columns, the sum of g, and that of g · (x - mean)."""
    length = k.sizes["n"]

    def part(p: Value, first: Value, last: Value) -> None:
        total, dots = (sums.at((p * 2 + i) * length) for i in range(2))
        k.clear(length, total, dots)

        def terms(r: Value, i: Value, mask: Value | None) -> tuple[Value, ...]:
            at = r * length + i
            value = g.lanes(at, mask)
            return value, value * (x.lanes(at, mask) - mean.lanes(i, mask))

        _add_rows(k, first, last, terms, total, dots)

    _parts(k, part)


def _batch_norm_grad_rows(
    k: Rows, g: Memory, x: Memory, mean: Memory, scale: Memory, shift: Memory, tilt: Memory, into: Memory
) -> None:
    length = k.sizes["n"]

    def row(r: Value) -> None:
        slope, source, target = (each.at(r * length) for each in (g, x, into))

        def lanes(i: Value, mask: Value | None) -> None:
            centred = source.lanes(i, mask) - mean.lanes(i, mask)
            value = slope.lanes(i, mask) - shift.lanes(i, mask) - centred * tilt.lanes(i, mask)
            target.put_lanes(i, value * scale.lanes(i, mask), mask)

        k.lanes(length, lanes)

    k.share(row)


@functools.cache
def _ufuncs() -> dict[str, Any]:
    """Those that end in `_half` take images of bfloat16; all the rest is float32 there, too."""
    each = "(c),(c),(c)"
    loops = [Loop("merged_moments", "fq->ff", _merged_moments, "(p,d,n),()->(n),(n)")]
    for x, ending in (("f", ""), ("h", "_half")):
        loops += [
            Loop(
                f"batch_norm_planes{ending}", f"{x}fff->{x}fff", _batch_norm_planes,
                f"(b,c,s),(c),(c),()->(b,c,s),{each}", "c",
            ),
            Loop(
                f"batch_norm_grad_planes{ending}", f"{x}{x}fff->{x}ff", _batch_norm_grad_planes,
                f"(b,c,s),(b,c,s),{each}->(b,c,s),(c),(c)", "c",
            ),
            Loop(f"column_moments{ending}", f"{x}q->f", _column_moments, "(r,n),()->(p,d,n)", "p"),
            Loop(f"affine_planes{ending}", f"{x}fff->{x}", _affine_planes, f"(b,c,s),{each}->(b,c,s)", "b"),
            Loop(f"affine_rows{ending}", f"{x}fff->{x}", _affine_rows, "(r,n),(n),(n),(n)->(r,n)", "r"),
            Loop(f"column_dots{ending}", f"{x}{x}f->f", _column_dots, "(r,n),(r,n),(n)->(p,d,n)", "p"),
            Loop(
                f"batch_norm_grad_rows{ending}", f"{x}{x}ffff->{x}", _batch_norm_grad_rows,
                "(r,n),(r,n),(n),(n),(n),(n)->(r,n)", "r",
            ),
        ]  # fmt: skip
    return family("channels", loops)


def _loop(name: str, image: Any) -> Any:
    return _ufuncs()[name + KINDS[image.dtype]]


def _fit(channels: int, *values: Any) -> bool:
    return all(value is None or lies(value, (channels,)) for value in values)


def _num_parts(num_rows: int) -> int:
    """Parts that threads share: enough, and none too small."""
    return min(max(num_rows // 256, 1), 32)


def batch_norm(input: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    layout = image_layout(input)
    if layout is None or not _fit(input.shape[1], weight, bias):
        return NotImplemented
    channels, dtype = input.shape[1], input.dtype
    weight = ones_row(channels) if weight is None else weight
    bias = zeros_row(channels) if bias is None else bias
    x = layout.of(input)
    if not layout.by_rows:
        out, mean, var, inverse = _loop("batch_norm_planes", input)(x, weight, bias, number(eps))
        return (layout.back(out, dtype), mean, var), (mean, inverse)
    moments = np.empty((_num_parts(len(x)), 4, channels), np.float32)
    height = max(2 * _PIECE // channels // _BLOCK, 1) * _BLOCK
    _loop("column_moments", input)(x, height, out=moments)
    mean, var = _ufuncs()["merged_moments"](moments, len(x))
    inverse = np.float32(1.0) / np.sqrt(var + np.float32(eps))
    out = _loop("affine_rows", input)(x, mean, inverse * weight, bias)
    return (layout.back(out, dtype), mean, var), (mean, inverse)


def batch_norm_grad(
    g: Any, g_mean: Any, g_var: Any, input: Any, weight: Any, mean: Any, inverse: Any, *, needs: Any
) -> Any:
    if g is None or g_mean is not None or g_var is not None or g.dtype is not input.dtype:
        return NotImplemented
    layout = image_layout(input)
    if layout is None or not _fit(input.shape[1], weight, mean, inverse):
        return NotImplemented
    channels = input.shape[1]
    weight = ones_row(channels) if weight is None else weight
    x, slopes = layout.of(input), layout.of(g)
    if not layout.by_rows:
        into, of_weight, of_bias = _loop("batch_norm_grad_planes", g)(slopes, x, weight, mean, inverse)
    else:
        sums = np.empty((_num_parts(len(x)), 2, channels), np.float32)
        _loop("column_dots", g)(slopes, x, mean, out=sums)
        of_bias, dots = sums.sum(0)
        of_weight = dots * inverse
        count = np.float32(len(x))
        along = of_bias / count, of_weight * inverse / count
        into = _loop("batch_norm_grad_rows", g)(slopes, x, mean, inverse * weight, *along)
    input_grad = layout.back(into, g.dtype) if needs[0] else None
    return input_grad, of_weight if needs[1] else None, of_bias if needs[2] else None


def channel_affine(input: Any, scale: Any, shift: Any) -> Any:
    layout = image_layout(input)
    if layout is None or not _fit(input.shape[1], scale, shift):
        return NotImplemented
    x, nowhere = layout.of(input), zeros_row(input.shape[1])
    name = "affine_rows" if layout.by_rows else "affine_planes"
    return layout.back(_loop(name, input)(x, nowhere, scale, shift), input.dtype)
