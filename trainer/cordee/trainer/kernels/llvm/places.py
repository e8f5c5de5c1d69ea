"""Rows added to those of a table that numbers name: the gradient of embedding, of indexing by an array; elements taken
from lines, and added to them, by places along them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from cordee.trainer.kernels.llvm.layouts import lies
from cordee.trainer.kernels.llvm.loops import Loop, Memory, Rows
from cordee.trainer.kernels.llvm.ufuncs import family
from cordee.trainer.kernels.llvm.values import Value

__all__ = ["add_elements", "add_to_lines", "take_from_lines"]


def _add_elements(k: Rows, a: Memory, rows: Memory, out: Memory) -> None:
    """Each thread has a range of the table's rows, and adds what goes there, in order."""
    width = k.sizes["w"]

    def one(i: Value) -> None:
        row = rows.get(i)

        def add() -> None:
            source, target = a.at(i * width), out.at(row * width)
            k.lanes(width, lambda j, mask: target.put_lanes(j, target.lanes(j, mask) + source.lanes(j, mask), mask), 2)

        k.when((row >= k.first) & (row < k.last), add)

    k.count(k.index(0), k.sizes["n"], 1, one)


def _take(each: bool) -> Callable[..., None]:
    """With places of their own for each line, or the same for all."""

    def body(k: Rows, a: Memory, index: Memory, out: Memory) -> None:
        length, count = k.sizes["n"], k.sizes["m"]

        def line(r: Value) -> None:
            source, places, target = a.at(r * length), index.at(r * count) if each else index, out.at(r * count)
            k.count(k.index(0), count, 1, lambda j: target.put(j, source.get(places.get(j))))

        k.share(line)

    return body


def _add(each: bool) -> Callable[..., None]:
    def body(k: Rows, a: Memory, index: Memory, out: Memory) -> None:
        length, count = k.sizes["n"], k.sizes["m"]

        def line(r: Value) -> None:
            source, places, target = a.at(r * count), index.at(r * count) if each else index, out.at(r * length)

            def element(j: Value) -> None:
                place = places.get(j)
                target.put(place, target.get(place) + source.get(j))

            k.count(k.index(0), count, 1, element)

        k.share(line)

    return body


@functools.cache
def _ufuncs() -> dict[str, Any]:
    return family(
        "places",
        [
            Loop("add_elements", "fq->f", _add_elements, "(n,w),(n)->(m,w)", "m"),
            Loop("take_each", "fq->f", _take(True), "(r,n),(r,m)->(r,m)", "r"),
            Loop("take_same", "fq->f", _take(False), "(r,n),(m)->(r,m)", "r"),
            Loop("add_each", "fq->f", _add(True), "(r,m),(r,m)->(r,n)", "r"),
            Loop("add_same", "fq->f", _add(False), "(r,m),(m)->(r,n)", "r"),
        ],
    )


def add_elements(out: Any, rows: Any, a: Any) -> Any:
    """Vectors are left to NumPy, which is as fast."""
    if out.ndim < 2 or not out.size or not a.size or not lies(out, out.shape) or a.dtype != np.float32:
        return NotImplemented
    width = a.size // rows.size
    if width < 4 or rows.dtype != np.int64 or width * out.shape[0] != out.size:
        return NotImplemented
    rows = np.where(rows < 0, rows + out.shape[0], rows)
    if rows.view(np.uint64).max() >= out.shape[0]:
        return NotImplemented  # NumPy refuses it
    table = out.reshape(-1, width)
    _ufuncs()["add_elements"](np.ascontiguousarray(a).reshape(rows.size, width), rows, out=table)
    return None


def take_from_lines(a: Any, index: Any) -> Any:
    if not lies(a, a.shape) or not index.size or not a.size:
        return NotImplemented
    return _ufuncs()["take_same" if index.ndim == 1 else "take_each"](a, np.ascontiguousarray(index))


def add_to_lines(out: Any, index: Any, a: Any) -> Any:
    if not lies(out, out.shape) or not index.size or not out.size or a.dtype != np.float32:
        return NotImplemented
    name = "add_same" if index.ndim == 1 else "add_each"
    _ufuncs()[name](np.ascontiguousarray(a), np.ascontiguousarray(index), out=out)
    return None
