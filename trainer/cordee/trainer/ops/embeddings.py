"""Embeddings: rows of a table by number, one by one or in bags.

The gradient is a table too, in which rows of the same number add up in the order they were asked for: sorted and
summed in runs, several times faster than adding one by one, with the same bits in every run.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.mode import no_grad
from cordee.trainer.autograd.record import Sampler, Shape, op
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.places import check_range
from cordee.trainer.ops.replacing import index_add
from cordee.trainer.ops.scattering import index_reduce
from cordee.trainer.ops.writing import add_at
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["embedding", "embedding_bag"]


# -- one by one --------------------------------------------------------------------------------------------------------


def _embedding(xp: Any, weight: Any, indices: Any, *, padding_idx: int | None, by_frequency: bool) -> Any:
    check_range(indices, 0, weight.shape[0])  # a negative one would silently count from the end
    return xp.take(weight, indices, axis=0)  # several times as fast as indexing


def _embedding_shape(
    weight: tuple[int, ...], indices: tuple[int, ...], *, padding_idx: int | None, by_frequency: bool
) -> Shape:
    if not weight:
        raise ShapeError("weight must have at least one dimension, of rows")
    return (*indices, *weight[1:])


def _row_weights(xp: Any, indices: Any, rows: int, padding_idx: int | None, by_frequency: bool, dtype: Any) -> Any:
    """By what the gradient of each row that was asked for is multiplied."""
    weights = xp.ones(indices.shape, dtype)
    if by_frequency:
        weights /= xp.bincount(indices.reshape(-1), minlength=rows)[indices].astype(dtype)
    if padding_idx is not None:
        weights *= indices != padding_idx
    return weights


def _weighted(F: Any, g: Any, indices: Any, rows: int, padding_idx: int | None, by_frequency: bool) -> Any:
    if padding_idx is None and not by_frequency:
        return g
    raw = indices if F.raw else indices.data
    weights = _row_weights(array_module(raw), raw, rows, padding_idx, by_frequency, g.dtype)
    return g * weights.reshape(*weights.shape, *(1,) * (g.ndim - weights.ndim))


def _embedding_vjp(
    F: Any, g: Any, out: Any, weight: Any, indices: Any, *, padding_idx: int | None, by_frequency: bool
) -> Any:
    if F.raw and padding_idx is not None and not by_frequency:
        table = F.unembed(g, indices, shape=weight)
        table[padding_idx] = 0
        return table
    return F.unembed(_weighted(F, g, indices, weight[0], padding_idx, by_frequency), indices, shape=weight)


def _write_embedding_grad(
    F: Any, dest: Any, g: Any, out: Any, weight: Any, indices: Any, *, padding_idx: int | None, by_frequency: bool
) -> None:
    dest[...] = 0
    if by_frequency:
        g = _weighted(F, g, indices, weight[0], None, True)
    add_at(F.xp, dest, indices, g)
    if padding_idx is not None:
        dest[padding_idx] = 0


def _cases(s: Sampler) -> list[Any]:
    plain: dict[str, Any] = {"padding_idx": None, "by_frequency": False}
    return [
        s.case(s.normal(5, 3), s.integers(5, 2, 4), **plain),
        s.case(s.normal(3, 2), np.array(1), **plain),
        s.case(s.normal(3, 2), s.integers(3, 12), **plain),
        s.case(s.normal(3, 2), np.zeros((0, 2), np.int64), **plain),
        s.case(s.normal(3), s.integers(3, 4), **plain),
    ]


EMBEDDING = op(
    "embedding", "the rows of a table that indices name",
    forward=_embedding, vjps=(_embedding_vjp, None), writes=(_write_embedding_grad, None), saves=("indices", ""),
    reference=lambda weight, indices, padding_idx, by_frequency: weight[indices],
    shape=_embedding_shape, dtype="first", samples=_cases,
    errors=lambda s: [
        s.case(s.normal(5, 3), np.array([0, 5]), padding_idx=None, by_frequency=False),
        s.case(s.normal(5, 3), np.array([-1]), padding_idx=None, by_frequency=False),
    ],
)  # fmt: skip


def _unembed(xp: Any, a: Any, indices: Any, *, shape: tuple[int, ...]) -> Any:
    out = xp.zeros(shape, a.dtype)
    add_at(xp, out, indices, a)
    return out


def _unembed_shape(a: tuple[int, ...], indices: tuple[int, ...], *, shape: tuple[int, ...]) -> Shape:
    if a != (*indices, *shape[1:]):
        raise ShapeError(f"shape {a} is not that of {indices} rows of a table of shape {shape}")
    return shape


def _unembed_reference(a: Any, indices: Any, shape: tuple[int, ...]) -> Any:
    out = np.zeros(shape)
    np.add.at(out, indices, a)
    return out


UNEMBED = op(
    "unembed", "a table of zeros, with rows added where indices say: the gradient of embedding",
    forward=_unembed,
    vjps=(
        lambda F, g, out, a, indices, *, shape: F.embedding(g, indices, padding_idx=None, by_frequency=False), None,
    ),
    saves=("indices", ""), shape=_unembed_shape, dtype="first", reference=_unembed_reference,
    samples=lambda s: [
        s.case(s.normal(2, 4, 3), s.integers(5, 2, 4), shape=(5, 3)),
        s.case(s.normal(2), np.array(1), shape=(3, 2)),
    ],
    errors=lambda s: [s.case(s.normal(2, 3), s.integers(5, 2), shape=(5, 4))],
)  # fmt: skip


def _padding_row(name: str, padding_idx: int | None, rows: int) -> int | None:
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise ValueError(f"{name}: padding_idx {padding_idx} is no row of a table of {rows}")
    return padding_idx % rows


def embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor:  # fmt: skip
    """The rows of `weight (num_embeddings, dim)` that `input`, whole numbers of any shape, names.

    The row `padding_idx` gets no gradient. With `max_norm`, rows that are asked for and longer (in the norm of order
    `norm_type`) are first shortened, in `weight` itself. With `scale_grad_by_freq`, a row's gradient is divided by how
    often it was asked for. `sparse` is accepted and does nothing: gradients are always whole tables.

    Raises:
        TrainerIndexError: a number is outside the table.
    """
    if input.dtype.kind not in "iu":
        raise TypeError(f"embedding: indices must be integers, not {input.dtype.name}")
    if weight.data.ndim != 2:
        raise ShapeError(f"embedding: weight must be a matrix (num_embeddings, dim), not of shape {weight.shape}")
    if padding_idx is not None:
        padding_idx = _padding_row("embedding", padding_idx, weight.shape[0])
    if max_norm is not None:
        _shorten(weight, input, max_norm, norm_type)
    return EMBEDDING.run(weight, input, padding_idx=padding_idx, by_frequency=scale_grad_by_freq)


def _shorten(weight: Tensor, indices: Tensor, max_norm: float, norm_type: float) -> None:
    """Rows that are too long, brought to the greatest length allowed, in place."""
    xp = array_module(weight.data)
    check_range(indices.data, 0, weight.shape[0])
    asked = xp.unique(indices.data)
    rows = weight.data[asked]
    norms = xp.linalg.norm(rows.astype(xp.result_type(rows.dtype, np.float32)), norm_type, axis=-1)
    long = norms > max_norm
    if not bool(long.any()):
        return
    scale = (max_norm / (norms[long] + 1e-7)).astype(rows.dtype)
    with no_grad():
        weight[wrap(asked[long])] = wrap(rows[long] * scale[:, None])


# -- in bags -----------------------------------------------------------------------------------------------------------

_MODES = ("sum", "mean", "max")


def embedding_bag(
    input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: float | None = None,
    norm_type: float = 2, scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False,
    per_sample_weights: Tensor | None = None, include_last_offset: bool = False, padding_idx: int | None = None,
) -> Tensor:  # fmt: skip
    """The "sum", "mean" or "max" of the rows in each bag: `(num_bags, dim)`. An empty bag gives zeros.

    `input` is `(num_bags, size)`, or a vector in which bag i starts at `offsets[i]` (with `include_last_offset`, the
    last offset is the end of the last bag). `per_sample_weights`, of the shape of `input` and only for "sum", multiply
    the rows. Rows of `padding_idx` count for nothing. See `embedding` for the rest.

    Raises:
        ShapeError: input, offsets and weights do not go together.
        TrainerIndexError: a number is outside the table.
    """
    if mode not in _MODES:
        raise ValueError(f"embedding_bag: mode is one of {', '.join(map(repr, _MODES))}, not {mode!r}")
    if per_sample_weights is not None and mode != "sum":
        raise ValueError(f"embedding_bag: per_sample_weights are for mode 'sum', not {mode!r}")
    if per_sample_weights is not None and per_sample_weights.shape != input.shape:
        raise ShapeError(
            f"embedding_bag: per_sample_weights have shape {per_sample_weights.shape}, input {input.shape}; they must "
            "be equal"
        )
    xp = array_module(weight.data)
    flat = input.data.reshape(-1)
    bags, count = _bags(xp, input, offsets, include_last_offset)
    rows = embedding(
        wrap(flat), weight, padding_idx=padding_idx, max_norm=max_norm, norm_type=norm_type,
        scale_grad_by_freq=scale_grad_by_freq,
    )  # fmt: skip
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(-1, 1)
    if padding_idx is not None:
        kept = flat != _padding_row("embedding_bag", padding_idx, weight.shape[0])
        bags, rows = bags[kept], rows[wrap(kept)]
    empty = wrap(xp.zeros((count, weight.shape[1]), rows.dtype))
    if mode == "max":
        return index_reduce(empty, 0, wrap(bags), rows, "amax", include_self=False)
    total = index_add(empty, 0, wrap(bags), rows)
    if mode == "sum":
        return total
    return total / wrap(xp.maximum(xp.bincount(bags, minlength=count), 1).astype(rows.dtype).reshape(-1, 1))


def _bags(xp: Any, input: Tensor, offsets: Tensor | None, include_last: bool) -> tuple[Any, int]:
    """For each element, the number of its bag; and how many bags there are."""
    if input.ndim == 2:
        if offsets is not None:
            raise ShapeError(
                f"embedding_bag: input of shape {input.shape} has its bags as rows; offsets are for vectors"
            )
        count, size = input.shape
        return xp.repeat(xp.arange(count), size), count
    if input.ndim != 1:
        raise ShapeError(f"embedding_bag: input must be a vector or a matrix, not of shape {input.shape}")
    if offsets is None or offsets.ndim != 1:
        raise ShapeError("embedding_bag: an input that is a vector needs offsets, a vector of where each bag starts")
    starts, total = offsets.data, input.shape[0]
    if include_last and not starts.size:
        raise ShapeError("embedding_bag: include_last_offset needs at least one offset")
    known = starts.tolist()
    if known and (known[0] != 0 or known[-1] > total or sorted(known) != known):
        raise ShapeError(f"embedding_bag: offsets must go from 0 up to at most {total}, never down; these are {known}")
    if include_last:
        starts, total = starts[:-1], known[-1]
    bags = xp.searchsorted(starts, xp.arange(input.shape[0]), side="right") - 1
    if total != input.shape[0]:
        raise ShapeError(f"embedding_bag: the last offset is {total}, but input has {input.shape[0]} elements")
    return bags, int(starts.size)
