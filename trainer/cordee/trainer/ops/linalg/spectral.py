"""Eigenvalues and singular values, with their vectors, and what is made of them: pinv, rank, condition.

Gradients: M. B. Giles (2008) for symmetric matrices; J. Townsend, 'Differentiating the singular value decomposition'
(2016), and PyTorch's treatment of what complex vectors leave open; C. Boeddeker and others, 'On the computation of
complex-valued gradients with application to statistically optimum beamforming' (2017), for general matrices; G. Golub
and V. Pereyra (1973) for the pseudoinverse.

Vectors of equal eigenvalues (singular values) are not determined, and their gradient is infinite or NaN, as in PyTorch;
the gradient of the values themselves is fine there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cordee.trainer.array import default_dtype
from cordee.trainer.autograd.graph import apply
from cordee.trainer.autograd.record import op
from cordee.trainer.errors import GraphError
from cordee.trainer.ops.linalg.common import (
    adjoint,
    diagonal_of,
    diagonal_part,
    eye_like,
    guarded,
    hermitian,
    matrices,
    raw,
    real_dtype,
    real_part,
    regular,
    square,
    symmetric,
)
from cordee.trainer.tensors import Tensor

__all__ = [
    "EigResult",
    "EighResult",
    "SVDResult",
    "eig",
    "eigh",
    "eigvals",
    "eigvalsh",
    "matrix_sqrth",
    "svd",
    "svdvals",
]  # fmt: skip


def _real_result(dtype: Any, **_: Any) -> Any:
    """The dtype of real values belonging to a matrix."""
    return real_dtype(dtype) if dtype.kind in "fc" else default_dtype()


def _same(dtype: Any) -> Any:
    return dtype if dtype.kind in "fc" else default_dtype()


def _complex_result(dtype: Any, **_: Any) -> Any:
    return np.result_type(_same(dtype), np.complex64)


def _gaps(values: Any) -> Any:
    """λⱼ - λᵢ, and 1 on the diagonal, to divide by."""
    wide = values[..., None, :] - values[..., :, None]
    return wide + eye_like(wide)


# -- symmetric (Hermitian) matrices ------------------------------------------------------------------------------------

_DIVERGED = "the iteration did not converge: the matrix holds NaN or infinity, or is badly conditioned"


def _triangle(xp: Any, a: Any, uplo: str | None) -> tuple[Any, str]:
    return (a, uplo) if uplo is not None else (hermitian(xp, a), "L")


def _eigh(xp: Any, a: Any, *, uplo: str | None) -> Any:
    a, uplo = _triangle(xp, a, uplo)
    return tuple(guarded(xp, "eigh", _DIVERGED, xp.linalg.eigh, a, UPLO=uplo))


def _eigvalsh(xp: Any, a: Any, *, uplo: str | None) -> Any:
    a, uplo = _triangle(xp, a, uplo)
    return guarded(xp, "eigvalsh", _DIVERGED, xp.linalg.eigvalsh, a, UPLO=uplo)


def _eigh_vjp(F: Any, g: Any, out: Any, a: Any, *, needs: Sequence[bool], uplo: str | None) -> Any:
    gw, gv = g
    w, v = out
    if gv is None:
        return (None if gw is None else (v * gw[..., None, :]) @ adjoint(F, v),)
    inside = adjoint(F, v) @ gv
    inside = (inside - adjoint(F, inside)) * 0.5 / _gaps(w)
    if inside.dtype.kind == "c":
        inside = inside - diagonal_part(inside, diagonal_of(inside))
    if gw is not None:
        inside = inside + diagonal_part(inside, gw)
    return (v @ inside @ adjoint(F, v),)


def _eigvalsh_vjp(F: Any, g: Any, out: Any, a: Any, *, uplo: str | None) -> Any:
    _, v = F.eigh(a, uplo=uplo)
    return (v * g[..., None, :]) @ adjoint(F, v)


def _symmetric_cases(s: Any) -> list[Any]:
    return [
        s.case(symmetric(s, 3, 3), uplo=None), s.case(symmetric(s, 2, 2, 2), uplo=None),
        s.case(s.normal(1, 1), uplo=None), s.case(s.normal(2, 0, 0), uplo=None),
    ]  # fmt: skip


def _oblong(s: Any) -> list[Any]:
    return [s.case(s.normal(2, 3), uplo="L"), s.case(s.normal(3), uplo="L")]


def _values_shape(a: Any, **_: Any) -> Any:
    square(a)
    return a[:-1]


def _pair_shape(a: Any, **_: Any) -> Any:
    square(a)
    return a[:-1], a


EIGH = op(
    "eigh", "eigenvalues, ascending, and orthonormal eigenvectors of symmetric (Hermitian) matrices, of which one "
    "triangle is read (uplo None: their symmetric part); the gradient is symmetric",
    autocast="single on cpu",
    forward=_eigh, outputs=("eigenvalues", "eigenvectors"), vjp=_eigh_vjp, saves=("out",), shape=_pair_shape,
    dtype=lambda d, **_: (_real_result(d), _same(d)), holomorphic=False,
    reference=lambda a, uplo: tuple(np.linalg.eigh((a + a.swapaxes(-1, -2)) / 2)),
    samples=_symmetric_cases, errors=_oblong,
)  # fmt: skip

EIGVALSH = op(
    "eigvalsh", "eigenvalues, ascending, of symmetric (Hermitian) matrices",
    autocast="single on cpu",
    forward=_eigvalsh, vjps=(_eigvalsh_vjp,), saves=("a",), shape=_values_shape, dtype=_real_result, holomorphic=False,
    reference=lambda a, uplo: np.linalg.eigvalsh((a + a.swapaxes(-1, -2)) / 2),
    samples=_symmetric_cases, errors=_oblong,
)  # fmt: skip


class EighResult(NamedTuple):
    """What `eigh` returns."""

    eigenvalues: Tensor
    eigenvectors: Tensor


def _uplo(name: str, UPLO: str) -> str:
    if UPLO.upper() not in ("L", "U"):
        raise ValueError(f"{name}: UPLO is 'L' or 'U', not {UPLO!r}")
    return UPLO.upper()


def eigh(A: Tensor, UPLO: str = "L") -> EighResult:
    """Eigenvalues `(…, n)`, ascending, and orthonormal eigenvectors (columns) of symmetric matrices `(…, n, n)`.

    Only the triangle UPLO is read. The sign (phase) of a vector is arbitrary: a function of it should not depend on it.

    Raises:
        LinAlgError: the iteration did not converge.
    """
    return EighResult(*apply(EIGH, A, uplo=_uplo("eigh", UPLO)))


def eigvalsh(A: Tensor, UPLO: str = "L") -> Tensor:
    """Eigenvalues `(…, n)`, ascending, of symmetric (Hermitian) matrices `(…, n, n)`."""
    return EIGVALSH.run(A, uplo=_uplo("eigvalsh", UPLO))


def matrix_sqrth(A: Tensor) -> Tensor:
    """The square root, symmetric and positive definite, of symmetric positive definite matrices `(…, n, n)`."""
    w, v = eigh(A)
    return (v * w.sqrt()[..., None, :]) @ v.transpose(-1, -2).conj()


# -- singular values ---------------------------------------------------------------------------------------------------


def _svd(xp: Any, a: Any, *, full: bool) -> Any:
    return tuple(guarded(xp, "svd", _DIVERGED, xp.linalg.svd, a, full_matrices=full))


def _svdvals(xp: Any, a: Any) -> Any:
    return guarded(xp, "svdvals", _DIVERGED, xp.linalg.svd, a, compute_uv=False)


def _svd_vjp(F: Any, g: Any, out: Any, a: Any, *, needs: Sequence[bool], full: bool) -> Any:
    gu, gs, gvh = g
    u, s, vh = out
    k, m, n = s.shape[-1], u.shape[-2], vh.shape[-1]
    if full and m != n:
        for part in (None if gu is None else gu[..., :, k:], None if gvh is None else gvh[..., k:, :]):
            if part is not None and raw(part).any():
                raise GraphError(
                    "svd: the vectors beyond the singular values (full_matrices=True) have no gradient: leave them out"
                )
        u, vh = u[..., :, :k], vh[..., :k, :]
        gu = None if gu is None else gu[..., :, :k]
        gvh = None if gvh is None else gvh[..., :k, :]
    if gu is None and gvh is None:
        return (None if gs is None else (u * gs[..., None, :]) @ vh,)
    gaps = _gaps(s * s)
    row, column = s[..., None, :], s[..., :, None]
    inner: Any = 0.0
    if gu is not None:
        turn = adjoint(F, u) @ gu
        turn = turn - adjoint(F, turn)
        inner = turn / gaps * row
        if turn.dtype.kind == "c":
            twist = diagonal_of(turn)
            inner = inner - diagonal_part(inner, diagonal_of(inner))
            if gvh is not None:  # a common phase of u and v is free; the gradient says nothing about it
                inner = inner + diagonal_part(inner, twist / (s * 2.0))
    if gvh is not None:
        turn = vh @ adjoint(F, gvh)
        turn = (turn - adjoint(F, turn)) / gaps
        if turn.dtype.kind == "c":
            turn = turn - diagonal_part(turn, diagonal_of(turn))
        inner = inner + column * turn
    if gs is not None:
        inner = inner + diagonal_part(inner, gs)
    whole = u @ inner @ vh
    if gu is not None and m > k:
        scaled = gu / row
        whole = whole + (scaled - u @ (adjoint(F, u) @ scaled)) @ vh
    if gvh is not None and n > k:
        scaled = gvh / column
        whole = whole + u @ (scaled - (scaled @ adjoint(F, vh)) @ vh)
    return (whole,)


def _svdvals_vjp(F: Any, g: Any, out: Any, a: Any) -> Any:
    u, _, vh = F.svd(a, full=False)
    return (u * g[..., None, :]) @ vh


def _svd_shape(a: Any, *, full: bool) -> Any:
    batch = matrices(a)
    m, n = a[-2:]
    k = min(m, n)
    return (*batch, m, m if full else k), (*batch, k), (*batch, n if full else k, n)


def _svdvals_shape(a: Any) -> Any:
    return (*matrices(a), min(a[-2:]))


SVD = op(
    "svd", "u, s, vh with orthonormal vectors and u·diag(s)·vh = a; s descending",
    autocast="single on cpu",
    forward=_svd, outputs=("U", "S", "Vh"), vjp=_svd_vjp, saves=("out",), shape=_svd_shape,
    dtype=lambda d, **_: (_same(d), _real_result(d), _same(d)), holomorphic=False,
    reference=lambda a, full: tuple(np.linalg.svd(a, full_matrices=full)),
    samples=lambda s: [
        s.case(regular(s, 3, 3), full=False), s.case(s.normal(2, 3, 2), full=False), s.case(s.normal(2, 3), full=False),
        s.case(s.normal(2, 2), full=True),
    ],
    errors=lambda s: [s.case(s.normal(3), full=False)],
)  # fmt: skip

SVDVALS = op(
    "svdvals", "singular values, descending",
    autocast="single on cpu",
    forward=_svdvals, vjps=(_svdvals_vjp,), saves=("a",), shape=_svdvals_shape, dtype=_real_result, holomorphic=False,
    reference=lambda a: np.linalg.svd(a)[1],
    samples=lambda s: [
        s.case(regular(s, 3, 3)), s.case(s.normal(2, 3, 2)), s.case(s.normal(2, 3)), s.case(s.normal(2, 0)),
    ],
    errors=lambda s: [s.case(s.normal(3))],
)  # fmt: skip


class SVDResult(NamedTuple):
    """What `svd` returns: `A = U @ diag(S) @ Vh`."""

    U: Tensor
    S: Tensor
    Vh: Tensor


def svd(A: Tensor, full_matrices: bool = True) -> SVDResult:
    """The singular value decomposition of matrices `(…, m, n)`: U, S `(…, min(m, n))`, descending, and Vh.

    With `full_matrices`, U `(…, m, m)` and Vh `(…, n, n)` are square; the vectors beyond the singular values are not
    determined and have no gradient (a loss that depends on them is refused). Signs (phases) of the vectors are
    arbitrary; vectors of equal singular values have no gradient (infinite or NaN, as in PyTorch).

    Raises:
        LinAlgError: the iteration did not converge.
    """
    return SVDResult(*apply(SVD, A, full=bool(full_matrices)))


def svdvals(A: Tensor) -> Tensor:
    """Singular values `(…, min(m, n))`, descending."""
    return SVDVALS.run(A)


# -- general square matrices -------------------------------------------------------------------------------------------


def _eig(xp: Any, a: Any) -> Any:
    if xp is not np and not hasattr(xp.linalg, "eig"):
        raise TypeError("this CuPy has no eigenvalues of general matrices: compute on the CPU (CORDEE_DEVICE=cpu)")
    values, vectors = guarded(xp, "eig", _DIVERGED, xp.linalg.eig, a)
    wanted = _complex_result(a.dtype)
    return values.astype(wanted, copy=False), vectors.astype(wanted, copy=False)


def _eig_vjp(F: Any, g: Any, out: Any, a: Any, *, needs: Sequence[bool]) -> Any:
    """A·V = V·Λ, with columns of V of length 1 whose phase is free."""
    gw, gv = g
    w, v = out
    if gw is None and gv is None:
        return (None,)
    vh = adjoint(F, v)
    if gv is None:
        inside = diagonal_part(v, gw)
    else:
        pull = vh @ gv
        inside = pull - (vh @ v) * real_part(F, diagonal_of(pull))[..., None, :]
        inside = inside / F.conj(_gaps(w))
        inside = inside - diagonal_part(inside, diagonal_of(inside))
        if gw is not None:
            inside = inside + diagonal_part(inside, gw)
    whole = F.solve(vh, inside @ vh)
    return (whole if raw(a).dtype.kind == "c" else F.real(whole),)


EIG = op(
    "eig", "eigenvalues and eigenvectors of length 1, complex, of square matrices",
    autocast="single on cpu",
    forward=_eig, outputs=("eigenvalues", "eigenvectors"), vjp=_eig_vjp, saves=("a out",), shape=_pair_shape,
    dtype=lambda d, **_: (_complex_result(d), _complex_result(d)), holomorphic=False,
    reference=lambda a: tuple(x.astype(complex) for x in np.linalg.eig(a)),
    samples=lambda s: [  # with real eigenvalues: LAPACK chooses the phase of vectors of others by their elements
        s.case(symmetric(s, 3, 3) + 0.1 * s.normal(3, 3)), s.case(symmetric(s, 2, 2, 2) + 0.1 * s.normal(2, 2, 2)),
    ],
    errors=lambda s: [s.case(s.normal(2, 3)), s.case(s.normal(3))],
)  # fmt: skip


class EigResult(NamedTuple):
    """What `eig` returns."""

    eigenvalues: Tensor
    eigenvectors: Tensor


def eig(A: Tensor) -> EigResult:
    """Eigenvalues `(…, n)` and eigenvectors (columns of length 1) of square matrices: complex, in no fixed order.

    The phase of a vector is arbitrary: a function of it should not depend on it.
    """
    return EigResult(*apply(EIG, A))


def eigvals(A: Tensor) -> Tensor:
    """Eigenvalues `(…, n)`, complex, of square matrices, in no fixed order."""
    return eig(A).eigenvalues
