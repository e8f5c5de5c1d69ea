"""Normalisation of rows, and its gradients.

The gradients of weight and bias are sums over rows. Rows are parted into chunks, as many as their number says, and each
chunk adds up for itself, in order; so the bits do not depend on the number of threads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer.kernels.llvm.layouts import KINDS, as_bits, from_bits, lies, number, ones_row, zeros_row
from cordee.trainer.kernels.llvm.loops import Loop, Memory, Rows
from cordee.trainer.kernels.llvm.ufuncs import family
from cordee.trainer.kernels.llvm.values import FLOAT, Value

__all__ = ["layer_norm", "layer_norm_grad", "rms_norm", "rms_norm_grad"]

_BLOCK = 1
"""Rows whose terms are added to a chunk's sums at once. (Of more, what was read for their means leaves the cache.)"""


def _layer_norm(
    k: Rows, x: Memory, weight: Memory, bias: Memory, eps: Memory, out: Memory, mean: Memory, inverse: Memory
) -> None:
    length = k.sizes["n"]
    count = k.convert(length, FLOAT)
    margin = eps.get(k.index(0))

    def row(r: Value) -> None:
        source, target = x.at(r * length), out.at(r * length)
        centre = k.sum_lanes(length, source.lanes) / count
        spread = k.sum_lanes(length, lambda i, mask: _square(source.lanes(i, mask) - centre)) / count
        factor = 1.0 / k.sqrt(spread + margin)
        mean.put(r, centre)
        inverse.put(r, factor)

        def write(i: Value, mask: Value | None) -> None:
            normal = (source.lanes(i, mask) - centre) * factor
            target.put_lanes(i, k.fma(normal, weight.lanes(i, mask), bias.lanes(i, mask)), mask)

        k.lanes(length, write, 2)

    k.share(row)


def _square(value: Value) -> Value:
    return value * value


def _layer_norm_grad(
    k: Rows, g: Memory, x: Memory, weight: Memory, mean: Memory, inverse: Memory, into: Memory, sums: Memory
) -> None:
    length, num_rows, chunks = k.sizes["n"], k.sizes["r"], k.sizes["c"]
    count = k.convert(length, FLOAT)

    def chunk(c: Value) -> None:
        of_weight, of_bias = sums.at(c * length * 2), sums.at(c * length * 2 + length)
        k.clear(length, of_weight, of_bias)

        def block(first: Value, size: int) -> None:
            rows = [_Row(k, r, g, x, mean, inverse, into) for r in (first + j for j in range(size))]
            shifts, slopes = [], []
            for row in rows:

                def terms(i: Value, mask: Value | None, row: _Row = row) -> Sequence[Value]:
                    scaled = row.slope.lanes(i, mask) * weight.lanes(i, mask)
                    return scaled, scaled * row.normal(i, mask)

                along, with_normal = k.sums_lanes(length, terms, 2, 2)
                shifts.append(along / count)
                slopes.append(with_normal / count)

            def write(i: Value, mask: Value | None) -> None:
                factor = weight.lanes(i, mask)
                for_weight, for_bias = of_weight.lanes(i, mask), of_bias.lanes(i, mask)
                for row, shift, slope in zip(rows, shifts, slopes, strict=True):
                    value, normal = row.slope.lanes(i, mask), row.normal(i, mask)
                    for_weight = k.fma(value, normal, for_weight)
                    for_bias = for_bias + value
                    rest = value * factor - shift - normal * slope
                    row.target.put_lanes(i, rest * row.factor, mask)
                of_weight.put_lanes(i, for_weight, mask)
                of_bias.put_lanes(i, for_bias, mask)

            k.lanes(length, write)

        k.blocks(c * num_rows / chunks, (c + 1) * num_rows / chunks, _BLOCK, block)

    k.share(chunk)


class _Row:
    """One row of what a gradient reads and writes, with its mean and inverse deviation."""

    def __init__(
        self, k: Rows, r: Value, g: Memory, x: Memory, mean: Memory | None, inverse: Memory, into: Memory
    ) -> None:
        at = r * k.sizes["n"]
        self.slope, self.source, self.target = g.at(at), x.at(at), into.at(at)
        self.centre = None if mean is None else k.splat(mean.get(r))
        self.factor = k.splat(inverse.get(r))

    def normal(self, i: Value, mask: Value | None) -> Value:
        value = self.source.lanes(i, mask)
        return (value if self.centre is None else value - self.centre) * self.factor


def _rms_norm(k: Rows, x: Memory, weight: Memory, eps: Memory, out: Memory, inverse: Memory) -> None:
    length = k.sizes["n"]
    count = k.convert(length, FLOAT)
    margin = eps.get(k.index(0))

    def row(r: Value) -> None:
        source, target = x.at(r * length), out.at(r * length)
        spread = k.sum_lanes(length, lambda i, mask: _square(source.lanes(i, mask))) / count
        factor = 1.0 / k.sqrt(spread + margin)
        inverse.put(r, factor)
        k.lanes(
            length,
            lambda i, mask: target.put_lanes(i, source.lanes(i, mask) * factor * weight.lanes(i, mask), mask),
            2,
        )

    k.share(row)


def _rms_norm_grad(k: Rows, g: Memory, x: Memory, weight: Memory, inverse: Memory, into: Memory, sums: Memory) -> None:
    length, num_rows, chunks = k.sizes["n"], k.sizes["r"], k.sizes["c"]
    count = k.convert(length, FLOAT)

    def chunk(c: Value) -> None:
        of_weight = sums.at(c * length)
        k.clear(length, of_weight)

        def block(first: Value, size: int) -> None:
            rows = [_Row(k, r, g, x, None, inverse, into) for r in (first + j for j in range(size))]
            slopes = []
            for row in rows:

                def term(i: Value, mask: Value | None, row: _Row = row) -> Value:
                    return row.slope.lanes(i, mask) * weight.lanes(i, mask) * row.normal(i, mask)

                slopes.append(k.sum_lanes(length, term) / count)

            def write(i: Value, mask: Value | None) -> None:
                factor, for_weight = weight.lanes(i, mask), of_weight.lanes(i, mask)
                for row, slope in zip(rows, slopes, strict=True):
                    value, normal = row.slope.lanes(i, mask), row.normal(i, mask)
                    for_weight = k.fma(value, normal, for_weight)
                    row.target.put_lanes(i, (value * factor - normal * slope) * row.factor, mask)
                of_weight.put_lanes(i, for_weight, mask)

            k.lanes(length, write)

        k.blocks(c * num_rows / chunks, (c + 1) * num_rows / chunks, _BLOCK, block)

    k.share(chunk)


@functools.cache
def _ufuncs() -> dict[str, Any]:
    """Those that end in `_half` take rows of bfloat16; all the rest is float32 there, too."""
    loops = []
    for x, ending in (("f", ""), ("h", "_half")):
        loops += [
            Loop(f"layer_norm{ending}", f"{x}fff->{x}ff", _layer_norm, "(r,n),(n),(n),()->(r,n),(r),(r)", "r"),
            Loop(
                f"layer_norm_grad{ending}", f"{x}{x}fff->{x}f", _layer_norm_grad,
                "(r,n),(r,n),(n),(r),(r)->(r,n),(c,d,n)", "c",
            ),
            Loop(f"rms_norm{ending}", f"{x}ff->{x}f", _rms_norm, "(r,n),(n),()->(r,n),(r)", "r"),
            Loop(
                f"rms_norm_grad{ending}", f"{x}{x}ff->{x}f", _rms_norm_grad, "(r,n),(r,n),(n),(r)->(r,n),(c,n)", "c"
            ),
        ]  # fmt: skip
    return family("normalization", loops)


def _loop(name: str, rows: Any) -> Any:
    return _ufuncs()[name + KINDS[rows.dtype]]


def _chunks(num_rows: int) -> int:
    """How many there are: enough for threads to share, each large enough for its sums not to count."""
    return min(max(num_rows // 32, 1), 32)


def _fit(rows: Any, *parameters: Any) -> bool:
    if not rows.size or rows.ndim != 2 or rows.dtype not in KINDS or not rows.flags.c_contiguous:
        return False
    return all(p is None or lies(p, rows.shape[1:]) for p in parameters)


def _alike(input: Any, g: Any, statistics: Any) -> bool:
    return lies(input, g.shape, g.dtype) and statistics.dtype == np.float32


def layer_norm(input: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    if not _fit(input, weight, bias):
        return NotImplemented
    length = input.shape[1]
    out, mean, inverse = _loop("layer_norm", input)(
        as_bits(input),
        ones_row(length) if weight is None else weight,
        zeros_row(length) if bias is None else bias,
        number(eps),
    )
    return from_bits(out, input.dtype), (mean.reshape(-1, 1), inverse.reshape(-1, 1))


def layer_norm_grad(g: Any, input: Any, weight: Any, mean: Any, inverse: Any, *, needs: Sequence[bool]) -> Any:
    if not _fit(g, weight) or not _alike(input, g, mean):
        return NotImplemented
    num_rows, length = g.shape
    sums = np.empty((_chunks(num_rows), 2, length), np.float32)
    into, _ = _loop("layer_norm_grad", g)(
        as_bits(g), as_bits(input), ones_row(length) if weight is None else weight, mean.reshape(-1),
        inverse.reshape(-1), out=(None, sums),
    )  # fmt: skip
    of_weight, of_bias = sums.sum(0)
    input_grad = from_bits(into, g.dtype) if needs[0] else None
    return input_grad, of_weight if needs[1] else None, of_bias if needs[2] else None


def rms_norm(input: Any, weight: Any, *, eps: float) -> Any:
    if not _fit(input, weight):
        return NotImplemented
    scale = ones_row(input.shape[1]) if weight is None else weight
    out, inverse = _loop("rms_norm", input)(as_bits(input), scale, number(eps))
    return from_bits(out, input.dtype), inverse.reshape(-1, 1)


def rms_norm_grad(g: Any, input: Any, weight: Any, inverse: Any, *, needs: Sequence[bool]) -> Any:
    if not _fit(g, weight) or not _alike(input, g, inverse):
        return NotImplemented
    num_rows, length = g.shape
    sums = np.empty((_chunks(num_rows), length), np.float32)
    into, _ = _loop("rms_norm_grad", g)(
        as_bits(g), as_bits(input), ones_row(length) if weight is None else weight, inverse.reshape(-1),
        out=(None, sums),
    )  # fmt: skip
    return from_bits(into, g.dtype) if needs[0] else None, sums.sum(0) if needs[1] else None
