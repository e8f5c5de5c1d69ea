"""Order: sorting, the k largest, unique values, places in a sorted sequence.

Values are gathered by the indices that sort, so gradients go where values came from. Sorting is stable here always; NaN
counts as larger than every number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.array import array_module, as_array
from cordee.trainer.autograd.graph import Operand
from cordee.trainer.autograd.record import op
from cordee.trainer.errors import ShapeError
from cordee.trainer.kernels import kernel
from cordee.trainer.ops.axes import ValuesAndIndices, in_one_dimension, plain, same_shape
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "argsort", "bucketize", "isin", "kthvalue", "msort", "searchsorted", "sort", "topk", "unique",
    "unique_consecutive",
]  # fmt: skip

METHODS = "argsort kthvalue msort sort topk unique unique_consecutive"


_FEWEST = 2048
"""Elements from which on numbers that hold value and place are sorted."""


def _keys(xp: Any, a: Any, axis: int, descending: bool) -> Any:
    """Whole numbers that are in the elements' order, those of equal ones in the order of their places, which are the
    lower halves; with the dimension at the end. None: of what sorts as fast itself.

    NumPy sorts whole numbers, and finds the smallest, by the CPU's vectors; places it sorts one by one.
    """
    if xp is not np or a.dtype != np.float32 or a.size < _FEWEST or not -a.ndim <= axis < a.ndim:
        return None
    lines = np.moveaxis(a, axis, -1) + np.float32(0.0)  # a new array, in which -0 is 0
    bits = lines.view(np.int32)
    np.bitwise_xor(bits, (bits >> 31) & 0x7FFFFFFF, out=bits)
    missing = np.moveaxis(a, axis, -1)
    np.copyto(bits, np.iinfo(np.int32).max, where=missing != missing)  # noqa: PLR0124 (NaN)
    if descending:
        np.invert(bits, out=bits)
    return (bits.astype(np.int64) << 32) | np.arange(lines.shape[-1])


def _places(keys: Any, axis: int) -> Any:
    """Where elements were, by their keys."""
    return np.ascontiguousarray(np.moveaxis(keys & 0xFFFFFFFF, -1, axis))


@kernel
def _first_places(xp: Any, a: Any, *, k: int, descending: bool) -> Any:
    """Where the first k elements in order are, along the last dimension."""
    keys = _keys(xp, a, -1, descending) if 0 < k < a.shape[-1] else None
    if keys is None:
        return _argsort(xp, a, axis=-1, descending=descending)[..., :k]
    keys = np.partition(keys, k - 1, axis=-1)[..., :k]
    keys.sort(axis=-1)
    return _places(keys, -1)


def _first(input: Tensor, k: int, dim: int, descending: bool) -> Tensor:
    xp = array_module(input.data)
    places = _first_places(xp, xp.moveaxis(input.data, dim, -1), k=k, descending=descending)
    return wrap(xp.ascontiguousarray(xp.moveaxis(places, -1, dim)))


def place_of_rank(input: Tensor, rank: int, dim: int) -> Tensor:
    """Where the element is that so many come before, in order; the dimension stays, with size 1."""
    keys = _keys(array_module(input.data), input.data, dim, False)
    if keys is None:
        return argsort(input, dim).narrow(dim, rank, 1)
    return wrap(_places(np.partition(keys, rank, axis=-1)[..., rank : rank + 1], dim))


def _argsort(xp: Any, a: Any, *, axis: int, descending: bool) -> Any:
    if not a.ndim:
        return xp.zeros((), np.int64) + 0 * _checked(a, axis)
    keys = _keys(xp, a, axis, descending)
    if keys is not None:
        keys.sort(axis=-1)
        return _places(keys, axis)
    if not descending:
        return a.argsort(axis=axis, kind="stable")
    # Not by sorting -a: the smallest integer, and unsigned ones, have no negative. Backwards, and backwards again,
    # equal elements keep their order.
    backwards = xp.flip(a, axis).argsort(axis=axis, kind="stable")
    return xp.flip(a.shape[axis] - 1 - backwards, axis)


def _checked(a: Any, axis: int) -> int:
    same_shape(a.shape, axis=axis)
    return axis


ARGSORT = op(
    "argsort", "the indices that sort along a dimension; equal elements keep their order",
    forward=_argsort, vjps=(None,), saves=("",), shape=same_shape, dtype="int64",
    reference=lambda a, axis, descending: np.argsort(-a if descending else a, axis, kind="stable")
    if np.ndim(a) else np.zeros((), int),
    samples=lambda s: [
        s.case(s.distinct(2, 3), axis=-1, descending=False),
        s.case(s.distinct(3, 2), axis=0, descending=True),
        s.case(s.distinct(), axis=0, descending=False),
        s.case(s.distinct(2, 0), axis=1, descending=True),
    ],
    errors=lambda s: [s.case(s.normal(2, 3), axis=2, descending=False)],
)  # fmt: skip


def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The indices that sort the tensor along a dimension; equal elements keep their order (whatever `stable`)."""
    return plain(ARGSORT, input, axis=dim, descending=descending)


def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> ValuesAndIndices:
    """The elements in order along a dimension, and where they were; equal ones keep their order (whatever `stable`)."""
    if not input.ndim:
        return in_one_dimension(sort, input)  # type: ignore[no-any-return]
    indices = argsort(input, dim, descending)
    return ValuesAndIndices(input.gather(dim, indices), indices)


def msort(input: Tensor) -> Tensor:
    """The elements in order along the first dimension."""
    return sort(input, 0).values


def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> ValuesAndIndices:
    """The k largest (or smallest) elements along a dimension, in order, and where they are.

    Raises:
        ValueError: there are fewer than k.
    """
    if not input.ndim:
        return in_one_dimension(topk, input, k)  # type: ignore[no-any-return]
    if not 0 <= k <= input.shape[dim]:
        raise ValueError(f"topk: k is {k}, but dimension {dim} of shape {input.shape} has only {input.shape[dim]}")
    indices = _first(input, k, dim, largest)
    return ValuesAndIndices(input.gather(dim, indices), indices)


def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> ValuesAndIndices:
    """The k-th smallest element (from 1) along a dimension, and where it is.

    Raises:
        ValueError: there are fewer than k.
    """
    if not input.ndim:
        return in_one_dimension(kthvalue, input, k, 0, True)  # type: ignore[no-any-return]
    if not 1 <= k <= input.shape[dim]:
        raise ValueError(f"kthvalue: k is {k}, but dimension {dim} of shape {input.shape} has {input.shape[dim]}")
    indices = place_of_rank(input, k - 1, dim)
    values = input.gather(dim, indices)
    return ValuesAndIndices(values, indices) if keepdim else ValuesAndIndices(values.squeeze(dim), indices.squeeze(dim))


# -- unique ------------------------------------------------------------------------------------------------------------


def _one_or_all(values: Any, inverse: Any, counts: Any) -> Any:
    results = [wrap(x) for x in (values, inverse, counts) if x is not None]
    return results[0] if len(results) == 1 else tuple(results)


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The distinct elements (or slices along a dimension) in order; on demand, where each element went, and counts.

    Returns `values`, or a tuple of `values` and what was asked for. NaNs are all distinct.
    """
    data = input.data
    xp = array_module(data)
    values, inverse, counts = xp.unique(data, return_inverse=True, return_counts=True, axis=dim, equal_nan=False)
    inverse = inverse.reshape(data.shape if dim is None else (-1,)).astype(np.int64, copy=False)
    return _one_or_all(values, inverse if return_inverse else None, counts if return_counts else None)


def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The elements (or slices along a dimension) without immediate repetitions.

    Returns `values`, or a tuple of `values` and what was asked for: where each element went, and counts.
    """
    data = input.data
    xp = array_module(data)
    lines = data.reshape(-1) if dim is None else xp.moveaxis(data, dim, 0)
    n = len(lines)
    new = xp.ones(n, bool)
    if n > 1:
        new[1:] = (lines[1:] != lines[:-1]).reshape(n - 1, -1).any(1)
    values = lines[new] if dim is None else xp.moveaxis(lines[new], 0, dim)
    inverse = new.cumsum() - 1
    starts = new.nonzero()[0]
    counts = xp.diff(xp.concatenate([starts, xp.asarray([n])]))
    inverse = inverse.reshape(data.shape) if dim is None else inverse
    return _one_or_all(
        xp.ascontiguousarray(values), inverse if return_inverse else None, counts if return_counts else None
    )


# -- places ------------------------------------------------------------------------------------------------------------


def isin(elements: Operand, test_elements: Operand, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Where the elements are among the test elements (`invert`: are not)."""
    among, tests = (x.data if isinstance(x, Tensor) else as_array(x) for x in (elements, test_elements))
    xp = array_module(among, tests)
    return wrap(xp.asarray(xp.isin(among, tests, assume_unique=assume_unique, invert=invert)))


def searchsorted(
    sorted_sequence: Tensor,
    input: Operand,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Where the values belong in a sorted sequence: before (`right`: after) those equal to them.

    Shapes: sequence (n,) and values of any shape, or (..., n) and (..., m) with the same leading dimensions.

    Raises:
        ShapeError: other shapes.
        ValueError: `side` is not "left" or "right", or contradicts `right`.
    """
    if side not in (None, "left", "right") or (side == "left" and right):
        raise ValueError(
            f"searchsorted: side is 'left' or 'right', and right={right} must not contradict side={side!r}"
        )
    where = "right" if right or side == "right" else "left"
    line = sorted_sequence.data
    xp = array_module(line)
    values = xp.asarray(input.data if isinstance(input, Tensor) else input)
    if sorter is not None:
        line = xp.take_along_axis(line, sorter.data, -1)
    if line.ndim == 1:
        found = xp.searchsorted(line, values.reshape(-1), side=where).reshape(values.shape)
    elif line.shape[:-1] != values.shape[:-1]:
        raise ShapeError(
            f"searchsorted: a sequence of shape {line.shape} and values of shape {values.shape} must agree in all but "
            "the last dimension"
        )
    else:
        number = math.prod(line.shape[:-1])
        rows, wanted = line.reshape(number, line.shape[-1]), values.reshape(number, values.shape[-1])
        places = [xp.searchsorted(row, value, side=where) for row, value in zip(rows, wanted, strict=True)]
        found = xp.stack(places).reshape(values.shape) if places else xp.zeros(values.shape, np.int64)
    return wrap(xp.asarray(found, np.int32 if out_int32 else np.int64))


def bucketize(input: Operand, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """The number i of the bucket that each value falls into: boundaries[i - 1] < value ≤ boundaries[i].

    With `right`: ≤ on the left, and < on the right.
    """
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)
