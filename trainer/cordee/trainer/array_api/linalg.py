"""Linear algebra, by the array API's names (the extension `linalg`, and the four of its functions outside of it)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cordee.trainer as ct
from cordee.trainer.array_api.dtypes import promoted
from cordee.trainer.array_api.manipulation import broadcast_arrays
from cordee.trainer.tensors import Tensor

__all__ = [
    "cholesky", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv", "matmul", "matrix_norm", "matrix_power",
    "matrix_rank", "matrix_transpose", "outer", "pinv", "qr", "slogdet", "solve", "svd", "svdvals", "tensordot",
    "trace", "vecdot", "vector_norm",
]  # fmt: skip


def matmul(x1: Tensor, x2: Tensor, /) -> Tensor:
    """The matrix product."""
    return ct.matmul(*promoted(x1, x2))  # type: ignore[no-any-return]


def matrix_transpose(x: Tensor, /) -> Tensor:
    """Matrices with rows and columns exchanged."""
    return x.transpose(-1, -2)


def tensordot(x1: Tensor, x2: Tensor, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> Tensor:
    """The product summed over several dimensions: the last and first ones, or those given."""
    return ct.tensordot(*promoted(x1, x2), axes)  # type: ignore[no-any-return]


def vecdot(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Tensor:
    """The inner product along an axis, of which the first operand is conjugated."""
    left, right = promoted(x1, x2)
    left = ct.conj(left) if left.is_complex() else left
    return (left * right).sum(axis).to(left.dtype)  # type: ignore[no-any-return]


def cholesky(x: Tensor, /, *, upper: bool = False) -> Tensor:
    """The triangular factor of a positive definite matrix."""
    made = ct.linalg.cholesky(x)
    return made.mT if upper else made


def cross(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Tensor:
    """The vector product in three dimensions."""
    return ct.linalg.cross(*broadcast_arrays(*promoted(x1, x2)), dim=axis)


def det(x: Tensor, /) -> Tensor:
    """The determinant."""
    return ct.linalg.det(x)


def diagonal(x: Tensor, /, *, offset: int = 0) -> Tensor:
    """The elements on a diagonal."""
    return ct.diagonal(x, offset, -2, -1)  # type: ignore[no-any-return]


def eigh(x: Tensor, /) -> Any:
    """Eigenvalues and eigenvectors of a symmetric matrix."""
    return ct.linalg.eigh(x)


def eigvalsh(x: Tensor, /) -> Tensor:
    """Eigenvalues of a symmetric matrix."""
    return ct.linalg.eigvalsh(x)


def inv(x: Tensor, /) -> Tensor:
    """The inverse."""
    return ct.linalg.inv(x)


def matrix_norm(x: Tensor, /, *, keepdims: bool = False, ord: Any = "fro") -> Tensor:
    """The norm of matrices."""
    return ct.linalg.matrix_norm(x, "fro" if ord is None else ord, keepdim=keepdims)


def matrix_power(x: Tensor, n: int, /) -> Tensor:
    """A matrix times itself; negative: its inverse."""
    return ct.linalg.matrix_power(x, n)


def matrix_rank(x: Tensor, /, *, rtol: Any = None) -> Tensor:
    """How many singular values are above `rtol` times the largest."""
    return ct.linalg.matrix_rank(x, rtol=rtol)


def outer(x1: Tensor, x2: Tensor, /) -> Tensor:
    """All products of the elements of two vectors."""
    return ct.outer(*promoted(x1, x2))  # type: ignore[no-any-return]


def pinv(x: Tensor, /, *, rtol: Any = None) -> Tensor:
    """The pseudo-inverse."""
    return ct.linalg.pinv(x, rtol=rtol)


def qr(x: Tensor, /, *, mode: str = "reduced") -> Any:
    """An orthogonal and an upper triangular factor."""
    return ct.linalg.qr(x, mode)


def slogdet(x: Tensor, /) -> Any:
    """Sign and logarithm of the determinant."""
    return ct.linalg.slogdet(x)


def solve(x1: Tensor, x2: Tensor, /) -> Tensor:
    """The solution of linear equations; a vector is only what has one dimension."""
    left, right = promoted(x1, x2)
    if right.ndim == 1:
        return ct.linalg.solve(left, right.unsqueeze(-1)).squeeze(-1)
    shape = left.shape[:-2]
    return ct.linalg.solve(left, right if not shape or right.ndim > 2 else right.broadcast_to((*shape, *right.shape)))


def svd(x: Tensor, /, *, full_matrices: bool = True) -> Any:
    """Singular vectors and values."""
    return ct.linalg.svd(x, full_matrices)


def svdvals(x: Tensor, /) -> Tensor:
    """Singular values."""
    return ct.linalg.svdvals(x)


def trace(x: Tensor, /, *, offset: int = 0, dtype: Any = None) -> Tensor:
    """The sum over a diagonal."""
    from cordee.trainer.array_api.statistics import sum as total

    return total(diagonal(x, offset=offset), axis=-1, dtype=dtype)


def vector_norm(x: Tensor, /, *, axis: Any = None, keepdims: bool = False, ord: float = 2) -> Tensor:
    """The norm of vectors: of all elements, or along axes."""
    if axis is None and x.ndim == 0:
        return abs(x) if ord or math.isnan(ord) else (x != 0).to(x.dtype)
    return ct.linalg.vector_norm(x, ord, axis, keepdims)
