"""Linear maps by a weight, with a bias: `linear`, and `bilinear` of two inputs."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np

from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.autograd.record import Shape, op
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.products import as_matrix, as_rows, column_sums, matmul, mm, multiply, product
from cordee.trainer.ops.shape import reshape, unsqueeze
from cordee.trainer.tensors import Tensor

__all__ = ["bilinear", "linear"]


def _linear(xp: Any, input: Any, weight: Any, bias: Any) -> Any:
    if input.ndim == 2:
        return product(xp, input, weight.T, None, bias)
    out = product(xp, as_matrix(input), weight.T, None, bias)
    return out.reshape(*input.shape[:-1], weight.shape[0])


def _linear_input_vjp(F: Any, g: Any, out: Any, input: Any, weight: Any, bias: Any) -> Any:
    return product(F.xp, g, weight) if F.raw and g.ndim == 2 else F.matmul(g, weight)


class _Sums(threading.local):
    """On a device: the columns' sums of a gradient, which came with the weight's, for the bias'. By thread."""

    of: Any = None
    """Of which array; weakly."""
    found: Any = None


_SUMS = _Sums()


def _with_sums(xp: Any, g: Any, input: Any, dest: Any = None) -> Any:
    """The weight's gradient, and on the way the bias', for the rule that is asked next."""
    sums = xp.empty(g.shape[-1], g.dtype if dest is None else dest.dtype)
    made = multiply(xp, as_matrix(g).T, as_matrix(input), out=dest, row_sums=sums)
    _SUMS.of, _SUMS.found = weakref.ref(g), sums
    return made


def _linear_weight_vjp(F: Any, g: Any, out: Any, input: Any, weight: Any, bias: Any) -> Any:
    if F.raw and F.xp is not np and bias is not None:
        return _with_sums(F.xp, g, input)
    if F.raw and g.ndim == 2:
        return product(F.xp, g.T, input)
    return F.matmul(as_matrix(g).T, as_matrix(input))


def _linear_bias_vjp(F: Any, g: Any, out: Any, input: Any, weight: Any, bias: Any) -> Any:
    if F.raw and F.xp is not np and _SUMS.of is not None and _SUMS.of() is g:
        sums, _SUMS.of, _SUMS.found = _SUMS.found, None, None
        return sums
    return column_sums(F.xp, as_matrix(g)) if F.raw else F.column_sums(as_matrix(g))


def _write_weight_grad(F: Any, dest: Any, g: Any, out: Any, input: Any, weight: Any, bias: Any) -> None:
    if F.xp is np or bias is None:
        product(F.xp, as_matrix(g).T, as_matrix(input), dest)
    else:
        _with_sums(F.xp, g, input, dest)


def _linear_shape(input: tuple[int, ...], weight: tuple[int, ...], bias: tuple[int, ...] | None) -> Shape:
    if len(weight) != 2:
        raise ShapeError("weight must have two dimensions, (out features, in features)")
    if not input:
        raise ShapeError(f"input has no dimension of features, weight takes {weight[1]}")
    if input[-1] != weight[1]:
        raise ShapeError(f"input has {input[-1]} features in its last dimension, weight takes {weight[1]}")
    if bias is not None and bias != (weight[0],):
        raise ShapeError(
            f"bias must hold one number for each of weight's {weight[0]} out features: shape ({weight[0]},)"
        )
    return (*input[:-1], weight[0])


def _linear_reference(input: Any, weight: Any, bias: Any) -> Any:
    return np.einsum("...i,oi->...o", input, weight) + (0 if bias is None else bias)


LINEAR = op(
    "linear", "input @ weight.T + bias",
    autocast="low",
    forward=_linear,
    vjps=(_linear_input_vjp, _linear_weight_vjp, _linear_bias_vjp), saves=("weight", "input", ""),
    writes=(None, _write_weight_grad, None),
    reference=_linear_reference, shape=_linear_shape,
    samples=lambda s: [
        s.case(s.normal(4, 3), s.normal(2, 3), s.normal(2)),
        s.case(s.normal(2, 2, 3), s.normal(4, 3), None),
        s.case(s.normal(3), s.normal(2, 3), s.normal(2)),
        s.case(s.normal(0, 3), s.normal(2, 3), s.normal(2)),
        s.case(s.normal(2, 2, 0), s.normal(3, 0), s.normal(3)),
    ],
    errors=lambda s: [
        s.case(s.normal(4, 512), s.normal(10, 256), s.normal(10)),
        s.case(s.normal(4, 3), s.normal(5, 3), s.normal(4)),
        s.case(s.normal(), s.normal(5, 3), None),
    ],
)  # fmt: skip


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`input @ weight.T + bias`: `input (…, in)`, `weight (out, in)` or `(in,)`, `bias (out,)`.

    Raises:
        ShapeError: the features of input and weight differ; it says how many there are of each.
    """
    if weight.data.ndim == 1:
        out = matmul(input, weight)
        return out if bias is None else out + bias
    return LINEAR.run(input, weight, bias)


@autocasts("widest")
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`input1 · weight[k] · input2 + bias[k]` for each k: `(…, in1)`, `(…, in2)`, `(out, in1, in2)`, `(out,)`.

    Raises:
        ShapeError: the features or the leading dimensions differ.
    """
    out, in1, in2 = weight.shape if weight.ndim == 3 else (0, 0, 0)
    for name, given, features, dim in (("input1", input1, in1, 1), ("input2", input2, in2, 2)):
        if weight.ndim != 3 or not given.ndim or given.shape[-1] != features:
            raise ShapeError(
                f"bilinear: {name} of shape {given.shape} must have as many features as weight of shape {weight.shape} "
                f"has in dimension {dim}"
            )
    if input1.shape[:-1] != input2.shape[:-1]:
        raise ShapeError(
            f"bilinear: input1 of shape {input1.shape} and input2 of shape {input2.shape} must have the same leading "
            "dimensions"
        )
    left, right = as_rows(input1), as_rows(input2)
    spread = reshape(weight.permute(1, 0, 2), (in1, out * in2))
    found = (reshape(mm(left, spread), (left.shape[0], out, in2)) * unsqueeze(right, 1)).sum(-1)
    result = reshape(found, (*input1.shape[:-1], out))
    return result if bias is None else result + bias
