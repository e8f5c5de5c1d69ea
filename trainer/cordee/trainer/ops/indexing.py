"""Taking elements out by index, and putting gradients back.

An index is what NumPy takes: numbers, slices, `...`, `None`, boolean masks, integer arrays or tensors. `getitem` and
`put` are each other's gradients. Where an index names an element twice, its gradients add up, always in the same order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.graph import apply_one
from cordee.trainer.autograd.record import Sampler, op, shape_of
from cordee.trainer.errors import GraphError, ShapeError, TrainerIndexError
from cordee.trainer.ops.elementwise import where
from cordee.trainer.ops.shape import dimension
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "embedding",
    "gather",
    "getitem",
    "index_select",
    "masked_fill",
    "masked_select",
    "narrow",
    "nonzero",
    "select",
    "setitem",
]

METHODS = "gather index_select masked_fill masked_select narrow nonzero select"
INPLACE = "masked_fill"


def _is_basic(index: Any) -> bool:
    """Whether the index names each element at most once, because it holds only numbers and slices."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        part is None or part is Ellipsis or (isinstance(part, (int, slice)) and not isinstance(part, bool))
        for part in parts
    )


def _put(xp: Any, a: Any, *, index: Any, shape: tuple[int, ...]) -> Any:
    out = xp.zeros(shape, a.dtype)
    _add_at(xp, out, a, index)
    return out


def _add_at(xp: Any, out: Any, a: Any, index: Any) -> None:
    """Adds to the elements that the index names, as often as it names them."""
    if _is_basic(index):
        out[index] += a
    elif xp is np and isinstance(index, np.ndarray) and index.dtype.kind != "b" and a.size > index.size > 8:
        _add_rows(out, a.reshape(index.size, -1), index.reshape(-1))
    else:
        xp.add.at(out, index, a)


def _add_rows(out: Any, a: Any, rows: Any) -> None:
    """Adds whole rows: sorted by where they go, then summed in runs. Several times faster than `np.add.at`.

    `out` may have any layout: a gradient that was added up from transposed ones is transposed itself, and a reshape of
    it would be a copy.
    """
    rows = rows.astype(np.intp)  # a narrow integer could not hold the number of rows
    rows[rows < 0] += out.shape[0]
    order = rows.argsort(kind="stable")
    rows = rows[order]
    starts = np.concatenate(([0], np.flatnonzero(rows[1:] != rows[:-1]) + 1))
    out[rows[starts]] += np.add.reduceat(a[order], starts, axis=0).reshape(-1, *out.shape[1:])


def _add_grad(F: Any, dest: Any, g: Any, out: Any, a: Any, *, index: Any) -> None:
    _add_at(F.xp, dest, g, index)


def _index_cases(s: Sampler) -> list[Any]:
    return [
        s.case(s.normal(3, 4), index=(slice(None, None, 2), 1)),
        s.case(s.normal(3, 4), index=(Ellipsis, None, slice(1, 3))),
        s.case(s.normal(3, 4), index=2),
        s.case(s.normal(3, 4), index=np.array([0, 2, 0])),
        s.case(s.normal(3, 4), index=(np.array([0, 2, 0]), np.array([1, 1, 1]))),
        s.case(s.normal(3, 4), index=(slice(None), np.array([[0, 3], [3, 3]]))),
        s.case(s.normal(3, 2), index=np.array([[True, False], [False, True], [True, True]])),
        s.case(s.normal(3, 2), index=np.array([True, False, True])),
    ]


def _explain_index(a: tuple[int, ...], *, index: Any) -> str | None:
    parts = index if isinstance(index, tuple) else (index,)
    if Ellipsis in [p for p in parts if not hasattr(p, "shape")]:
        return None
    dim = 0
    for part in parts:
        if part is None:
            continue
        if dim >= len(a):
            return f"{len(parts)} indices for a tensor of {len(a)} dimensions"
        values = np.asarray(part) if isinstance(part, int) or hasattr(part, "shape") else None
        if values is not None and values.dtype.kind == "b":
            if tuple(values.shape) != a[dim : dim + values.ndim]:
                return f"a mask of shape {values.shape} does not fit shape {a}"
            dim += values.ndim
            continue
        if values is not None and values.size and (values.max() >= a[dim] or values.min() < -a[dim]):
            bad = values.max() if values.max() >= a[dim] else values.min()
            return f"index {bad} is outside dimension {dim}, which has size {a[dim]}"
        dim += 1
    return None


GETITEM = op(
    "getitem", "the elements that an index names",
    forward=lambda xp, a, *, index: a[index],
    vjps=(lambda F, g, out, a, *, index: F.put(g, index=index, shape=a),), adds=_add_grad,
    saves=("",), reference=lambda a, index: a[index], samples=_index_cases, explain=_explain_index,
    errors=lambda s: [
        s.case(s.normal(3, 4), index=(0, 4)),
        s.case(s.normal(3), index=np.array([0, 3])),
        s.case(s.normal(3), index=(0, 0)),
    ],
)  # fmt: skip

PUT = op(
    "put", "zeros, and elements added at the places that an index names: the gradient of getitem",
    forward=_put,
    vjps=(lambda F, g, out, a, *, index, shape: F.getitem(g, index=index),),
    saves=("",), reference=lambda a, index, shape: _put(np, a, index=index, shape=shape),
    samples=lambda s: [
        s.case(s.normal(2, 3), index=(slice(0, 2),), shape=(4, 3)),
        s.case(s.normal(3, 4), index=np.array([0, 2, 0]), shape=(3, 4)),
    ],
)  # fmt: skip


def _plain(index: Any) -> Any:
    """The index with tensors and lists replaced by arrays."""
    if type(index) is int or type(index) is slice:
        return index
    if isinstance(index, tuple):
        return tuple(_plain(part) for part in index)
    if isinstance(index, Tensor):
        index = index.data
    elif isinstance(index, list):
        index = np.asarray(index)
    if hasattr(index, "dtype") and index.dtype.kind not in "iub":
        raise TrainerIndexError(f"an index must hold integers or booleans, not {index.dtype.name}")
    return index


def getitem(input: Tensor, index: Any) -> Tensor:
    """`input[index]`."""
    return apply_one(GETITEM, input, index=_plain(index))


def setitem(input: Tensor, index: Any, value: Any) -> None:
    """`input[index] = value`, outside the graph."""
    input._check_writable()
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise GraphError(
                "assigning a tensor that requires a gradient would lose it: build the result by cat() or where()"
            )
        value = value.data
    input.data[_plain(index)] = value


def select(input: Tensor, dim: int, index: int) -> Tensor:
    """One slice along a dimension, without it."""
    return getitem(input, (*(slice(None),) * dimension("select", input, dim), index))


def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """`length` elements along a dimension, from `start` on."""
    at = dimension("narrow", input, dim)
    size = input.shape[at]
    first = start + size if start < 0 else start
    if not 0 <= first <= first + length <= size:
        raise TrainerIndexError(f"narrow: {length} elements from {start} on are more than dimension {dim} has: {size}")
    return getitem(input, (*(slice(None),) * at, slice(first, first + length)))


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices along a dimension that a vector of indices names."""
    return getitem(input, (*(slice(None),) * dimension("index_select", input, dim), index))


def masked_fill(input: Tensor, mask: Tensor, value: float) -> Tensor:
    """`value` where the mask holds, `input` elsewhere."""
    return where(mask, value, input)


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where the mask holds, as a vector."""
    return getitem(input, mask)


def nonzero(input: Tensor) -> Tensor:
    """The indices of the elements that are not zero, one row each."""
    return wrap(array_module(input.data).stack(input.data.nonzero(), 1))


# -- along a dimension -------------------------------------------------------------------------------------------------


def _along(xp: Any, indices: Any, axis: int) -> tuple[Any, ...]:
    """The index that takes, along an axis, the element that `indices` names at every place."""
    grid = list(xp.ogrid[tuple(slice(n) for n in indices.shape)])
    grid[axis] = indices
    return tuple(grid)


def _gather_vjp(F: Any, g: Any, out: Any, a: Any, *, axis: int, indices: Any) -> Any:
    return F.put(g, index=_along(array_module(indices), indices, axis), shape=a)


GATHER = op(
    "gather", "along a dimension, the elements that indices name",
    forward=lambda xp, a, *, axis, indices: a[_along(xp, indices, axis)],
    vjps=(_gather_vjp,),
    saves=("",), reference=lambda a, axis, indices: np.take_along_axis(a, indices, axis),
    samples=lambda s: [
        s.case(s.normal(3, 4), axis=1, indices=s.integers(4, 3, 2)),
        s.case(s.normal(3, 4), axis=0, indices=s.integers(3, 2, 4)),
    ],
    errors=lambda s: [s.case(s.normal(3, 4), axis=1, indices=np.array([[0, 4]] * 3))],
)  # fmt: skip


def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """`out[i][j] = input[i][index[i][j]]` for dim 1, and so on."""
    if index.ndim != input.ndim:
        raise ShapeError(f"gather: the index has {index.ndim} dimensions, the input {input.ndim}; they must be equal")
    return apply_one(GATHER, input, axis=dim, indices=index.data)


# -- embedding ---------------------------------------------------------------------------------------------------------


def _embedding(xp: Any, weight: Any, *, indices: Any) -> Any:
    if indices.size and (indices.min() < 0 or indices.max() >= weight.shape[0]):
        raise IndexError("index out of range")  # a negative one would silently count from the end
    return weight[indices]


def _explain_embedding(weight: tuple[int, ...], *, indices: Any) -> str | None:
    low, high = int(indices.min()), int(indices.max())
    return f"index {low if low < 0 else high} is outside the table, which has rows 0 to {weight[0] - 1}"


def _embedding_vjp(F: Any, g: Any, out: Any, weight: Any, *, indices: Any) -> Any:
    return F.put(g, index=indices, shape=shape_of(weight))


def _write_embedding_grad(F: Any, dest: Any, g: Any, out: Any, weight: Any, *, indices: Any) -> None:
    dest[...] = 0
    _add_at(F.xp, dest, g, indices)


EMBEDDING = op(
    "embedding", "the rows of a table that indices name",
    forward=_embedding, vjps=(_embedding_vjp,), writes=(_write_embedding_grad,), saves=("",),
    reference=lambda weight, indices: weight[indices],
    explain=_explain_embedding,
    samples=lambda s: [
        s.case(s.normal(5, 3), indices=s.integers(5, 2, 4)),
        s.case(s.normal(3, 2), indices=np.array(1)),
    ],
    errors=lambda s: [s.case(s.normal(5, 3), indices=np.array([0, 5])), s.case(s.normal(5, 3), indices=np.array([-1]))],
)  # fmt: skip


def embedding(input: Tensor, weight: Tensor) -> Tensor:
    """The rows of `weight (num_embeddings, dim)` that `input`, of any shape, names."""
    if input.dtype.kind not in "iu":
        raise TypeError(f"embedding: indices must be integers, not {input.dtype.name}")
    return apply_one(EMBEDDING, weight, indices=input.data)
