"""Losses of two tensors of one shape: distances, binary cross-entropies, divergences, negative log-likelihoods.

All of them refuse to broadcast: `(N, 1)` beside `(N,)` would silently compare everything with everything. Whoever means
it says `broadcast=True`. `weight`, where there is one, broadcasts to the losses.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.autograd.record import op
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.activation import logsigmoid, sigmoid
from cordee.trainer.ops.elementwise import clamp, exp, log, where
from cordee.trainer.ops.loss import check_pair, check_reduction, reduce, weighted
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "gaussian_nll_loss", "hinge_embedding_loss",
    "huber_loss", "kl_div", "l1_loss", "mse_loss", "poisson_nll_loss", "sigmoid_focal_loss", "smooth_l1_loss",
    "soft_margin_loss",
]  # fmt: skip


# -- distances ---------------------------------------------------------------------------------------------------------


def _mse(xp: Any, a: Any, b: Any) -> Any:
    away = (a - b).reshape(-1)
    return away.dot(away) / (away.size or float("nan"))


def _mse_vjp(F: Any, g: Any, out: Any, a: Any, b: Any, sign: float = 1.0) -> Any:
    return (a - b) * (g * (sign * 2.0 / (math.prod(a.shape) or 1)))


def _same_shapes(a: Any, b: Any) -> Any:
    if a != b:
        raise ShapeError("the two must have the same shape")
    return ()


MSE_LOSS = op(
    "mse_loss", "the mean of (a - b)²",
    autocast="single",
    forward=_mse,
    vjps=(_mse_vjp, lambda F, g, out, a, b: _mse_vjp(F, g, out, a, b, -1.0)),
    saves=("a b", "a b"), reference=lambda a, b: np.mean((a - b) ** 2), shape=_same_shapes,
    samples=lambda s: [s.case(s.normal(2, 3), s.normal(2, 3)), s.case(s.normal(4), s.normal(4))],
    errors=lambda s: [s.case(s.normal(2, 3), s.normal(2, 4))],
)  # fmt: skip


@autocasts("single")
def mse_loss(
    input: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    weight: Tensor | None = None,
    broadcast: bool = False,
) -> Tensor:
    """The squared difference of two tensors of one shape. With `weight`, the mean is the weighted one."""
    check_reduction("mse_loss", reduction)
    check_pair("mse_loss", input, target, broadcast)
    if reduction == "mean" and weight is None and input.shape == target.shape:
        mean: Tensor = MSE_LOSS.run(input, target)
        return mean
    away = input - target
    return _weighted_mean("mse_loss", away * away, weight, reduction)


@autocasts("single")
def l1_loss(
    input: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    weight: Tensor | None = None,
    broadcast: bool = False,
) -> Tensor:
    """The absolute difference of two tensors of one shape. With `weight`, the mean is the weighted one."""
    check_reduction("l1_loss", reduction)
    check_pair("l1_loss", input, target, broadcast)
    return _weighted_mean("l1_loss", (input - target).abs(), weight, reduction)


def _weighted_mean(name: str, losses: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    if weight is None:
        return reduce(losses, reduction)
    check_pair(name, losses, weight, names="input weight")
    losses = losses * weight
    return losses.sum() / weight.sum() if reduction == "mean" else reduce(losses, reduction)


def _huber(xp: Any, a: Any, b: Any, *, delta: float) -> Any:
    away = a - b
    near = away.clip(-delta, delta)
    out = near * -0.5  # near (away - near / 2) is both: without asking element by element which it is
    out += away
    out *= near
    return out


def _huber_vjp(F: Any, g: Any, out: Any, a: Any, b: Any, *, delta: float, sign: float = 1.0) -> Any:
    return g * F.clamp(a - b, min=-delta, max=delta) * sign


HUBER = op(
    "huber", "half the squared difference below delta, linear above",
    autocast="single",
    forward=_huber,
    vjps=(_huber_vjp, lambda F, g, out, a, b, *, delta: _huber_vjp(F, g, out, a, b, delta=delta, sign=-1.0)),
    saves=("a b", "a b"), elementwise=True, expr="d = abs(a - b); d < delta ? d * d / 2 : delta * (d - delta / 2)",
    reference=lambda a, b, delta: np.where(
        np.abs(a - b) < delta, (a - b) ** 2 / 2, delta * (np.abs(a - b) - delta / 2)
    ),
    samples=lambda s: [
        s.case(s.normal(2, 3), s.normal(2, 3), delta=0.7),
        s.case(s.normal(0, 3), s.normal(3), delta=1.0),
        s.case(s.normal(4), 0.25, delta=1.5),
    ],
    errors=lambda s: [s.case(s.normal(2, 3), s.normal(2, 4), delta=1.0)],
)  # fmt: skip


@autocasts("single")
def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
    *,
    broadcast: bool = False,
) -> Tensor:
    """Half the squared difference below `delta`, and `delta * (|difference| - delta / 2)` above (Huber, 1964)."""
    check_reduction("huber_loss", reduction)
    check_pair("huber_loss", input, target, broadcast)
    if delta <= 0:
        raise ValueError(f"huber_loss: delta must be positive, not {delta}")
    if weight is not None:
        check_pair("huber_loss", input, weight, names="input weight")
    return weighted(HUBER.run(input, target, delta=float(delta)), weight, reduction)


@autocasts("single")
def smooth_l1_loss(
    input: Tensor, target: Tensor, *, reduction: str = "mean", beta: float = 1.0, broadcast: bool = False
) -> Tensor:
    """Half the squared difference over `beta` below `beta`, and `|difference| - beta / 2` above."""
    check_reduction("smooth_l1_loss", reduction)
    check_pair("smooth_l1_loss", input, target, broadcast)
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    if beta == 0:
        return reduce((input - target).abs(), reduction)
    losses = HUBER.run(input, target, delta=float(beta))
    return reduce(losses if beta == 1 else losses / beta, reduction)


# -- yes or no ---------------------------------------------------------------------------------------------------------


def _bce(xp: Any, a: Any, b: Any) -> Any:
    yes, no = xp.maximum(xp.log(a), -100.0), xp.maximum(xp.log1p(-a), -100.0)
    return (b - 1.0) * no - b * yes


def _bce_vjp(F: Any, g: Any, out: Any, a: Any, b: Any) -> Any:
    return g * (a - b) / F.clamp(a * (1.0 - a), min=1e-12, max=None)


def _bce_target_vjp(F: Any, g: Any, out: Any, a: Any, b: Any) -> Any:
    return g * (F.clamp(F.log1p(-a), min=-100.0, max=None) - F.clamp(F.log(a), min=-100.0, max=None))


BINARY_CROSS_ENTROPY = op(
    "binary_cross_entropy", "-(b · log(a) + (1 - b) · log(1 - a)), the logarithms not below -100",
    autocast="single",
    forward=_bce, vjps=(_bce_vjp, _bce_target_vjp), saves=("a b", "a"), elementwise=True,
    expr="-(b * max(log(a), -100) + (1 - b) * max(log1p(-a), -100))",
    reference=lambda a, b: -(b * np.log(a) + (1 - b) * np.log(1 - a)),
    samples=lambda s: [
        s.case(0.1 + 0.4 * s.positive(2, 3), 0.4 * s.positive(2, 3)), s.case(0.4 * s.positive(4), s.unit(4)),
    ],
    errors=lambda s: [s.case(0.4 * s.positive(2, 3), s.unit(2, 4))],
)  # fmt: skip


@autocasts("single")
def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    broadcast: bool = False,
) -> Tensor:
    """Cross-entropy of yes/no predictions, given as probabilities, with targets between 0 and 1.

    Raises:
        ValueError: a prediction is outside 0 to 1 (logits go to `binary_cross_entropy_with_logits`).
    """
    check_reduction("binary_cross_entropy", reduction)
    check_pair("binary_cross_entropy", input, target, broadcast)
    values = input.data
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        worst = values.reshape(-1)[array_module(values).abs(values.reshape(-1) - 0.5).argmax()]
        raise ValueError(
            f"binary_cross_entropy: input holds {float(worst):.6g}, which is no probability (0 to 1): apply sigmoid, "
            "or call binary_cross_entropy_with_logits"
        )
    return weighted(BINARY_CROSS_ENTROPY.run(input, target), weight, reduction)


BCE_WITH_LOGITS = op(
    "binary_cross_entropy_with_logits", "log(1 + exp(a)) - a · b, without overflow",
    autocast="single",
    forward=lambda xp, a, b: xp.maximum(a, 0) + xp.log1p(xp.exp(-xp.abs(a))) - a * b,
    vjps=(lambda F, g, out, a, b: g * (F.sigmoid(a) - b), lambda F, g, out, a, b: -g * a),
    saves=("a b", "a"), elementwise=True, expr="max(a, 0) + log1p(exp(-abs(a))) - a * b",
    reference=lambda a, b: np.log(1 + np.exp(a)) - a * b,
    samples=lambda s: [
        s.case(s.normal(2, 3), s.unit(2, 3)), s.case(4.0 * s.normal(4), 0.5), s.case(s.normal(0), s.normal(0)),
    ],
    errors=lambda s: [s.case(s.normal(2, 3), s.unit(2, 4))],
)  # fmt: skip


@autocasts("single")
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    broadcast: bool = False,
) -> Tensor:
    """Cross-entropy of yes/no predictions, given as logits, with targets between 0 and 1.

    `pos_weight` (which broadcasts) is what a yes counts beside a no.
    """
    check_reduction("binary_cross_entropy_with_logits", reduction)
    check_pair("binary_cross_entropy_with_logits", input, target, broadcast)
    if pos_weight is None:
        losses = BCE_WITH_LOGITS.run(input, target)
    else:
        losses = (1.0 - target) * input - (1.0 + (pos_weight - 1.0) * target) * logsigmoid(input)
    return weighted(losses, weight, reduction)


def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    *,
    broadcast: bool = False,
) -> Tensor:
    """Binary cross-entropy of logits, less of it the surer the prediction (Lin et al., arXiv:1708.02002).

    Name, arguments and defaults are those of `torchvision.ops.sigmoid_focal_loss`: a right answer of probability p
    counts `(1 - p) ** gamma`; `alpha` weighs yes against no (a negative one: not at all).
    """
    check_reduction("sigmoid_focal_loss", reduction)
    check_pair("sigmoid_focal_loss", inputs, targets, broadcast, "inputs targets")
    p = sigmoid(inputs)
    right = p * targets + (1.0 - p) * (1.0 - targets)
    losses = BCE_WITH_LOGITS.run(inputs, targets) * (1.0 - right) ** gamma
    if alpha >= 0:
        losses = losses * (alpha * targets + (1.0 - alpha) * (1.0 - targets))
    return reduce(losses, reduction)


@autocasts("single")
def soft_margin_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", broadcast: bool = False) -> Tensor:
    """`log(1 + exp(-target * input))`, targets being 1 or -1."""
    check_reduction("soft_margin_loss", reduction)
    check_pair("soft_margin_loss", input, target, broadcast)
    return reduce(-logsigmoid(input * target), reduction)


@autocasts("single")
def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, *, reduction: str = "mean", broadcast: bool = False
) -> Tensor:
    """The distance `input` where the target is 1, and what it lacks to `margin` where it is -1."""
    check_reduction("hinge_embedding_loss", reduction)
    check_pair("hinge_embedding_loss", input, target, broadcast)
    near = where(target != -1, input, 0.0)
    far = where(target != 1, clamp(margin - input, min=0.0), 0.0)
    return reduce(near + far, reduction)


# -- distributions -----------------------------------------------------------------------------------------------------


@autocasts("single")
def kl_div(
    input: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    log_target: bool = False,
    broadcast: bool = False,
) -> Tensor:
    """`target * (log(target) - input)`: the divergence of log-probabilities `input` from `target`.

    `log_target`: the target holds log-probabilities too. "batchmean" is the divergence itself, per row; "mean" divides
    by the number of classes as well, as in PyTorch.
    """
    check_reduction("kl_div", reduction, ("mean", "batchmean", "sum", "none"))
    check_pair("kl_div", input, target, broadcast)
    if log_target:
        losses = exp(target) * (target - input)
    else:
        losses = target * log(where(target == 0, 1.0, target)) - target * input
    if reduction == "batchmean":
        return losses.sum() / input.shape[0] if input.ndim else losses
    return reduce(losses, reduction)


@autocasts("single")
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    *,
    eps: float = 1e-8,
    reduction: str = "mean",
    broadcast: bool = False,
) -> Tensor:
    """Minus the log-likelihood of counts, given the logarithm of their expectation (or with `log_input=False` it).

    `full` adds Stirling's approximation of `log(target!)` where the target is above 1; else that is left out.
    """
    check_reduction("poisson_nll_loss", reduction)
    check_pair("poisson_nll_loss", input, target, broadcast)
    losses = exp(input) - target * input if log_input else input - target * log(input + eps)
    if full:
        above = where(target > 1, target, 1.0)
        stirling = above * log(above) - above + 0.5 * log(2 * math.pi * above)
        losses = losses + where(target > 1, stirling, 0.0)
    return reduce(losses, reduction)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
    *,
    broadcast: bool = False,
) -> Tensor:
    """Minus the log-likelihood of targets, given their expectation `input` and variance `var`.

    `var` is a number, or like `input`, or of size 1 in one dimension, or lacks the last. It counts as `eps` where it is
    smaller, its gradient being what it would be without that. `full` adds the constant `log(2 π) / 2`.

    Raises:
        ValueError: a variance is negative.
    """
    check_reduction("gaussian_nll_loss", reduction)
    check_pair("gaussian_nll_loss", input, target, broadcast)
    if not isinstance(var, Tensor):
        var = wrap(array_module(input.data).full(input.shape, var, input.dtype))
    if bool((var.data < 0).any()):
        raise ValueError("gaussian_nll_loss: var holds negative variances")
    if var.shape != input.shape:
        if var.shape == input.shape[:-1]:
            var = var.reshape((*var.shape, 1))
        elif var.ndim != input.ndim or sorted(a for a, b in zip(var.shape, input.shape, strict=True) if a != b) != [1]:
            raise ShapeError(
                f"gaussian_nll_loss: input has shape {input.shape}, so var must be like it, or of size 1 in one "
                f"dimension, or lack the last; it has shape {var.shape}"
            )
    lifted = var.data.clip(eps) - var.data
    var = var + wrap(lifted) if bool(lifted.any()) else var
    away = input - target
    losses = (log(var) + away * away / var) * 0.5
    return reduce(losses + 0.5 * math.log(2 * math.pi) if full else losses, reduction)
