"""What reductions and scans share: naming dimensions, the shapes that result, sums that are wide enough."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from cordee.trainer.array import array_module, is_float
from cordee.trainer.autograd.explain import refuse
from cordee.trainer.autograd.record import Op, Sampler, Shape
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.kernels import kernel
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "Axis", "ValuesAndIndices", "as_axis", "axes_cases", "bad_axis", "count", "extreme_of", "in_one_dimension",
    "is_large", "kept_shape", "plain", "product", "reduced_shape", "reduced_shape_of_some", "require_float",
    "same_shape", "square_total", "wide_sum", "wide_sum_dtype",
]  # fmt: skip

Axis: TypeAlias = "int | tuple[int, ...] | None"


class ValuesAndIndices(NamedTuple):
    """What `max`, `sort`, `topk` and others along a dimension return."""

    values: Tensor
    indices: Tensor


# -- shapes ------------------------------------------------------------------------------------------------------------


def kept_shape(shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    """The shape after a reduction that keeps the reduced dimensions, as 1."""
    if axis is None:
        return (1,) * len(shape)
    axes = {a % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,))} if shape else set()
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def count(shape: tuple[int, ...], axis: Axis) -> int:
    """How many elements a reduction takes together."""
    return math.prod(n for n, k in zip(shape, kept_shape(shape, axis), strict=True) if k == 1)


def reduced_shape(a: Shape, *, axis: Axis, keepdims: bool = False, **_: Any) -> Shape:
    """A reduction's shape rule."""
    ndim = max(len(a), 1)
    axes = range(len(a)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    found: set[int] = set()
    for dim in axes:
        if not -ndim <= dim < ndim:
            raise TrainerIndexError(f"there is no dimension {dim} in a tensor of {len(a)} dimensions")
        if dim % ndim in found:
            raise ShapeError(f"dimension {dim} is named twice")
        found.add(dim % ndim)
    if keepdims:
        return tuple(1 if i in found else n for i, n in enumerate(a))
    return tuple(n for i, n in enumerate(a) if i not in found)


def reduced_shape_of_some(a: Shape, *, axis: Axis, keepdims: bool = False, **more: Any) -> Shape:
    """The same for what needs at least one element, like a maximum."""
    result = reduced_shape(a, axis=axis, keepdims=keepdims)
    dims = range(len(a)) if axis is None else [d % len(a) for d in (axis if isinstance(axis, tuple) else (axis,)) if a]
    for dim in dims:
        if a[dim] == 0 and 0 not in result:
            raise ShapeError(f"dimension {dim} has size 0: there is no element to take")
    return result


def same_shape(a: Shape, *, axis: int, **_: Any) -> Shape:
    """The shape rule of a scan: its dimension must be there."""
    reduced_shape(a, axis=axis)
    return a


def as_axis(dim: Any) -> Axis:
    """PyTorch's dim: a number, several (none of them: all dimensions), or None."""
    if dim is None or isinstance(dim, int):
        return dim
    axes = tuple([int(d) for d in dim])
    return axes if len(axes) > 1 else axes[0] if axes else None


# -- samples -----------------------------------------------------------------------------------------------------------


def axes_cases(make: str, *, empty: bool = True, **more: Any) -> Any:
    """Samples of a reduction: over all dimensions, one, several, kept or not, of no dimensions, of no elements."""

    def samples(s: Sampler) -> list[Any]:
        draw = getattr(s, make)
        cases = [
            s.case(draw(2, 3), axis=None, keepdims=False, **more),
            s.case(draw(2, 3, 2), axis=1, keepdims=False, **more),
            s.case(draw(2, 3, 2), axis=(0, -1), keepdims=True, **more),
            s.case(draw(), axis=None, keepdims=False, **more),
            s.case(draw(), axis=-1, keepdims=True, **more),
            s.case(draw(0, 3), axis=1, keepdims=False, **more),
        ]
        return [*cases, s.case(draw(2, 0), axis=1, keepdims=True, **more)] if empty else cases

    return samples


def bad_axis(s: Sampler) -> list[Any]:
    return [s.case(s.normal(2, 3), axis=2, keepdims=False), s.case(s.normal(2, 3), axis=(0, -2), keepdims=False)]


# -- sums --------------------------------------------------------------------------------------------------------------

_float32, _float64 = np.dtype("float32"), np.dtype("float64")


def wide_sum_dtype(dtype: Any) -> Any:
    """In which dtype a sum of these numbers is kept: half precisions in float32, whole numbers and bools in int64."""
    if dtype.kind in "iub":
        return np.dtype("int64")
    return _float32 if dtype.itemsize == 2 else dtype


_LARGE = 4096  # elements; what has fewer is added up before another is found who would


def is_large(a: Any) -> bool:
    """Whether a kernel is asked for: it is of float32, and has enough elements."""
    return a.dtype is _float32 and a.size >= _LARGE


@kernel
def _total(xp: Any, a: Any, *, axis: Axis, keepdims: bool) -> Any:
    if a.dtype.itemsize == 2:
        return a.sum(axis=axis, keepdims=keepdims, dtype=_float32).astype(a.dtype)
    return a.sum(axis=axis, keepdims=keepdims)


@kernel
def square_total(xp: Any, a: Any, *, axis: Axis, keepdims: bool) -> Any:
    """The sum of squares."""
    return (a * a).sum(axis=axis, keepdims=keepdims)


@kernel
def product(xp: Any, a: Any, *, axis: Axis, keepdims: bool) -> Any:
    """The product, in the elements' dtype."""
    return a.prod(axis=axis, keepdims=keepdims)


@kernel
def _extreme(xp: Any, a: Any, *, axis: Axis, keepdims: bool, largest: bool) -> Any:
    return (a.max if largest else a.min)(axis=axis, keepdims=keepdims)


def extreme_of(xp: Any, a: Any, axis: Axis, keepdims: bool, largest: bool) -> Any:
    """The largest or the smallest element; NaN where there is one."""
    if is_large(a):
        return _extreme(xp, a, axis=axis, keepdims=keepdims, largest=largest)
    return (a.max if largest else a.min)(axis=axis, keepdims=keepdims)


def wide_sum(a: Any, axis: Axis, keepdims: bool) -> Any:
    """The sum, in the dtype that a sum of such numbers has."""
    dtype = a.dtype
    if dtype is _float32 and a.size >= _LARGE:
        return _total(array_module(a), a, axis=axis, keepdims=keepdims)
    if type(a) is not np.ndarray and is_float(dtype) and array_module(a) is not np:
        return _total(array_module(a), a, axis=axis, keepdims=keepdims)
    if dtype is _float32 or dtype is _float64:
        return a.sum(axis=axis, keepdims=keepdims)
    total = a.sum(axis=axis, keepdims=keepdims, dtype=wide_sum_dtype(dtype))
    return total.astype(dtype) if dtype.itemsize == 2 and dtype.kind in "fV" else total


# -- calling -----------------------------------------------------------------------------------------------------------


def require_float(input: Tensor, name: str) -> None:
    """Raise a TypeError for whole numbers."""
    if input.dtype.kind in "iub":
        raise TypeError(f"{name} needs a floating-point tensor, not {input.dtype.name}: convert it by .float()")


def plain(op: Op, input: Tensor, **params: Any) -> Tensor:
    """Run an op that has no gradient: nothing is recorded."""
    x = input.data
    xp = np if type(x) is np.ndarray else array_module(x)
    try:
        out = op.forward(xp, x, **params)
    except (ValueError, IndexError, TypeError) as error:
        refuse(op, [x], params, error)
    return wrap(out if type(out) is np.ndarray else xp.asarray(out))


def in_one_dimension(function: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The results of a function along dimension 0, of a tensor without dimensions: as if it had one."""
    results = function(input.reshape(1), *args, **kwargs)
    if isinstance(results, Tensor):
        return results.reshape(())
    return type(results)(*[result.reshape(()) for result in results])
