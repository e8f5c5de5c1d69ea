"""Determinants.

The gradient of det(A) is its cofactor matrix, which is finite also where A is singular; it is computed from singular
values (G. W. Stewart, 'On the adjugate matrix', 1998), and so is its own gradient. So first and second derivatives of
`det` hold for every matrix, where det(A)·A⁻ᵀ would divide zero by zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cordee.trainer.array import default_dtype
from cordee.trainer.autograd.graph import apply
from cordee.trainer.autograd.record import op
from cordee.trainer.ops.elementwise import where
from cordee.trainer.ops.linalg.common import adjoint, guarded, real_dtype, refuse_half, regular, square, transposed
from cordee.trainer.tensors import Tensor

__all__ = ["SlogdetResult", "det", "logdet", "slogdet"]


def _batch_shape(a: Any, **_: Any) -> Any:
    return square(a)


def _square_shape(a: Any, **_: Any) -> Any:
    square(a)
    return a


# -- the cofactor matrix -----------------------------------------------------------------------------------------------


def _products_without(xp: Any, s: Any, num: int) -> Any:
    """The product of all entries of s `(…, n)` but one `(…, n)`, or but two `(…, n, n)`, for each choice of them."""
    n = s.shape[-1]
    left_out = ~xp.eye(n, dtype=bool)
    if num == 2:
        left_out = left_out[:, None, :] & left_out[None, :, :]
    return xp.where(left_out, s[(..., *([None] * num), slice(None))], xp.ones((), s.dtype)).prod(-1)


def _rotations(xp: Any, name: str, a: Any) -> Any:
    """A's singular value decomposition, and the sign (phase) of its determinant."""
    u, s, vh = guarded(xp, name, "the iteration did not converge: the matrix holds NaN or infinity", xp.linalg.svd, a)
    return u, s, vh, xp.linalg.det(u) * xp.linalg.det(vh)


def _cofactor(xp: Any, a: Any) -> Any:
    u, s, vh, sign = _rotations(xp, "cofactor", a)
    if a.dtype.kind == "c":
        u, vh = u.conj(), vh.conj()
    out = (u * (xp.asarray(sign)[..., None] * _products_without(xp, s, 1))[..., None, :]) @ vh
    return out.astype(a.dtype, copy=False)


def _cofactor_vjp(F: Any, g: Any, out: Any, a: Any) -> Any:
    """det is linear in each singular pair's part: its second derivative has terms in two pairs, i and j, each."""
    if not F.raw:  # where derivatives beyond the second are wanted, A has to be invertible
        back = transposed(F.inv(a))
        return (g * out).sum(-1)[..., None].sum(-2)[..., None] * back - out @ transposed(g) @ back
    xp = F.xp
    u, s, vh, sign = _rotations(xp, "cofactor", a)
    n = s.shape[-1]
    turned = u.swapaxes(-1, -2).conj() @ g @ vh.swapaxes(-1, -2).conj()
    weights = _products_without(xp, s, 2) * ~xp.eye(n, dtype=bool) * xp.asarray(sign)[..., None, None]
    own = (weights * xp.diagonal(turned, 0, -2, -1)[..., :, None]).sum(-2)
    inner = own[..., None] * xp.eye(n, dtype=s.dtype) - weights * turned.swapaxes(-1, -2)
    return (u.conj() @ inner @ vh.conj()).astype(g.dtype, copy=False)


def _cofactor_reference(a: Any) -> Any:
    out = np.ones_like(a)
    n = a.shape[-1]
    for index in np.ndindex(a.shape):
        *batch, i, j = index
        rest = np.delete(np.delete(a[tuple(batch)], i, 0), j, 1)
        out[index] = (-1) ** (i + j) * (np.linalg.det(rest) if n > 1 else 1.0)
    return out


COFACTOR = op(
    "cofactor", "the cofactor matrix det(a)·a⁻ᵀ, also of singular matrices: the gradient of det",
    forward=_cofactor, vjps=(_cofactor_vjp,), saves=("a out",), shape=_square_shape, dtype="float",
    reference=_cofactor_reference,
    samples=lambda s: [s.case(regular(s, 3, 3)), s.case(regular(s, 2, 2, 2)), s.case(s.positive(1, 1))],
    errors=lambda s: [s.case(s.normal(2, 3))],
)  # fmt: skip


# -- det ---------------------------------------------------------------------------------------------------------------


def _det(xp: Any, a: Any) -> Any:
    refuse_half(a)
    return xp.linalg.det(a)


DET = op(
    "det", "the determinant; its gradient is right for singular matrices too",
    forward=_det,
    vjps=(lambda F, g, out, a: g[..., None, None] * F.cofactor(a),), saves=("a",), shape=_batch_shape, dtype="float",
    reference=lambda a: np.prod(np.linalg.eigvals(a), -1).real,
    samples=lambda s: [
        s.case(s.normal(3, 3)), s.case(s.normal(2, 2, 2)), s.case(s.normal(1, 1)),
        s.case(np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [0.0, 1.0, 1.0]])), s.case(np.zeros((2, 2))),
    ],
    errors=lambda s: [s.case(s.normal(2, 3)), s.case(s.normal(3))],
)  # fmt: skip


def det(A: Tensor) -> Tensor:
    """The determinants `(…,)` of square matrices `(…, n, n)`. First and second gradients hold for singular ones too."""
    return DET.run(A)


# -- slogdet -----------------------------------------------------------------------------------------------------------


def _slogdet_vjp(F: Any, g: Any, out: Any, a: Any, *, needs: Sequence[bool]) -> Any:
    of_sign, of_log = g
    factor = of_log
    if out[0].dtype.kind == "c" and of_sign is not None:  # the sign of a real matrix does not change
        turn = F.imag(F.conj(of_sign) * out[0]) * -1j
        factor = turn if of_log is None else of_log + turn
    return (None if factor is None else factor[..., None, None] * adjoint(F, F.inv(a)),)


def _slogdet_shape(a: Any) -> Any:
    batch = square(a)
    return batch, batch


def _slogdet_dtype(dtype: Any) -> Any:
    own = dtype if dtype.kind in "fc" else default_dtype()
    return own, real_dtype(own)


def _slogdet(xp: Any, a: Any) -> Any:
    refuse_half(a)
    return tuple(map(xp.asarray, xp.linalg.slogdet(a)))


SLOGDET = op(
    "slogdet", "the sign (complex: phase) of the determinant, and the logarithm of its magnitude",
    forward=_slogdet,
    outputs=("sign", "logabsdet"), vjp=_slogdet_vjp, saves=("a out",), shape=_slogdet_shape, dtype=_slogdet_dtype,
    holomorphic=False,
    reference=lambda a: (np.sign(np.linalg.det(a)), np.log(np.abs(np.linalg.det(a)))),
    samples=lambda s: [s.case(regular(s, 3, 3)), s.case(-regular(s, 2, 3, 3)), s.case(s.positive(1, 1))],
    errors=lambda s: [s.case(s.normal(2, 3)), s.case(s.normal(3))],
)  # fmt: skip


class SlogdetResult(NamedTuple):
    """What `slogdet` returns."""

    sign: Tensor
    logabsdet: Tensor


def slogdet(A: Tensor) -> SlogdetResult:
    """The sign of the determinant and log|det|, of square matrices `(…, n, n)`; 0 and -inf of singular ones."""
    return SlogdetResult(*apply(SLOGDET, A))


def logdet(input: Tensor) -> Tensor:
    """log(det): NaN where the determinant is negative, -inf where it is zero."""
    sign, size = slogdet(input)
    if sign.dtype.kind == "c":
        return size + sign.log()
    return where(sign < 0, float("nan"), size)  # type: ignore[no-any-return]
