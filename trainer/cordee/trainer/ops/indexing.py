"""Taking elements out by index, putting gradients back, and copies with other values at some places.

An index is what NumPy takes: numbers, slices, `...`, `None`, boolean masks, integer arrays, lists or tensors. Numbers
and slices alone give a view (`getitem`); anything else a copy (`take_at`). `put` is the gradient of both. Where an
index names an element twice, its gradients add up, always in the same order. `assign`, of `inplace.py`, is the other
half: a copy with other values at an index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.autograd.graph import Operand, apply, apply_one
from cordee.trainer.autograd.record import Sampler, Shape, op
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.ops.elementwise import where
from cordee.trainer.ops.inplace import assign
from cordee.trainer.ops.places import add_at, check_inside, check_range, index_shape, plain_index
from cordee.trainer.ops.shape import broadcast_tensors, dimension, ravel, reshape
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "argwhere", "getitem", "index_add", "index_copy", "index_fill", "index_put", "index_select", "masked_fill",
    "masked_scatter", "masked_select", "narrow", "nonzero", "put", "select", "select_scatter", "slice_scatter", "take",
    "unravel_index",
]  # fmt: skip

METHODS = (
    "argwhere index_add index_copy index_fill index_put index_select masked_fill masked_scatter masked_select narrow "
    "nonzero put select select_scatter slice_scatter take"
)
INPLACE = "index_add index_copy index_fill index_put masked_fill masked_scatter put"


# -- the records -------------------------------------------------------------------------------------------------------


def _getitem(xp: Any, a: Any, *, index: Any) -> Any:
    out = a[index]
    if isinstance(out, np.generic):  # NumPy gives a number, which shares no memory
        out = a[(*index, ...) if type(index) is tuple else (index, ...)]
    return out


def _take_at(xp: Any, a: Any, *, index: Any) -> Any:
    check_inside(xp, a.shape, index)
    return a[index]


def _put(xp: Any, a: Any, *, index: Any, shape: tuple[int, ...]) -> Any:
    out = xp.zeros(shape, a.dtype)
    add_at(xp, out, index, a)
    return out


def _put_reference(a: Any, index: Any, shape: tuple[int, ...]) -> Any:
    out = np.zeros(shape, a.dtype)
    np.add.at(out, index, a)
    return out


def _put_shape(a: tuple[int, ...], *, index: Any, shape: tuple[int, ...]) -> Shape:
    if index_shape(shape, index=index) != a:
        raise ShapeError(f"shape {a} is not that of the index, {index_shape(shape, index=index)}")
    return shape


def _add_grad(F: Any, dest: Any, g: Any, out: Any, a: Any, *, index: Any) -> None:
    add_at(F.xp, dest, index, g)


def _basic_cases(s: Sampler) -> list[Any]:
    return [
        s.case(s.normal(3, 4), index=(slice(None, None, 2), 1)),
        s.case(s.normal(3, 4), index=(Ellipsis, None, slice(1, 3))),
        s.case(s.normal(3, 4), index=2),
        s.case(s.normal(3, 4), index=slice(None, None, -1)),
        s.case(s.normal(3, 4), index=(-1, -2)),
        s.case(s.normal(0, 3), index=(slice(None), 1)),
        s.case(s.normal(), index=(None, Ellipsis)),
    ]


def _array_cases(s: Sampler) -> list[Any]:
    i, j = np.array([0, 2, 0]), np.array([1, 1, 1])
    return [
        s.case(s.normal(3, 4), index=i),
        s.case(s.normal(3, 4), index=(i, j)),
        s.case(s.normal(3, 4), index=(slice(None), np.array([[0, 3], [3, -1]]))),
        s.case(s.normal(2, 3, 4), index=(1, slice(None, None, -2), i)),
        s.case(s.normal(3, 2, 3), index=(i, slice(None), i)),
        s.case(s.normal(3, 2, 3), index=(i[:, None], Ellipsis, None, j)),
        s.case(s.normal(3, 2), index=np.array([[True, False], [False, True], [True, True]])),
        s.case(s.normal(3, 2), index=(np.array([True, False, True]), np.array([1, 1]))),
        s.case(s.normal(3, 2), index=np.array([False, False, False])),
        s.case(s.normal(3, 4, 2), index=np.tile(i, 4)),
        s.case(s.normal(3, 4, 2), index=(slice(1, 3), np.tile(j, 4))),
        s.case(s.normal(3, 2), index=np.zeros((0, 2), np.int64)),
    ]


_RULES: dict[str, Any] = {
    "forward": _getitem,
    "vjps": (lambda F, g, out, a, *, index: F.put(g, index=index, shape=a),),
    "adds": _add_grad,
    "saves": ("",),
    "reference": lambda a, index: a[index],
    "shape": index_shape,
    "dtype": "first",
}

GETITEM = op(
    "getitem", "the elements that an index of numbers and slices names: a view",
    **_RULES, view=True, samples=_basic_cases,
    errors=lambda s: [
        s.case(s.normal(3, 4), index=(0, 4)),
        s.case(s.normal(3, 4), index=-4),
        s.case(s.normal(3), index=(0, 0)),
        s.case(s.normal(3), index=(Ellipsis, Ellipsis)),
    ],
)  # fmt: skip

TAKE_AT = op(
    "take_at", "the elements that an index with arrays or masks names: a copy",
    **(_RULES | {"forward": _take_at}), samples=_array_cases,
    errors=lambda s: [
        s.case(s.normal(3), index=np.array([0, 3])),
        s.case(s.normal(3, 4), index=(slice(None), np.array([-5]))),
        s.case(s.normal(3, 4), index=np.array([True, False])),
        s.case(s.normal(3, 4), index=(np.array([0, 1]), np.array([0, 1, 2]))),
    ],
)  # fmt: skip

PUT = op(
    "put", "zeros, and elements added at the places that an index names: the gradient of getitem",
    forward=_put,
    vjps=(lambda F, g, out, a, *, index, shape: F.take_at(g, index=index),),
    saves=("",), reference=_put_reference, shape=_put_shape, dtype="first",
    samples=lambda s: [
        s.case(s.normal(2, 3), index=(slice(0, 2),), shape=(4, 3)),
        s.case(s.normal(3, 4), index=np.array([0, 2, 0]), shape=(3, 4)),
        s.case(s.normal(9, 2), index=np.array([0, 2, 0, 1, 1, 1, -1, 0, 0]), shape=(3, 2)),
    ],
    errors=lambda s: [s.case(s.normal(2, 3), index=np.array([0, 1]), shape=(4, 2))],
)  # fmt: skip


def _index_add(xp: Any, a: Any, values: Any, *, index: Any) -> Any:
    check_inside(xp, a.shape, index)
    out = a.copy()
    place = xp.broadcast_to(xp.empty((), bool), a.shape)[index].shape
    add_at(xp, out, index, xp.broadcast_to(xp.asarray(values, a.dtype), place))
    return out


def _index_add_reference(a: Any, values: Any, index: Any) -> Any:
    out = np.array(a)
    np.add.at(out, index, values)
    return out


def _index_add_shape(a: tuple[int, ...], values: tuple[int, ...], *, index: Any) -> Shape:
    place = index_shape(a, index=index)
    if len(values) > len(place) or any(n not in (1, m) for n, m in zip(values[::-1], place[::-1], strict=False)):
        raise ShapeError(f"values of shape {values} do not fit the place of shape {place}")
    return a


INDEX_ADD = op(
    "index_add", "a copy in which values are added at the places that an index names, as often as it names them",
    forward=_index_add, dtype="first", saves=("", ""), shape=_index_add_shape, reference=_index_add_reference,
    vjps=(
        lambda F, g, out, a, values, *, index: g,
        lambda F, g, out, a, values, *, index: F.sum_to(F.take_at(g, index=index), shape=values),
    ),
    samples=lambda s: [
        s.case(s.normal(3, 4), s.normal(3, 4), index=np.array([0, 2, 0])),
        s.case(s.normal(3, 4), s.normal(2, 1), index=(slice(None, 2), np.array([1, 1]))),
        s.case(s.normal(3), s.normal(), index=np.array([True, False, True])),
        s.case(s.normal(3, 2), s.normal(9, 2), index=np.array([0, 2, 0, 1, 1, 1, -1, 0, 0])),
    ],
    errors=lambda s: [
        s.case(s.normal(3, 4), s.normal(2, 3), index=np.array([0, 2])),
        s.case(s.normal(3), s.normal(1), index=np.array([3])),
    ],
)  # fmt: skip


# -- taking out --------------------------------------------------------------------------------------------------------


def getitem(input: Tensor, index: Any) -> Tensor:
    """`input[index]`.

    Raises:
        TrainerIndexError: the index leads outside; it says value, dimension and size.
        ShapeError: a mask does not fit, or arrays do not broadcast.
    """
    kind = type(index)
    if kind is int or kind is slice:
        return apply_one(GETITEM, input, index=index)
    index, advanced = plain_index(index, input.data.shape)
    return apply_one(TAKE_AT if advanced else GETITEM, input, index=index)


def _at(name: str, input: Tensor, dim: int, index: Any) -> tuple[Any, ...]:
    """The index that names something along one dimension."""
    return (*(slice(None),) * dimension(name, input, dim), index)


def select(input: Tensor, dim: int, index: int) -> Tensor:
    """One slice along a dimension, without it: a view."""
    return getitem(input, _at("select", input, dim, int(index)))


def narrow(input: Tensor, dim: int, start: int | Tensor, length: int) -> Tensor:
    """`length` elements along a dimension, from `start` on: a view."""
    at = dimension("narrow", input, dim)
    size = input.shape[at]
    if isinstance(start, Tensor) and start.dtype.kind not in "iu":
        raise TypeError(f"narrow: start must be a whole number, not {start.dtype.name}")
    start = int(start)
    first = start + size if start < 0 else start
    if not 0 <= first <= first + length <= size:
        raise TrainerIndexError(
            f"narrow: {length} elements from {start} on are not within dimension {dim}, which has size {size}"
        )
    return getitem(input, (*(slice(None),) * at, slice(first, first + length)))


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices along a dimension that a vector of indices names."""
    if index.ndim > 1:
        raise ShapeError(f"index_select: the index must be a vector, not of shape {index.shape}")
    if not input.ndim:
        return index_select(reshape(input, 1), dim, index).reshape(())
    return getitem(input, _at("index_select", input, dim, reshape(index, -1) if not index.ndim else index))


def take(input: Tensor, index: Tensor) -> Tensor:
    """The elements at places counted in row-major order, in the index's shape."""
    return getitem(ravel(input), index)


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where the mask holds, as a vector; both are broadcast."""
    _require_mask("masked_select", mask)
    if input.shape != mask.shape:
        input, mask = broadcast_tensors(input, mask)
    return getitem(input, mask) if input.ndim else getitem(reshape(input, 1), reshape(mask, 1))


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """The places of the elements that are not zero: one row each, or with `as_tuple` a vector for each dimension."""
    xp = array_module(input.data)
    if not input.ndim:
        count = int(input.data != 0)
        return (wrap(xp.zeros(count, np.int64)),) if as_tuple else wrap(xp.zeros((count, 0), np.int64))
    found = [places.astype(np.int64, copy=False) for places in input.data.nonzero()]
    return tuple(map(wrap, found)) if as_tuple else wrap(xp.stack(found, 1))


def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """Places counted in row-major order as one tensor of indices for each dimension of a tensor of this shape.

    Raises:
        TrainerIndexError: a place is outside.
    """
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if indices.dtype.kind not in "iu":
        raise TypeError(f"unravel_index: indices must be integers, not {indices.dtype.name}")
    try:
        check_range(indices.data, 0, math.prod(sizes))
    except IndexError as error:
        raise TrainerIndexError(f"unravel_index: shape {sizes} taken as one dimension: {error}") from None
    xp = array_module(indices.data)
    return tuple(wrap(xp.asarray(part)) for part in xp.unravel_index(indices.data, sizes))


def argwhere(input: Tensor) -> Tensor:
    """The places of the elements that are not zero, one row each."""
    return nonzero(input)  # type: ignore[no-any-return]


# -- other values at some places ---------------------------------------------------------------------------------------


def index_put(input: Tensor, indices: Sequence[Any], values: Operand, accumulate: bool = False) -> Tensor:
    """A copy in which `copy[indices]` is `values`, or with `accumulate` has them added.

    Without `accumulate`, of two values for one place the last one stays.
    """
    if not accumulate:
        return assign(input, tuple(indices), values)
    index, _ = plain_index(tuple(slice(None) if part is None else part for part in indices), input.shape)
    return apply(INDEX_ADD, input, values, index=index)  # type: ignore[no-any-return]


def _check_source(name: str, input: Tensor, at: int, index: Tensor, source: Tensor) -> None:
    if index.ndim > 1:
        raise ShapeError(f"{name}: the index must be a vector, not of shape {index.shape}")
    fitting = (*input.shape[:at], index.data.size, *input.shape[at + 1 :]) if input.ndim else ()
    if source.dtype != input.dtype:
        raise TypeError(f"{name}: source holds {source.dtype.name}, input {input.dtype.name}: they must be equal")
    if source.shape != fitting and (source.ndim or index.data.size != 1 or input.ndim > 1):
        raise ShapeError(
            f"{name}: source of shape {source.shape} does not fit input of shape {input.shape} with {index.data.size} "
            f"indices in dimension {at}: it must have shape {fitting}"
        )


def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """A copy in which `alpha` times the slices of `source` are added to the slices that `index` names."""
    if not input.ndim:
        return index_add(reshape(input, 1), dim, reshape(index, -1), reshape(source, -1), alpha=alpha).reshape(())
    at = dimension("index_add", input, dim)
    _check_source("index_add", input, at, index, source)
    place, _ = plain_index((*(slice(None),) * at, reshape(index, -1)), input.shape)
    return apply(INDEX_ADD, input, source if alpha == 1 else source * alpha, index=place)  # type: ignore[no-any-return]


@autocasts("widest on cpu")
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """A copy in which the slices that `index` names are those of `source`."""
    if not input.ndim:
        return index_copy(reshape(input, 1), dim, reshape(index, -1), reshape(source, -1)).reshape(())
    at = dimension("index_copy", input, dim)
    _check_source("index_copy", input, at, index, source)
    return assign(input, (*(slice(None),) * at, reshape(index, -1)), source)


def index_fill(input: Tensor, dim: int, index: Tensor, value: Operand) -> Tensor:
    """A copy in which the slices that `index` names hold one value."""
    if not input.ndim:
        return index_fill(reshape(input, 1), dim, reshape(index, -1), value).reshape(())
    if isinstance(value, Tensor) and value.ndim:
        raise ShapeError(
            f"index_fill: value must be a number or a tensor without dimensions, not of shape {value.shape}"
        )
    return assign(input, _at("index_fill", input, dim, reshape(index, -1)), value)


def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """A copy in which the elements at places counted in row-major order are those of `source`, or have them added."""
    if index.data.size != source.data.size:
        raise ShapeError(
            f"put: {index.data.size} indices, of shape {index.shape}, for {source.data.size} values, of shape "
            f"{source.shape}"
        )
    flat = index_put(ravel(input), (ravel(index),), ravel(source), accumulate)
    return reshape(flat, input.shape)


def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """A copy in which one slice along a dimension is `src`."""
    return _replace("select_scatter", input, src, _at("select_scatter", input, dim, int(index)))


def slice_scatter(
    input: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """A copy in which the elements from `start` to `end` along a dimension are `src`."""
    return _replace("slice_scatter", input, src, _at("slice_scatter", input, dim, slice(start, end, step)))


def _replace(name: str, input: Tensor, src: Tensor, index: tuple[Any, ...]) -> Tensor:
    place = index_shape(input.shape, index=index)
    if src.shape != place:
        raise ShapeError(f"{name}: src has shape {src.shape}, the place it goes to {place}; they must be equal")
    return assign(input, index, src)


# -- by mask -----------------------------------------------------------------------------------------------------------


def _require_mask(name: str, mask: Tensor) -> None:
    if mask.dtype != np.bool_:
        raise TypeError(f"{name}: the mask must hold booleans, not {mask.dtype.name}")


def masked_fill(input: Tensor, mask: Tensor, value: Operand) -> Tensor:
    """`value` where the mask holds, `input` elsewhere, in the dtype of `input`."""
    _require_mask("masked_fill", mask)
    if isinstance(value, Tensor):
        if value.ndim:
            raise ShapeError(f"masked_fill: value must have no dimensions, not shape {value.shape}")
        if value.dtype.kind == "c" and input.dtype.kind != "c":
            raise TypeError(f"masked_fill: {value.dtype.name} numbers do not fit into {input.dtype.name}")
        value = value.to(input.dtype)
    elif isinstance(value, complex) and input.dtype.kind != "c":
        raise TypeError(f"masked_fill: {value} is no value of {input.dtype.name}")
    elif input.dtype.kind == "b":
        value = bool(value)
    elif isinstance(value, float) and input.dtype.kind in "iu":
        if value != int(value):
            raise TypeError(f"masked_fill: {value} is no value of {input.dtype.name}")
        value = int(value)
    filled: Tensor = where(mask, value, input)
    return filled


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """A copy in which the elements where the mask holds are, one after the other, those of `source`.

    Raises:
        ShapeError: `source` has too few.
    """
    _require_mask("masked_scatter", mask)
    if input.shape != mask.shape:
        input, mask = broadcast_tensors(input, mask)
    count = int(mask.data.sum())
    if count > source.data.size:
        raise ShapeError(
            f"masked_scatter: the mask holds {count} times, but source has only {source.data.size} elements"
        )
    if not input.ndim:
        return reshape(masked_scatter(reshape(input, 1), reshape(mask, 1), source), ())
    return assign(input, mask, getitem(ravel(source), slice(0, count)))
