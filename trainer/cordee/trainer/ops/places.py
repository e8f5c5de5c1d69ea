"""Where an index leads: what users write made plain, what is wrong with it, and adding up or writing at those places.

Everything here works on arrays, below the ops. Sums have one fixed order on every device: gradients of repeated
elements must have the same bits in every run, so nothing here uses atomics. Repeated places are sorted (stably) and
each run is summed in order.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from cordee.trainer.array import array_module, default_module, is_float, to_numpy
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.kernels import kernel
from cordee.trainer.kernels.cuda.doubts import expect
from cordee.trainer.ops.lines import add_to_lines, are_lines, last_alone
from cordee.trainer.tensors import Tensor

__all__ = [
    "add_at", "add_rows", "assign_at", "check_inside", "check_range", "index_shape", "last_named", "plain_index",
    "positions",
]  # fmt: skip


# -- what users write --------------------------------------------------------------------------------------------------


def plain_index(index: Any, shape: tuple[int, ...]) -> tuple[Any, bool]:
    """The index made of what arrays take (tensors and lists become arrays, NumPy's numbers Python's), and whether it is
    advanced: the result is then a copy.

    Numbers are taken out first, as in PyTorch: `x[0, :, [1, 2]]` is `x[0][:, [1, 2]]`. (NumPy treats the 0 like an
    array there, and moves dimensions to the front.)
    """
    if type(index) is not tuple:
        index = _part(index)
        return index, not _is_basic_part(index)
    advanced = numbers = False
    parts = []
    for given in index:
        kind = type(given)
        if kind is int or kind is slice or given is None or given is Ellipsis:
            part = given
        else:
            part = _part(given)
            advanced = advanced or not _is_basic_part(part)
        numbers = numbers or type(part) is int
        parts.append(part)
    index = tuple(parts)
    if advanced and numbers and not _adjacent(index):
        index = _spelled_out(index, shape)
    return index, advanced


def _part(part: Any) -> Any:
    if isinstance(part, Tensor):
        part = part.data
    elif isinstance(part, (list, tuple, range)):
        part = default_module().asarray(np.asarray(_unwrapped(part), None if len(part) else np.intp))
    if isinstance(part, (int, slice)) or part is None or part is Ellipsis:  # a bool is an int, and an advanced index
        return part
    dtype = getattr(part, "dtype", None)
    if dtype is None:
        try:
            return operator.index(part)
        except TypeError:
            raise TrainerIndexError(
                f"an index is made of numbers, slices, ..., None, masks and integer tensors, not {type(part).__name__}"
            ) from None
    if dtype.kind not in "iub":
        raise TrainerIndexError(f"an index must hold integers or booleans, not {dtype.name}")
    if part.ndim == 0:
        return part.item()
    return part if default_module() is np else default_module().asarray(part)


def _unwrapped(data: Any) -> Any:
    if isinstance(data, (list, tuple, range)):
        return [_unwrapped(item) for item in data]
    return data.tolist() if isinstance(data, Tensor) else data


def _is_basic_part(part: Any) -> bool:
    return part is None or part is Ellipsis or (isinstance(part, (int, slice)) and not isinstance(part, bool))


def _adjacent(index: tuple[Any, ...]) -> bool:
    """Whether numbers and arrays stand together, so that NumPy leaves the dimensions where PyTorch does."""
    places = [i for i, part in enumerate(index) if not (isinstance(part, slice) or part is None or part is Ellipsis)]
    return places[-1] - places[0] + 1 == len(places)


def _spelled_out(index: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The same in two steps, numbers first, put together as one index made of arrays alone."""
    count = int(np.prod(shape, dtype=int))
    rest = tuple(
        part if isinstance(part, int) and not isinstance(part, bool) else slice(None) for part in _full(index, shape)
    )
    inner = tuple(part for part in index if not isinstance(part, int) or isinstance(part, bool))
    try:
        places = np.arange(count).reshape(shape)[rest][tuple(to_numpy(p) if hasattr(p, "dtype") else p for p in inner)]
    except IndexError:
        return index  # which fails in the same way, and is explained
    xp = default_module()
    return tuple(xp.asarray(part) for part in np.unravel_index(places, shape))


def _full(index: tuple[Any, ...], shape: tuple[int, ...]) -> list[Any]:
    """One part for each dimension of the tensor: without None, and with `...` and masks spread out."""
    used = sum(_consumes(part) for part in index)
    parts: list[Any] = []
    for part in index:
        if part is Ellipsis:
            parts += [slice(None)] * (len(shape) - used)
        elif isinstance(part, int) and not isinstance(part, bool):
            parts.append(part)
        else:
            parts += [slice(None)] * _consumes(part)
    return parts


def _consumes(part: Any) -> int:
    """How many dimensions of the tensor a part of an index stands for."""
    if part is None or part is Ellipsis or isinstance(part, bool):
        return 0
    return part.ndim if getattr(part, "dtype", None) == np.bool_ else 1


# -- what is wrong with it ---------------------------------------------------------------------------------------------


def out_of_range(value: int, dim: int, size: int, negative: bool = True) -> TrainerIndexError:
    """The error for an index outside its dimension."""
    valid = f"valid: {-size if negative else 0} to {size - 1}" if size else "there is none in it"
    return TrainerIndexError(f"index {value} is outside dimension {dim}, which has size {size} ({valid})")


def check_range(index: Any, dim: int, size: int) -> None:
    """Refuse an array of indices that are not all within 0 and size - 1.

    NumPy would count negative ones from the end, and CuPy wrap all of them, silently. Of a device, it is told when that
    has got there (see `kernels.cuda.doubts`).

    Raises:
        IndexError: it says which, and what would be right.
    """
    if not index.size:
        return
    if array_module(index) is not np:
        _doubt((index < 0) | (index >= size), index, lambda low, high: (low if low < 0 else high, dim, size, False))
        return
    if index.dtype.itemsize == 8:  # one pass: as unsigned numbers, negative ones are larger than any size
        if index.view(np.uint64).max() < size:
            return
    elif index.max() < size and (index.dtype.kind == "u" or index.min() >= 0):
        return
    low, high = int(index.min()), int(index.max())
    raise IndexError(str(out_of_range(low if low < 0 else high, dim, size, negative=False)))


def check_inside(xp: Any, shape: tuple[int, ...], index: Any) -> None:
    """Refuse an index whose integer arrays lead outside: NumPy does so itself, CuPy would wrap them around.

    Raises:
        IndexError: some do; on a device it may be raised later.
    """
    if xp is np:
        return
    parts = index if type(index) is tuple else (index,)
    dim, used = 0, sum(_consumes(part) for part in parts)
    for part in parts:
        if part is Ellipsis:
            dim += len(shape) - used
            continue
        if getattr(part, "size", 0) and part.dtype.kind in "iu" and dim < len(shape):
            _doubt_inside(part, dim, shape[dim])
        dim += _consumes(part)


def _doubt_inside(part: Any, dim: int, size: int) -> None:
    _doubt((part < -size) | (part >= size), part, lambda low, high: (high if high >= size else low, dim, size, True))


def _doubt(wrong: Any, index: Any, which: Callable[[int, int], tuple[int, int, int, bool]]) -> None:
    """Have it told that some are wrong, by the least and the largest number."""

    def explain(now: bool) -> Exception:
        error = out_of_range(*which(int(index.min()), int(index.max())))
        return IndexError(str(error)) if now else error  # the op that is being computed is named with it

    expect(wrong.any(), explain)


def index_shape(a: tuple[int, ...], *, index: Any, **_: Any) -> tuple[int, ...]:
    """The shape of what an index names in a tensor of shape `a`.

    Raises:
        TrainerIndexError: it leads outside; it says value, dimension and size.
        ShapeError: its arrays do not broadcast, or a mask does not fit.
    """
    parts = index if isinstance(index, tuple) else (index,)
    used = sum(_consumes(part) for part in parts)
    if used > len(a):
        raise TrainerIndexError(f"{used} indices for a tensor of {len(a)} dimensions")
    if sum(part is Ellipsis for part in parts) > 1:
        raise TrainerIndexError("an index may hold '...' only once")
    host = tuple(to_numpy(part) if hasattr(part, "dtype") else part for part in parts)
    dim, arrays = 0, []
    for part in host:
        if part is Ellipsis:
            dim += len(a) - used
        elif isinstance(part, np.ndarray) and part.dtype == np.bool_:
            for k, n in enumerate(part.shape):
                if n != a[dim + k]:
                    raise ShapeError(
                        f"a mask of shape {part.shape} has size {n} where dimension {dim + k} has size {a[dim + k]}"
                    )
            arrays += list(part.nonzero()) or [part]
            dim += part.ndim
        elif isinstance(part, slice):
            if part.step == 0:
                raise ShapeError("the step of a slice cannot be 0")
            dim += 1
        elif _consumes(part):
            values = np.asarray(part)
            if values.size and (values.max() >= a[dim] or values.min() < -a[dim]):
                raise out_of_range(int(values.max() if values.max() >= a[dim] else values.min()), dim, a[dim])
            if isinstance(part, np.ndarray):
                arrays.append(part)
            dim += 1
    try:
        np.broadcast_shapes(*[array.shape for array in arrays])
    except ValueError:
        listed = " and ".join(str(array.shape) for array in arrays)
        raise ShapeError(f"the index's arrays, of shapes {listed}, do not broadcast against each other") from None
    return np.broadcast_to(np.empty((), np.int8), a)[host].shape


# -- adding and writing there ------------------------------------------------------------------------------------------


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
    return type(index) is not tuple or _adjacent(index)


def _has_masks(index: Any) -> bool:
    return type(index) is tuple and any(
        isinstance(part, bool) or (hasattr(part, "dtype") and part.dtype == np.bool_) for part in index
    )


def _one_array(out: Any, index: Any, array: Any, a: Any) -> tuple[Any, Any, Any]:
    """An index of slices, numbers and one array: what it names as rows of a view, and what is to be added as rows."""
    if type(index) is not tuple:
        return out, index.reshape(-1), a.reshape(array.size, *out.shape[1:])
    used = sum(_consumes(part) for part in index)
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

    Of rows that there are not, nobody has heard yet: see `check_range`.
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
