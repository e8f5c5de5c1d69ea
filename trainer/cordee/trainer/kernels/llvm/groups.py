"""Group normalisation of images whose channels are planes: a group is a row of some planes."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer.kernels.llvm.layouts import KINDS, as_bits, from_bits, lies, number, ones_row, zeros_row
from cordee.trainer.kernels.llvm.loops import Loop, Memory, Rows
from cordee.trainer.kernels.llvm.ufuncs import family
from cordee.trainer.kernels.llvm.values import FLOAT, Value

__all__ = ["group_norm", "group_norm_grad"]

_SHORTEST = 8
"""Planes of fewer elements are left to NumPy."""


def _group_norm(
    k: Rows, x: Memory, weight: Memory, bias: Memory, eps: Memory, out: Memory, mean: Memory, inverse: Memory
) -> None:
    planes, size, channels = (k.sizes[name] for name in "msc")
    length, margin = planes * size, eps.get(k.index(0))
    count = k.convert(length, FLOAT)

    def row(r: Value) -> None:
        source, target = x.at(r * length), out.at(r * length)
        centre = k.sum_lanes(length, source.lanes) / count

        def square(i: Value, mask: Value | None) -> Value:
            away = source.lanes(i, mask) - centre
            return away * away

        factor = 1.0 / k.sqrt(k.sum_lanes(length, square) / count + margin)
        mean.put(r, centre)
        inverse.put(r, factor)
        first = _first_channel(r, planes, channels)

        def plane(j: Value) -> None:
            scale, shift = factor * weight.get(first + j), bias.get(first + j)
            here, there = source.at(j * size), target.at(j * size)
            k.lanes(
                size, lambda i, mask: there.put_lanes(i, k.fma(here.lanes(i, mask) - centre, scale, shift), mask), 2
            )

        k.count(k.index(0), planes, 1, plane)

    k.share(row)


def _first_channel(r: Value, planes: Value, channels: Value) -> Value:
    """Of a row's group."""
    groups = channels / planes
    return (r - r / groups * groups) * planes


def _group_norm_grad(
    k: Rows, g: Memory, x: Memory, weight: Memory, mean: Memory, inverse: Memory, into: Memory, of_weight: Memory,
    of_bias: Memory,
) -> None:  # fmt: skip
    planes, size, channels = (k.sizes[name] for name in "msc")
    length, zero = planes * size, k.index(0)
    count = k.convert(length, FLOAT)

    def row(r: Value) -> None:
        slope, source, target = (each.at(r * length) for each in (g, x, into))
        centre, factor = mean.get(r), inverse.get(r)
        first = _first_channel(r, planes, channels)
        total, dots = k.variable(k.real(0.0)), k.variable(k.real(0.0))

        def add(j: Value) -> None:
            slopes, values = slope.at(j * size), source.at(j * size)

            def terms(i: Value, mask: Value | None) -> Sequence[Value]:
                value = slopes.lanes(i, mask)
                return value, value * (values.lanes(i, mask) - centre)

            along, with_centred = k.sums_lanes(size, terms, 2, 2)
            with_normal = with_centred * factor
            of_weight.put(r * planes + j, with_normal)
            of_bias.put(r * planes + j, along)
            total.set(k.fma(along, weight.get(first + j), total.get()))
            dots.set(k.fma(with_normal, weight.get(first + j), dots.get()))

        k.count(zero, planes, 1, add)
        shift, tilt = total.get() / count, dots.get() / count * factor

        def write(j: Value) -> None:
            slopes, values, places = (each.at(j * size) for each in (slope, source, target))
            scale = weight.get(first + j)

            def lanes(i: Value, mask: Value | None) -> None:
                value = slopes.lanes(i, mask) * scale - shift - (values.lanes(i, mask) - centre) * tilt
                places.put_lanes(i, value * factor, mask)

            k.lanes(size, lanes, 2)

        k.count(zero, planes, 1, write)

    k.share(row)


@functools.cache
def _ufuncs() -> dict[str, Any]:
    """Those that end in `_half` take images of bfloat16; all the rest is float32 there, too."""
    image, loops = "(r,m,s)", []
    for x, ending in (("f", ""), ("h", "_half")):
        loops += [
            Loop(f"group_norm{ending}", f"{x}fff->{x}ff", _group_norm, f"{image},(c),(c),()->{image},(r),(r)", "r"),
            Loop(
                f"group_norm_grad{ending}", f"{x}{x}fff->{x}ff", _group_norm_grad,
                f"{image},{image},(c),(r),(r)->{image},(r,m),(r,m)", "r",
            ),
        ]  # fmt: skip
    return family("groups", loops)


def _fit(a: Any, *values: Any) -> bool:
    """Of whatever layout: what is no row-major order is made so."""
    if a.dtype not in KINDS or a.ndim < 3 or not a.size or math.prod(a.shape[2:]) < _SHORTEST:
        return False
    return all(value is None or lies(value, a.shape[1:2]) for value in values)


def _planes(a: Any, groups: int) -> Any:
    """(samples · groups, channels of a group, elements of a plane)."""
    return as_bits(np.ascontiguousarray(a)).reshape(a.shape[0] * groups, a.shape[1] // groups, -1)


def group_norm(input: Any, weight: Any, bias: Any, *, groups: int, eps: float) -> Any:
    if not _fit(input, weight, bias) or input.shape[1] % groups:
        return NotImplemented
    channels = input.shape[1]
    out, mean, inverse = _ufuncs()["group_norm" + KINDS[input.dtype]](
        _planes(input, groups),
        ones_row(channels) if weight is None else weight,
        zeros_row(channels) if bias is None else bias,
        number(eps),
    )
    return from_bits(out, input.dtype).reshape(input.shape), (mean.reshape(-1, 1), inverse.reshape(-1, 1))


def group_norm_grad(g: Any, input: Any, weight: Any, mean: Any, inverse: Any, *, needs: Sequence[bool]) -> Any:
    if not _fit(g, weight) or input.dtype is not g.dtype or mean.dtype != np.float32:
        return NotImplemented
    samples, channels = g.shape[:2]
    groups = len(mean) // samples
    into, of_weight, of_bias = _ufuncs()["group_norm_grad" + KINDS[g.dtype]](
        _planes(g, groups), _planes(input, groups), ones_row(channels) if weight is None else weight,
        mean.reshape(-1), inverse.reshape(-1),
    )  # fmt: skip
    return (
        from_bits(into, g.dtype).reshape(g.shape) if needs[0] else None,
        of_weight.reshape(samples, channels).sum(0) if needs[1] else None,
        of_bias.reshape(samples, channels).sum(0) if needs[2] else None,
    )
