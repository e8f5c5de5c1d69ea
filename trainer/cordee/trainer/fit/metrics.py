"""Losses, optimisers and metrics by name, and what a metric is: a function of outputs and targets that returns a mean.

A metric must be a mean over samples, since it is computed shard by shard and the shards' values are averaged by their
sizes. (A median or an AUC of a whole set belongs to a callback, or behind `predict`.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cordee.trainer import ops, optim
from cordee.trainer.nn import functional
from cordee.trainer.tensors import Tensor

__all__ = ["LOSSES", "METRICS", "OPTIMIZERS", "Metric", "by_name", "named_metrics"]

Metric = Callable[[Tensor, Tensor], Any]


def accuracy(output: Tensor, target: Tensor) -> float:
    """How often the right class has the largest output: targets are class numbers, or probabilities of classes. With
    one output per sample: how often it is on the right side of 0 (targets are 0 or 1)."""
    if output.ndim == target.ndim and output.ndim > 1 and output.shape[1] > 1:
        target = ops.argmax(target, 1)
    if output.ndim == target.ndim or (output.ndim > 1 and output.shape[1] == 1):
        return binary_accuracy(output, target)
    return float((ops.argmax(output, 1) == target).float().mean().item())


def binary_accuracy(output: Tensor, target: Tensor) -> float:
    """How often a logit is on the right side of 0, for targets of 0 or 1."""
    return float(((output > 0).reshape(-1) == (target > 0.5).reshape(-1)).float().mean().item())


def top_k_accuracy(output: Tensor, target: Tensor, k: int = 5) -> float:
    """How often the right class is among the k largest outputs."""
    best = ops.topk(output, min(k, output.shape[1]), 1)[1]
    return float((best == target.unsqueeze(1)).any(1).float().mean().item())


def mean_absolute_error(output: Tensor, target: Tensor) -> float:
    """The mean of |output − target|."""
    return float(functional.l1_loss(output, target).item())


def mean_squared_error(output: Tensor, target: Tensor) -> float:
    """The mean of (output − target)²."""
    return float(functional.mse_loss(output, target).item())


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "binary_accuracy": binary_accuracy,
    "top_5_accuracy": top_k_accuracy,
    "mae": mean_absolute_error,
    "mse": mean_squared_error,
}
"""The metrics that have a name."""

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": functional.cross_entropy,
    "binary_cross_entropy": functional.binary_cross_entropy_with_logits,
    "nll": functional.nll_loss,
    "mse": functional.mse_loss,
    "mae": functional.l1_loss,
    "huber": functional.huber_loss,
}
"""The losses that have a name; outputs are logits where there is a choice."""

OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "sgd": partial(optim.SGD, lr=0.01),
    "momentum": partial(optim.SGD, lr=0.01, momentum=0.9),
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "rmsprop": partial(optim.RMSprop, lr=1e-3),
    "adagrad": optim.Adagrad,
    "lion": optim.Lion,
}
"""The optimisers that have a name, with their usual learning rates."""


def by_name(table: dict[str, Any], name: Any, what: str) -> Any:
    """What a name stands for; anything else than a name is what it is.

    Raises:
        ValueError: no such name; it lists those there are.
    """
    if not isinstance(name, str):
        return name
    if name not in table:
        raise ValueError(f"there is no {what} called {name!r}; there are {', '.join(sorted(table))}")
    return table[name]


def named_metrics(metrics: Sequence[str | Metric] | dict[str, Metric]) -> dict[str, Metric]:
    """Metrics by the names that they get in the history."""
    if isinstance(metrics, dict):
        return dict(metrics)
    if isinstance(metrics, str):
        raise TypeError(f"metrics is a list, such as [{metrics!r}]")
    found = {}
    for metric in metrics:
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)
        found[name] = by_name(METRICS, metric, "metric")
    return found
