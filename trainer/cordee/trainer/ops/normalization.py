"""Layer normalisation, in as few passes over the data as plain array operations allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer.autograd.graph import apply
from cordee.trainer.autograd.record import op
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.products import ones, row_sums
from cordee.trainer.tensors import Tensor

__all__ = ["layer_norm"]


def _normalized(F: Any, a: Any, eps: float) -> tuple[Any, Any]:
    """Rows brought to mean 0 and variance 1, and what they were divided by, inverted: in the rules' vocabulary."""
    centred = a - F.mean(a, axis=1, keepdims=True)
    inverse = F.rsqrt(F.mean(centred * centred, axis=1, keepdims=True) + eps)
    return centred * inverse, inverse


def _layer_norm(xp: Any, input: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    length = input.shape[1]
    normal = input - row_sums(xp, input) / length
    inverse = xp.einsum("ij,ij->i", normal, normal).reshape(-1, 1)
    inverse /= length
    inverse += eps
    inverse = 1 / xp.sqrt(inverse, out=inverse)
    normal *= inverse
    if weight is None:
        return normal, (normal, inverse)
    out = normal * weight
    if bias is not None:
        out += bias
    return out, (normal, inverse)


def _layer_norm_vjp(
    F: Any, g: Any, out: Any, input: Any, weight: Any, bias: Any, *, needs: Any, aux: Any, eps: float
) -> Any:
    if F.raw:
        return _layer_norm_grad(F.xp, g, weight, needs, *aux)
    normal, inverse = _normalized(F, input, eps)
    input_grad = weight_grad = bias_grad = None
    if needs[1]:
        weight_grad = F.sum(g * normal, axis=0, keepdims=False)
    if needs[2]:
        bias_grad = F.sum(g, axis=0, keepdims=False)
    if needs[0]:
        if weight is not None:
            g = g * weight
        along = F.mean(g * normal, axis=1, keepdims=True)
        input_grad = (g - F.mean(g, axis=1, keepdims=True) - normal * along) * inverse
    return input_grad, weight_grad, bias_grad


def _layer_norm_grad(xp: Any, g: Any, weight: Any, needs: Any, normal: Any, inverse: Any) -> Any:
    """The same on arrays, in place, with sums by products."""
    (num_rows, length), input_grad, weight_grad, bias_grad = g.shape, None, None, None
    column = ones(xp, num_rows, g.dtype)
    if needs[1]:
        weight_grad = column.dot(g * normal)
    if needs[2]:
        bias_grad = column.dot(g)
    if needs[0]:
        input_grad = g.copy() if weight is None else g * weight
        along = xp.einsum("ij,ij->i", input_grad, normal).reshape(-1, 1) / length
        input_grad -= row_sums(xp, input_grad) / length
        input_grad -= normal * along
        input_grad *= inverse
    return input_grad, weight_grad, bias_grad


def _layer_norm_reference(input: Any, weight: Any, bias: Any, eps: float) -> Any:
    normal = (input - input.mean(1, keepdims=True)) / np.sqrt(input.var(1, keepdims=True) + eps)
    return normal * (1 if weight is None else weight) + (0 if bias is None else bias)


LAYER_NORM = op(
    "layer_norm", "rows brought to mean 0 and variance 1, times a weight, plus a bias",
    forward=_layer_norm, vjp=_layer_norm_vjp, saves=("input weight", "input", ""), aux=True,
    reference=_layer_norm_reference,
    samples=lambda s: [
        s.case(s.normal(3, 4), s.normal(4), s.normal(4), eps=1e-5),
        s.case(s.normal(2, 5), None, None, eps=1e-3),
        s.case(s.normal(2, 3), s.normal(3), None, eps=1e-5),
    ],
)  # fmt: skip


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """The last dimensions, `normalized_shape`, brought to mean 0 and variance 1, times `weight`, plus `bias`."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if input.shape[input.ndim - len(shape) :] != shape:
        raise ShapeError(f"layer_norm: the last dimensions of input {input.shape} must be normalized_shape {shape}")
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.shape != shape:
            raise ShapeError(f"layer_norm: {name} has shape {value.shape}; it must be normalized_shape {shape}")
    length = math.prod(shape)
    if weight is None and bias is not None:
        raise ShapeError("layer_norm: a bias needs a weight")
    rows = input if input.ndim == 2 and len(shape) == 1 else input.reshape(-1, length)
    if len(shape) > 1:
        weight, bias = (None if value is None else value.reshape(length) for value in (weight, bias))
    out = apply(LAYER_NORM, rows, weight, bias, eps=eps)
    return out if rows is input else out.reshape(input.shape)
