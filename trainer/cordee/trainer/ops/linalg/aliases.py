"""PyTorch's older top-level names of linear algebra, with the signatures they have there."""

from __future__ import annotations

from typing import NamedTuple

from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.linalg.determinants import det, logdet, slogdet
from cordee.trainer.ops.linalg.elimination import lu_factor_ex as _lu_factor_ex
from cordee.trainer.ops.linalg.elimination import lu_solve as _lu_solve
from cordee.trainer.ops.linalg.elimination import lu_unpack
from cordee.trainer.ops.linalg.factorisations import QRResult, geqrf, ormqr
from cordee.trainer.ops.linalg.factorisations import cholesky as _cholesky
from cordee.trainer.ops.linalg.factorisations import householder_product as orgqr
from cordee.trainer.ops.linalg.factorisations import qr as _qr
from cordee.trainer.ops.linalg.products import cross as _cross
from cordee.trainer.ops.linalg.products import matrix_exp, matrix_power, multi_dot, trace
from cordee.trainer.ops.linalg.products import vander as _vander
from cordee.trainer.ops.linalg.pseudo import pinv
from cordee.trainer.ops.linalg.solves import cholesky_inverse, cholesky_solve, solve_triangular
from cordee.trainer.ops.linalg.solves import inv as inverse
from cordee.trainer.ops.linalg.spectral import svd as _svd
from cordee.trainer.tensors import Tensor

__all__ = [
    "chain_matmul",
    "cholesky",
    "cholesky_inverse",
    "cholesky_solve",
    "cross",
    "det",
    "geqrf",
    "inverse",
    "logdet",
    "lu",
    "lu_solve",
    "lu_unpack",
    "matrix_exp",
    "matrix_power",
    "orgqr",
    "ormqr",
    "pinverse",
    "qr",
    "slogdet",
    "svd",
    "trace",
    "triangular_solve",
    "vander",
]  # fmt: skip

METHODS = (
    "cholesky cholesky_inverse cholesky_solve cross det geqrf inverse logdet lu lu_solve matrix_exp matrix_power orgqr "
    "ormqr pinverse qr slogdet svd trace triangular_solve"
)


def cholesky(input: Tensor, upper: bool = False) -> Tensor:
    """The triangular Cholesky factor: see `linalg.cholesky`."""
    return _cholesky(input, upper=upper)


def qr(input: Tensor, some: bool = True) -> QRResult:
    """`input = Q R`; with `some=False`, Q is square: see `linalg.qr`."""
    return _qr(input, "reduced" if some else "complete")


class SVDOfTorch(NamedTuple):
    """What the top-level `svd` returns: `input = U @ diag(S) @ Vᴴ`, with V, not Vᴴ."""

    U: Tensor
    S: Tensor
    V: Tensor


def svd(input: Tensor, some: bool = True, compute_uv: bool = True) -> SVDOfTorch:
    """Singular values and vectors; unlike `linalg.svd`, it returns V itself. Without `compute_uv`, U and V are zero."""
    U, S, Vh = _svd(input, full_matrices=not some)
    if not compute_uv:
        m, n = input.shape[-2:]
        zero = U.detach() * 0.0
        return SVDOfTorch(
            zero[..., :1, :1].expand(*input.shape[:-2], m, m), S, zero[..., :1, :1].expand(*input.shape[:-2], n, n)
        )
    return SVDOfTorch(U, S, Vh.transpose(-1, -2).conj())


def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """The cross product of vectors of three numbers; without `dim`, in the first dimension of size 3."""
    if dim is None:
        threes = [d for d, n in enumerate(input.shape) if n == 3]
        if not threes:
            raise ShapeError(f"cross: needs a dimension of size 3; there is none in shape {input.shape}")
        dim = threes[0]
    return _cross(input, other, dim=dim)


def pinverse(input: Tensor, rcond: float = 1e-15) -> Tensor:
    """The pseudoinverse: see `linalg.pinv`."""
    return pinv(input, rtol=rcond)


def lu_solve(b: Tensor, LU_data: Tensor, LU_pivots: Tensor) -> Tensor:
    """The solution x of `A x = b` from what `linalg.lu_factor(A)` returned."""
    return _lu_solve(LU_data, LU_pivots, b)


def lu(A: Tensor, pivot: bool = True, get_infos: bool = False) -> tuple[Tensor, ...]:
    """The packed factors, the row exchanges and (with `get_infos`) where U's first zero is."""
    found = _lu_factor_ex(A, pivot=pivot)
    return tuple(found) if get_infos else tuple(found[:2])


def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """The Vandermonde matrix of a vector: powers N-1 to 0, or with `increasing` 0 to N-1."""
    if x.ndim != 1:
        raise ShapeError(f"vander: needs a vector, not a tensor of shape {x.shape}")
    powers = _vander(x, N=N)
    return powers if increasing else powers.flip((1,))


def chain_matmul(*matrices: Tensor) -> Tensor:
    """The product of matrices in the cheapest order: see `linalg.multi_dot`."""
    return multi_dot(matrices)


class TriangularSolution(NamedTuple):
    """What the top-level `triangular_solve` returns."""

    solution: Tensor
    cloned_coefficient: Tensor


def triangular_solve(
    b: Tensor, A: Tensor, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> TriangularSolution:
    """The solution of `A x = b` (with `transpose`, of Aᵀ) for triangular A: see `linalg.solve_triangular`."""
    turned = A.transpose(-1, -2) if transpose else A
    found = solve_triangular(turned, b, upper=upper != transpose, unitriangular=unitriangular)
    return TriangularSolution(found, A.clone())
