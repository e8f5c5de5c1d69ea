"""Where an index leads: what users write made plain, and what is wrong with it. `writing.py` adds up and writes there.

Everything here works on arrays, below the ops.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from cordee.trainer.array import array_module, default_module, to_numpy
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.kernels.cuda.doubts import expect
from cordee.trainer.tensors import Tensor

__all__ = ["check_inside", "check_range", "index_shape", "plain_index"]


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
    if advanced and numbers and not adjacent(index):
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


def adjacent(index: tuple[Any, ...]) -> bool:
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
    used = sum(consumes(part) for part in index)
    parts: list[Any] = []
    for part in index:
        if part is Ellipsis:
            parts += [slice(None)] * (len(shape) - used)
        elif isinstance(part, int) and not isinstance(part, bool):
            parts.append(part)
        else:
            parts += [slice(None)] * consumes(part)
    return parts


def consumes(part: Any) -> int:
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
    dim, used = 0, sum(consumes(part) for part in parts)
    for part in parts:
        if part is Ellipsis:
            dim += len(shape) - used
            continue
        if getattr(part, "size", 0) and part.dtype.kind in "iu" and dim < len(shape):
            _doubt_inside(part, dim, shape[dim])
        dim += consumes(part)


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
    used = sum(consumes(part) for part in parts)
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
        elif consumes(part):
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
