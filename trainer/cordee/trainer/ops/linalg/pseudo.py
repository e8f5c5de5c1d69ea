"""What is made of singular values: pseudoinverse, rank, condition number, least squares."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.autograd.record import op
from cordee.trainer.errors import LinAlgError, ShapeError
from cordee.trainer.ops.linalg.common import adjoint, guarded, matrices, real_dtype, regular
from cordee.trainer.ops.linalg.norms import matrix_norm
from cordee.trainer.ops.linalg.solves import inv
from cordee.trainer.ops.linalg.spectral import eigvalsh, svdvals
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["LstsqResult", "cond", "lstsq", "matrix_rank", "pinv"]


def _default_rtol(a: Tensor) -> float:
    return max(a.shape[-2:], default=0) * float(np.finfo(real_dtype(a.dtype)).eps)


def _tolerances(A: Tensor, atol: Any, rtol: Any) -> tuple[Any, Any]:
    """PyTorch's defaults: relative to the largest singular value, unless an absolute bound was given."""
    absolute = atol.data[..., None] if isinstance(atol, Tensor) else atol
    relative = rtol.data[..., None] if isinstance(rtol, Tensor) else rtol
    if relative is None:
        relative = _default_rtol(A) if atol is None or (not isinstance(atol, Tensor) and atol <= 0) else 0.0
    return 0.0 if absolute is None else absolute, relative


# -- pinv --------------------------------------------------------------------------------------------------------------


def _pinv(xp: Any, a: Any, *, atol: Any, rtol: Any, hermitian: bool = False) -> Any:
    if hermitian:  # of which the lower triangle is read
        below = xp.tril(a, -1)
        a = xp.tril(a) + below.swapaxes(-1, -2).conj()
    u, s, vh = guarded(
        xp, "pinv", "the iteration did not converge: the matrix holds NaN or infinity", xp.linalg.svd, a,
        full_matrices=False,
    )  # fmt: skip
    if not s.shape[-1]:
        return xp.zeros((*a.shape[:-2], a.shape[-1], a.shape[-2]), a.dtype)
    kept = s > xp.maximum(s[..., :1] * rtol, atol)
    inverse = xp.where(kept, 1 / xp.where(kept, s, xp.ones_like(s)), xp.zeros_like(s))
    out = (vh.swapaxes(-1, -2).conj() * inverse[..., None, :]) @ u.swapaxes(-1, -2).conj()
    return out.astype(a.dtype, copy=False)


def _pinv_vjp(F: Any, g: Any, out: Any, a: Any, **_: Any) -> Any:
    """G. Golub and V. Pereyra, 'The differentiation of pseudo-inverses' (1973), for matrices of constant rank."""
    gh, ph = adjoint(F, g), adjoint(F, out)
    if a.shape[-2] <= a.shape[-1]:
        k = gh @ out
        kp = k @ ph
        return kp - adjoint(F, out @ k) - (a @ out) @ kp + (ph @ out) @ (gh - k @ a)
    k = out @ gh
    pk = ph @ k
    return pk - adjoint(F, k @ out) - pk @ out @ a + (gh - a @ k) @ out @ ph


PINV = op(
    "pinv", "the pseudoinverse; singular values up to max(atol, rtol·largest) count as zero",
    autocast="single on cpu",
    forward=_pinv, vjps=(_pinv_vjp,), saves=("a out",), dtype="float", holomorphic=False,
    shape=lambda a, **_: (*matrices(a), a[-1], a[-2]),
    reference=lambda a, atol, rtol: np.linalg.inv(a.swapaxes(-1, -2) @ a) @ a.swapaxes(-1, -2)
    if a.shape[-2] >= a.shape[-1]
    else a.swapaxes(-1, -2) @ np.linalg.inv(a @ a.swapaxes(-1, -2)),
    samples=lambda s: [
        s.case(s.normal(3, 2), atol=0.0, rtol=1e-12), s.case(s.normal(2, 2, 3), atol=0.0, rtol=1e-12),
        s.case(regular(s, 2, 2), atol=0.0, rtol=1e-12),
    ],
    errors=lambda s: [s.case(s.normal(3), atol=0.0, rtol=1e-12)],
)  # fmt: skip


@autocasts("single")
def pinv(A: Tensor, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Tensor:
    """The pseudoinverse `(…, n, m)` of matrices `(…, m, n)`.

    Singular values up to `max(atol, rtol · largest)` count as zero; rtol is max(m, n)·eps unless given, or 0 if only
    atol is. The gradient takes the rank as constant. With `hermitian`, only the lower triangle is read.
    """
    if hermitian and A.shape[-1:] != A.shape[-2:-1]:
        raise ShapeError(f"pinv: a hermitian matrix is square, not of shape {A.shape}")
    absolute, relative = _tolerances(A, atol, rtol)
    return PINV.run(A, atol=absolute, rtol=relative, hermitian=hermitian)


# -- rank and condition ------------------------------------------------------------------------------------------------


@autocasts("single")
def matrix_rank(A: Tensor, tol: Any = None, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Tensor:
    """How many singular values `(…,)` are above `max(atol, rtol · largest)`; rtol is max(m, n)·eps unless given."""
    absolute, relative = _tolerances(A, atol if tol is None else tol, 0.0 if tol is not None else rtol)
    s = (eigvalsh(A.detach()).abs() if hermitian else svdvals(A.detach())).data
    xp = array_module(s)
    if not s.shape[-1]:
        return wrap(xp.zeros(A.shape[:-2], "int64"))
    return wrap(xp.asarray((s > xp.maximum(s.max(-1, keepdims=True) * relative, absolute)).sum(-1)))


@autocasts("single")
def cond(A: Tensor, p: Any = None) -> Tensor:
    """The condition number `(…,)`: |A|·|A⁻¹| in the matrix norm `p`; None and 2: largest by smallest singular value.

    For other p than ±2 the matrices are square; singular ones give infinity.
    """
    if p in (None, 2, -2):
        s = svdvals(A)
        return s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise ShapeError(f"cond: with p={p!r} the matrices must be square, not of shape {A.shape}")
    try:
        inverse = inv(A)
    except LinAlgError:
        from cordee.trainer.ops.linalg.solves import inv_ex

        inverse, info = inv_ex(A)
        inverse = inverse.masked_fill(wrap(info.data[..., None, None] != 0), float("inf"))
    return matrix_norm(A, p) * matrix_norm(inverse, p)


# -- least squares -----------------------------------------------------------------------------------------------------


class LstsqResult(NamedTuple):
    """What `lstsq` returns. As with PyTorch's drivers, what was not computed is empty."""

    solution: Tensor
    residuals: Tensor
    rank: Tensor
    singular_values: Tensor


@autocasts("single")
def lstsq(A: Tensor, B: Tensor, rcond: float | None = None, *, driver: str | None = None) -> LstsqResult:
    """The X that minimises |A X - B|, of least norm if there are several: `A (…, m, n)`, `B (…, m, k)` or `(…, m)`.

    Singular values up to `rcond · largest` count as zero (max(m, n)·eps unless given). `residuals` `(…, k)`, the
    squared lengths of the columns of A X - B, is empty unless m > n and every matrix has full rank. All of PyTorch's
    drivers compute by singular values here; 'gels' does not report the rank, only 'gelsd' and 'gelss' the values.
    The gradient of the solution takes the rank as constant.
    """
    if driver not in (None, "gels", "gelsy", "gelsd", "gelss"):
        raise ValueError(f"lstsq: driver is one of gels, gelsy, gelsd, gelss, not {driver!r}")
    vector = B.ndim == 1 or (A.ndim - 1 == B.ndim and B.shape == A.shape[:-1])
    right = B.unsqueeze(-1) if vector else B
    if A.ndim < 2 or right.ndim < 2 or A.shape[-2] != right.shape[-2]:
        raise ShapeError(f"lstsq: A (…, m, n) and B (…, m, k) or (…, m) do not fit: {A.shape} and {B.shape}")
    xp = array_module(A.data)
    rtol = _default_rtol(A) if rcond is None else rcond
    found = pinv(A, rtol=rtol, atol=0.0) @ right
    rank = matrix_rank(A, rtol=rtol, atol=0.0)
    nothing = wrap(xp.empty(0, real_dtype(A.dtype)))
    residuals = nothing
    if A.shape[-2] > A.shape[-1] and bool((rank.data == A.shape[-1]).all()):
        residuals = (A @ found - right).abs().square().sum(-2)
    values = svdvals(A.detach()) if driver in ("gelsd", "gelss") else nothing
    return LstsqResult(
        found.squeeze(-1) if vector else found,
        residuals,
        wrap(xp.empty(0, "int64")) if driver == "gels" else rank,
        values,
    )
