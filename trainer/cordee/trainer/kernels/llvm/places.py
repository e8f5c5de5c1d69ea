"""Rows added to those of a table that numbers name: the gradient of embedding, of indexing by an array."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from cordee.trainer.kernels.llvm.layouts import lies
from cordee.trainer.kernels.llvm.loops import Loop, Memory, Rows
from cordee.trainer.kernels.llvm.ufuncs import family
from cordee.trainer.kernels.llvm.values import Value

__all__ = ["add_elements"]


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


@functools.cache
def _ufuncs() -> dict[str, Any]:
    return family("places", [Loop("add_elements", "fq->f", _add_elements, "(n,w),(n)->(m,w)", "m")])


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
