"""Cholesky and QR.

Gradients: Cholesky after I. Murray, 'Differentiation of the Cholesky decomposition' (2016); QR after S. F. Walter and
L. Lehmann, 'Algorithmic differentiation of linear algebra functions' (2010), for wide matrices after PyTorch. Factors
of complex matrices are differentiated as PyTorch does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.graph import apply
from cordee.trainer.autograd.record import op
from cordee.trainer.errors import GraphError, LinAlgError, ShapeError
from cordee.trainer.ops.linalg.common import (
    adjoint,
    definite,
    diagonal_of,
    diagonal_part,
    guarded,
    hermitian,
    matrices,
    real_part,
    regular,
    square,
)
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "CholeskyResult", "GeqrfResult", "QRResult", "cholesky", "cholesky_ex", "geqrf", "householder_product", "ormqr",
    "qr",
]  # fmt: skip


# -- cholesky ----------------------------------------------------------------------------------------------------------

_NOT_DEFINITE = "the matrix is not positive definite"


def _cholesky(xp: Any, a: Any, *, lower: bool) -> Any:
    if not lower:
        a = hermitian(xp, a)
    return guarded(xp, "cholesky", _NOT_DEFINITE, xp.linalg.cholesky, a)


def _cholesky_vjp(F: Any, g: Any, out: Any, a: Any, *, lower: bool) -> Any:
    inside = F.tril(adjoint(F, out) @ F.tril(g, k=0), k=0)
    inside = inside - diagonal_part(inside, diagonal_of(inside)) * 0.5
    back = adjoint(F, out)
    half = F.solve_triangular(back, inside, upper=True, unitriangular=False)  # L⁻ᴴ Φ
    whole = F.solve_triangular(back, adjoint(F, half), upper=True, unitriangular=False)  # (L⁻ᴴ Φ L⁻¹)ᴴ
    return hermitian(F, whole)


def _square_shape(a: Any, **_: Any) -> Any:
    square(a)
    return a


CHOLESKY = op(
    "cholesky", "the lower triangular L with L·Lᴴ = a; with `lower`, only the lower triangle of a is read, else its "
    "symmetric part; the gradient is symmetric either way",
    autocast="single on cpu",
    forward=_cholesky, vjps=(_cholesky_vjp,), saves=("out",), shape=_square_shape, dtype="float", holomorphic=False,
    reference=lambda a, lower: np.linalg.cholesky((a + a.swapaxes(-1, -2)) / 2),
    samples=lambda s: [
        s.case(definite(s, 3, 3), lower=False), s.case(definite(s, 2, 2, 2), lower=False),
        s.case(s.positive(1, 1), lower=False), s.case(s.normal(2, 0, 0), lower=False),
    ],
    errors=lambda s: [s.case(s.normal(2, 3), lower=True), s.case(s.normal(3), lower=True)],
)  # fmt: skip


def cholesky(A: Tensor, *, upper: bool = False) -> Tensor:
    """The triangular factor L of `A = L Lᴴ` (with `upper`, U of `A = Uᴴ U`) of positive definite matrices `(…, n, n)`.

    Only the named triangle is read; the gradient is symmetric.

    Raises:
        LinAlgError: a matrix is not positive definite; it says which.
    """
    if upper:
        return CHOLESKY.run(A.transpose(-1, -2).conj(), lower=True).transpose(-1, -2).conj()
    return CHOLESKY.run(A, lower=True)


class CholeskyResult(NamedTuple):
    """What `cholesky_ex` returns: the factor (NaN where there is none), and 0, or 1 where there is none."""

    L: Tensor
    info: Tensor


def cholesky_ex(A: Tensor, *, upper: bool = False, check_errors: bool = False) -> CholeskyResult:
    """The factor and, instead of an error, a number per matrix: 0, or 1 where it is not positive definite."""
    xp = array_module(A.data)
    info = xp.zeros(A.shape[:-2], "int32")
    try:
        return CholeskyResult(cholesky(A, upper=upper), wrap(info))
    except LinAlgError:
        if check_errors:
            raise
    for index in np.ndindex(A.shape[:-2]):
        try:
            cholesky(wrap(A.data[index]))
        except LinAlgError:
            info[index] = 1
    bad = info[..., None, None] != 0
    eye = xp.eye(A.shape[-1], dtype=A.dtype)
    factor = cholesky(A.masked_fill(wrap(bad), 0.0) + wrap(eye * bad), upper=upper)
    return CholeskyResult(factor.masked_fill(wrap(bad), float("nan")), wrap(info))


# -- qr ----------------------------------------------------------------------------------------------------------------


def _qr_shape(a: Any, *, mode: str) -> Any:
    batch = matrices(a)
    m, n = a[-2:]
    k = m if mode == "complete" else min(m, n)
    return (*batch, m, k), (*batch, k, n)


def _qr_vjp(F: Any, g: Any, out: Any, a: Any, *, needs: Sequence[bool], mode: str) -> Any:
    gq, gr = g
    q, r = out
    m, n = q.shape[-2], r.shape[-1]
    if mode == "complete" and m > n:
        raise GraphError("qr: mode='complete' has no gradient for matrices with more rows than columns: use 'reduced'")
    if gq is None and gr is None:
        return (None,)
    inner: Any = 0.0
    if gr is not None:
        inner = gr @ adjoint(F, r)
    if gq is not None:
        inner = inner - adjoint(F, q) @ gq
    if m >= n:
        upper = F.triu(inner, k=0)
        both = upper + adjoint(F, upper)
        both = both - diagonal_part(both, real_part(F, diagonal_of(both))) * 0.5
        left = q @ both if gq is None else q @ both + gq
        return (adjoint(F, F.solve_triangular(r, adjoint(F, left), upper=True, unitriangular=False)),)
    lower = F.tril(adjoint(F, inner) - inner, k=0)
    if inner.dtype.kind == "c":  # the diagonal of a skew-Hermitian matrix is imaginary, and counts half
        lower = lower - diagonal_part(lower, diagonal_of(lower)) * 0.5
    first = F.getitem(r, index=(Ellipsis, slice(0, m)))
    back = adjoint(F, F.solve_triangular(first, adjoint(F, q @ lower), upper=True, unitriangular=False))
    widened = F.pad(back, widths=((0, 0),) * (len(back.shape) - 1) + ((0, n - m),), value=0.0)
    return (widened if gr is None else widened + q @ gr,)


QR = op(
    "qr", "q with orthonormal columns and upper triangular r with q·r = a",
    autocast="single on cpu",
    forward=lambda xp, a, *, mode: tuple(guarded(xp, "qr", "no factorisation", xp.linalg.qr, a, mode=mode)),
    outputs=("Q", "R"), vjp=_qr_vjp, saves=("out",), shape=_qr_shape, dtype=lambda d, **_: (d, d), holomorphic=False,
    reference=lambda a, mode: tuple(np.linalg.qr(a, mode=mode)),
    samples=lambda s: [
        s.case(regular(s, 3, 3), mode="reduced"), s.case(s.normal(2, 3, 2), mode="reduced"),
        s.case(np.concatenate((regular(s, 2, 2), s.normal(2, 2)), -1), mode="reduced"),
        s.case(regular(s, 2, 2), mode="complete"),
    ],
    errors=lambda s: [s.case(s.normal(3), mode="reduced")],
)  # fmt: skip


class QRResult(NamedTuple):
    """What `qr` returns."""

    Q: Tensor
    R: Tensor


def qr(A: Tensor, mode: str = "reduced") -> QRResult:
    """`A = Q R` of matrices `(…, m, n)`: with k = min(m, n), Q is `(…, m, k)` and R `(…, k, n)`.

    `mode="complete"` makes Q square (a gradient only where m ≤ n); `mode="r"` gives R alone, without gradient, and an
    empty Q. Gradients need the first k columns to be linearly independent.
    """
    if mode == "r":
        if A.requires_grad:
            raise GraphError("qr: mode='r' has no gradient, for want of Q: use mode='reduced', or detach()")
        xp = array_module(A.data)
        return QRResult(wrap(xp.empty(0, A.dtype)), wrap(xp.linalg.qr(A.data, mode="r")))
    if mode not in ("reduced", "complete"):
        raise ValueError(f"qr: mode is 'reduced', 'complete' or 'r', not {mode!r}")
    return QRResult(*apply(QR, A, mode=mode))


def householder_product(input: Tensor, tau: Tensor) -> Tensor:
    """The first n columns of the product of Householder reflections `I - tauᵢ vᵢ vᵢᴴ`, as LAPACK's `geqrf` packs them.

    `input` `(…, m, n)` holds vᵢ below its diagonal (1 on it), `tau` is `(…, k)` with k ≤ n ≤ m.
    """
    m, n = input.shape[-2:]
    if not tau.shape[-1] <= n <= m:
        raise ShapeError(
            f"householder_product: needs input (…, m, n) with m ≥ n, and no more than n numbers in tau, not shapes "
            f"{input.shape} and {tau.shape}"
        )
    xp = array_module(input.data)
    v = input.tril(-1) + wrap(xp.eye(m, n, dtype=input.dtype))
    out = wrap(xp.eye(m, n, dtype=input.dtype)) + (input * 0.0 if not tau.shape[-1] else 0.0)
    return _reflected(v, tau, out.broadcast_to(input.shape), range(tau.shape[-1] - 1, -1, -1))


def _reflected(v: Tensor, tau: Tensor, out: Tensor, order: range) -> Tensor:
    """`out` multiplied by reflections from the left, in this order."""
    for i in order:
        column = v[..., :, i : i + 1]
        out = out - tau[..., i : i + 1, None] * (column @ (column.transpose(-1, -2).conj() @ out))
    return out


class GeqrfResult(NamedTuple):
    """What `geqrf` returns."""

    a: Tensor
    tau: Tensor


def geqrf(input: Tensor) -> GeqrfResult:
    """The QR factorisation as LAPACK packs it: R above the diagonal, reflections below, for `householder_product`.

    It has no gradient, as in PyTorch: use `linalg.qr`.
    """
    if input.requires_grad:
        raise GraphError("geqrf: has no gradient: use linalg.qr, or detach()")
    packed, tau = array_module(input.data).linalg.qr(input.data, mode="raw")
    return GeqrfResult(*(wrap(x.astype(input.dtype)) for x in (packed.swapaxes(-1, -2), tau)))


def ormqr(input: Tensor, tau: Tensor, other: Tensor, left: bool = True, transpose: bool = False) -> Tensor:
    """`Q @ other` (`other @ Q`; with `transpose`, Qᴴ), where Q is the product of the reflections that geqrf packs."""
    if not left:
        turned = ormqr(input, tau, other.transpose(-1, -2).conj(), True, not transpose)
        return turned.transpose(-1, -2).conj()
    xp = array_module(input.data)
    v = input.tril(-1) + wrap(xp.eye(*input.shape[-2:], dtype=input.dtype))
    count = tau.shape[-1]
    if transpose:
        return _reflected(v, tau.conj(), other, range(count))
    return _reflected(v, tau, other, range(count - 1, -1, -1))
