"""Sums, products and extremes over dimensions that lie together in memory: whole arrays, rows, or columns of matrices.

They are of pieces of a fixed length, each in 64 streams, so that a sum is about as precise as NumPy's in pairs, and has
the same bits whoever computes which piece.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cordee.trainer.kernels.llvm.layouts import lies
from cordee.trainer.kernels.llvm.loops import Loop, Memory, Rows, pairwise
from cordee.trainer.kernels.llvm.ufuncs import family
from cordee.trainer.kernels.llvm.values import Value

__all__ = ["column_totals", "extreme", "product", "square_total", "total"]

_PIECE = 4096
_NARROWEST = 8
"""Matrices of fewer columns are left to NumPy."""
_BLOCK = 4
_COLUMNS = 64
"""Columns of a single matrix that stay together when threads share them: their sums are whole lines of the cache."""
_float32 = np.dtype(np.float32)


@dataclass(frozen=True)
class _Kind:
    """What elements are brought together to."""

    name: str
    start: float
    combine: Callable[[Rows, Value, Value], Value]
    fold: Callable[[Rows, Value], Value] | None
    """The lanes of a vector; None of extremes, which have a loop of their own."""
    together: Callable[..., Any]
    """Of NumPy: the pieces' results."""
    term: Callable[[Value], Value] = lambda value: value

    def of_lanes(self, k: Rows, source: Memory, length: Value) -> Value:
        if self.fold is None:
            return k.extreme_lanes(length, source.lanes, self.start < 0)
        found = k.lanes_together(
            length, lambda i, mask: self.term(source.lanes(i, mask)), self.start, lambda a, b: self.combine(k, a, b)
        )
        return self.fold(k, found)

    def rows(self, k: Rows, a: Memory, out: Memory) -> None:
        length = k.sizes["n"]

        def row(r: Value) -> None:
            source, known = a.at(r * length), k.variable(k.real(self.start))

            def piece(start: Value) -> None:
                rest = length - start
                size = k.where(rest < _PIECE, rest, k.index(_PIECE))
                known.set(self.combine(k, known.get(), self.of_lanes(k, source.at(start), size)))

            k.count(k.index(0), length, _PIECE, piece)
            out.put(r, known.get())

        k.share(row)

    def pieces(self, k: Rows, a: Memory, out: Memory) -> None:
        length = k.sizes["n"]

        def piece(p: Value) -> None:
            start = p * _PIECE
            rest = length - start
            out.put(p, self.of_lanes(k, a.at(start), k.where(rest < _PIECE, rest, k.index(_PIECE))))

        k.share(piece)

    def columns(self, k: Rows, a: Memory, out: Memory) -> None:
        height, width = k.sizes["r"], k.sizes["n"]

        def matrix(b: Value) -> None:
            source, target = a.at(b * height * width), out.at(b * width)
            k.lanes(width, lambda i, mask: target.put_lanes(i, k.real(self.start), mask))

            def block(r: Value, size: int) -> None:
                def lanes(i: Value, mask: Value | None) -> None:
                    terms = [self.term(source.lanes((r + j) * width + i, mask)) for j in range(size)]
                    more = terms[0]
                    if size > 1:
                        more = self.combine(k, self.combine(k, *terms[:2]), self.combine(k, *terms[2:]))
                    target.put_lanes(i, self.combine(k, target.lanes(i, mask), more), mask)

                k.lanes(width, lanes)

            k.blocks(k.index(0), height, _BLOCK, block)

        k.share(matrix)


_KINDS = {
    kind.name: kind
    for kind in (
        _Kind("total", 0.0, lambda _, a, b: a + b, lambda k, v: k.total(v), np.add.reduce),
        _Kind("square_total", 0.0, lambda _, a, b: a + b, lambda k, v: k.total(v), np.add.reduce, lambda x: x * x),
        _Kind("product", 1.0, lambda _, a, b: a * b, lambda k, v: k.product(v), np.multiply.reduce),
        _Kind("largest", -math.inf, lambda k, a, b: k.maximum(a, b), None, np.maximum.reduce),
        _Kind("smallest", math.inf, lambda k, a, b: k.minimum(a, b), None, np.minimum.reduce),
    )
}


def _matrix_totals(k: Rows, a: Memory, out: Memory) -> None:
    """Of one matrix, whose columns are shared: everybody reads pieces of rows as wide as its part."""
    height, width = k.sizes["r"], k.sizes["n"]
    first, last = k.first * _COLUMNS, k.last * _COLUMNS
    count = k.where(last < width, last, width) - first
    target = out.at(first)
    k.clear(count, target)

    def block(r: Value, size: int) -> None:
        source = a.at(r * width + first)

        def lanes(i: Value, mask: Value | None) -> None:
            terms = [source.lanes(i + width * j, mask) for j in range(size)]
            target.put_lanes(i, target.lanes(i, mask) + pairwise(terms, lambda one, other: one + other), mask)

        k.lanes(count, lanes)

    k.blocks(k.index(0), height, 2 * _BLOCK, block)


@functools.cache
def _ufuncs() -> dict[str, Any]:
    loops = [Loop("matrix_totals", "f->f", _matrix_totals, "(r,n)->(p,w)", "p")]
    for name, kind in _KINDS.items():
        loops += [
            Loop(f"{name}_of_rows", "f->f", kind.rows, "(r,n)->(r)", "r"),
            Loop(f"{name}_of_pieces", "f->f", kind.pieces, "(n)->(p)", "p"),
            Loop(f"{name}_of_columns", "f->f", kind.columns, "(b,r,n)->(b,n)", "b"),
        ]
    return family("reduction", loops)


def total(a: Any, *, axis: Any, keepdims: bool) -> Any:
    return _reduced("total", a, axis, keepdims)


def square_total(a: Any, *, axis: Any, keepdims: bool) -> Any:
    return _reduced("square_total", a, axis, keepdims)


def product(a: Any, *, axis: Any, keepdims: bool) -> Any:
    return _reduced("product", a, axis, keepdims)


def extreme(a: Any, *, axis: Any, keepdims: bool, largest: bool) -> Any:
    return _reduced("largest" if largest else "smallest", a, axis, keepdims)


def _reduced(name: str, a: Any, axis: Any, keepdims: bool) -> Any:
    if a.dtype is not _float32 or not a.size:
        return NotImplemented
    found = _lying(a, axis)
    if found is None:
        return NotImplemented
    order, before, reduced, after = found
    flat = a.transpose(order)
    if after > 1:
        if before == 1 and name == "total":
            sums = _of_columns(flat.reshape(reduced, after))
        elif after < _NARROWEST:
            return NotImplemented
        else:
            sums = _ufuncs()[f"{name}_of_columns"](flat.reshape(before, reduced, after))
    elif before > 1:
        if reduced < _NARROWEST:
            return NotImplemented
        sums = _ufuncs()[f"{name}_of_rows"](flat.reshape(before, reduced))
    else:
        pieces = np.empty(-(-reduced // _PIECE), np.float32)
        sums = _KINDS[name].together(_ufuncs()[f"{name}_of_pieces"](flat.reshape(reduced), out=pieces), keepdims=True)
    axes = _axes(axis, a.ndim)
    kept = [1 if i in axes else a.shape[i] for i in order]
    result = sums.reshape(kept).transpose(np.argsort(order)) if a.ndim else sums.reshape(())
    return result if keepdims else result.reshape([n for i, n in enumerate(a.shape) if i not in axes])


def column_totals(a: Any) -> Any:
    return _of_columns(a) if a.size and lies(a, a.shape) else NotImplemented


def _of_columns(a: Any) -> Any:
    width = a.shape[1]
    sums = np.empty((-(-width // _COLUMNS), _COLUMNS), np.float32)
    return _ufuncs()["matrix_totals"](a, out=sums).reshape(-1)[:width]


def _axes(axis: Any, ndim: int) -> set[int]:
    if axis is None:
        return set(range(ndim))
    return {i % ndim for i in (axis if isinstance(axis, tuple) else (axis,))}


def _lying(a: Any, axis: Any) -> tuple[tuple[int, ...], int, int, int] | None:
    """The dimensions as they lie in memory, and how many elements lie before what is reduced, in it, and behind it;
    None where it is in several places, or there are gaps."""
    ndim = a.ndim
    if axis is not None and any(not -ndim <= i < ndim for i in (axis if isinstance(axis, tuple) else (axis,))):
        return None  # NumPy refuses it
    axes = _axes(axis, ndim)
    order = tuple(range(ndim)) if a.flags.c_contiguous else tuple(sorted(range(ndim), key=lambda i: -a.strides[i]))
    if not a.flags.c_contiguous and not a.transpose(order).flags.c_contiguous:
        return None
    long = [i for i in order if a.shape[i] > 1]
    places = [place for place, i in enumerate(long) if i in axes]
    if not places or places[-1] - places[0] + 1 != len(places):
        return None
    parts = long[: places[0]], long[places[0] : places[-1] + 1], long[places[-1] + 1 :]
    before, reduced, after = (math.prod(a.shape[i] for i in part) for part in parts)
    return order, before, reduced, after
