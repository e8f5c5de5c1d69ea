"""Activations with a corner: relu and its family, shrinking and thresholds.

At the corners themselves the gradient is PyTorch's: 0 for relu, hardtanh and the shrinking ones, the slope of the lower
side for the leaky ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer import random
from cordee.trainer.array import array_module
from cordee.trainer.autograd.record import NO_ERRORS, Sampler, op
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.arithmetic import as_mask
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "celu", "elu", "hardshrink", "hardtanh", "leaky_relu", "prelu", "relu6", "rrelu", "selu", "softshrink",
    "threshold",
]  # fmt: skip

METHODS = "hardshrink prelu"


def _corner_values(s: Sampler) -> list[Any]:
    return [s.case(s.distinct(2, 3)), s.case(s.distinct(5)), s.case(s.distinct()), s.case(s.distinct(0, 2))]


def _leaky_relu(xp: Any, a: Any, *, slope: float) -> Any:
    if 0 < slope <= 1:  # then the product is the larger one below 0, and the smaller one above
        return xp.maximum(a, a * slope)
    return xp.maximum(a, 0) + xp.minimum(a, 0) * slope


LEAKY_RELU = op(
    "leaky_relu", "a above 0, slope · a below",
    forward=_leaky_relu,
    vjps=(lambda F, g, out, a, *, slope: g * (as_mask(F, a > 0, g) * (1.0 - slope) + slope),),
    saves=("a",), elementwise=True, expr="a > 0 ? a : a * slope",
    reference=lambda a, slope: np.where(a > 0, a, slope * a), errors=NO_ERRORS,
    samples=lambda s: [s.case(s.distinct(2, 3), slope=each) for each in (0.1, 0.0, -0.5, 1.5)]
    + [s.case(s.distinct(0, 2), slope=0.1)],
)  # fmt: skip


def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """`input` above 0, `negative_slope * input` below."""
    return LEAKY_RELU.run(input, slope=negative_slope)


PRELU = op(
    "prelu", "a above 0, w · a below",
    autocast="low",
    forward=lambda xp, a, w: xp.maximum(a, 0) + xp.minimum(a, 0) * w,
    vjps=(
        lambda F, g, out, a, w: g * (as_mask(F, a > 0, g) * (1.0 - w) + w),
        lambda F, g, out, a, w: g * (a * as_mask(F, a < 0, g)),
    ),
    saves=("a w", "a"), elementwise=True, expr="max(a, 0) + min(a, 0) * w",
    reference=lambda a, w: np.where(a > 0, a, w * a),
    samples=lambda s: [
        s.case(s.distinct(2, 3), s.normal(3)), s.case(s.distinct(2, 3), s.normal(1)), s.case(s.distinct(3), s.normal()),
    ],
    errors=lambda s: [s.case(s.distinct(2, 3), s.normal(2))],
)  # fmt: skip


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """`input` above 0, `weight * input` below: one weight for all, or one per channel (He et al., 2015).

    Shapes: input (N, C, ...) or (C,), weight (1,) or (C,).

    Raises:
        ShapeError: another number of weights.
    """
    channels = input.shape[1] if input.ndim > 1 else input.shape[0] if input.ndim else 1
    if weight.ndim > 1 or weight.numel() not in (1, channels):
        raise ShapeError(
            f"prelu: weight of shape {weight.shape} does not fit an input of shape {input.shape}: "
            f"it must hold 1 value, or {channels}, one per channel"
        )
    if weight.numel() > 1 and input.ndim > 2:
        weight = weight.reshape(-1, *(1,) * (input.ndim - 2))
    elif not input.ndim:
        weight = weight.reshape(())
    return PRELU.run(input, weight)


def rrelu(input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> Tensor:
    """`input` above 0, below it a multiple drawn anew for each element between `lower` and `upper` (in evaluation:
    their mean).

    Raises:
        ValueError: lower is above upper.
    """
    if lower > upper:
        raise ValueError(f"rrelu: lower ({lower}) must not be above upper ({upper})")
    if not training:
        return leaky_relu(input, (lower + upper) / 2)
    xp = array_module(input.data)
    slopes = random.generator().uniform(lower, upper, input.shape)
    return PRELU.run(input, wrap(xp.asarray(slopes, input.dtype)))


# -- exponential below -------------------------------------------------------------------------------------------------


def _elu(xp: Any, a: Any, *, alpha: float, scale: float, rate: float) -> Any:
    below = xp.expm1(xp.minimum(a, 0) * rate)
    below *= alpha * scale
    above = xp.maximum(a, 0)
    return below + (above * scale if scale != 1.0 else above)


def _elu_vjp(F: Any, g: Any, out: Any, a: Any, *, alpha: float, scale: float, rate: float) -> Any:
    above = as_mask(F, a > 0, g)
    below = (1.0 - above) * F.exp(F.clamp(a, min=None, max=0.0) * rate) * (alpha * scale * rate)
    return g * (above * scale + below)


ELU = op(
    "elu", "scale · a above 0, scale · alpha · (exp(rate · a) - 1) below",
    forward=_elu, vjps=(_elu_vjp,),
    saves=("a",), elementwise=True, expr="scale * (a > 0 ? a : alpha * expm1(rate * a))",
    reference=lambda a, alpha, scale, rate: scale * np.where(a > 0, a, alpha * np.expm1(rate * a)), errors=NO_ERRORS,
    samples=lambda s: [
        s.case(s.distinct(2, 3), alpha=1.0, scale=1.0, rate=1.0), s.case(s.distinct(5), alpha=0.5, scale=2.0, rate=1.5),
        s.case(s.distinct(0, 2), alpha=1.0, scale=1.0, rate=1.0),
    ],
)  # fmt: skip


def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`input` above 0, `alpha * (exp(input) - 1)` below (Clevert et al., 2015)."""
    return ELU.run(input, alpha=alpha, scale=1.0, rate=1.0)


def selu(input: Tensor) -> Tensor:
    """`elu` with the constants that keep mean 0 and variance 1 (Klambauer et al., 2017)."""
    return ELU.run(input, alpha=1.6732632423543772848, scale=1.0507009873554804934, rate=1.0)


def celu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`input` above 0, `alpha * (exp(input / alpha) - 1)` below (Barron, 2017).

    Raises:
        ValueError: alpha is 0.
    """
    if alpha == 0:
        raise ValueError("celu: alpha cannot be 0")
    return ELU.run(input, alpha=alpha, scale=1.0, rate=1.0 / alpha)


# -- within bounds -----------------------------------------------------------------------------------------------------


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """`input`, held between two numbers.

    Raises:
        ValueError: min_val is above max_val.
    """
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val ({min_val}) must not be above max_val ({max_val})")
    if input.dtype.kind in "iu":  # whole numbers stay so
        min_val, max_val = int(min_val), int(max_val)
    return input.clamp(min_val, max_val)


def relu6(input: Tensor) -> Tensor:
    """`input`, held between 0 and 6."""
    return input.clamp(0, 6)


THRESHOLD = op(
    "threshold", "a above the threshold, a constant elsewhere",
    forward=lambda xp, a, *, limit, value: xp.where(a > limit, a, a.dtype.type(value)),
    vjps=(lambda F, g, out, a, *, limit, value: g * (a > limit),),
    saves=("a",), elementwise=True, expr="a > limit ? a : value",
    reference=lambda a, limit, value: np.where(a > limit, a, value), errors=NO_ERRORS,
    samples=lambda s: [s.case(s.distinct(2, 3), limit=0.2, value=5.0), s.case(s.distinct(), limit=0.2, value=5.0)],
)  # fmt: skip


def threshold(input: Tensor, threshold: float, value: float) -> Tensor:
    """`input` where it is above the threshold, `value` elsewhere."""
    return THRESHOLD.run(input, limit=threshold, value=value)


HARDSHRINK = op(
    "hardshrink", "a where its magnitude is above lambd, 0 elsewhere",
    forward=lambda xp, a, *, lambd: a * ((a > lambd) | (a < -lambd)),
    vjps=(lambda F, g, out, a, *, lambd: g * ((a > lambd) | (a < -lambd)),),
    saves=("a",), elementwise=True, expr="abs(a) <= lambd ? 0 : a",
    reference=lambda a, lambd: np.where(np.abs(a) > lambd, a, 0), errors=NO_ERRORS,
    samples=lambda s: [s.case(s.distinct(2, 3), lambd=0.35), s.case(s.distinct(), lambd=0.0)],
)  # fmt: skip


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """`input` where its magnitude is above lambd, 0 elsewhere."""
    return HARDSHRINK.run(input, lambd=lambd)


SOFTSHRINK = op(
    "softshrink", "a moved towards 0 by lambd, 0 where its magnitude is less",
    forward=lambda xp, a, *, lambd: xp.maximum(a - lambd, 0) + xp.minimum(a + lambd, 0),
    vjps=(lambda F, g, out, a, *, lambd: g * ((a > lambd) | (a < -lambd)),),
    saves=("a",), elementwise=True, expr="abs(a) <= lambd ? 0 : a > 0 ? a - lambd : a + lambd",
    reference=lambda a, lambd: np.sign(a) * np.maximum(np.abs(a) - lambd, 0), errors=NO_ERRORS,
    samples=lambda s: [s.case(s.distinct(2, 3), lambd=0.35), s.case(s.distinct(), lambd=0.0)],
)  # fmt: skip


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """`input` moved towards 0 by lambd; 0 where its magnitude is less.

    Raises:
        ValueError: lambd is negative.
    """
    if lambd < 0:
        raise ValueError(f"softshrink: lambd must be at least 0, not {lambd}")
    return SOFTSHRINK.run(input, lambd=lambd)
