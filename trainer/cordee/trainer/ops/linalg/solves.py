"""Inverses and linear systems.

Gradients after M. B. Giles, 'Collected matrix derivative results for forward and reverse mode algorithmic
differentiation' (2008): with X = A⁻¹B, the gradient of B is A⁻ᵀ·dX, and that of A is -(A⁻ᵀ·dX)·Xᵀ.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.graph import apply
from cordee.trainer.autograd.record import broadcast_shape, op
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.linalg.common import guarded, matrices, regular, solved, square, transposed
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "InvResult", "SolveResult", "cholesky_inverse", "cholesky_solve", "inv", "inv_ex", "solve", "solve_ex",
    "solve_triangular", "tensorinv", "tensorsolve",
]  # fmt: skip

_SINGULAR = "the matrix is singular"


# -- inv ---------------------------------------------------------------------------------------------------------------


def _square_shape(a: Any, **_: Any) -> Any:
    square(a)
    return a


INV = op(
    "inv", "the inverse of square matrices",
    autocast="single on cpu",
    forward=lambda xp, a: guarded(xp, "inv", f"{_SINGULAR}, it has no inverse", xp.linalg.inv, a),
    vjps=(lambda F, g, out, a: -(transposed(out) @ g @ transposed(out)),), saves=("out",),
    shape=_square_shape, dtype="float", reference=np.linalg.inv,
    samples=lambda s: [
        s.case(regular(s, 3, 3)), s.case(regular(s, 2, 2, 2)), s.case(s.positive(1, 1)), s.case(s.normal(2, 0, 0)),
    ],
    errors=lambda s: [s.case(s.normal(2, 3)), s.case(s.normal(3))],
)  # fmt: skip


def inv(A: Tensor) -> Tensor:
    """The inverse of a square matrix, or of each of a batch `(…, n, n)`.

    Raises:
        LinAlgError: a matrix is singular; it says which.
    """
    return INV.run(A)


class InvResult(NamedTuple):
    """What `inv_ex` returns: the inverse (not a number where there is none), and 0, or 1 where there is none."""

    inverse: Tensor
    info: Tensor


def _singular(xp: Any, a: Any) -> Any:
    """Which matrices of a batch have no inverse in floating point: LU meets a zero pivot."""
    sign, _ = xp.linalg.slogdet(a)
    return (sign == 0).astype("int32")


def inv_ex(A: Tensor, *, check_errors: bool = False) -> InvResult:
    """The inverse and, instead of an error, a number per matrix: 0, or 1 where it is singular (its inverse is NaN)."""
    if check_errors:
        return InvResult(inv(A), wrap(array_module(A.data).zeros(A.shape[:-2], "int32")))
    info = _info(A, "inv_ex")
    if not info.any():
        return InvResult(inv(A), wrap(info))
    bad = wrap(info[..., None, None] != 0)
    return InvResult(inv(_repaired(A, bad)).masked_fill(bad, math.nan), wrap(info))


def _info(A: Tensor, name: str) -> Any:
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise ShapeError(f"{name}: needs square matrices, not a tensor of shape {A.shape}")
    xp = array_module(A.data)
    return xp.asarray(_singular(xp, A.data))


def _repaired(A: Tensor, bad: Tensor) -> Tensor:
    """The identity in place of singular matrices."""
    eye = array_module(A.data).eye(A.shape[-1], dtype=A.dtype)
    return A.masked_fill(bad, 0.0) + wrap(eye * bad.data)


# -- solve -------------------------------------------------------------------------------------------------------------


def _system_shape(a: Any, b: Any, **_: Any) -> Any:
    batch = square(a)
    more = matrices(b, "b")
    if a[-1] != b[-2]:
        raise ShapeError(f"a has {a[-1]} rows, b has {b[-2]}: they must be as many")
    return (*broadcast_shape(batch, more), *b[-2:])


def _solve_vjp(F: Any, g: Any, out: Any, a: Any, b: Any, *, needs: Sequence[bool]) -> Any:
    of_b = F.solve(transposed(a), g)
    return -(of_b @ transposed(out)) if needs[0] else None, of_b


def _solve(xp: Any, a: Any, b: Any) -> Any:
    return guarded(xp, "solve", f"{_SINGULAR}: no single solution", functools.partial(solved, xp), a, b)


SOLVE = op(
    "solve", "the solution x of a·x = b",
    autocast="single on cpu",
    forward=_solve,
    vjp=_solve_vjp, saves=("a out", "a"), broadcasts=True, shape=_system_shape, dtype="float",
    reference=lambda a, b: np.linalg.inv(a) @ b,
    samples=lambda s: [
        s.case(regular(s, 3, 3), s.normal(3, 2)),
        s.case(regular(s, 2, 2, 2), s.normal(2, 1)),
        s.case(regular(s, 2, 2), s.normal(2, 2, 1)),
        s.case(regular(s, 2, 2), s.normal(2, 0)),
    ],
    errors=lambda s: [s.case(s.normal(2, 3), s.normal(3, 1)), s.case(regular(s, 3, 3), s.normal(2, 1))],
)  # fmt: skip


def _is_vector(A: Tensor, B: Tensor) -> bool:
    """PyTorch's rule for what B holds: vectors if it has one dimension, or exactly A's leading ones and one more."""
    return B.ndim == 1 or (A.ndim - 1 == B.ndim and B.shape == A.shape[:-1])


def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """The solution X of `A X = B` (of `X A = B` with `left=False`): `A (…, n, n)`, `B (…, n, k)` or `(…, n)`.

    Raises:
        LinAlgError: a matrix is singular; it says which.
    """
    vector = _is_vector(A, B)
    if vector and not left:
        raise ShapeError(f"solve: left=False needs matrices on the right, not vectors of shape {B.shape}")
    if vector:
        return SOLVE.run(A, B.unsqueeze(-1)).squeeze(-1)
    if left:
        return SOLVE.run(A, B)
    return SOLVE.run(A.transpose(-1, -2), B.transpose(-1, -2)).transpose(-1, -2)


class SolveResult(NamedTuple):
    """What `solve_ex` returns: the solution (NaN where there is none), and 0, or 1 where there is none."""

    result: Tensor
    info: Tensor


def solve_ex(A: Tensor, B: Tensor, *, left: bool = True, check_errors: bool = False) -> SolveResult:
    """The solution and, instead of an error, a number per matrix: 0, or 1 where it is singular."""
    info = _info(A, "solve_ex")
    if check_errors or not info.any():
        return SolveResult(solve(A, B, left=left), wrap(info))
    bad = wrap(info[..., None, None] != 0)
    found = solve(_repaired(A, bad), B, left=left)
    return SolveResult(found.masked_fill(bad.squeeze(-1) if _is_vector(A, B) else bad, math.nan), wrap(info))


# -- triangular systems ------------------------------------------------------------------------------------------------

_BLOCK = 128


def _solve_triangular(xp: Any, a: Any, b: Any, *, upper: bool, unitriangular: bool) -> Any:
    if a.shape[-1] != a.shape[-2]:
        raise ValueError("not square")
    if not upper:  # reversed rows and columns make it an upper one
        out = _upper(xp, a[..., ::-1, ::-1], b[..., ::-1, :], unitriangular)
        return out[..., ::-1, :]
    return _upper(xp, a, b, unitriangular)


def _upper(xp: Any, a: Any, b: Any, unitriangular: bool) -> Any:
    """Back substitution: in halves; small ones by the general solver, which on an upper triangle eliminates nothing."""
    n = a.shape[-1]
    if n > _BLOCK:
        half = n // 2
        low = _upper(xp, a[..., half:, half:], b[..., half:, :], unitriangular)
        top = _upper(xp, a[..., :half, :half], b[..., :half, :] - a[..., :half, half:] @ low, unitriangular)
        low = xp.broadcast_to(low, (*top.shape[:-2], *low.shape[-2:]))
        return xp.concatenate((top, low), axis=-2)
    a = xp.triu(a, 1) + xp.eye(n, dtype=a.dtype) if unitriangular else xp.triu(a)
    if (xp.diagonal(a, 0, -2, -1) == 0).any():
        return _substitute(xp, a, b)
    return solved(xp, a, b)


def _substitute(xp: Any, a: Any, b: Any) -> Any:
    """Row by row, for matrices with zeros on the diagonal: infinite where PyTorch's is."""
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), *b.shape[-2:])
    out = xp.array(xp.broadcast_to(b, shape), dtype=xp.result_type(a, b))
    for row in range(a.shape[-1] - 1, -1, -1):
        known = (a[..., row, row + 1 :, None] * out[..., row + 1 :, :]).sum(-2)
        out[..., row, :] = (out[..., row, :] - known) / a[..., row, row, None]
    return out


def _triangular_vjp(
    F: Any, g: Any, out: Any, a: Any, b: Any, *, needs: Sequence[bool], upper: bool, unitriangular: bool
) -> Any:
    of_b = F.solve_triangular(transposed(a), g, upper=not upper, unitriangular=unitriangular)
    if not needs[0]:
        return None, of_b
    whole = -(of_b @ transposed(out))
    edge = 1 if unitriangular else 0
    return F.triu(whole, k=edge) if upper else F.tril(whole, k=-edge), of_b


def _triangular_reference(a: Any, b: Any, *, upper: bool, unitriangular: bool) -> Any:
    a = np.triu(a) if upper else np.tril(a)
    if unitriangular:
        a = a + (1 - a) * np.eye(a.shape[-1])
    return np.linalg.inv(a) @ b


SOLVE_TRIANGULAR = op(
    "solve_triangular", "the solution x of a·x = b, where a is a triangle: the rest of it is not read",
    autocast="single on cpu",
    forward=_solve_triangular, vjp=_triangular_vjp, saves=("a out", "a"), broadcasts=True, shape=_system_shape,
    dtype="float", reference=_triangular_reference,
    samples=lambda s: [
        s.case(regular(s, 3, 3), s.normal(3, 2), upper=True, unitriangular=False),
        s.case(regular(s, 2, 2, 2), s.normal(2, 1), upper=False, unitriangular=False),
        s.case(regular(s, 3, 3), s.normal(2, 3, 1), upper=False, unitriangular=True),
    ],
    errors=lambda s: [
        s.case(s.normal(2, 3), s.normal(3, 1), upper=True, unitriangular=False),
        s.case(regular(s, 3, 3), s.normal(2, 1), upper=True, unitriangular=False),
    ],
)  # fmt: skip


def solve_triangular(A: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Tensor:
    """The solution X of `A X = B` (`X A = B` with `left=False`), where A `(…, n, n)` is triangular and B `(…, n, k)`.

    Only the named triangle is read; with `unitriangular`, its diagonal counts as ones. A zero on the diagonal gives
    infinities, not an error.
    """
    if left:
        return SOLVE_TRIANGULAR.run(A, B, upper=upper, unitriangular=unitriangular)
    turned = apply(
        SOLVE_TRIANGULAR, A.transpose(-1, -2), B.transpose(-1, -2), upper=not upper, unitriangular=unitriangular
    )
    return turned.transpose(-1, -2)  # type: ignore[no-any-return]


# -- compositions ------------------------------------------------------------------------------------------------------


def cholesky_solve(B: Tensor, L: Tensor, upper: bool = False) -> Tensor:
    """The solution X of `A X = B`, from the Cholesky factor of A: `L Lᴴ` (or `Uᴴ U` with `upper`)."""
    if upper:
        half = solve_triangular(L.transpose(-1, -2).conj(), B, upper=False)
        return solve_triangular(L, half, upper=True)
    half = solve_triangular(L, B, upper=False)
    return solve_triangular(L.transpose(-1, -2).conj(), half, upper=True)


def cholesky_inverse(L: Tensor, upper: bool = False) -> Tensor:
    """The inverse of A, from its Cholesky factor."""
    eye = array_module(L.data).eye(L.shape[-1], dtype=L.dtype)
    return cholesky_solve(wrap(eye), L, upper)


def tensorinv(A: Tensor, ind: int = 2) -> Tensor:
    """The inverse with respect to `tensordot(A, X, ind)`: the first `ind` dimensions against the others."""
    if ind < 1:
        raise ValueError(f"tensorinv: ind must be positive, not {ind}")
    first, rest = A.shape[:ind], A.shape[ind:]
    if math.prod(first) != math.prod(rest):
        raise ShapeError(
            f"tensorinv: the first {ind} dimensions of shape {A.shape} hold {math.prod(first)} elements, the others "
            f"{math.prod(rest)}: they must be as many"
        )
    return inv(A.reshape(math.prod(first), -1)).reshape(*rest, *first)


def tensorsolve(A: Tensor, B: Tensor, dims: Sequence[int] | None = None) -> Tensor:
    """The solution X of `tensordot(A, X, X.ndim) = B`; `dims` of A are moved to its end first."""
    if dims is not None:
        chosen = [d % A.ndim for d in dims]
        A = A.permute(*[d for d in range(A.ndim) if d not in chosen], *chosen)
    rest = A.shape[B.ndim :]
    if math.prod(rest) != B.numel():
        raise ShapeError(
            f"tensorsolve: the last dimensions {rest} of A hold {math.prod(rest)} elements, B {B.numel()}: "
            "they must be as many"
        )
    return solve(A.reshape(B.numel(), -1), B.reshape(-1)).reshape(rest)
