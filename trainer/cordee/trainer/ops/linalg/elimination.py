"""LU: Gaussian elimination with row exchanges, and what is read off it.

NumPy has no LU factorisation, so this one eliminates column by column, all matrices of a batch at once. Gradients after
M. B. Giles (2008), for oblong matrices after PyTorch; elimination is analytic, so they hold for complex matrices too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.graph import apply
from cordee.trainer.autograd.record import op
from cordee.trainer.errors import LinAlgError
from cordee.trainer.ops.linalg.common import (
    eye_like,
    matrices,
    regular,
    transposed,
)
from cordee.trainer.ops.linalg.solves import solve_triangular
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "LUFactorExResult", "LUFactorResult", "LUResult", "lu", "lu_factor", "lu_factor_ex", "lu_solve", "lu_unpack",
]  # fmt: skip


def _lu(xp: Any, a: Any, *, pivot: bool) -> Any:
    """Gaussian elimination of all matrices at once, L (below the diagonal) and U in one, and LAPACK's pivots from 1."""
    m, n = a.shape[-2:]
    k = min(m, n)
    lu = xp.array(a, order="C").reshape(math.prod(a.shape[:-2]), m, n)
    pivots = xp.empty((lu.shape[0], k), "int32")
    every = xp.arange(lu.shape[0])
    for j in range(k):
        row = xp.abs(lu[:, j:, j]).argmax(1) + j if pivot else xp.full(lu.shape[0], j)
        pivots[:, j] = row + 1
        if pivot:
            taken = lu[every, row]
            lu[every, row] = lu[:, j]
            lu[:, j] = taken
        divisor = lu[:, j, j, None]
        lu[:, j + 1 :, j] /= xp.where(divisor == 0, xp.ones_like(divisor), divisor) if pivot else divisor
        lu[:, j + 1 :, j + 1 :] -= lu[:, j + 1 :, j, None] * lu[:, j, None, j + 1 :]
    return lu.reshape(a.shape), pivots.reshape(*a.shape[:-2], k)


def _lu_shape(a: Any, **_: Any) -> Any:
    batch = matrices(a)
    return a, (*batch, min(a[-2:]))


def _order(pivots: Any, size: int) -> Any:
    """Which row of a comes to be which, as pivots (an array) exchange them: `a[order] = L U`."""
    xp = array_module(pivots)
    swaps = pivots.reshape(math.prod(pivots.shape[:-1]), pivots.shape[-1])
    order = xp.broadcast_to(xp.arange(size), (swaps.shape[0], size)).copy()
    every = xp.arange(swaps.shape[0])
    for j in range(swaps.shape[-1]):
        row = swaps[:, j] - 1
        taken = order[every, row]
        order[every, row] = order[:, j]
        order[:, j] = taken
    return order.reshape(*pivots.shape[:-1], size)


def _permutation(pivots: Any, size: int, dtype: Any) -> Any:
    """The matrix P with `a = P L U`, as an array."""
    xp = array_module(pivots)
    return xp.eye(size, dtype=dtype)[_order(pivots, size)].swapaxes(-1, -2)


def _lu_vjp(F: Any, g: Any, out: Any, a: Any, *, needs: Sequence[bool], pivot: bool) -> Any:
    """With plain transposes: elimination is analytic. The factors are taken apart as squares and what juts out."""
    g, lu = g[0], out[0]
    if g is None:
        return (None,)
    m, n = lu.shape[-2:]
    k = min(m, n)
    square_lu, square_g = lu[..., :k, :k], g[..., :k, :k]
    lower = F.tril(square_lu, k=-1) + eye_like(square_lu)
    upper = F.triu(square_lu, k=0)
    of_l = transposed(lower) @ F.tril(square_g, k=-1)
    of_u = F.triu(square_g, k=0) @ transposed(upper)
    if m < n:
        of_l = of_l - g[..., :, k:] @ transposed(lu[..., :, k:])
    elif m > n:
        of_u = of_u - transposed(lu[..., k:, :]) @ g[..., k:, :]
    inner = F.tril(of_l, k=-1) + F.triu(of_u, k=0)
    if m < n:
        inner = transposed(F.solve_triangular(upper, transposed(inner), upper=True, unitriangular=False))
        inner = F.cat(inner, g[..., :, k:], axis=-1)
        inner = F.solve_triangular(transposed(lower), inner, upper=True, unitriangular=True)
    else:
        inner = F.solve_triangular(transposed(lower), inner, upper=True, unitriangular=True)
        if m > n:
            inner = F.cat(inner, g[..., k:, :], axis=-2)
        inner = transposed(F.solve_triangular(upper, transposed(inner), upper=True, unitriangular=False))
    pivots = out[1].data if isinstance(out[1], Tensor) else out[1]
    return (_permutation(pivots, m, lu.dtype) @ inner if F.raw else wrap(_permutation(pivots, m, lu.dtype)) @ inner,)


def _lu_reference(a: Any, *, pivot: bool) -> Any:
    lu, pivots = np.array(a), np.zeros((*a.shape[:-2], min(a.shape[-2:])), np.int32)
    for index in np.ndindex(a.shape[:-2]):
        one = lu[index]
        for j in range(min(one.shape)):
            row = j + int(np.argmax(np.abs(one[j:, j]))) if pivot else j
            one[[j, row]] = one[[row, j]]
            pivots[(*index, j)] = row + 1
            for i in range(j + 1, one.shape[0]):
                one[i, j] /= one[j, j]
                one[i, j + 1 :] -= one[i, j] * one[j, j + 1 :]
    return lu, pivots


LU_FACTOR = op(
    "lu_factor", "the factors of a = P·L·U in one matrix, and the row exchanges that make P",
    autocast="single on cpu",
    forward=_lu, outputs=("LU", "pivots"), vjp=_lu_vjp, saves=("out",), shape=_lu_shape,
    dtype=lambda d, **_: (d, np.dtype("int32")), reference=_lu_reference,
    samples=lambda s: [
        s.case(regular(s, 3, 3), pivot=True), s.case(s.distinct(2, 3, 2), pivot=True),
        s.case(s.distinct(2, 4) * 3, pivot=True), s.case(regular(s, 2, 2), pivot=False),
    ],
    errors=lambda s: [s.case(s.normal(3), pivot=True)],
)  # fmt: skip


class LUFactorResult(NamedTuple):
    """What `lu_factor` returns."""

    LU: Tensor
    pivots: Tensor


class LUFactorExResult(NamedTuple):
    """What `lu_factor_ex` returns: `info` is 0, or the number (from 1) of the first zero on U's diagonal."""

    LU: Tensor
    pivots: Tensor
    info: Tensor


class LUResult(NamedTuple):
    """What `lu` returns."""

    P: Tensor
    L: Tensor
    U: Tensor


def lu_factor_ex(A: Tensor, *, pivot: bool = True, check_errors: bool = False) -> LUFactorExResult:
    """`lu_factor`, and instead of an error a number per matrix: where U's first zero is, from 1; 0 if there is none."""
    packed, pivots = apply(LU_FACTOR, A, pivot=pivot)
    xp = array_module(A.data)
    zero = xp.diagonal(packed.data, 0, -2, -1) == 0
    info = xp.asarray(xp.where(zero.any(-1), zero.argmax(-1) + 1, 0) if zero.shape[-1] else xp.zeros(zero.shape[:-1]))
    if check_errors and info.any():
        place = tuple(int(i[0]) for i in info.nonzero()) if info.ndim else ()
        where = f" (batch element {place[0] if len(place) == 1 else place})" if place else ""
        raise LinAlgError(
            f"lu_factor: the matrix is singular: U's diagonal element {int(info[place])} is zero{where}; "
            "lu() and lu_factor_ex() factorise it all the same"
        )
    return LUFactorExResult(packed, pivots, wrap(info.astype("int32")))


def lu_factor(A: Tensor, *, pivot: bool = True) -> LUFactorResult:
    """The factors L and U of matrices `(…, m, n)` in one, and row exchanges counted from 1, for `lu_solve`.

    Raises:
        LinAlgError: U has a zero on its diagonal.
    """
    packed, pivots, _ = lu_factor_ex(A, pivot=pivot, check_errors=True)
    return LUFactorResult(packed, pivots)


def lu_unpack(LU_data: Tensor, LU_pivots: Tensor) -> LUResult:
    """P, L and U of what `lu_factor` returned."""
    xp = array_module(LU_data.data)
    m, n = LU_data.shape[-2:]
    k = min(m, n)
    lower = LU_data[..., :, :k].tril(-1) + wrap(xp.eye(m, k, dtype=LU_data.dtype))
    return LUResult(wrap(_permutation(LU_pivots.data, m, LU_data.dtype)), lower, LU_data[..., :k, :].triu())


def lu(A: Tensor, *, pivot: bool = True) -> LUResult:
    """`A = P L U` of matrices `(…, m, n)`: P `(…, m, m)` exchanges rows, L `(…, m, k)` has ones on its diagonal."""
    packed, pivots, _ = lu_factor_ex(A, pivot=pivot)
    P, L, U = lu_unpack(packed, pivots)
    return LUResult(P if pivot else wrap(P.data[..., :0, :0]), L, U)


def lu_solve(LU: Tensor, pivots: Tensor, B: Tensor, *, left: bool = True, adjoint: bool = False) -> Tensor:
    """The solution X of `A X = B` (`X A = B`; with `adjoint`, of Aᴴ) from `lu_factor(A)`."""
    if not left:
        turned = lu_solve(LU, pivots, B.transpose(-1, -2).conj(), adjoint=not adjoint)
        return turned.transpose(-1, -2).conj()
    P = wrap(_permutation(pivots.data, LU.shape[-2], LU.dtype))
    if adjoint:
        turned = LU.transpose(-1, -2).conj()
        half = solve_triangular(turned, B, upper=False)
        return P @ solve_triangular(turned, half, upper=True, unitriangular=True)
    half = solve_triangular(LU, P.transpose(-1, -2) @ B, upper=False, unitriangular=True)
    return solve_triangular(LU, half, upper=True)
