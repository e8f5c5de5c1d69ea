"""Reductions and scans, by the array API's names and dtype rules: sums of small integers are of the default integer."""

from __future__ import annotations

from typing import Any

import numpy as np

import cordee.trainer as ct
from cordee.trainer.tensors import Tensor

__all__ = [
    "all", "any", "cumulative_prod", "cumulative_sum", "diff", "max", "mean", "min", "prod", "std", "sum", "var",
]  # fmt: skip

Axis = int | tuple[int, ...] | None
_WIDE = {"i": np.int64, "u": np.uint64}


def _widened(x: Tensor, dtype: Any) -> Tensor:
    """In the dtype in which it is summed."""
    wanted = dtype or _WIDE.get(x.dtype.kind, x.dtype)
    return x.to(wanted)


def _axes(x: Tensor, axis: Axis) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(x.ndim))
    return (axis,) if isinstance(axis, int) else tuple(axis)


def _one_by_one(reduce: Any, x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    """A reduction that takes one axis at a time, over several: from the last to the first."""
    for place in sorted((place % x.ndim for place in _axes(x, axis)), reverse=True):
        x = reduce(x, place, keepdims)
    return x


def sum(x: Tensor, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """The sum."""
    wide = _widened(x, dtype)
    return wide.sum(_axes(x, axis), keepdims).to(wide.dtype) if _axes(x, axis) else wide.clone()


def prod(x: Tensor, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """The product."""
    wide = _widened(x, dtype)
    return _one_by_one(ct.prod, wide, axis, keepdims).to(wide.dtype)


def max(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest element."""
    return ct.amax(x, _axes(x, axis), keepdims) if _axes(x, axis) else x.clone()


def min(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest element."""
    return ct.amin(x, _axes(x, axis), keepdims) if _axes(x, axis) else x.clone()


def mean(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The mean."""
    return x.mean(_axes(x, axis), keepdims) if _axes(x, axis) else x.clone()


def var(x: Tensor, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The variance; `correction` is subtracted from the number of elements."""
    axes = _axes(x, axis)
    count = 1
    for place in axes:
        count *= x.shape[place]
    away = x - x.mean(axes, True) if axes else x - x
    total = (away * away).sum(axes, keepdims) if axes else away * away
    return total / (count - correction if count > correction else 0.0)


def std(x: Tensor, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The square root of the variance."""
    return var(x, axis=axis, correction=correction, keepdims=keepdims).sqrt()


def all(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether all elements are true."""
    return _one_by_one(lambda part, place, keep: part.all(place, keep), x.to(ct.bool), axis, keepdims)


def any(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether some element is true."""
    return _one_by_one(lambda part, place, keep: part.any(place, keep), x.to(ct.bool), axis, keepdims)


def _cumulative(scan: Any, first: int, x: Tensor, axis: int | None, dtype: Any, include_initial: bool) -> Tensor:
    if axis is None:
        if x.ndim != 1:
            raise ValueError(f"a scan over a tensor of {x.ndim} dimensions needs an axis")
        axis = 0
    wide = _widened(x, dtype)
    made = scan(wide, axis).to(wide.dtype)
    if not include_initial:
        return made  # type: ignore[no-any-return]
    shape = list(x.shape)
    shape[axis] = 1
    return ct.cat([ct.full(shape, first, dtype=wide.dtype), made], axis)  # type: ignore[no-any-return]


def cumulative_sum(
    x: Tensor, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """The sums of all elements so far; `include_initial`: with a 0 before."""
    return _cumulative(ct.cumsum, 0, x, axis, dtype, include_initial)


def cumulative_prod(
    x: Tensor, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """The products of all elements so far; `include_initial`: with a 1 before."""
    return _cumulative(ct.cumprod, 1, x, axis, dtype, include_initial)


def diff(
    x: Tensor, /, *, axis: int = -1, n: int = 1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """The differences between neighbours, n times."""
    return ct.diff(x, n, axis, prepend, append)  # type: ignore[no-any-return]
