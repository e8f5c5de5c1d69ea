"""Matrix products. Their gradients are matrix products too, of transposed views, which BLAS reads without a copy."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from cordee.trainer.autograd.explain import explain_broadcast
from cordee.trainer.autograd.graph import apply
from cordee.trainer.autograd.record import op, shape_of
from cordee.trainer.errors import ShapeError
from cordee.trainer.tensors import Tensor

__all__ = ["addmm", "bmm", "dot", "linear", "matmul", "mm", "mv", "outer"]

METHODS = "addmm bmm dot matmul mm mv outer"


def _rows(a: Any) -> Any:
    """All leading dimensions as one."""
    return a if a.ndim == 2 else a.reshape((-1, a.shape[-1]))


# -- matmul ------------------------------------------------------------------------------------------------------------


def _matmul(xp: Any, a: Any, b: Any) -> Any:
    if b.ndim == 2 and a.ndim > 2:  # one large product instead of one per batch entry
        return (_rows(a) @ b).reshape(*a.shape[:-1], b.shape[-1])
    return a @ b


def _left_vjp(F: Any, g: Any, out: Any, a: Any, b: Any) -> Any:
    return F.matmul(g, b.swapaxes(-1, -2))


def _right_vjp(F: Any, g: Any, out: Any, a: Any, b: Any) -> Any:
    if len(shape_of(b)) == 2:
        return F.matmul(_rows(a).T, _rows(g))
    return F.matmul(a.swapaxes(-1, -2), g)


def _explain_matmul(a: Any, b: Any) -> str | None:
    if not isinstance(a, tuple) or not isinstance(b, tuple) or len(a) < 2 or len(b) < 2:
        return None
    if a[-1] != b[-2]:
        return f"the last dimension of a ({a[-1]}) must equal the second-last of b ({b[-2]})"
    return explain_broadcast(a[:-2], b[:-2])


MATMUL = op(
    "matmul", "the matrix product over the last two dimensions; leading ones broadcast",
    forward=_matmul,
    vjps=(_left_vjp, _right_vjp), saves=("b", "a"), broadcasts=True, reference=np.matmul, explain=_explain_matmul,
    samples=lambda s: [
        s.case(s.normal(2, 3), s.normal(3, 4)),
        s.case(s.normal(2, 2, 3), s.normal(3, 2)),
        s.case(s.normal(2, 2, 3), s.normal(2, 3, 2)),
        s.case(s.normal(2, 1, 2, 3), s.normal(2, 3, 2)),
        s.case(s.normal(2, 3), s.normal(2, 3, 2)),
        s.case(s.normal(2, 0), s.normal(0, 3)),
    ],
    errors=lambda s: [s.case(s.normal(4, 512), s.normal(256, 10)), s.case(s.normal(2, 3, 4), s.normal(3, 4, 5))],
)  # fmt: skip


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """The matrix product `input @ other`; a 1-dimensional operand is a row on the left, a column on the right."""
    left, right = input.ndim, other.ndim
    if left >= 2 and right >= 2:
        return apply(MATMUL, input, other)
    if left == 0 or right == 0:
        raise ShapeError(f"matmul: needs at least one dimension on both sides, not {input.shape} and {other.shape}")
    out = apply(
        MATMUL,
        input.reshape(1, input.shape[0]) if left == 1 else input,
        other.reshape(other.shape[0], 1) if right == 1 else other,
    )
    shape = out.shape
    if left == 1:
        shape = (*shape[:-2], shape[-1])
    return out.reshape(shape[:-1] if right == 1 else shape)


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices."""
    return apply(MATMUL, input, mat2)


bmm = mm
bmm.__doc__ = "The product of two matrices, or of two batches of them."


def mv(input: Tensor, vec: Tensor) -> Tensor:
    """The product of a matrix and a vector."""
    return matmul(input, vec)


def dot(input: Tensor, other: Tensor) -> Tensor:
    """The inner product of two vectors."""
    if input.ndim != 1 or other.ndim != 1:
        raise ShapeError(f"dot: needs two vectors, not tensors of shape {input.shape} and {other.shape}")
    return matmul(input, other)


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """The outer product of two vectors."""
    return input.reshape(-1, 1) * vec2.reshape(1, -1)


# -- sums by product ---------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def ones(xp: Any, length: int, dtype: Any) -> Any:
    """A vector of ones, which nobody may write to."""
    return xp.ones(length, dtype)


def row_sums(xp: Any, a: Any) -> Any:
    """The sums along the last dimension, which is kept as 1: by a product with ones where memory allows it."""
    if not a.flags.c_contiguous or not a.size:
        return a.sum(axis=-1, keepdims=True)
    length = a.shape[-1]
    return a.reshape(-1, length).dot(ones(xp, length, a.dtype)).reshape(*a.shape[:-1], 1)


COLUMN_SUMS = op(
    "column_sums", "the sums of a matrix's columns, by a product with ones: several times faster than NumPy's own",
    forward=lambda xp, a: ones(xp, a.shape[0], a.dtype).dot(a),
    vjps=(lambda F, g, out, a: F.broadcast_to(g, shape=a),), saves=("",),
    reference=lambda a: a.sum(0), samples=lambda s: [s.case(s.normal(3, 4)), s.case(s.normal(0, 2))],
)  # fmt: skip


# -- linear ------------------------------------------------------------------------------------------------------------


def _linear(xp: Any, input: Any, weight: Any, bias: Any) -> Any:
    out = _rows(input) @ weight.T
    if bias is not None:
        out += bias
    return out if input.ndim == 2 else out.reshape(*input.shape[:-1], weight.shape[0])


def _linear_input_vjp(F: Any, g: Any, out: Any, input: Any, weight: Any, bias: Any) -> Any:
    return F.matmul(g, weight)


def _linear_weight_vjp(F: Any, g: Any, out: Any, input: Any, weight: Any, bias: Any) -> Any:
    return F.matmul(_rows(g).T, _rows(input))


def _linear_bias_vjp(F: Any, g: Any, out: Any, input: Any, weight: Any, bias: Any) -> Any:
    return F.column_sums(_rows(g))


def _write_weight_grad(F: Any, dest: Any, g: Any, out: Any, input: Any, weight: Any, bias: Any) -> None:
    F.xp.matmul(_rows(g).T, _rows(input), out=dest)


def _explain_linear(input: Any, weight: Any, bias: Any) -> str | None:
    if len(weight) != 2:
        return "weight must have two dimensions (out features, in features)"
    if not input or input[-1] != weight[1]:
        found = input[-1] if input else "none"
        return f"the last dimension of input ({found}) must equal weight's in features ({weight[1]})"
    if bias is not None and bias != (weight[0],):
        return f"bias must hold one number per out feature ({weight[0]})"
    return None


def _linear_reference(input: Any, weight: Any, bias: Any) -> Any:
    return np.einsum("...i,oi->...o", input, weight) + (0 if bias is None else bias)


LINEAR = op(
    "linear", "input @ weight.T + bias",
    forward=_linear,
    vjps=(_linear_input_vjp, _linear_weight_vjp, _linear_bias_vjp), saves=("weight", "input", ""),
    writes=(None, _write_weight_grad, None),
    reference=_linear_reference, explain=_explain_linear,
    samples=lambda s: [
        s.case(s.normal(4, 3), s.normal(2, 3), s.normal(2)),
        s.case(s.normal(2, 2, 3), s.normal(4, 3), None),
        s.case(s.normal(3), s.normal(2, 3), s.normal(2)),
    ],
    errors=lambda s: [
        s.case(s.normal(4, 512), s.normal(10, 256), s.normal(10)),
        s.case(s.normal(4, 3), s.normal(5, 3), s.normal(4)),
    ],
)  # fmt: skip


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`input @ weight.T + bias`: `input (…, in)`, `weight (out, in)`, `bias (out,)`."""
    return apply(LINEAR, input, weight, bias)


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor) -> Tensor:
    """`input + mat1 @ mat2`."""
    return input + mm(mat1, mat2)
