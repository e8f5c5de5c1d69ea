"""Normalisation of rows: layer norm and RMS norm, in as few passes over the data as plain array operations allow; and
those that are made of other operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.autograd.record import Shape, op
from cordee.trainer.errors import ShapeError
from cordee.trainer.kernels import kernel
from cordee.trainer.ops.normalization_batch import as_input, half_or_promoted, single, wide, widened
from cordee.trainer.ops.padding import pad
from cordee.trainer.ops.pooling_mean import avg_pool2d
from cordee.trainer.ops.products import ones, row_sums
from cordee.trainer.tensors import Tensor

__all__ = ["layer_norm", "local_response_norm", "rms_norm"]


def _normalized(F: Any, a: Any, eps: float) -> tuple[Any, Any]:
    """Rows brought to mean 0 and variance 1, and what they were divided by, inverted: in the rules' vocabulary."""
    centred = a - F.mean(a, axis=1, keepdims=True)
    inverse = F.rsqrt(F.mean(centred * centred, axis=1, keepdims=True) + eps)
    return centred * inverse, inverse


@kernel
def _layer_norm(xp: Any, input: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    """And the rows' means and inverse deviations, `(N, 1)`. In 16 bits only the result is rounded."""
    if input.dtype.itemsize == 2:
        out, statistics = _layer_norm(xp, *map(wide, (input, weight, bias)), eps=eps)
        return out.astype(input.dtype), statistics
    length = input.shape[1]
    mean = row_sums(xp, input) / length
    normal = input - mean
    inverse = xp.einsum("ij,ij->i", normal, normal).reshape(-1, 1)
    inverse /= length
    inverse += eps
    inverse = 1 / xp.sqrt(inverse, out=inverse)
    normal *= inverse
    if weight is not None:
        normal = xp.multiply(normal, weight, out=normal if weight.dtype is normal.dtype else None)
    if bias is not None:
        normal = xp.add(normal, bias, out=normal if bias.dtype is normal.dtype else None)
    return normal, (mean, inverse)


def _layer_norm_vjp(
    F: Any, g: Any, out: Any, input: Any, weight: Any, bias: Any, *, needs: Any, aux: Any, eps: float
) -> Any:
    if not needs[0] and not needs[1]:  # then the input is not kept
        return None, None, F.sum(single(F, g)[0], axis=0, keepdims=False)
    if F.raw:
        scale = weight if needs[0] else None  # nor is the weight, where nothing reads it
        return _layer_norm_grad(F.xp, g, input, scale, *aux, needs=needs)
    given = input
    g, input = single(F, g, input)
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
    return as_input(F, input_grad, given), weight_grad, bias_grad


@kernel
def _layer_norm_grad(xp: Any, g: Any, input: Any, weight: Any, mean: Any, inverse: Any, *, needs: Any) -> Any:
    """The same on arrays, in place, with sums by products."""
    if g.dtype.itemsize == 2:
        input_grad, *others = _layer_norm_grad(xp, wide(g), wide(input), weight, mean, inverse, needs=needs)
        return None if input_grad is None else input_grad.astype(g.dtype), *others
    (num_rows, length), input_grad, weight_grad, bias_grad = g.shape, None, None, None
    column = ones(xp, num_rows, g.dtype)
    normal = input - mean
    normal *= inverse
    if needs[1]:
        weight_grad = column.dot(g * normal)
    if needs[2]:
        bias_grad = column.dot(g)
    if needs[0]:
        input_grad = g.copy() if weight is None else g * weight
        along = xp.einsum("ij,ij->i", input_grad, normal).reshape(-1, 1) / length
        input_grad -= row_sums(xp, input_grad) / length
        normal *= along
        input_grad -= normal
        input_grad *= inverse
    return input_grad, weight_grad, bias_grad


def _layer_norm_reference(input: Any, weight: Any, bias: Any, eps: float) -> Any:
    normal = (input - input.mean(1, keepdims=True)) / np.sqrt(input.var(1, keepdims=True) + eps)
    return normal * (1 if weight is None else weight) + (0 if bias is None else bias)


def _rows_shape(input: Any, weight: Any, bias: Any = None, *, eps: float) -> Shape:
    if len(input) != 2:
        raise ShapeError(f"input must have two dimensions, not {len(input)}")
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and tuple(value) != (input[1],):
            raise ShapeError(f"{name} must be as long as the rows ({input[1]}), its shape is {tuple(value)}")
    return tuple(input)


LAYER_NORM = op(
    "layer_norm", "rows brought to mean 0 and variance 1, times a weight, plus a bias",
    autocast="single on cuda",
    forward=_layer_norm, vjp=_layer_norm_vjp, saves=("input weight", "input", ""), aux=True,
    reference=_layer_norm_reference, shape=_rows_shape, dtype=half_or_promoted,
    samples=lambda s: [
        s.case(s.normal(3, 4), s.normal(4), s.normal(4), eps=1e-5),
        s.case(s.normal(2, 5), None, None, eps=1e-3),
        s.case(s.normal(2, 3), s.normal(3), None, eps=1e-5),
        s.case(s.normal(2, 3), None, s.normal(3), eps=1e-5),
        s.case(s.normal(0, 3), s.normal(3), s.normal(3), eps=1e-5),
    ],
    errors=lambda s: [
        s.case(s.normal(3, 4), s.normal(3), None, eps=1e-5),
        s.case(s.normal(3, 4), None, s.normal(5), eps=1e-5),
    ],
)  # fmt: skip


def _as_rows(name: str, input: Tensor, normalized_shape: Any, **parameters: Tensor | None) -> tuple[Any, ...]:
    """The input as rows, and the parameters as vectors; refused where they do not fit."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or input.shape[max(input.ndim - len(shape), 0) :] != shape:
        raise ShapeError(f"{name}: the last dimensions of input {input.shape} must be normalized_shape {shape}")
    for key, value in parameters.items():
        if value is not None and value.shape != shape:
            raise ShapeError(f"{name}: {key} has shape {value.shape}; it must be normalized_shape {shape}")
    length = math.prod(shape)
    vectors: Any = parameters.values()
    if len(shape) > 1:
        vectors = [None if value is None else value.reshape(length) for value in vectors]
    if input.ndim == 2 and len(shape) == 1:
        return input, *vectors
    return input.reshape(math.prod(input.shape[: input.ndim - len(shape)]), length), *vectors


@autocasts("single on cuda")
def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """The last dimensions, `normalized_shape`, brought to mean 0 and variance 1, times `weight`, plus `bias`.

    Raises:
        ShapeError: input does not end in `normalized_shape`, or the parameters have another shape.
    """
    if input.data.dtype.itemsize < 4:
        weight, bias = widened(weight), widened(bias)
    rows, weight, bias = _as_rows("layer_norm", input, normalized_shape, weight=weight, bias=bias)
    out: Tensor = LAYER_NORM.run(rows, weight, bias, eps=eps)
    return out if rows is input else out.reshape(input.shape)


# -- RMS norm ----------------------------------------------------------------------------------------------------------


@kernel
def _rms_norm(xp: Any, input: Any, weight: Any, *, eps: float) -> Any:
    """And the rows' inverse roots, `(N, 1)`. In 16 bits only the result is rounded."""
    if input.dtype.itemsize == 2:
        out, inverse = _rms_norm(xp, wide(input), wide(weight), eps=eps)
        return out.astype(input.dtype), inverse
    inverse = xp.einsum("ij,ij->i", input, input).reshape(-1, 1)
    inverse /= input.shape[1]
    inverse += eps
    inverse = 1 / xp.sqrt(inverse, out=inverse)
    out = input * inverse
    return out if weight is None else xp.multiply(out, weight, out=out), inverse


def _rms_norm_vjp(F: Any, g: Any, out: Any, input: Any, weight: Any, *, needs: Any, aux: Any, eps: float) -> Any:
    if F.raw:
        return _rms_norm_grad(F.xp, g, input, weight if needs[0] else None, aux, needs=needs)
    given = input
    g, input = single(F, g, input)
    inverse = F.rsqrt(F.mean(input * input, axis=1, keepdims=True) + eps)
    input_grad = weight_grad = None
    if needs[1]:
        weight_grad = F.sum(g * (input * inverse), axis=0, keepdims=False)
    if needs[0]:
        scaled = g if weight is None else g * weight
        along = F.mean(scaled * input, axis=1, keepdims=True)
        input_grad = (scaled - input * (along * (inverse * inverse))) * inverse
    return as_input(F, input_grad, given), weight_grad


@kernel
def _rms_norm_grad(xp: Any, g: Any, input: Any, weight: Any, inverse: Any, *, needs: Any) -> Any:
    """The same on arrays."""
    if g.dtype.itemsize == 2:
        input_grad, weight_grad = _rms_norm_grad(xp, wide(g), wide(input), weight, inverse, needs=needs)
        return None if input_grad is None else input_grad.astype(g.dtype), weight_grad
    input_grad = weight_grad = None
    if needs[1]:
        weight_grad = ones(xp, len(g), g.dtype).dot(g * (input * inverse))
    if needs[0]:
        scaled = g if weight is None else g * weight
        along = xp.einsum("ij,ij->i", scaled, input).reshape(-1, 1) / input.shape[1]
        input_grad = (scaled - input * (along * (inverse * inverse))) * inverse
    return input_grad, weight_grad


def _rms_reference(input: Any, weight: Any, eps: float) -> Any:
    return input / np.sqrt((input**2).mean(1, keepdims=True) + eps) * (1 if weight is None else weight)


RMS_NORM = op(
    "rms_norm", "rows divided by the root of their mean square, times a weight",
    autocast="single on cuda",
    forward=_rms_norm, vjp=_rms_norm_vjp, saves=("input weight", "input"), aux=True,
    reference=_rms_reference, shape=_rows_shape, dtype=half_or_promoted,
    samples=lambda s: [
        s.case(s.normal(3, 4), s.normal(4), eps=1e-5),
        s.case(s.normal(2, 5), None, eps=1e-3),
        s.case(s.normal(0, 3), s.normal(3), eps=1e-5),
    ],
    errors=lambda s: [s.case(s.normal(3, 4), s.normal(3), eps=1e-5)],
)  # fmt: skip


@autocasts("single on cuda")
def rms_norm(
    input: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """The last dimensions, `normalized_shape`, divided by the root of their mean square, times `weight`.

    `eps` is the distance from 1 to the next number of the dtype it is computed in unless given; that is single
    precision for 16 bits. (Zhang and Sennrich, 2019.)
    """
    if eps is None:
        eps = float(np.finfo(np.float32 if input.dtype.itemsize == 2 else input.dtype).eps)
    if input.data.dtype.itemsize < 4:
        weight = widened(weight)
    rows, weight = _as_rows("rms_norm", input, normalized_shape, weight=weight)
    out: Tensor = RMS_NORM.run(rows, weight, eps=eps)
    return out if rows is input else out.reshape(input.shape)


# -- made of other operations ------------------------------------------------------------------------------------------


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """`input / (k + alpha * mean of squares over `size` neighbouring channels) ** beta`, of `(N, C, …)`.

    (Krizhevsky, Sutskever and Hinton, 2012.)
    """
    if input.ndim < 3:
        raise ShapeError(f"local_response_norm: input must have at least three dimensions; its shape is {input.shape}")
    if input.numel() == 0:
        return input
    channels = input.shape[1]
    squares = (input * input).reshape(input.shape[0], 1, channels, math.prod(input.shape[2:]))
    squares = pad(squares, (0, 0, size // 2, (size - 1) // 2))
    mean = avg_pool2d(squares, (size, 1), 1).reshape(input.shape)
    return input / (mean * alpha + k) ** beta
