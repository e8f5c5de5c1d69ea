"""Finding, sorting, picking and sets, by the array API's names."""

from __future__ import annotations

from typing import Any, NamedTuple

import cordee.trainer as ct
from cordee.trainer.array import array_module
from cordee.trainer.array_api.dtypes import promoted
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "argmax", "argmin", "argsort", "count_nonzero", "nonzero", "searchsorted", "sort", "take", "take_along_axis",
    "unique_all", "unique_counts", "unique_inverse", "unique_values", "where",
]  # fmt: skip


class UniqueAll(NamedTuple):
    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    values: Tensor
    inverse_indices: Tensor


def argmax(x: Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Where the largest element is."""
    return _extremum(x.argmax, x, axis, keepdims)


def argmin(x: Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Where the smallest element is."""
    return _extremum(x.argmin, x, axis, keepdims)


def _extremum(find: Any, x: Tensor, axis: int | None, keepdims: bool) -> Tensor:
    if axis is not None:
        return find(axis, keepdims)  # type: ignore[no-any-return]
    return find().reshape(*(1,) * x.ndim) if keepdims else find()  # type: ignore[no-any-return]


def count_nonzero(x: Tensor, /, *, axis: Any = None, keepdims: bool = False) -> Tensor:
    """How many elements are not zero."""
    return (x != 0).to(ct.int64).sum(axis, keepdims)


def nonzero(x: Tensor, /) -> tuple[Tensor, ...]:
    """The indices of what is not zero, dimension by dimension."""
    if x.ndim == 0:
        raise ValueError("nonzero: a tensor without dimensions has no indices")
    return tuple(wrap(indices) for indices in x.data.nonzero())


def searchsorted(x1: Tensor, x2: Tensor, /, *, side: str = "left", sorter: Tensor | None = None) -> Tensor:
    """Where the elements of `x2` would have to be inserted into the sorted vector `x1`."""
    if side not in ("left", "right"):
        raise ValueError(f"searchsorted: side must be 'left' or 'right', not {side!r}")
    xp = array_module(x1.data)
    ordered = x1.data if sorter is None else x1.data[sorter.data]
    return wrap(xp.asarray(xp.searchsorted(ordered, x2.data, side)))


def where(condition: Tensor, x1: Any, x2: Any, /) -> Tensor:
    """Elements of `x1` where the condition holds, else of `x2`."""
    return ct.where(condition, *promoted(x1, x2))  # type: ignore[no-any-return]


def sort(x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """In order along an axis."""
    return ct.sort(x, dim=axis, descending=descending, stable=stable)[0]  # type: ignore[no-any-return]


def argsort(x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The indices that bring an axis in order."""
    return ct.sort(x, dim=axis, descending=descending, stable=stable)[1]  # type: ignore[no-any-return]


def take(x: Tensor, indices: Tensor, /, *, axis: int | None = None) -> Tensor:
    """Slices along an axis, by a vector of indices."""
    if axis is None:
        if x.ndim != 1:
            raise ValueError(f"take: a tensor of {x.ndim} dimensions needs an axis")
        axis = 0
    return x[(slice(None),) * (axis % x.ndim) + (indices,)]


def take_along_axis(x: Tensor, indices: Tensor, /, *, axis: int = -1) -> Tensor:
    """Elements along an axis, by indices of the same number of dimensions."""
    return ct.take_along_dim(x, indices, axis)  # type: ignore[no-any-return]


def _unique(x: Tensor, **wanted: bool) -> tuple[Tensor, ...]:
    """NaNs are all different, as the standard demands."""
    found = array_module(x.data).unique(x.data.ravel(), equal_nan=False, **wanted)
    return tuple(map(wrap, found if isinstance(found, tuple) else (found,)))


def unique_values(x: Tensor, /) -> Tensor:
    """The different values."""
    return _unique(x)[0]


def unique_counts(x: Tensor, /) -> UniqueCounts:
    """The different values, and how often each occurs."""
    return UniqueCounts(*_unique(x, return_counts=True))


def unique_inverse(x: Tensor, /) -> UniqueInverse:
    """The different values, and which of them each element is."""
    values, inverse = _unique(x, return_inverse=True)
    return UniqueInverse(values, inverse.reshape(*x.shape))


def unique_all(x: Tensor, /) -> UniqueAll:
    """The different values, where each occurs first, which of them each element is, and how often each occurs."""
    values, indices, inverse, counts = _unique(x, return_index=True, return_inverse=True, return_counts=True)
    return UniqueAll(values, indices, inverse.reshape(*x.shape), counts)
