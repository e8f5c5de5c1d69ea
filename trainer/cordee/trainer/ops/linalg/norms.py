"""Norms of vectors and matrices, of every order."""

from __future__ import annotations

import math
from typing import Any

from cordee.trainer.array import DTypeLike, array_module
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.ops.linalg.spectral import svdvals
from cordee.trainer.ops.reduction import LENGTH, P_NORM
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["matrix_norm", "norm", "vector_norm"]


def _kept(shape: tuple[int, ...], axis: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if i in axis else n for i, n in enumerate(shape))


def _floating(name: str, x: Tensor, dtype: DTypeLike) -> Tensor:
    if dtype is not None:
        x = x.to(dtype)
    if x.dtype.kind in "iub":
        raise TypeError(f"{name}: needs a floating-point or complex tensor, not {x.dtype.name}: convert it by .float()")
    return x


def _dims(name: str, x: Tensor, dim: Any) -> tuple[int, ...]:
    """The dimensions, counted from the front."""
    if dim is None:
        return tuple(range(x.ndim))
    chosen = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    if not chosen:
        return tuple(range(x.ndim))
    if not x.ndim and all(d in (0, -1) for d in chosen):  # a number counts as a vector of one
        return ()
    for d in chosen:
        if not -x.ndim <= d < x.ndim:
            raise TrainerIndexError(f"{name}: there is no dimension {d} in shape {x.shape}")
    return tuple(d % x.ndim for d in chosen)


def _count(size: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    return ((size != 0).to(size.dtype) + size * 0.0).sum(dims, keepdim)


_ORDERS: dict[float, Any] = {
    math.inf: lambda size, dims, keepdim: size.amax(dims, keepdim),
    -math.inf: lambda size, dims, keepdim: size.amin(dims, keepdim),
    1.0: lambda size, dims, keepdim: size.sum(dims, keepdim),
    0.0: _count,
}


@autocasts("single on cuda")
def vector_norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: DTypeLike = None) -> Tensor:
    """The norm (Σ|x|^ord)^(1/ord) over all dimensions, one, or several, as of one vector.

    `inf` and `-inf` are the largest and smallest magnitude (equal ones share the gradient), 0 counts what is not zero.
    At 0 the gradient is 0.
    """
    if isinstance(ord, str):
        raise TypeError(f"vector_norm: ord is a number, not {ord!r}")
    x = _floating("vector_norm", x, dtype)
    dims = _dims("vector_norm", x, dim)
    if x.dtype.kind == "c":
        x = x.abs()
    if not dims:  # of a number
        return _count(x, (), keepdim) if ord == 0 else x.abs()
    special = _ORDERS.get(float(ord))
    if special is not None:
        return special(x.abs(), dims, keepdim)  # type: ignore[no-any-return]
    if ord == 2:
        return LENGTH.run(x, axis=dims, keepdims=keepdim)
    return P_NORM.run(x, axis=dims, keepdims=keepdim, p=float(ord))


def _zero_added(values: Tensor, dim: int) -> Tensor:
    """What has nothing to be the largest of in a dimension, with a zero there: PyTorch's largest of nothing."""
    shape = list(values.shape)
    shape[dim] = 1
    return wrap(array_module(values.data).zeros(shape, values.dtype))


def _by_values(reduce: Any, zero_of_empty: bool = False) -> Any:
    """Norms that read the singular values."""

    def call(A: Tensor, rows: int, columns: int, keepdim: bool) -> Tensor:
        rest = [d for d in range(A.ndim) if d not in (rows, columns)]
        values = svdvals(A.permute(*rest, rows, columns))
        found = reduce(values if values.shape[-1] or not zero_of_empty else _zero_added(values, -1))
        return found.reshape(_kept(A.shape, (rows, columns))) if keepdim else found  # type: ignore[no-any-return]

    return call


def _by_sums(largest: bool, along_rows: bool) -> Any:
    """Norms that read the sums of magnitudes of rows or columns."""

    def call(A: Tensor, rows: int, columns: int, keepdim: bool) -> Tensor:
        summed, left = (columns, rows) if along_rows else (rows, columns)
        sums = A.abs().sum(summed, keepdim=True)
        if largest and not sums.shape[left]:
            sums = _zero_added(sums, left)
        found = sums.amax((left,), keepdim=True) if largest else sums.amin((left,), keepdim=True)
        return found if keepdim else found.squeeze((rows, columns))

    return call


_MATRIX_ORDERS: dict[Any, Any] = {
    "fro": lambda A, rows, columns, keepdim: vector_norm(A, 2, (rows, columns), keepdim),
    "nuc": _by_values(lambda s: s.sum(-1)),
    2: _by_values(lambda s: s.amax(-1), zero_of_empty=True),
    -2: _by_values(lambda s: s.amin(-1)),
    1: _by_sums(True, False),
    -1: _by_sums(False, False),
    math.inf: _by_sums(True, True),
    -math.inf: _by_sums(False, True),
}


@autocasts("single on cuda")
def matrix_norm(
    A: Tensor, ord: Any = "fro", dim: tuple[int, int] = (-2, -1), keepdim: bool = False, *, dtype: DTypeLike = None
) -> Tensor:
    """The norm of matrices, which lie in the two dimensions `dim`.

    `ord`: "fro" (the length as a vector), "nuc" (the sum of singular values), 2 and -2 (the largest and the smallest of
    them), 1 and -1 (largest and smallest sum of magnitudes of a column), inf and -inf (of a row).
    """
    found = _MATRIX_ORDERS.get(ord)
    if found is None:
        raise ValueError(f"matrix_norm: ord is one of 'fro', 'nuc', 1, -1, 2, -2, inf, -inf, not {ord!r}")
    A = _floating("matrix_norm", A, dtype)
    dims = _dims("matrix_norm", A, dim)
    if len(dims) != 2 or dims[0] == dims[1]:
        raise ShapeError(f"matrix_norm: dim names two different dimensions, not {dim} in shape {A.shape}")
    return found(A, *dims, keepdim)  # type: ignore[no-any-return]


def norm(A: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: DTypeLike = None) -> Tensor:
    """A vector norm (`dim` is one dimension, or A has one) or a matrix norm (two); without `ord`, the length.

    Without `ord` and `dim`, of all elements as one vector. See `vector_norm` and `matrix_norm` for the orders.
    """
    if ord is None:
        return vector_norm(A, 2, dim, keepdim, dtype=dtype)
    count = A.ndim if dim is None else len(dim) if isinstance(dim, (tuple, list)) else 1
    if count == 2:
        return matrix_norm(A, ord, (0, 1) if dim is None else tuple(dim), keepdim, dtype=dtype)
    if count != 1:
        raise ShapeError(f"norm: with ord={ord!r}, dim must name one or two of the dimensions of shape {A.shape}")
    return vector_norm(A, ord, dim, keepdim, dtype=dtype)
