"""Powers and exponentials of matrices, chains of products, and smaller things of the linalg namespace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.autograd.record import broadcast_shape, op, shape_of
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.ops.arranging import diagonal as _diagonal
from cordee.trainer.ops.company import stack
from cordee.trainer.ops.linalg.common import regular, square, transposed
from cordee.trainer.ops.linalg.solves import inv
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["cross", "diagonal", "matrix_exp", "matrix_power", "multi_dot", "trace", "vander", "vecdot"]


# -- exponential -------------------------------------------------------------------------------------------------------

_PADE = (
    64764752532480000, 32382376266240000, 7771770303897600, 1187353796428800, 129060195264000, 10559470521600,
    670442572800, 33522128640, 1323241920, 40840800, 960960, 16380, 182, 1,
)  # fmt: skip
_RADIUS = 5.371920351148152
"""The 1-norm up to which the approximant of degree 13 is exact in double precision (Higham 2005, table 2.3)."""


def _matrix_exp(xp: Any, a: Any) -> Any:
    """N. J. Higham, 'The scaling and squaring method for the matrix exponential revisited' (2005)."""
    if a.shape[-1] != a.shape[-2]:
        raise ValueError("not square")
    if not a.size:
        return a.copy()
    size = xp.abs(a).sum(-2).max(-1)
    ratio = xp.where((size > _RADIUS) & xp.isfinite(size), size / _RADIUS, xp.ones_like(size))
    halvings = xp.ceil(xp.log2(ratio))[..., None, None]
    b = a * (2.0**-halvings).astype(a.real.dtype)
    eye = xp.eye(a.shape[-1], dtype=a.dtype)
    b2 = b @ b
    b4 = b2 @ b2
    b6 = b4 @ b2
    c = [float(x) for x in _PADE]
    odd = b @ (b6 @ (c[13] * b6 + c[11] * b4 + c[9] * b2) + c[7] * b6 + c[5] * b4 + c[3] * b2 + c[1] * eye)
    even = b6 @ (c[12] * b6 + c[10] * b4 + c[8] * b2) + c[6] * b6 + c[4] * b4 + c[2] * b2 + c[0] * eye
    out = xp.linalg.solve(even - odd, even + odd)
    for done in range(int(halvings.max())):
        out = xp.where(halvings > done, out @ out, out)
    return out.astype(a.dtype, copy=False)


def _matrix_exp_vjp(F: Any, g: Any, out: Any, a: Any) -> Any:
    """The upper right block of exp of [[aᵀ, g], [0, aᵀ]] (R. Mathias, 'A chain rule for matrix functions', 1996)."""
    at = transposed(a)
    n = shape_of(a)[-1]
    whole = F.cat(F.cat(at, g, axis=-1), F.cat(g * 0.0, at, axis=-1), axis=-2)
    return F.matrix_exp(whole)[..., :n, n:]


def _matrix_exp_reference(a: Any) -> Any:
    term = np.broadcast_to(np.eye(a.shape[-1]), a.shape)
    total = term.copy()
    for k in range(1, 80):
        term = term @ a / k
        total = total + term
    return total


def _square_shape(a: Any) -> Any:
    square(a)
    return a


MATRIX_EXP = op(
    "matrix_exp", "the exponential of square matrices: Σ aᵏ/k!",
    forward=_matrix_exp, vjps=(_matrix_exp_vjp,), saves=("a",), shape=_square_shape, dtype="float",
    reference=_matrix_exp_reference,
    samples=lambda s: [
        s.case(s.normal(2, 2)), s.case(s.normal(2, 2, 2) * 4), s.case(s.normal(2, 0, 0)), s.case(regular(s, 3, 3)),
    ],
    errors=lambda s: [s.case(s.normal(2, 3)), s.case(s.normal(3))],
)  # fmt: skip


def matrix_exp(A: Tensor) -> Tensor:
    """The exponential of square matrices `(…, n, n)`."""
    return MATRIX_EXP.run(A)


# -- powers and chains -------------------------------------------------------------------------------------------------


def matrix_power(A: Tensor, n: int) -> Tensor:
    """The n-th power of square matrices, by squaring; of the inverse if n is negative; the identity if it is 0."""
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise ShapeError(f"matrix_power: needs square matrices, not a tensor of shape {A.shape}")
    if n == 0:
        xp = array_module(A.data)
        return A.masked_fill(wrap(xp.ones((), bool)), 0.0) + wrap(xp.eye(A.shape[-1], dtype=A.dtype))
    base, left = (A, n) if n > 0 else (inv(A), -n)
    out: Tensor | None = None
    while True:
        if left & 1:
            out = base if out is None else out @ base
        left >>= 1
        if not left:
            return out.clone() if out is A else out  # type: ignore[return-value]
        base = base @ base


def multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    """The product of matrices in the order that takes the fewest multiplications; the first and last may be vectors."""
    parts = list(tensors)
    if len(parts) < 2:
        raise ValueError(f"multi_dot: needs at least two tensors, not {len(parts)}")
    first, last = parts[0].ndim == 1, parts[-1].ndim == 1
    if first:
        parts[0] = parts[0].unsqueeze(0)
    if last:
        parts[-1] = parts[-1].unsqueeze(1)
    for i, part in enumerate(parts):
        if part.ndim != 2:
            raise ShapeError(f"multi_dot: tensor {i} must be a matrix, not of shape {part.shape}")
        if i and parts[i - 1].shape[1] != part.shape[0]:
            raise ShapeError(
                f"multi_dot: tensor {i - 1} has {parts[i - 1].shape[1]} columns, tensor {i} has {part.shape[0]} rows: "
                "they must be as many"
            )
    out = _chain(parts, _splits([*(p.shape[0] for p in parts), parts[-1].shape[1]]), 0, len(parts) - 1)
    if first:
        out = out.squeeze(0)
    return out.squeeze(-1) if last else out


def _splits(sizes: list[int]) -> dict[tuple[int, int], int]:
    """Where to split each run of a chain of products (the textbook's dynamic programme)."""
    count = len(sizes) - 1
    cost: dict[tuple[int, int], float] = {(i, i): 0.0 for i in range(count)}
    best: dict[tuple[int, int], int] = {}
    for length in range(1, count):
        for i in range(count - length):
            j = i + length
            options = [(cost[i, k] + cost[k + 1, j] + sizes[i] * sizes[k + 1] * sizes[j + 1], k) for k in range(i, j)]
            cost[i, j], best[i, j] = min(options)
    return best


def _chain(parts: list[Tensor], best: dict[tuple[int, int], int], i: int, j: int) -> Tensor:
    if i == j:
        return parts[i]
    k = best[i, j]
    return _chain(parts, best, i, k) @ _chain(parts, best, k + 1, j)


# -- smaller things ----------------------------------------------------------------------------------------------------


def _cross(xp: Any, a: Any, b: Any, *, axis: int) -> Any:
    """`axis` counts from the end, so that it means the same in both."""
    before, after = (Ellipsis,), (slice(None),) * (-1 - axis)
    a0, a1, a2 = (a[(*before, i, *after)] for i in range(3))
    b0, b1, b2 = (b[(*before, i, *after)] for i in range(3))
    return xp.stack((a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0), axis=axis)


def _cross_shape(a: Any, b: Any, *, axis: int) -> Any:
    for name, shape in (("a", a), ("b", b)):
        if len(shape) < -axis or shape[axis] != 3:
            raise ShapeError(f"{name} must have size 3 in dimension {axis}, where its vectors lie")
    return broadcast_shape(a, b)


def _cross_reference(a: Any, b: Any, *, axis: int) -> Any:
    a, b = np.broadcast_arrays(a, b)
    return np.cross(a, b, axis=axis)


CROSS = op(
    "cross", "the cross product of vectors of three numbers, which lie in one dimension",
    forward=_cross,
    vjps=(
        lambda F, g, out, a, b, *, axis: F.cross(b, g, axis=axis),
        lambda F, g, out, a, b, *, axis: F.cross(g, a, axis=axis),
    ),
    saves=("b", "a"), broadcasts=True, shape=_cross_shape,
    reference=_cross_reference,
    samples=lambda s: [
        s.case(s.normal(3), s.normal(3), axis=-1), s.case(s.normal(2, 3), s.normal(3), axis=-1),
        s.case(s.normal(3, 2), s.normal(2, 3, 1), axis=-2),
    ],
    errors=lambda s: [s.case(s.normal(2), s.normal(2), axis=-1), s.case(s.normal(2, 3), s.normal(4, 3), axis=-1)],
)  # fmt: skip


def cross(input: Tensor, other: Tensor, *, dim: int = -1) -> Tensor:
    """The cross product of vectors of three numbers, which lie in dimension `dim`; the others broadcast."""
    ndim = input.ndim
    if ndim != other.ndim:
        raise ShapeError(f"cross: both need the same number of dimensions, not shapes {input.shape} and {other.shape}")
    if not -ndim <= dim < ndim:
        raise TrainerIndexError(f"cross: there is no dimension {dim} in shapes {input.shape} and {other.shape}")
    return CROSS.run(input, other, axis=dim if dim < 0 else dim - ndim)


def diagonal(A: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """The diagonals of matrices, which lie in the last two dimensions unless said otherwise."""
    return _diagonal(A, offset, dim1, dim2)


@autocasts("low")
def vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """The inner products of vectors that lie in dimension `dim`; the first one is conjugated. The others broadcast."""
    return (x.conj() * y).sum(dim)


def vander(x: Tensor, *, N: int | None = None) -> Tensor:
    """Vandermonde matrices `(…, n, N)`: the powers 0 to N-1 of each element of x `(…, n)`."""
    if x.ndim < 1:
        x = x.unsqueeze(0)
    count = x.shape[-1] if N is None else N
    if N is not None and N < 1:
        raise ValueError(f"vander: N must be at least 1, not {N}")
    powers = [wrap(array_module(x.data).ones(x.shape, x.dtype))][:count]
    while len(powers) < count:
        powers.append(powers[-1] * x if len(powers) > 1 else x)
    return stack(powers, -1) if powers else wrap(array_module(x.data).ones((*x.shape, 0), x.dtype))


@autocasts("single on cpu")
def trace(input: Tensor) -> Tensor:
    """The sum of a matrix's diagonal."""
    if input.ndim != 2:
        raise ShapeError(f"trace: needs a matrix, not a tensor of shape {input.shape}")
    rows = array_module(input.data).arange(min(input.shape))
    return input[rows, rows].sum()
