"""Adding up and writing at the places that an index names (see `places.py`).

Everything here works on arrays, below the ops. Sums have one fixed order on every device: gradients of repeated
elements must have the same bits in every run, so nothing here uses atomics. Repeated places are sorted (stably) and
each run is summed in order.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from cordee.trainer.array import is_float
from cordee.trainer.kernels import kernel
from cordee.trainer.ops.lines import add_to_lines, are_lines, last_alone
from cordee.trainer.ops.places import adjacent, consumes

__all__ = ["add_at", "add_rows", "assign_at", "last_named", "positions"]


def _arrays(index: Any) -> list[Any]:
    """The integer arrays in an index: only with them can an element be named twice."""
    parts = index if type(index) is tuple else (index,)
    return [part for part in parts if hasattr(part, "dtype") and part.dtype != np.bool_]


def positions(xp: Any, shape: tuple[int, ...], index: Any) -> Any:
    """The places in row-major order that an index names, in the index's shape."""
    return xp.arange(int(np.prod(shape, dtype=int))).reshape(shape)[index]


def add_at(xp: Any, out: Any, index: Any, a: Any) -> None:
    """Adds to the elements that the index names, as often as it names them, in the order of the index."""
    if type(index) is slice or type(index) is int or not (arrays := _arrays(index)):
        out[index] += a  # slices and masks name each element once
    elif xp is np and a.size <= 8:
        np.add.at(out, index, a)
    elif (same := last_alone(out.shape, index)) is not None and are_lines(xp, out, same):
        add_to_lines(xp, out.reshape(-1, out.shape[-1]), same, a.reshape(-1, same.size))
    elif len(arrays) == 1 and _stays(index) and not _has_masks(index) and not _by_element(xp, out, index, a):
        view, rows, moved = _one_array(out, index, arrays[0], a)
        add_rows(xp, view, rows, moved)
    else:
        places = positions(xp, out.shape, index).reshape(-1)
        if out.flags.c_contiguous:
            add_rows(xp, out.reshape(-1), places, a.reshape(-1))
        else:
            whole = xp.zeros(out.size, out.dtype)
            add_rows(xp, whole, places, a.reshape(-1))
            out += whole.reshape(out.shape)


def _by_element(xp: Any, out: Any, index: Any, a: Any) -> bool:
    """Whether it pays to spell out the place of every element: where slices come first, rows lie apart in memory."""
    if type(index) is not tuple or type(index[0]) is np.ndarray:
        return False
    return xp is np and out.flags.c_contiguous and 4 * a.size > out.size and not _is_half(a)


def _stays(index: Any) -> bool:
    """Whether the dimensions that arrays and numbers name stay where they are, and do not come first."""
    return type(index) is not tuple or adjacent(index)


def _has_masks(index: Any) -> bool:
    return type(index) is tuple and any(
        isinstance(part, bool) or (hasattr(part, "dtype") and part.dtype == np.bool_) for part in index
    )


def _one_array(out: Any, index: Any, array: Any, a: Any) -> tuple[Any, Any, Any]:
    """An index of slices, numbers and one array: what it names as rows of a view, and what is to be added as rows."""
    if type(index) is not tuple:
        return out, index.reshape(-1), a.reshape(array.size, *out.shape[1:])
    used = sum(consumes(part) for part in index)
    at, basic, found = 0, [], False
    for part in index:
        found = found or part is array
        if not found:
            at += out.ndim - used if part is Ellipsis else not isinstance(part, int)
        basic.append(slice(None) if part is array else part)
    view = out[tuple(basic)]
    if at:
        view = view.transpose(at, *range(at), *range(at + 1, view.ndim))
        own = range(at, at + array.ndim)
        a = a.transpose(*own, *(i for i in range(a.ndim) if i not in own))
    return view, array.reshape(-1), a.reshape(array.size, *view.shape[1:])


_AT_ONCE = 1 << 16  # elements that are added in one call: their places stay in the cache


def add_rows(xp: Any, out: Any, rows: Any, a: Any) -> None:
    """Adds `a (n, …)` to rows of `out (m, …)`, in the order of `a`.

    With NumPy, element by element: its `add.at` is fast for vectors, and slow for anything else. On a GPU, and for
    halves (which are added up in single precision), sorted by where they go, then added up in runs. `out` may have any
    layout: a gradient that was added up from transposed ones is transposed itself, and a reshape of it would be a copy.
    """
    rows = rows.astype(np.intp)  # a narrow integer could not hold the number of rows
    if not rows.size or not a.size:
        return
    if xp is np and not _is_half(a) and (out.ndim == 1 or out.flags.c_contiguous):
        _add_elements(xp, out, rows, a)
        return
    rows += (rows < 0) * out.shape[0]  # not by a mask: a device would have to wait for it
    order = _row_order(xp, rows, height=out.shape[0])
    rows, a = rows[order], a.reshape(rows.size, -1)
    if xp is np:
        starts = np.concatenate((np.zeros(1, np.intp), np.flatnonzero(rows[1:] != rows[:-1]) + 1))
        out[rows[starts]] += _run_sums(a[order], starts).reshape(-1, *out.shape[1:])
    elif out.flags.c_contiguous:
        _add_runs(xp, out, rows, order, a)
    else:
        whole = xp.zeros(out.shape, out.dtype)
        _add_runs(xp, whole, rows, order, a)
        out += whole


@kernel
def _add_elements(xp: Any, out: Any, rows: Any, a: Any) -> None:
    """In place, in the order of `a`."""
    if out.ndim == 1:
        np.add.at(out, rows, a)
        return
    rows = xp.where(rows < 0, rows + out.shape[0], rows)
    width = a.size // rows.size
    flat, columns, step = out.reshape(-1), xp.arange(width), max(_AT_ONCE // width, 1)
    rows *= width
    for start in range(0, rows.size, step):
        places = (rows[start : start + step, None] + columns).reshape(-1)
        np.add.at(flat, places, a[start : start + step].reshape(-1))


@kernel
def _row_order(xp: Any, rows: Any, *, height: int) -> Any:
    """What sorts numbers of rows, of so many that there are."""
    return stable_order(xp, rows)


def stable_order(xp: Any, a: Any) -> Any:
    """What sorts a vector; equal elements keep their order."""
    return a.argsort(kind="stable") if xp is np else xp.argsort(a)  # CuPy's is always stable, and takes no kind


def _is_half(a: Any) -> bool:
    return a.dtype.itemsize == 2 and is_float(a.dtype)


def _run_sums(a: Any, starts: Any) -> Any:
    """The sums of runs of rows; halves are added up in single precision."""
    sums = np.add.reduceat(a.astype(np.float32) if _is_half(a) else a, starts, axis=0)
    return sums.astype(a.dtype, copy=False)  # small integers and booleans are summed as larger ones


def _add_runs(xp: Any, out: Any, rows: Any, order: Any, a: Any) -> None:
    """On a device: adds each run of equal `rows` (sorted, so the run's rows of `a` are `order`'s) from first to last.

    What it launches depends on shapes alone, so that a step with it can be recorded as a graph.
    """
    zero = xp.zeros(1, np.float32 if _is_half(a) else a.dtype)
    height = out.shape[0]
    _run_kernel(xp)(xp.ascontiguousarray(a), rows, order, rows.size, a.shape[1], height, zero, out, size=a.size)


@functools.cache
def _run_kernel(xp: Any) -> Any:
    """CUDA: one thread per row and column; those at the beginning of a run add it up, the others have nothing to do.

    Of rows that there are not, nobody has heard yet: see `check_range` (places.py).
    """
    return xp.ElementwiseKernel(
        "raw T a, raw int64 rows, raw int64 order, int64 count, int64 width, int64 height, raw A zero", "raw O out",
        """
        long long first = i / width, column = i % width, row = rows[first];
        if (row >= 0 && row < height && (first == 0 || rows[first - 1] != row)) {
            A total = zero[0];
            for (long long k = first; k < count && rows[k] == row; ++k) total += (A)a[order[k] * width + column];
            out[row * width + column] = (O)((A)out[row * width + column] + (A)(T)total);
        }
        """,
        "cordee_add_runs",
    )  # fmt: skip


def last_named(xp: Any, places: Any) -> Any:
    """For each of these places (a vector), whether it is the last mention of that place."""
    order = stable_order(xp, places)
    ordered = places[order]
    last = xp.empty(places.size, bool)
    last[order] = xp.concatenate((ordered[1:] != ordered[:-1], xp.ones(min(places.size, 1), bool)))
    return last


def last_at(xp: Any, shape: tuple[int, ...], index: Any) -> Any:
    """Whether each element that an index names is the last mention of its place; None where all are."""
    if not _arrays(index):
        return None
    places = positions(xp, shape, index)
    last = last_named(xp, places.reshape(-1))
    return None if bool(last.all()) else last.reshape(places.shape)


def assign_at(xp: Any, out: Any, index: Any, values: Any) -> None:
    """`out[index] = values`; where a place is named twice, the last value stays, on every device."""
    if xp is np or not _arrays(index):
        out[index] = values
        return
    places = positions(xp, out.shape, index)
    last = last_named(xp, places.reshape(-1))
    values = xp.broadcast_to(xp.asarray(values, out.dtype), places.shape).reshape(-1)
    out[xp.unravel_index(places.reshape(-1)[last], out.shape)] = values[last]
