"""Matrix products. Their gradients are matrix products too, of transposed views, which BLAS reads without a copy.

Halves (float16, bfloat16) are multiplied and added up in single precision, as on a GPU.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from cordee.trainer.array import get_num_threads, is_float, on_num_threads
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.autograd.graph import binary
from cordee.trainer.autograd.out import into
from cordee.trainer.autograd.record import NO_ERRORS, Shape, broadcast_shape, op, shape_of
from cordee.trainer.errors import ShapeError
from cordee.trainer.kernels import kernel
from cordee.trainer.ops.axes import wide_sum
from cordee.trainer.ops.shape import reshape, unsqueeze
from cordee.trainer.tensors import Tensor

__all__ = [
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "dot", "ger", "inner", "matmul", "mm", "mv", "outer", "vdot",
]  # fmt: skip

METHODS = "addbmm addmm addmv addr baddbmm bmm dot ger inner matmul mm mv outer vdot"
INPLACE = "addbmm addmm addmv addr baddbmm"

_FLOAT32 = np.dtype(np.float32)


class _Least:
    """How much work there has to be for anybody to be asked for a faster way of float32 than BLAS's: asking takes time.

    With more than one thread BLAS' time ends where it would share work among threads of its own. Those then wait for
    more by spinning, for a fortieth of a second, on the cores that the kernels' team needs.
    """

    product: float = 1 << 20
    """Multiplications."""
    sums: float = math.inf
    """Elements."""


def _beside_a_team(num_threads: int) -> None:
    _Least.product, _Least.sums = (1 << 20, math.inf) if num_threads == 1 else (1 << 18, 9216)


on_num_threads(_beside_a_team)
_beside_a_team(get_num_threads())


def as_matrix(a: Any) -> Any:
    """All leading dimensions as one."""
    return a if a.ndim == 2 else a.reshape((-1, a.shape[-1]) if a.shape[-1] else (int(np.prod(a.shape[:-1])), 0))


@kernel
def multiply(xp: Any, a: Any, b: Any, *, out: Any = None, bias: Any = None, row_sums: Any = None) -> Any:
    """`a @ b`, plus a bias where there is one; into `out` where that is given, which may be wider than the operands.

    On a device the sums of the rows of `a` are written to `row_sums`, of the result's dtype, where that is given.
    """
    if row_sums is not None:
        row_sums[...] = wide_sum(a, -1, False)
    if xp is np and a.dtype.itemsize == 2 and is_float(a.dtype):
        # NumPy multiplies halves one by one, and adds them up as halves.
        wide = multiply(xp, a.astype(np.float32), b.astype(np.float32))
        if bias is not None:
            wide += bias
        if out is None:
            return wide.astype(np.result_type(a, b))
        out[...] = wide
        return out
    out = a @ b if out is None else xp.matmul(a, b, out=out)
    if bias is not None:
        out += bias
    return out


def product(xp: Any, a: Any, b: Any, out: Any = None, bias: Any = None) -> Any:
    """The same; of small matrices at once."""
    if xp is np and a.dtype is _FLOAT32 and a.ndim == 2 and b.ndim == 2 and a.size * b.shape[1] < _Least.product:
        out = a.dot(b) if out is None else np.matmul(a, b, out=out)  # one function of BLAS; `dot` gets there sooner
        if bias is not None:
            out += bias
        return out
    return multiply(xp, a, b, out=out, bias=bias)


@kernel
def multiplier(xp: Any, b: Any) -> Any:
    """`times(a, out)`, which writes a @ b to out: for many a, as steps have them, `b` is prepared once.

    `a` is a matrix of b's dtype, and `out` one of that, or of float32 where that is 16 bits; both without gaps.
    """
    if b.dtype.itemsize == 2:
        wide = b.astype(np.float32)
        return lambda a, out: xp.matmul(a.astype(np.float32), wide, out=out)

    def times(a: Any, out: Any) -> None:
        xp.matmul(a, b, out=out)

    return times


# -- matmul ------------------------------------------------------------------------------------------------------------


def _matmul(xp: Any, a: Any, b: Any) -> Any:
    if b.ndim == 2 and a.ndim == 2:
        return product(xp, a, b)
    if b.ndim == 2 and a.ndim > 2:  # one large product instead of one per batch entry
        return multiply(xp, as_matrix(a), b).reshape(*a.shape[:-1], b.shape[-1])
    return multiply(xp, a, b)


def _left_vjp(F: Any, g: Any, out: Any, a: Any, b: Any) -> Any:
    if F.raw and b.ndim == 2 and g.ndim == 2:
        return product(F.xp, g, b.T)
    return F.matmul(g, b.swapaxes(-1, -2))


def _right_vjp(F: Any, g: Any, out: Any, a: Any, b: Any) -> Any:
    if F.raw and a.ndim == 2 and g.ndim == 2:
        return product(F.xp, a.T, g)
    if len(shape_of(b)) == 2:
        return F.matmul(as_matrix(a).swapaxes(-1, -2), as_matrix(g))
    return F.matmul(a.swapaxes(-1, -2), g)


def _matmul_shape(a: tuple[int, ...], b: tuple[int, ...]) -> Shape:
    if len(a) < 2 or len(b) < 2:
        raise ShapeError(f"both need at least two dimensions, not {len(a)} and {len(b)}")
    if a[-1] != b[-2]:
        raise ShapeError(
            f"a has {a[-1]} columns (its last dimension), b has {b[-2]} rows (its second-last): they must be equal"
        )
    return (*broadcast_shape(a[:-2], b[:-2]), a[-2], b[-1])


MATMUL = op(
    "matmul", "the matrix product over the last two dimensions; leading ones broadcast",
    autocast="low",
    forward=_matmul,
    vjps=(_left_vjp, _right_vjp), saves=("b", "a"), broadcasts=True, reference=np.matmul, shape=_matmul_shape,
    samples=lambda s: [
        s.case(s.normal(2, 3), s.normal(3, 4)),
        s.case(s.normal(2, 2, 3), s.normal(3, 2)),
        s.case(s.normal(2, 2, 3), s.normal(2, 3, 2)),
        s.case(s.normal(2, 1, 2, 3), s.normal(2, 3, 2)),
        s.case(s.normal(2, 3), s.normal(2, 3, 2)),
        s.case(s.normal(2, 0), s.normal(0, 3)),
        s.case(s.normal(0, 2, 3), s.normal(3, 2)),
        s.case(s.normal(2, 2, 0), s.normal(0, 2)),
    ],
    errors=lambda s: [
        s.case(s.normal(4, 512), s.normal(256, 10)),
        s.case(s.normal(2, 3, 4), s.normal(3, 4, 5)),
    ],
)  # fmt: skip

_matrices = binary(MATMUL)


def matmul(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The matrix product `input @ other`; a 1-dimensional operand is a row on the left, a column on the right.

    Raises:
        ShapeError: the columns of the left do not match the rows of the right; it says how many there are of each.
    """
    if out is not None:
        return into(out, matmul(input, other))
    left, right = input.data.ndim, other.data.ndim
    if left >= 2 and right >= 2:
        return _matrices(input, other)
    if left == 0 or right == 0:
        raise ShapeError(f"matmul: needs at least one dimension on both sides, not {input.shape} and {other.shape}")
    if input.shape[-1] != other.shape[-2 if right > 1 else 0]:
        raise ShapeError(
            f"matmul: input of shape {input.shape} has {input.shape[-1]} elements in its last dimension, other of "
            f"shape {other.shape} has {other.shape[-2 if right > 1 else 0]} in its "
            f"{'second-last' if right > 1 else 'only'} dimension: they must be equal"
        )
    result = _matrices(unsqueeze(input, 0) if left == 1 else input, unsqueeze(other, 1) if right == 1 else other)
    shape = result.shape
    if left == 1:
        shape = (*shape[:-2], shape[-1])
    return reshape(result, shape[:-1] if right == 1 else shape)


def _require_ndim(name: str, **tensors: tuple[Tensor, int]) -> None:
    kinds = {1: "a vector", 2: "a matrix", 3: "a batch of matrices (3 dimensions)"}
    for argument, (tensor, ndim) in tensors.items():
        if tensor.ndim != ndim:
            raise ShapeError(f"{name}: {argument} must be {kinds[ndim]}, not of shape {tensor.shape}")


def mm(input: Tensor, mat2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The product of two matrices."""
    if out is not None:
        return into(out, mm(input, mat2))
    if input.data.ndim != 2 or mat2.data.ndim != 2:
        _require_ndim("mm", input=(input, 2), mat2=(mat2, 2))
    return _matrices(input, mat2)


def bmm(input: Tensor, mat2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The products of two batches of matrices, of the same size: `(B, n, k)` and `(B, k, m)`."""
    if out is not None:
        return into(out, bmm(input, mat2))
    _require_ndim("bmm", input=(input, 3), mat2=(mat2, 3))
    if input.shape[0] != mat2.shape[0]:
        raise ShapeError(
            f"bmm: input of shape {input.shape} is a batch of {input.shape[0]}, mat2 of shape {mat2.shape} of "
            f"{mat2.shape[0]}: they must be equal (matmul broadcasts)"
        )
    return _matrices(input, mat2)


@autocasts("widest on cpu")
def mv(input: Tensor, vec: Tensor) -> Tensor:
    """The product of a matrix and a vector."""
    _require_ndim("mv", input=(input, 2), vec=(vec, 1))
    return matmul(input, vec)


@autocasts("widest")
def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The inner product of two vectors."""
    if input.ndim != 1 or tensor.ndim != 1:
        raise ShapeError(f"dot: needs two vectors, not tensors of shape {input.shape} and {tensor.shape}")
    return matmul(input, tensor)


@autocasts("widest")
def vdot(input: Tensor, other: Tensor) -> Tensor:
    """The inner product of two vectors, the first one conjugated."""
    return dot(input.conj() if input.dtype.kind == "c" else input, other)


def inner(input: Tensor, other: Tensor) -> Tensor:
    """Inner products over the last dimension of both: `(…a, n)` and `(…b, n)` give `(…a, …b)`; numbers multiply."""
    if not input.ndim or not other.ndim:
        return input * other
    if input.shape[-1] != other.shape[-1]:
        raise ShapeError(
            f"inner: input of shape {input.shape} has {input.shape[-1]} elements in its last dimension, other of "
            f"shape {other.shape} has {other.shape[-1]}: they must be equal"
        )
    out = _matrices(as_rows(input), as_rows(other).swapaxes(0, 1))
    return reshape(out, (*input.shape[:-1], *other.shape[:-1]))


def as_rows(a: Tensor) -> Tensor:
    return a if a.ndim == 2 else reshape(a, (int(np.prod(a.shape[:-1], dtype=int)), a.shape[-1]))


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """The outer product of two vectors."""
    _require_ndim("outer", input=(input, 1), vec2=(vec2, 1))
    return unsqueeze(input, 1) * unsqueeze(vec2, 0)


ger = outer


# -- sums and products -------------------------------------------------------------------------------------------------


def _plus(name: str, input: Tensor, product: Tensor, beta: float, alpha: float) -> Tensor:
    """`beta · input + alpha · product`; with beta 0, what is in `input` (NaN too) does not count."""
    try:
        broadcast_shape(input.shape, product.shape)
        fits = np.broadcast_shapes(input.shape, product.shape) == product.shape
    except ShapeError:
        fits = False
    if not fits:
        raise ShapeError(
            f"{name}: input of shape {input.shape} does not broadcast to the product's shape {product.shape}"
        )
    kind = product.dtype.kind
    if kind in "iub":  # the numbers are taken as whole ones (or as booleans), as in PyTorch
        beta, alpha = (bool(beta), bool(alpha)) if kind == "b" else (int(beta), int(alpha))
    if alpha != 1:
        product = product * alpha
    if beta == 0:
        return product
    return (input if beta == 1 else input * beta) + product


@autocasts("low")
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """`beta · input + alpha · mat1 @ mat2`."""
    _require_ndim("addmm", mat1=(mat1, 2), mat2=(mat2, 2))
    return _plus("addmm", input, mm(mat1, mat2), beta, alpha)


@autocasts("low on cuda")
def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """`beta · input + alpha · mat @ vec`."""
    return _plus("addmv", input, mv(mat, vec), beta, alpha)


@autocasts("low on cuda")
def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """`beta · input + alpha · outer(vec1, vec2)`."""
    return _plus("addr", input, outer(vec1, vec2), beta, alpha)


@autocasts("low")
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """`beta · input + alpha · batch1 @ batch2`, for batches of matrices."""
    return _plus("baddbmm", input, bmm(batch1, batch2), beta, alpha)


@autocasts("low")
def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """`beta · input + alpha ·` the sum of `batch1 @ batch2` over the batch."""
    _require_ndim("addbmm", batch1=(batch1, 3), batch2=(batch2, 3))
    count, n, k = batch1.shape
    if batch2.shape[:2] != (count, k):
        raise ShapeError(
            f"addbmm: batch1 of shape {batch1.shape} needs batch2 of shape ({count}, {k}, …), not {batch2.shape}"
        )
    left = reshape(batch1.permute(1, 0, 2), (n, count * k))  # the sum over the batch is one longer product
    return _plus("addbmm", input, mm(left, reshape(batch2, (count * k, batch2.shape[2]))), beta, alpha)


# -- sums by product ---------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def ones(xp: Any, length: int, dtype: Any) -> Any:
    """A vector of ones, which nobody may write to."""
    return xp.ones(length, dtype)


def row_sums(xp: Any, a: Any) -> Any:
    """The sums along the last dimension, which is kept as 1: by a product with ones where memory allows it."""
    if not a.flags.c_contiguous or not a.size or a.dtype.itemsize == 2:
        return wide_sum(a, -1, True)
    length = a.shape[-1]
    rows = a.reshape(-1, length)
    if xp is np:
        sums = rows.dot(ones(xp, length, a.dtype))
    else:
        sums = multiply(xp, rows, ones(xp, length, a.dtype).reshape(-1, 1))  # a device's, which a graph may hold
    return sums.reshape(*a.shape[:-1], 1)


@kernel
def _column_totals(xp: Any, a: Any) -> Any:
    if xp is np:
        return ones(xp, a.shape[0], a.dtype).dot(a)
    return multiply(xp, ones(xp, a.shape[0], a.dtype).reshape(1, -1), a)[0]


def column_sums(xp: Any, a: Any) -> Any:
    if a.dtype.itemsize == 2:  # as halves, ones would add up to 256 at most
        return wide_sum(a, 0, False)
    if a.size < _Least.sums:
        return _column_totals.reference(xp, a)
    return _column_totals(xp, a)


def _columns(a: tuple[int, ...]) -> Shape:
    if len(a) != 2:
        raise ShapeError(f"needs a matrix, not {len(a)} dimensions")
    return a[1:]


COLUMN_SUMS = op(
    "column_sums", "the sums of a matrix's columns, by a product with ones: several times faster than NumPy's own",
    forward=column_sums,
    vjps=(lambda F, g, out, a: F.broadcast_to(g, shape=a),), saves=("",), shape=_columns, errors=NO_ERRORS,
    reference=lambda a: a.sum(0), samples=lambda s: [s.case(s.normal(3, 4)), s.case(s.normal(0, 2))],
)  # fmt: skip
