"""Losses. Cross-entropy of plain class numbers is one op; what weighs, smooths or ignores is composed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.graph import apply, apply_one
from cordee.trainer.autograd.record import op, shape_of
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.ops.activation import log_softmax, logsigmoid
from cordee.trainer.ops.elementwise import maximum
from cordee.trainer.ops.indexing import gather
from cordee.trainer.ops.products import ones
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["binary_cross_entropy_with_logits", "cross_entropy", "l1_loss", "mse_loss", "nll_loss"]

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_REDUCTIONS = ("mean", "sum", "none")


def _check_reduction(name: str, reduction: str) -> None:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{name}: reduction is one of mean, sum, none, not {reduction!r}")


def _reduce(losses: Tensor, reduction: str) -> Tensor:
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def _check_same_shape(name: str, input: Tensor, target: Tensor) -> None:
    if input.shape != target.shape:
        raise ShapeError(
            f"{name}: input has shape {input.shape}, target {target.shape}; they must be the same "
            "(broadcasting here is almost always a mistake: reshape one of them)"
        )


# -- cross-entropy of class numbers ------------------------------------------------------------------------------------


def _cross_entropy(xp: Any, logits: Any, *, target: Any, reduction: str) -> Any:
    num_rows = logits.shape[0]
    rows = xp.arange(num_rows)
    shifted = logits - logits.max(axis=1, keepdims=True)
    picked = shifted[rows, target]
    probabilities = xp.exp(shifted, out=shifted)
    total = probabilities.dot(ones(xp, logits.shape[1], logits.dtype))
    probabilities /= total.reshape(num_rows, 1)
    losses = xp.log(total) - picked
    if reduction != "none":
        losses = losses.sum()
        if reduction == "mean":
            losses = losses / num_rows
    return losses, (probabilities, rows)


def _cross_entropy_vjp(F: Any, g: Any, out: Any, logits: Any, *, target: Any, reduction: str, aux: Any) -> Any:
    num_rows = shape_of(logits)[0]
    if reduction == "mean":
        g = g / num_rows
    elif reduction == "none":
        g = g.reshape((num_rows, 1))
    if F.raw:
        probabilities, rows = aux
        d = probabilities * g
        d[rows, target] -= g.reshape(num_rows) if reduction == "none" else g
        return d
    chosen = target.reshape(-1, 1) == array_module(target).arange(logits.shape[1])
    return (F.softmax(logits, axis=1) - F.cast(wrap(chosen), dtype=logits.dtype, source=None)) * g


def _cross_entropy_reference(logits: Any, target: Any, reduction: str) -> Any:
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), target]
    return {"mean": losses.mean, "sum": losses.sum, "none": losses.copy}[reduction]()


CROSS_ENTROPY = op(
    "cross_entropy", "minus the log-probability that softmax gives each row's class",
    forward=_cross_entropy, vjps=(_cross_entropy_vjp,), saves=("logits",), aux=True, reference=_cross_entropy_reference,
    samples=lambda s: [s.case(s.normal(4, 3), target=s.integers(3, 4), reduction=r) for r in _REDUCTIONS],
)  # fmt: skip


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of logits `(N, C, …)` or `(C,)` with class numbers `(N, …)`, or with probabilities like it."""
    _check_reduction("cross_entropy", reduction)
    if target.dtype.kind == "f":
        return _soft_cross_entropy(input, target, weight, reduction, label_smoothing)
    rows, flat, shape = _rows_and_classes("cross_entropy", input, target)
    plain = weight is None and label_smoothing == 0.0
    if _check_classes("cross_entropy", flat, rows.shape[1], ignore_index) and plain:
        losses = apply_one(CROSS_ENTROPY, rows, target=flat, reduction=reduction)
        return losses.reshape(shape) if reduction == "none" and losses.shape != shape else losses
    log_probabilities = log_softmax(rows, 1)
    main = _nll_rows(log_probabilities, flat, weight, ignore_index)
    counted = _row_weights(rows, flat, weight, ignore_index)
    if label_smoothing:
        per_class = -log_probabilities if weight is None else -log_probabilities * weight
        kept = wrap((flat != ignore_index).astype(rows.dtype))
        main = main * (1 - label_smoothing) + per_class.sum(1) * kept * (label_smoothing / rows.shape[1])
    if reduction == "none":
        return main.reshape(shape)
    return main.sum() / counted.sum() if reduction == "mean" else main.sum()


def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Minus the entry of each row's class, of log-probabilities `(N, C, …)` or `(C,)`."""
    _check_reduction("nll_loss", reduction)
    rows, flat, shape = _rows_and_classes("nll_loss", input, target)
    _check_classes("nll_loss", flat, rows.shape[1], ignore_index)
    losses = _nll_rows(rows, flat, weight, ignore_index)
    if reduction == "none":
        return losses.reshape(shape)
    return losses.sum() / _row_weights(rows, flat, weight, ignore_index).sum() if reduction == "mean" else losses.sum()


def _rows_and_classes(name: str, input: Tensor, target: Tensor) -> tuple[Tensor, Any, tuple[int, ...]]:
    """The input with one row per prediction, the class numbers as one vector, and the shape of the losses."""
    if target.dtype.kind not in "iu":
        raise TypeError(f"{name}: class numbers must be integers, not {target.dtype.name}")
    expected = input.shape[:1] + input.shape[2:] if input.ndim > 1 else ()
    if input.ndim == 0 or target.shape != expected:
        raise ShapeError(
            f"{name}: input has shape {input.shape}, so target must have shape {expected}, not {target.shape} "
            "(classes are in dimension 1, or 0 without a batch)"
        )
    if input.ndim == 1:
        input = input.reshape(1, -1)
    elif input.ndim > 2:
        input = input.movedim(1, -1).reshape(-1, input.shape[1])
    return input, target.data.reshape(-1), expected


def _check_classes(name: str, flat: Any, num_classes: int, ignore_index: int) -> bool:
    """Whether all class numbers are classes; False if some are to be ignored; an error for any other."""
    if not flat.size or flat.view(_UNSIGNED[flat.dtype.itemsize]).max() < num_classes:  # negative ones look huge
        return not 0 <= ignore_index < num_classes or not bool((flat == ignore_index).any())
    wrong = flat[((flat < 0) | (flat >= num_classes)) & (flat != ignore_index)]
    if wrong.size:
        raise TrainerIndexError(
            f"{name}: class number {int(wrong[0])} is outside the {num_classes} classes, 0 to {num_classes - 1}"
        )
    return False


def _nll_rows(log_probabilities: Tensor, flat: Any, weight: Tensor | None, ignore_index: int) -> Tensor:
    kept = flat != ignore_index
    places = wrap(array_module(flat).where(kept, flat, 0).reshape(-1, 1))
    picked = gather(log_probabilities, 1, places).reshape(-1)
    return -picked * _row_weights(log_probabilities, flat, weight, ignore_index)


def _row_weights(rows: Tensor, flat: Any, weight: Tensor | None, ignore_index: int) -> Tensor:
    kept = flat != ignore_index
    weights = kept.astype(rows.dtype)
    return wrap(weights if weight is None else weights * weight.data[array_module(flat).where(kept, flat, 0)])


def _soft_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float
) -> Tensor:
    _check_same_shape("cross_entropy", input, target)
    dim = 1 if input.ndim > 1 else 0
    num_classes = input.shape[dim]
    if smoothing:
        target = target * (1 - smoothing) + smoothing / num_classes
    if weight is not None:
        target = target * weight.reshape([-1 if i == dim else 1 for i in range(input.ndim)])
    losses = -(target * log_softmax(input, dim)).sum(dim)
    return losses.sum() / (losses.data.size or 1) if reduction == "mean" else _reduce(losses, reduction)


# -- distances ---------------------------------------------------------------------------------------------------------


def _mse(xp: Any, a: Any, b: Any) -> Any:
    away = (a - b).reshape(-1)
    return away.dot(away) / (away.size or float("nan"))


def _mse_vjp(F: Any, g: Any, out: Any, a: Any, b: Any, sign: float = 1.0) -> Any:
    return (a - b) * (g * (sign * 2.0 / (math.prod(a.shape) or 1)))


MSE_LOSS = op(
    "mse_loss", "the mean of (a - b)²",
    forward=_mse,
    vjps=(_mse_vjp, lambda F, g, out, a, b: _mse_vjp(F, g, out, a, b, -1.0)),
    saves=("a b", "a b"), reference=lambda a, b: np.mean((a - b) ** 2),
    samples=lambda s: [s.case(s.normal(2, 3), s.normal(2, 3)), s.case(s.normal(4), s.normal(4))],
)  # fmt: skip


def mse_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """The squared difference of two tensors of one shape."""
    _check_reduction("mse_loss", reduction)
    _check_same_shape("mse_loss", input, target)
    if reduction == "mean":
        return apply(MSE_LOSS, input, target)
    away = input - target
    return _reduce(away * away, reduction)


def l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """The absolute difference of two tensors of one shape."""
    _check_reduction("l1_loss", reduction)
    _check_same_shape("l1_loss", input, target)
    return _reduce((input - target).abs(), reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of yes/no predictions, given as logits, with targets between 0 and 1."""
    _check_reduction("binary_cross_entropy_with_logits", reduction)
    _check_same_shape("binary_cross_entropy_with_logits", input, target)
    if pos_weight is None:
        losses = maximum(input, 0.0) - input * target - logsigmoid(input.abs())
    else:
        losses = (1.0 - target) * input - (1.0 + (pos_weight - 1.0) * target) * logsigmoid(input)
    return _reduce(losses if weight is None else losses * weight, reduction)
