"""A schedule that waits for a metric to stop getting better."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal, SupportsFloat

from cordee.trainer.optim.attached import attach
from cordee.trainer.optim.lr_scheduler.base import LRScheduler, one_per_group
from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["ReduceLROnPlateau"]


class ReduceLROnPlateau(LRScheduler):
    """Multiplies the learning rate by `factor` when the metric has not got better for more than `patience` steps.

    In an elastic run, give it a metric that all workers compute alike (`run.loss`).

    Args:
        optimizer: see `LRScheduler`.
        mode: "min": less is better; "max": more is.
        factor: below 1.
        patience: steps without improvement that are let pass.
        threshold: how much better counts as better.
        threshold_mode: "rel": as a share of the best so far; "abs": in the metric's own unit.
        cooldown: steps after a reduction during which nothing is counted.
        min_lr: the least learning rate, or one per parameter group.
        eps: reductions by less than this are left out.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if factor >= 1.0:
            raise ValueError(f"factor must be below 1, got {factor}")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"a schedule changes the options of an optimiser, not of {type(optimizer).__name__}")
        if mode not in ("min", "max"):
            raise ValueError(f'mode must be "min" or "max", got {mode!r}')
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f'threshold_mode must be "rel" or "abs", got {threshold_mode!r}')
        self.optimizer = optimizer
        self.factor = factor
        self.default_min_lr = None if isinstance(min_lr, (list, tuple)) else min_lr
        self.min_lrs = one_per_group("min_lr", optimizer, min_lr)
        self.patience = patience
        self.cooldown = cooldown
        self.eps = eps
        self.mode = mode
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.last_epoch = 0
        self._last_lr = self._current()
        self._reset()
        attach(optimizer, self)

    def _reset(self) -> None:
        self.best = self.mode_worse
        self.cooldown_counter = 0
        self.num_bad_epochs = 0

    @property
    def mode_worse(self) -> float:
        """What every metric is better than."""
        return math.inf if self.mode == "min" else -math.inf

    @property
    def in_cooldown(self) -> bool:
        return self.cooldown_counter > 0

    def step(self, metrics: SupportsFloat, epoch: int | None = None) -> None:  # type: ignore[override]
        """Takes note of the metric, and reduces the learning rate if it is time.

        Args:
            metrics: a number, or a tensor of one element.
            epoch: jump to this step instead (deprecated in PyTorch, and here).
        """
        current = float(metrics)
        if epoch is not None:
            warnings.warn(
                "scheduler.step(metrics, epoch) is deprecated: call scheduler.step(metrics)", UserWarning, stacklevel=2
            )
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self._is_better(current, self.best):
            self.best = current
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce_lr()
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._last_lr = self._current()

    def _reduce_lr(self) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.min_lrs):
            if self.default_min_lr is None:
                raise RuntimeError(
                    f"the optimiser has {len(groups)} parameter groups now and had {len(self.min_lrs)}: set "
                    "scheduler.min_lrs to one learning rate per group"
                )
            self.min_lrs = [self.default_min_lr] * len(groups)
        for group, least in zip(groups, self.min_lrs, strict=True):
            new = max(group["lr"] * self.factor, least)
            if group["lr"] - new > self.eps:
                group["lr"] = new

    def _is_better(self, metric: float, best: float) -> bool:
        less, relative = self.mode == "min", self.threshold_mode == "rel"
        if less:
            return metric < (best * (1.0 - self.threshold) if relative else best - self.threshold)
        return metric > (best * (1.0 + self.threshold) if relative else best + self.threshold)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        # PyTorch keeps "mode_worse" beside "mode", from which it follows.
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "mode_worse"})
