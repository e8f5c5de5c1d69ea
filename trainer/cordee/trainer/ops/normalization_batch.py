"""Batch normalisation: each channel over all samples, in few passes over the data.

Only mean and inverse deviation are kept for the gradient, which works out the normalised values again: reading the
input twice costs less than keeping another array as large.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.array import promote
from cordee.trainer.autograd.graph import apply
from cordee.trainer.autograd.mode import no_grad
from cordee.trainer.autograd.record import Shape, op, shape_of
from cordee.trainer.errors import ShapeError
from cordee.trainer.kernels import kernel
from cordee.trainer.ops.correlation import channel_sums
from cordee.trainer.ops.products import ones
from cordee.trainer.tensors import Tensor

__all__ = ["batch_norm"]


def per_channel(values: Any, ndim: int) -> Any:
    """One value per channel, in the place of a tensor of so many dimensions where channels are."""
    return values.reshape(1, -1, *(1,) * (ndim - 2))


def widened(parameter: Tensor | None) -> Tensor | None:
    """In single precision, to compute with beside a half precision whose sums of squares would overflow."""
    return None if parameter is None else parameter.float()


def wide(a: Any) -> Any:
    """In single precision, if it is an array in half."""
    return a if a is None or a.dtype.itemsize != 2 else a.astype(np.float32)


def half_or_promoted(input: Any, *parameters: Any, **_: Any) -> Any:
    """The dtype of a result: a half stays what it is, beside parameters in single precision, too."""
    return input if input.itemsize == 2 else promote(input, *parameters)


def single(F: Any, *tensors: Any) -> list[Any]:
    """The same in the rules' vocabulary."""
    return [
        t if t is None or t.dtype.itemsize != 2 else F.cast(t, dtype=np.dtype(np.float32), source=t.dtype)
        for t in tensors
    ]


def as_input(F: Any, grad: Any, input: Any) -> Any:
    """A gradient in the dtype of what it is the gradient of."""
    return grad if grad is None or grad.dtype == input.dtype else F.cast(grad, dtype=input.dtype, source=grad.dtype)


def sums(xp: Any, a: Any) -> Any:
    """The sum of each channel."""
    if a.ndim == 2:
        return ones(xp, a.shape[0], a.dtype).dot(a)
    return channel_sums(xp, a)


def channel_dots(xp: Any, a: Any, b: Any) -> Any:
    """The sum of each channel of the product; added up per sample first, so that single precision suffices."""
    if a.ndim > 2:
        first, second = a.swapaxes(0, 1), b.swapaxes(0, 1)
        if first.flags.c_contiguous and second.flags.c_contiguous:
            return _row_dots(xp, first, second).reshape(first.shape[:2]).sum(1)
        if a.flags.c_contiguous and b.flags.c_contiguous:
            return _row_dots(xp, a, b).reshape(a.shape[:2]).sum(0)
    return sums(xp, a * b)


def _row_dots(xp: Any, a: Any, b: Any) -> Any:
    rows = (a.shape[0] * a.shape[1], math.prod(a.shape[2:]))
    return xp.einsum("ij,ij->i", a.reshape(rows), b.reshape(rows))


def check_channels(input: Any, weight: Any, bias: Any) -> None:
    if len(input) < 2:
        raise ShapeError(f"input must have at least two dimensions (N, C), not {len(input)}")
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and tuple(value) != (input[1],):
            raise ShapeError(f"{name} must hold one number per channel ({input[1]}), not shape {tuple(value)}")


@kernel
def _batch_norm(xp: Any, input: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    ndim, count = input.ndim, math.prod(input.shape) // max(input.shape[1], 1)
    for value in (weight, bias):
        if value is not None and value.shape != (input.shape[1],):
            raise ValueError("one number per channel is needed")
    if input.dtype.itemsize == 2:  # only the result is rounded
        (out, mean, var), statistics = _batch_norm(xp, *map(wide, (input, weight, bias)), eps=eps)
        return (out.astype(input.dtype), mean, var), statistics
    mean = sums(xp, input) / count
    out = input - per_channel(mean, ndim)
    var = channel_dots(xp, out, out) / count
    inverse = 1.0 / xp.sqrt(var + eps)
    out = xp.multiply(out, per_channel(inverse if weight is None else inverse * weight, ndim), out=out)
    if bias is not None:
        out += per_channel(bias, ndim)
    return (out, mean, var), (mean, inverse)


def _batch_norm_vjp(
    F: Any, g: Any, out: Any, input: Any, weight: Any, bias: Any, *, needs: Any, aux: Any, eps: float
) -> Any:
    g_out, g_mean, g_var = g
    if not needs[0] and not needs[1]:  # then the input is not kept
        if g_out is None:
            return None, None, None
        axes = (0, *range(2, len(shape_of(input))))
        return None, None, F.sum(single(F, g_out)[0], axis=axes, keepdims=False)
    if F.raw:
        scale = weight if needs[0] else None  # which is not kept where nothing reads it
        return _batch_norm_grad(F.xp, g_out, g_mean, g_var, input, scale, *aux, needs=needs)
    given = input
    g_out, input = single(F, g_out, input)
    ndim, axes = input.ndim, (0, *range(2, input.ndim))
    count = math.prod(shape_of(input)) // shape_of(input)[1]
    centred = input - F.mean(input, axis=axes, keepdims=True)
    inverse = F.rsqrt(F.mean(centred * centred, axis=axes, keepdims=True) + eps)
    normal = centred * inverse
    input_grad = weight_grad = bias_grad = None
    if needs[0]:
        if g_out is not None:
            scaled = g_out if weight is None else g_out * per_channel(weight, ndim)
            along = F.mean(scaled * normal, axis=axes, keepdims=True)
            input_grad = (scaled - F.mean(scaled, axis=axes, keepdims=True) - normal * along) * inverse
        more = None if g_mean is None else F.broadcast_to(per_channel(g_mean, ndim), shape=input.shape) * (1.0 / count)
        if g_var is not None:
            of_var = centred * per_channel(g_var, ndim) * (2.0 / count)
            more = of_var if more is None else more + of_var
        if more is not None:
            input_grad = more if input_grad is None else input_grad + more
    if needs[1] and g_out is not None:
        weight_grad = F.sum(g_out * normal, axis=axes, keepdims=False)
    if needs[2] and g_out is not None:
        bias_grad = F.sum(g_out, axis=axes, keepdims=False)
    return as_input(F, input_grad, given), weight_grad, bias_grad


@kernel
def _batch_norm_grad(
    xp: Any, g: Any, g_mean: Any, g_var: Any, input: Any, weight: Any, mean: Any, inverse: Any, *, needs: Any
) -> Any:
    """The same on arrays, in place."""
    if input.dtype.itemsize == 2:
        given = wide(g), g_mean, g_var, wide(input), wide(weight)
        grads = _batch_norm_grad(xp, *given, mean, inverse, needs=needs)
        return None if grads[0] is None else grads[0].astype(input.dtype), *grads[1:]
    ndim, count = input.ndim, math.prod(input.shape) // max(input.shape[1], 1)
    centred = input - per_channel(mean, ndim)
    weight_grad = bias_grad = None
    slope: Any = 0.0  # the gradient is g · scale + centred · slope + shift
    shift: Any = 0.0
    scale = inverse if weight is None else inverse * weight
    if g is not None:
        bias_grad, dots = sums(xp, g), channel_dots(xp, g, centred)
        weight_grad = dots * inverse
        slope, shift = -dots * (inverse * inverse) * scale / count, -bias_grad * scale / count
    if not needs[0]:
        return None, weight_grad, bias_grad
    if g_mean is not None:
        shift = shift + g_mean / count
    if g_var is not None:
        slope = slope + g_var * 2.0 / count
    input_grad = xp.multiply(centred, per_channel(xp.asarray(slope), ndim), out=centred)
    input_grad += per_channel(xp.asarray(shift), ndim)
    if g is not None:
        input_grad += g * per_channel(scale, ndim)
    return input_grad, weight_grad, bias_grad


def _batch_norm_shape(input: Any, weight: Any, bias: Any, *, eps: float) -> tuple[Shape, ...]:
    check_channels(input, weight, bias)
    return tuple(input), (input[1],), (input[1],)


def _batch_norm_dtypes(input: Any, *parameters: Any, eps: float) -> tuple[Any, ...]:
    """Of a half, statistics are in single precision."""
    statistics = np.dtype(np.float32) if input.itemsize == 2 else input
    return half_or_promoted(input, *parameters), statistics, statistics


def _batch_norm_reference(input: Any, weight: Any, bias: Any, eps: float) -> Any:
    axes = (0, *range(2, input.ndim))
    mean, var = input.mean(axes, keepdims=True), input.var(axes, keepdims=True)
    out = (input - mean) / np.sqrt(var + eps)
    if weight is not None:
        out = out * per_channel(weight, input.ndim)
    if bias is not None:
        out = out + per_channel(bias, input.ndim)
    return out, mean.reshape(-1), var.reshape(-1)


BATCH_NORM = op(
    "batch_norm", "each channel brought to mean 0 and variance 1, times a weight, plus a bias; and those statistics",
    forward=_batch_norm, vjp=_batch_norm_vjp, saves=("input weight", "input", ""), aux=True,
    outputs=("out", "mean", "var"), shape=_batch_norm_shape, reference=_batch_norm_reference,
    dtype=_batch_norm_dtypes,
    samples=lambda s: [
        s.case(s.normal(4, 2), s.normal(2), s.normal(2), eps=1e-5),
        s.case(s.normal(2, 3, 2), None, None, eps=1e-3),
        s.case(s.normal(2, 2, 2, 3), s.normal(2), None, eps=1e-5),
        s.case(s.normal(2, 2, 3, 2).swapaxes(0, 1), None, s.normal(2), eps=1e-5),
    ],
    errors=lambda s: [
        s.case(s.normal(4, 2), s.normal(3), None, eps=1e-5),
        s.case(s.normal(4, 2, 3), None, s.normal(3), eps=1e-5),
    ],
)  # fmt: skip


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Each channel of `(N, C, …)` brought to mean 0 and variance 1, times `weight (C,)`, plus `bias (C,)`.

    In training, mean and variance are those of this very input, over all dimensions but the second; the running ones,
    if given, move towards them by the factor `momentum` (the variance without bias). Else the running ones are used.

    In an elastic run a call sees the samples of one shard, so that the normalisation does not depend on the number of
    workers; the running statistics are averaged over a step's shards (see `elastic.buffers`).

    Raises:
        ShapeError: the statistics or parameters do not hold one number per channel.
        ValueError: in training, a channel has only one value: there is no variance.
    """
    if input.ndim < 2:
        raise ShapeError(f"batch_norm: input must have at least two dimensions (N, C); its shape is {input.shape}")
    channels = input.shape[1]
    for name, value in (("running_mean", running_mean), ("running_var", running_var)):
        if value is not None and value.shape != (channels,):
            raise ShapeError(f"batch_norm: {name} must hold one number per channel ({channels}), not {value.shape}")
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("batch_norm: without training, running_mean and running_var are needed")
        return _by_running(input, running_mean, running_var, weight, bias, eps)
    count = input.numel() // max(channels, 1)
    if count == 1:
        raise ValueError(
            f"batch_norm: in training there must be more than one value per channel; input has shape {input.shape} "
            "(in an elastic run a call sees one shard: fewer shards, a larger batch, or drop_last=True where the last "
            "batch of an epoch is small)"
        )
    if input.data.dtype.itemsize < 4:
        weight, bias = widened(weight), widened(bias)
    out: Tensor
    out, mean, var = apply(BATCH_NORM, input, weight, bias, eps=eps)
    with no_grad():
        if running_mean is not None:
            move_towards(running_mean, mean.data, momentum)
        if running_var is not None:
            move_towards(running_var, var.data * (count / max(count - 1, 1)), momentum)
    return out


def move_towards(running: Tensor, value: Any, momentum: float) -> None:
    running.copy_(running.data * (1.0 - momentum) + value * momentum)


def _by_running(
    input: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """One factor and one addend per channel."""
    scale = (var + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias
    out: Tensor = CHANNEL_AFFINE.run(input, scale, shift)
    return out if out.dtype == input.dtype else out.to(input.dtype)


@kernel
def _channel_affine(xp: Any, input: Any, scale: Any, shift: Any) -> Any:
    """In 16 bits only the result is rounded."""
    for value in (scale, shift):
        if value.shape != (input.shape[1],):
            raise ValueError("one number per channel is needed")
    out = wide(input) * per_channel(wide(scale), input.ndim)
    out += per_channel(wide(shift), input.ndim)
    return out.astype(input.dtype) if input.dtype.itemsize == 2 else out


def _channel_affine_vjp(F: Any, g: Any, out: Any, input: Any, scale: Any, shift: Any, *, needs: Any) -> Any:
    input_grad = scale_grad = shift_grad = None
    axes = (0, *range(2, len(shape_of(input))))
    (slope,) = single(F, g)
    if needs[0]:
        input_grad = slope * per_channel(scale, len(shape_of(input)))
        if g.dtype.itemsize == 2:
            input_grad = F.cast(input_grad, dtype=g.dtype, source=input_grad.dtype)
    if needs[1]:
        scale_grad = F.sum(slope * single(F, input)[0], axis=axes, keepdims=False)
    if needs[2]:
        shift_grad = F.sum(slope, axis=axes, keepdims=False)
    return input_grad, scale_grad, shift_grad


def _channel_affine_shape(input: Any, scale: Any, shift: Any) -> Shape:
    check_channels(input, scale, shift)
    return tuple(input)


CHANNEL_AFFINE = op(
    "channel_affine", "each channel times a number, plus a number",
    forward=_channel_affine, vjp=_channel_affine_vjp, saves=("scale", "input", ""),
    shape=_channel_affine_shape, dtype=half_or_promoted,
    reference=lambda input, scale, shift: input * per_channel(scale, input.ndim) + per_channel(shift, input.ndim),
    samples=lambda s: [
        s.case(s.normal(4, 2), s.normal(2), s.normal(2)),
        s.case(s.normal(2, 3, 2), s.normal(3), s.normal(3)),
        s.case(s.normal(0, 2, 2, 3), s.normal(2), s.normal(2)),
    ],
    errors=lambda s: [
        s.case(s.normal(4, 2), s.normal(3), s.normal(2)),
        s.case(s.normal(4, 2, 3), s.normal(2), s.normal(3)),
    ],
)  # fmt: skip
