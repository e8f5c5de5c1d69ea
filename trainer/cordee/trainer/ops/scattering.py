"""Gather and scatter: elements taken from, or brought to, the places along one dimension that an index tensor names.

The index may be smaller than the tensor in the other dimensions: it then speaks of the corner at 0. Indices are counted
from the front only, as in PyTorch. What is computed, and how it is differentiated, is in `along.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.array import array_module, is_float
from cordee.trainer.autograd.graph import Operand
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.along import GATHER, REDUCTIONS, SCATTER, SCATTER_ADD, SCATTER_REDUCE
from cordee.trainer.ops.repetition import broadcast_to
from cordee.trainer.ops.shape import dimension, ravel, reshape
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["gather", "index_reduce", "scatter", "scatter_add", "scatter_reduce", "take_along_dim"]

METHODS = "gather index_reduce scatter scatter_add scatter_reduce take_along_dim"
INPLACE = "index_reduce scatter scatter_add scatter_reduce"


def _require_index(name: str, index: Tensor, input: Tensor | None = None, src: Any = None) -> None:
    if index.dtype.kind not in "iu":
        raise TypeError(f"{name}: index must hold integers, not {index.dtype.name}")
    if input is not None and isinstance(src, Tensor) and src.dtype != input.dtype:
        raise TypeError(f"{name}: src holds {src.dtype.name}, input {input.dtype.name}: they must be equal")


def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """`out[i][j] = input[i][index[i][j]]` for dim 1, and so on, in the index's shape.

    Raises:
        ShapeError: the index has other dimensions, or is larger than `input` in one that is not `dim`.
        TrainerIndexError: an index is outside `dim`.
    """
    _require_index("gather", index)
    if not index.data.size and index.ndim != input.ndim:
        return reshape(ravel(input)[:0], index.shape)
    if not input.ndim or not index.ndim:
        return reshape(GATHER.run(_vector(input), _vector(index), axis=dim), index.shape)
    return GATHER.run(input, index, axis=dim)


def _vector(value: Any) -> Any:
    """A tensor without dimensions counts as one of one element."""
    return reshape(value, 1) if isinstance(value, Tensor) and not value.ndim else value


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """`gather` with broadcasting: along a dimension, or of all elements in row-major order."""
    _require_index("take_along_dim", indices)
    if dim is None:
        return gather(ravel(input), 0, ravel(indices))
    if indices.ndim != input.ndim:
        raise ShapeError(
            f"take_along_dim: indices have {indices.ndim} dimensions, the input {input.ndim}; they must be equal"
        )
    at = dimension("take_along_dim", input, dim)
    both = np.broadcast_shapes(
        (*input.shape[:at], 1, *input.shape[at + 1 :]), (*indices.shape[:at], 1, *indices.shape[at + 1 :])
    )
    size = input.shape[at]
    source = broadcast_to(input, (*both[:at], size, *both[at + 1 :]))
    if indices.dtype.kind == "i":  # here, unlike in gather, negative ones count from the end
        indices = wrap(indices.data + (indices.data < 0) * indices.dtype.type(size))
    return gather(source, at, broadcast_to(indices, (*both[:at], indices.shape[at], *both[at + 1 :])))


def scatter(
    input: Tensor, dim: int, index: Tensor, src: Operand | None = None, *, value: Operand | None = None,
    reduce: str | None = None,
) -> Tensor:  # fmt: skip
    """A copy with `copy[i][index[i][j]] = src[i][j]` for dim 1, and so on; `src` may be a number.

    Of two values for one place the last one stays. `reduce`: "add" or "multiply" instead.
    """
    given = value if src is None else src
    _require_index("scatter", index, input, given)
    if given is None:
        raise TypeError("scatter: needs src, a tensor or a number")
    if reduce is not None:
        if reduce not in ("add", "multiply"):
            raise ValueError(f"scatter: reduce is 'add' or 'multiply', not {reduce!r}; scatter_reduce has more")
        spread = given if isinstance(given, Tensor) and given.ndim else _filled(index, given, input)
        return scatter_reduce(input, dim, index, spread, "sum" if reduce == "add" else "prod")
    if isinstance(given, Tensor) and not given.ndim and index.ndim:
        given = broadcast_to(given, index.shape)
    if not input.ndim or not index.ndim:
        return reshape(SCATTER.run(_vector(input), _vector(index), _vector(given), axis=dim), input.shape)
    return SCATTER.run(input, index, given, axis=dim)


def _filled(index: Tensor, value: Any, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return broadcast_to(value, index.shape)
    return wrap(array_module(like.data).full(index.shape, value, like.dtype))


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy with `src[i][j]` added to `copy[i][index[i][j]]` for dim 1, and so on."""
    _require_index("scatter_add", index, input, src)
    if not input.ndim or not index.ndim:
        return reshape(SCATTER_ADD.run(_vector(input), _vector(index), _vector(src), axis=dim), input.shape)
    return SCATTER_ADD.run(input, index, src, axis=dim)


def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """A copy in which each place holds the "sum", "prod", "mean", "amax" or "amin" of what the index brings to it.

    With `include_self`, of that and what was there before. Places that the index does not name stay as they are. Of
    equal extremes, each gets its share of the gradient. (The second derivative of "prod" counts as zero between two
    zeros brought to one place.)

    Raises:
        ValueError: `reduce` is none of these.
        ShapeError, TrainerIndexError: as for `gather`; and `src` is smaller than the index.
    """
    if reduce not in ("sum", "mean", *REDUCTIONS):
        raise ValueError(f"scatter_reduce: reduce is one of 'sum', 'prod', 'mean', 'amax', 'amin', not {reduce!r}")
    if not input.ndim or not index.ndim:
        out = scatter_reduce(_vector(input), dim, _vector(index), _vector(src), reduce, include_self=include_self)
        return reshape(out, input.shape)
    _require_index("scatter_reduce", index, input, src)
    base = input if include_self else scatter(input, dim, index, _identity(reduce, input.dtype))
    if reduce in REDUCTIONS:
        return SCATTER_REDUCE.run(base, index, src, axis=dim, reduce=reduce)
    total = scatter_add(base, dim, index, src)
    if reduce == "sum":
        return total
    xp = array_module(input.data)
    before = wrap(xp.ones(input.shape, input.dtype) if include_self else xp.zeros(input.shape, input.dtype))
    found = scatter_add(before, dim, index, wrap(xp.ones(index.shape, input.dtype))).data
    count = wrap(xp.maximum(found, found.dtype.type(1)))
    return total / count if is_float(input.dtype) else total // count


def _identity(reduce: str, dtype: np.dtype[Any]) -> float:
    """What changes nothing when it is reduced with something."""
    if reduce in ("sum", "mean"):
        return 0
    if dtype.kind == "b":
        return reduce != "amax"
    if reduce == "prod":
        return 1
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).min if reduce == "amax" else np.iinfo(dtype).max)
    return -math.inf if reduce == "amax" else math.inf


def index_reduce(
    input: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """`scatter_reduce` of whole slices: "prod", "mean", "amax" or "amin" of those that a vector of indices names."""
    if reduce not in ("mean", *REDUCTIONS):
        raise ValueError(f"index_reduce: reduce is one of 'prod', 'mean', 'amax', 'amin', not {reduce!r}")
    if not input.ndim:
        flat, part = reshape(input, 1), reshape(source, -1)
        return reshape(index_reduce(flat, dim, index, part, reduce, include_self=include_self), ())
    at = dimension("index_reduce", input, dim)
    if index.ndim > 1 or source.ndim != input.ndim or source.shape[at] != index.data.size:
        raise ShapeError(
            f"index_reduce: source of shape {source.shape} and index of shape {index.shape} do not fit dimension {dim} "
            f"of shape {input.shape}: source has one slice for each index"
        )
    column = reshape(index, (*(1,) * at, -1, *(1,) * (input.ndim - at - 1)))
    return scatter_reduce(input, at, broadcast_to(column, source.shape), source, reduce, include_self=include_self)
