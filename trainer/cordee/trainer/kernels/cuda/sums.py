"""Sums over dimensions that lie together in memory, on a GPU.

CuPy's are CUB's, which read several numbers at once where an address allows it, and add up in another order then: the
same numbers would have another sum as the second half of an array than as an array of their own. These have one order,
by shape and layout alone. It has not yet run on a device.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from cordee.trainer.kernels.cuda.channels import MAX_SAMPLES, Columns
from cordee.trainer.kernels.cuda.channels_text import THREADS
from cordee.trainer.kernels.cuda.launch import blocks, function, kind_of

__all__ = ["total"]


def total(a: Any, *, axis: int | tuple[int, ...] | None, keepdims: bool) -> Any:
    """In the array's dtype, added up in float32."""
    kind = kind_of(a)
    if not kind or not a.ndim:
        return NotImplemented
    reduced = _dims(axis, a.ndim)
    order = tuple(sorted(range(a.ndim), key=lambda dim: -a.strides[dim] if a.shape[dim] > 1 else 0))
    laid = a.transpose(order)
    columns = _columns(laid.shape, [dim in reduced for dim in order]) if laid.flags.c_contiguous else None
    if columns is None or columns.samples > MAX_SAMPLES:
        return NotImplemented
    out = _added(kind, laid, columns)
    kept = [dim for dim in order if dim not in reduced]
    out = out.reshape([a.shape[dim] for dim in kept]).transpose([kept.index(dim) for dim in sorted(kept)])
    return out.reshape([1 if dim in reduced else size for dim, size in enumerate(a.shape)]) if keepdims else out


def _dims(axis: int | tuple[int, ...] | None, ndim: int) -> set[int]:
    """The dimensions that are summed over, as numbers from 0."""
    if axis is None:
        return set(range(ndim))
    return {dim % ndim for dim in (axis if isinstance(axis, tuple) else (axis,))}


def _columns(shape: tuple[int, ...], reduced: list[bool]) -> Columns | None:
    """What lies in a row in memory, seen as columns; None: it is summed over in more than one piece."""
    runs: list[tuple[bool, int]] = []
    for size, gone in zip(shape, reduced, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][0] == gone:
            runs[-1] = (gone, runs[-1][1] * size)
        else:
            runs.append((gone, size))
    if sum(gone for gone, _ in runs) > 1:
        return None
    place = next((i for i, (gone, _) in enumerate(runs) if gone), None)
    if place is None:
        return Columns(1, 1, math.prod(shape), 1)
    before, length = math.prod(size for _, size in runs[:place]), runs[place][1]
    behind = math.prod(size for _, size in runs[place + 1 :])
    return Columns(1, 1, before, length) if behind == 1 else Columns(before, length, behind, 1)


def _added(kind: str, a: Any, columns: Columns) -> Any:
    cupy: Any = importlib.import_module("cupy")
    sums = cupy.empty((columns.samples, columns.chunks, columns.channels), np.float32)
    function("channels", kind, "column_sums")(
        (-(-columns.channels // columns.tile), columns.chunks, columns.samples), (THREADS,),
        (a, sums, *map(np.int64, columns[1:]), np.int32(columns.tile)),
    )  # fmt: skip
    out = cupy.empty(columns.number, a.dtype)
    numbers = (np.int32(columns.chunks), np.int64(columns.channels), np.int64(columns.number))
    function("channels", kind, "column_totals")(blocks(columns.number, THREADS), (THREADS,), (sums, out, *numbers))
    return out
