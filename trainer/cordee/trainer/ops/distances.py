"""How far vectors are from each other, or in which direction."""

from __future__ import annotations

import math

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.elementwise import maximum, where
from cordee.trainer.ops.products import matmul
from cordee.trainer.ops.reduction import LENGTH
from cordee.trainer.ops.repetition import broadcast_tensors
from cordee.trainer.ops.shape import unsqueeze
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["cdist", "cosine_similarity", "pairwise_distance", "pdist"]

_MODES = (
    "use_mm_for_euclid_dist_if_necessary",
    "use_mm_for_euclid_dist",
    "donot_use_mm_for_euclid_dist",
)
_FEW = 25  # rows, up to which PyTorch does not use a matrix product either


def _norm(x: Tensor, p: float, dim: int, keepdim: bool = False) -> Tensor:
    """The norm of order p along a dimension; its gradient is 0 where it has none."""
    if p == 2:
        return LENGTH.run(x, axis=dim, keepdims=keepdim)
    if p == 0:
        return (x != 0).to(x.dtype).sum(dim, keepdim)
    if p == 1:
        return x.abs().sum(dim, keepdim)
    if p == math.inf:
        return x.abs().amax(dim, keepdim) if x.shape[dim] else x.abs().sum(dim, keepdim)
    if p == -math.inf:
        return x.abs().amin(dim, keepdim)
    size = x.abs()
    if p < 0:
        return (size**p).sum(dim, keepdim) ** (1 / p)
    some = wrap(size.data != 0)
    total = where(some, where(some, size, 1.0) ** p, 0.0).sum(dim, keepdim)
    positive = wrap(total.data != 0)
    length: Tensor = where(positive, where(positive, total, 1.0) ** (1 / p), 0.0)
    return length


def _check_order(name: str, p: float) -> None:
    if p < 0:
        raise ValueError(f"{name}: the order p must be at least 0, not {p}")


@autocasts("single")
def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    """The distances between all rows of two batches: `(…, n, d)` and `(…, m, d)` give `(…, n, m)`.

    Euclidean distances (p = 2) of more than 25 rows are found by a matrix product, which is many times faster and
    loses digits of small distances between long vectors; `compute_mode="donot_use_mm_for_euclid_dist"` does without.

    Raises:
        ShapeError: the rows are of different lengths.
    """
    _check_order("cdist", p)
    mode = compute_mode or _MODES[0]
    if mode not in _MODES:
        raise ValueError(f"cdist: compute_mode is one of {', '.join(map(repr, _MODES))}, not {compute_mode!r}")
    if x1.ndim < 2 or x2.ndim < 2:
        raise ShapeError(f"cdist: x1 and x2 need at least two dimensions, not shapes {x1.shape} and {x2.shape}")
    if x1.shape[-1] != x2.shape[-1]:
        raise ShapeError(
            f"cdist: rows of x1, of shape {x1.shape}, have {x1.shape[-1]} elements, those of x2, of shape {x2.shape}, "
            f"{x2.shape[-1]}: they must be equal"
        )
    many = x1.shape[-2] > _FEW or x2.shape[-2] > _FEW
    if p == 2 and (mode == _MODES[1] or (mode == _MODES[0] and many)):
        squares = (x1 * x1).sum(-1, True) + (x2 * x2).sum(-1, True).mT - matmul(x1, x2.mT) * 2.0
        return squares.clamp(min=1e-30).sqrt()
    return _norm(unsqueeze(x1, -2) - unsqueeze(x2, -3), p, -1)


@autocasts("single on cuda")
def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """The distances between all pairs of rows of a matrix `(n, d)`, as a vector of `n (n - 1) / 2`."""
    _check_order("pdist", p)
    if input.ndim != 2:
        raise ShapeError(f"pdist: needs a matrix, not shape {input.shape}")
    xp = array_module(input.data)
    first, second = (wrap(xp.asarray(places)) for places in np.triu_indices(input.shape[0], 1))
    return _norm(input[first] - input[second], p, -1)


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """The distance between vectors along the last dimension; `eps` is added to the difference."""
    return _norm(x1 - x2 + eps, p, -1, keepdim)


@autocasts("single on cuda")
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine of the angle between vectors along a dimension; lengths below `eps` count as `eps`."""
    if x1.shape != x2.shape:
        x1, x2 = broadcast_tensors(x1, x2)
    left, right = _norm(x1, 2, dim, True), _norm(x2, 2, dim, True)
    return ((x1 / maximum(left, eps)) * (x2 / maximum(right, eps))).sum(dim)
