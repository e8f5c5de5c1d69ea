"""Copies with other values at some places: by index, by slice, by mask.

`assign`, of `inplace.py`, is what they come to; values that are added have an op of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.autograd.graph import Operand
from cordee.trainer.autograd.record import Shape, op
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.elementwise import where
from cordee.trainer.ops.indexing import at_dimension, getitem, require_mask
from cordee.trainer.ops.inplace import assign
from cordee.trainer.ops.places import check_inside, index_shape, plain_index
from cordee.trainer.ops.repetition import broadcast_tensors
from cordee.trainer.ops.shape import dimension, ravel, reshape
from cordee.trainer.ops.writing import add_at
from cordee.trainer.tensors import Tensor

__all__ = [
    "index_add", "index_copy", "index_fill", "index_put", "masked_fill", "masked_scatter", "put", "select_scatter",
    "slice_scatter",
]  # fmt: skip

METHODS = "index_add index_copy index_fill index_put masked_fill masked_scatter put select_scatter slice_scatter"
INPLACE = "index_add index_copy index_fill index_put masked_fill masked_scatter put"


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


# -- other values at some places ---------------------------------------------------------------------------------------


def index_put(input: Tensor, indices: Sequence[Any], values: Operand, accumulate: bool = False) -> Tensor:
    """A copy in which `copy[indices]` is `values`, or with `accumulate` has them added.

    Without `accumulate`, of two values for one place the last one stays.
    """
    if not accumulate:
        return assign(input, tuple(indices), values)
    index, _ = plain_index(tuple(slice(None) if part is None else part for part in indices), input.shape)
    return INDEX_ADD.run(input, values, index=index)


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
    return INDEX_ADD.run(input, source if alpha == 1 else source * alpha, index=place)


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
    return assign(input, at_dimension("index_fill", input, dim, reshape(index, -1)), value)


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
    return _replace("select_scatter", input, src, at_dimension("select_scatter", input, dim, int(index)))


def slice_scatter(
    input: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """A copy in which the elements from `start` to `end` along a dimension are `src`."""
    return _replace("slice_scatter", input, src, at_dimension("slice_scatter", input, dim, slice(start, end, step)))


def _replace(name: str, input: Tensor, src: Tensor, index: tuple[Any, ...]) -> Tensor:
    place = index_shape(input.shape, index=index)
    if src.shape != place:
        raise ShapeError(f"{name}: src has shape {src.shape}, the place it goes to {place}; they must be equal")
    return assign(input, index, src)


# -- by mask -----------------------------------------------------------------------------------------------------------


def masked_fill(input: Tensor, mask: Tensor, value: Operand) -> Tensor:
    """`value` where the mask holds, `input` elsewhere, in the dtype of `input`."""
    require_mask("masked_fill", mask)
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
    require_mask("masked_scatter", mask)
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
