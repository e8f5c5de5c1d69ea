"""Taking elements out by index, and putting gradients back.

An index is what NumPy takes: numbers, slices, `...`, `None`, boolean masks, integer arrays, lists or tensors. Numbers
and slices alone give a view (`getitem`); anything else a copy (`take_at`). `put` is the gradient of both. Where an
index names an element twice, its gradients add up, always in the same order. Copies with other
values at some places are in `replacing.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.record import Sampler, Shape, op
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.ops.lines import are_lines, last_alone, take_from_lines
from cordee.trainer.ops.places import check_inside, check_range, index_shape, plain_index
from cordee.trainer.ops.repetition import broadcast_tensors
from cordee.trainer.ops.shape import dimension, ravel, reshape
from cordee.trainer.ops.writing import add_at
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "argwhere", "getitem", "index_select", "masked_select", "narrow", "nonzero", "select", "take", "unravel_index",
]  # fmt: skip

METHODS = "argwhere index_select masked_select narrow nonzero select take"


# -- the records -------------------------------------------------------------------------------------------------------


def _getitem(xp: Any, a: Any, *, index: Any) -> Any:
    out = a[index]
    if isinstance(out, np.generic):  # NumPy gives a number, which shares no memory
        out = a[(*index, ...) if type(index) is tuple else (index, ...)]
    return out


def _take_at(xp: Any, a: Any, *, index: Any) -> Any:
    check_inside(xp, a.shape, index)
    places = last_alone(a.shape, index)
    if places is not None and are_lines(xp, a, places):
        return take_from_lines(xp, a.reshape(-1, a.shape[-1]), places).reshape(*a.shape[:-1], places.size)
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


# -- taking out --------------------------------------------------------------------------------------------------------


def getitem(input: Tensor, index: Any) -> Tensor:
    """`input[index]`.

    Raises:
        TrainerIndexError: the index leads outside; it says value, dimension and size.
        ShapeError: a mask does not fit, or arrays do not broadcast.
    """
    kind = type(index)
    if kind is int or kind is slice:
        return GETITEM.run(input, index=index)
    index, advanced = plain_index(index, input.data.shape)
    return (TAKE_AT if advanced else GETITEM).run(input, index=index)


def at_dimension(name: str, input: Tensor, dim: int, index: Any) -> tuple[Any, ...]:
    """The index that names something along one dimension."""
    return (*(slice(None),) * dimension(name, input, dim), index)


def select(input: Tensor, dim: int, index: int) -> Tensor:
    """One slice along a dimension, without it: a view."""
    return getitem(input, at_dimension("select", input, dim, int(index)))


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
    return getitem(input, at_dimension("index_select", input, dim, reshape(index, -1) if not index.ndim else index))


def take(input: Tensor, index: Tensor) -> Tensor:
    """The elements at places counted in row-major order, in the index's shape."""
    return getitem(ravel(input), index)


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where the mask holds, as a vector; both are broadcast."""
    require_mask("masked_select", mask)
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


def require_mask(name: str, mask: Tensor) -> None:
    if mask.dtype != np.bool_:
        raise TypeError(f"{name}: the mask must hold booleans, not {mask.dtype.name}")
