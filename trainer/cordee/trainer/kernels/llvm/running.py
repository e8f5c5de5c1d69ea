"""Running sums, products and extremes: along rows, four of them side by side, or from row to row of a matrix.

Each line is taken in order, so the bits are NumPy's; several at once keep an addition from waiting for the one before.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cordee.trainer.kernels.llvm.loops import Loop, Memory, Rows
from cordee.trainer.kernels.llvm.ufuncs import family
from cordee.trainer.kernels.llvm.values import Value

__all__ = ["running", "running_place"]

_SIDE_BY_SIDE = 4
_FEWEST = 8
"""Columns of a matrix; with fewer it is left to NumPy."""

_COMBINE: dict[str, Callable[[Value, Value], Value]] = {"cumsum": lambda a, b: a + b, "cumprod": lambda a, b: a * b}


def _place(i: Value, length: Value, backwards: bool) -> Value:
    return length - 1 - i if backwards else i


def _rows(name: str, backwards: bool) -> Callable[..., None]:
    combine = _COMBINE[name]

    def body(k: Rows, a: Memory, out: Memory) -> None:
        length = k.sizes["n"]

        def block(r: Value, size: int) -> None:
            known = []
            for j in range(size):
                at = (r + j) * length + _place(k.index(0), length, backwards)
                known.append(k.variable(a.get(at)))
                out.put(at, known[j].get())

            def element(i: Value) -> None:
                for j in range(size):
                    at = (r + j) * length + _place(i, length, backwards)
                    known[j].set(combine(known[j].get(), a.get(at)))
                    out.put(at, known[j].get())

            k.count(k.index(1), length, 1, element)

        k.blocks(k.first, k.last, _SIDE_BY_SIDE, block)

    return body


def _columns(name: str, backwards: bool) -> Callable[..., None]:
    combine = _COMBINE[name]

    def body(k: Rows, a: Memory, out: Memory) -> None:
        height, width = k.sizes["r"], k.sizes["n"]

        def matrix(b: Value) -> None:
            def row(i: Value) -> None:
                here = (b * height + _place(i, height, backwards)) * width
                before = (b * height + _place(i - 1, height, backwards)) * width
                k.lanes(
                    width,
                    lambda j, mask: out.put_lanes(
                        here + j, combine(out.lanes(before + j, mask), a.lanes(here + j, mask)), mask
                    ),
                    2,
                )

            first = (b * height + _place(k.index(0), height, backwards)) * width
            k.lanes(width, lambda j, mask: out.put_lanes(first + j, a.lanes(first + j, mask), mask))
            k.count(k.index(1), height, 1, row)

        k.share(matrix)

    return body


def _places(name: str) -> Callable[..., None]:
    def body(k: Rows, a: Memory, out: Memory) -> None:
        length = k.sizes["n"]

        def block(r: Value, size: int) -> None:
            worst = -math.inf if name == "maximum" else math.inf
            best = [k.variable(k.real(worst)) for _ in range(size)]
            place = [k.variable(k.index(0)) for _ in range(size)]

            def element(i: Value) -> None:
                for j in range(size):
                    at = (r + j) * length + i
                    value = a.get(at)
                    known = best[j].get()
                    hit = (value >= known if name == "maximum" else value <= known) | value.differs(value)
                    best[j].set(k.where(hit, value, known))
                    place[j].set(k.where(hit, i, place[j].get()))
                    out.put(at, place[j].get())

            k.count(k.index(0), length, 1, element)

        k.blocks(k.first, k.last, _SIDE_BY_SIDE, block)

    return body


@functools.cache
def _ufuncs() -> dict[str, Any]:
    loops = [Loop(f"{name}_places", "f->q", _places(name), "(r,n)->(r,n)", "r") for name in ("maximum", "minimum")]
    for name in _COMBINE:
        for backwards in (False, True):
            ending = "_back" if backwards else ""
            loops += [
                Loop(f"{name}_rows{ending}", "f->f", _rows(name, backwards), "(r,n)->(r,n)", "r"),
                Loop(f"{name}_columns{ending}", "f->f", _columns(name, backwards), "(b,r,n)->(b,r,n)", "b"),
            ]
    return family("running", loops)


def _sizes(a: Any, axis: int) -> tuple[int, int, int] | None:
    """How many elements lie before a dimension, in it, and behind it; None: what is not computed here."""
    if a.dtype != np.float32 or not a.size or not -a.ndim <= axis < a.ndim or not a.flags.c_contiguous:
        return None
    at = axis % a.ndim
    return math.prod(a.shape[:at]), a.shape[at], math.prod(a.shape[at + 1 :])


def running(a: Any, *, axis: int, reverse: bool, what: str) -> Any:
    """Running sums ("cumsum") or products ("cumprod") along a dimension, from its end if `reverse`."""
    sizes = _sizes(a, axis)
    if sizes is None or 1 < sizes[2] < _FEWEST:
        return NotImplemented
    before, length, after = sizes
    ending = "_back" if reverse else ""
    if after == 1:
        return _ufuncs()[f"{what}_rows{ending}"](a.reshape(before, length)).reshape(a.shape)
    return _ufuncs()[f"{what}_columns{ending}"](a.reshape(before, length, after)).reshape(a.shape)


def running_place(a: Any, *, axis: int, what: str) -> Any:
    """Where the extreme ("maximum" or "minimum") of all elements so far is, along rows."""
    sizes = _sizes(a, axis)
    if sizes is None or sizes[2] != 1:
        return NotImplemented
    return _ufuncs()[f"{what}_places"](a.reshape(sizes[:2])).reshape(a.shape)
