"""Group normalisation: groups of a sample's channels; at the extreme, single channels, which is instance normalisation.

As in `normalization_batch.py`, only mean and inverse deviation are kept for the gradient.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.autograd.mode import no_grad
from cordee.trainer.autograd.record import Shape, op
from cordee.trainer.errors import ShapeError
from cordee.trainer.kernels import kernel
from cordee.trainer.ops.normalization_batch import (
    as_input,
    batch_norm,
    channel_dots,
    check_channels,
    half_or_promoted,
    move_towards,
    per_channel,
    single,
    sums,
    wide,
    widened,
)
from cordee.trainer.ops.products import row_sums
from cordee.trainer.tensors import Tensor

__all__ = ["group_norm", "instance_norm"]


def _affine(xp: Any, a: Any, weight: Any, bias: Any) -> Any:
    """In place."""
    if weight is not None:
        a = xp.multiply(a, per_channel(weight, a.ndim), out=a)
    if bias is not None:
        a += per_channel(bias, a.ndim)
    return a


@kernel
def _group_norm(xp: Any, input: Any, weight: Any, bias: Any, *, groups: int, eps: float) -> Any:
    if 0 in input.shape[1:] or input.shape[1] % groups:
        raise ValueError("channels do not divide into groups")
    if input.dtype.itemsize == 2:  # only the result is rounded
        out, statistics = _group_norm(xp, *map(wide, (input, weight, bias)), groups=groups, eps=eps)
        return out.astype(input.dtype), statistics
    rows = _rows(input, groups)
    mean = row_sums(xp, rows) / rows.shape[1]
    normal = rows - mean
    var = xp.einsum("ij,ij->i", normal, normal).reshape(-1, 1) / rows.shape[1]
    inverse = 1.0 / xp.sqrt(var + eps)
    normal *= inverse
    return _affine(xp, normal.reshape(input.shape), weight, bias), (mean, inverse)


def _rows(a: Any, groups: int) -> Any:
    """(N, C, …) as one row for each sample and group."""
    num_rows = a.shape[0] * groups
    return a.reshape(num_rows, math.prod(a.shape) // max(num_rows, 1))


def _group_norm_vjp(
    F: Any, g: Any, out: Any, input: Any, weight: Any, bias: Any,
    *, needs: Any, aux: Any, groups: int, eps: float,
) -> Any:  # fmt: skip
    if not needs[0] and not needs[1]:  # then the input is not kept
        return None, None, F.sum(single(F, g)[0], axis=(0, *range(2, len(g.shape))), keepdims=False)
    if F.raw:
        return _group_norm_grad(F.xp, g, input, weight if needs[0] else None, *aux, needs=needs)
    given = input
    g, input = single(F, g, input)
    rows, axes = _rows(input, groups), (0, *range(2, input.ndim))
    centred = rows - F.mean(rows, axis=1, keepdims=True)
    inverse = F.rsqrt(F.mean(centred * centred, axis=1, keepdims=True) + eps)
    normal = centred * inverse
    input_grad = weight_grad = bias_grad = None
    if needs[1]:
        weight_grad = F.sum(g * normal.reshape(input.shape), axis=axes, keepdims=False)
    if needs[2]:
        bias_grad = F.sum(g, axis=axes, keepdims=False)
    if needs[0]:
        scaled = _rows(g if weight is None else g * per_channel(weight, input.ndim), groups)
        along = F.mean(scaled * normal, axis=1, keepdims=True)
        input_grad = (scaled - F.mean(scaled, axis=1, keepdims=True) - normal * along) * inverse
        input_grad = as_input(F, input_grad.reshape(input.shape), given)
    return input_grad, weight_grad, bias_grad


@kernel
def _group_norm_grad(xp: Any, g: Any, input: Any, weight: Any, mean: Any, inverse: Any, *, needs: Any) -> Any:
    """The same on arrays, in place."""
    if g.dtype.itemsize == 2:
        grads = _group_norm_grad(xp, wide(g), wide(input), wide(weight), mean, inverse, needs=needs)
        return None if grads[0] is None else grads[0].astype(g.dtype), *grads[1:]
    rows = input.reshape(mean.shape[0], -1) if input.size else input.reshape(mean.shape[0], 0)
    normal = rows - mean
    normal *= inverse
    input_grad = weight_grad = bias_grad = None
    if needs[1]:
        weight_grad = channel_dots(xp, g, normal.reshape(input.shape))
    if needs[2]:
        bias_grad = sums(xp, g)
    if needs[0]:
        scaled = g.copy() if weight is None else g * per_channel(weight, g.ndim)
        scaled = scaled.reshape(rows.shape)
        along = xp.einsum("ij,ij->i", scaled, normal).reshape(-1, 1) / rows.shape[1]
        scaled -= row_sums(xp, scaled) / rows.shape[1]
        normal *= along
        scaled -= normal
        scaled *= inverse
        input_grad = scaled.reshape(input.shape)
    return input_grad, weight_grad, bias_grad


def _group_norm_shape(input: Any, weight: Any, bias: Any, *, groups: int, eps: float) -> Shape:
    check_channels(input, weight, bias)
    if 0 in input[1:]:
        raise ShapeError(f"only the batch (dimension 0) may be empty, not all of {tuple(input)}")
    if input[1] % groups:
        raise ShapeError(f"{input[1]} channels (dimension 1) do not divide into {groups} groups")
    return tuple(input)


def _group_norm_reference(input: Any, weight: Any, bias: Any, groups: int, eps: float) -> Any:
    rows = input.reshape(input.shape[0] * groups, -1)
    out = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + eps)
    out = out.reshape(input.shape)
    if weight is not None:
        out = out * per_channel(weight, input.ndim)
    return out if bias is None else out + per_channel(bias, input.ndim)


GROUP_NORM = op(
    "group_norm", "each sample's groups of channels brought to mean 0 and variance 1, times a weight, plus a bias",
    autocast="single on cuda",
    forward=_group_norm, vjp=_group_norm_vjp, saves=("input weight", "input", ""), aux=True,
    shape=_group_norm_shape, reference=_group_norm_reference,
    dtype=half_or_promoted,
    samples=lambda s: [
        s.case(s.normal(2, 4, 3), s.normal(4), s.normal(4), groups=2, eps=1e-5),
        s.case(s.normal(2, 2, 2, 2), None, None, groups=2, eps=1e-3),
        s.case(s.normal(3, 4), s.normal(4), None, groups=2, eps=1e-5),
        s.case(s.normal(2, 3, 2), None, s.normal(3), groups=1, eps=1e-5),
    ],
    errors=lambda s: [
        s.case(s.normal(2, 4, 3), None, None, groups=3, eps=1e-5),
        s.case(s.normal(2, 4, 3), s.normal(3), None, groups=2, eps=1e-5),
    ],
)  # fmt: skip


@autocasts("single on cuda")
def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Each sample's groups of channels of `(N, C, …)` brought to mean 0 and variance 1, times `weight (C,)`,
    plus `bias (C,)`.
    """
    if num_groups < 1:
        raise ValueError(f"group_norm: num_groups must be at least 1, not {num_groups}")
    if input.data.dtype.itemsize < 4:
        weight, bias = widened(weight), widened(bias)
    return GROUP_NORM.run(input, weight, bias, groups=num_groups, eps=eps)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Each channel of each sample of `(N, C, …)` brought to mean 0 and variance 1, times `weight`, plus `bias`.

    Running statistics, if given, move towards the means over the samples of each sample's; they are used instead where
    `use_input_stats` is false. See `batch_norm` for what they are in an elastic run.
    """
    if input.ndim < 3:
        raise ShapeError(f"instance_norm: input must have at least three dimensions (N, C, …); it has {input.shape}")
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise ValueError("instance_norm: without use_input_stats, running_mean and running_var are needed")
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    count = math.prod(input.shape[2:])
    if count == 1:
        raise ValueError(
            f"instance_norm: there must be more than one value per channel and sample; input has shape {input.shape}"
        )
    if running_mean is not None or running_var is not None:
        rows = input.data.reshape(*input.shape[:2], count)
        with no_grad():
            if running_mean is not None:
                move_towards(running_mean, rows.mean(2).mean(0), momentum)
            if running_var is not None:
                move_towards(running_var, rows.var(2, ddof=1).mean(0), momentum)
    return group_norm(input, input.shape[1], weight, bias, eps)
