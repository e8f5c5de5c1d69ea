"""Schedules made of schedules: one after the other, or all at once; and the usual beginning, a warm-up."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from cordee.trainer.optim.attached import attach, detach
from cordee.trainer.optim.lr_scheduler.base import LRScheduler
from cordee.trainer.optim.lr_scheduler.factors import LinearLR
from cordee.trainer.optim.lr_scheduler.plateau import ReduceLROnPlateau
from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["ChainedScheduler", "SequentialLR", "WarmupStableDecayLR", "warmup"]


class _Composed(LRScheduler):
    """Holds other schedules; their state is part of its own, so they do not travel by themselves."""

    _schedulers: list[LRScheduler]

    def _hold(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None) -> None:
        name = type(self).__name__
        if not schedulers:
            raise ValueError(f"{name} needs at least one schedule")
        for index, scheduler in enumerate(schedulers):
            if not hasattr(scheduler, "optimizer"):
                raise TypeError(f"{name}: schedulers[{index}] is no schedule but {type(scheduler).__name__}")
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(f"{name}: schedulers[{index}] is a ReduceLROnPlateau, whose step needs a metric")
            if optimizer is not None and scheduler.optimizer is not optimizer:
                raise ValueError(f"{name}: schedulers[{index}] changes another optimiser")
        self.optimizer = schedulers[0].optimizer
        for index, scheduler in enumerate(schedulers):
            if scheduler.optimizer is not self.optimizer:
                raise ValueError(f"{name}: schedulers[{index}] changes another optimiser")
            detach(self.optimizer, scheduler)
        self._schedulers = list(schedulers)

    def _initial_step(self) -> None:
        stepped, self.optimizer.stepped = self.optimizer.stepped, True  # no warning: this is no step of the script's
        try:
            super()._initial_step()
        finally:
            self.optimizer.stepped = stepped

    def state_dict(self) -> dict[str, Any]:
        state = {key: value for key, value in vars(self).items() if key not in ("optimizer", "_schedulers")}
        return {**state, "_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "_schedulers"})
        for scheduler, state in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(state)

    def scalars(self) -> dict[str, Any]:
        state = super().scalars()
        return {**state, "_schedulers": [scheduler.scalars() for scheduler in self._schedulers]}

    def load_scalars(self, scalars: Mapping[str, Any]) -> None:
        super().load_scalars({**scalars, "_schedulers": [{} for _ in self._schedulers]})
        for scheduler, state in zip(self._schedulers, scalars["_schedulers"], strict=True):
            scheduler.load_scalars(state)


class SequentialLR(_Composed):
    """One schedule after the other: the next begins at each of the steps `milestones`.

    Args:
        optimizer: the one that all of them change.
        schedulers: in their order; the last one goes on.
        milestones: one step fewer than schedules, ascending.
        last_epoch: see `LRScheduler`.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int], last_epoch: int = -1
    ) -> None:
        self._hold(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR needs one milestone fewer than schedules, got {len(milestones)} for {len(schedulers)}"
            )
        self._milestones = list(milestones)
        self.last_epoch = last_epoch + 1
        # What the others have done in their constructors is undone; only the first begins now.
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        _undo(self)
        first = self._schedulers[bisect_right(self._milestones, 0)]
        first._initial_step()
        self._last_lr = first.get_last_lr()
        attach(optimizer, self)

    def step(self) -> None:  # type: ignore[override]
        """Goes on by one step."""
        self.last_epoch += 1
        index = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[index]
        if index > 0 and self._milestones[index - 1] == self.last_epoch:
            scheduler._update_lr(0)
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()


def _undo(scheduler: LRScheduler) -> None:
    """Takes one step back, in the count alone."""
    for each in getattr(scheduler, "_schedulers", ()):
        if hasattr(each, "_schedulers"):
            _undo(each)
        else:
            each.last_epoch -= 1


class ChainedScheduler(_Composed):
    """All schedules at once, each starting from what the one before has made of the learning rate."""

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        self._hold(schedulers, optimizer)
        self._last_lr = self._current()
        attach(self.optimizer, self)

    def step(self) -> None:  # type: ignore[override]
        """Goes on by one step."""
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = self._current()


def warmup(scheduler: LRScheduler, num_steps: int, start_factor: float = 1e-3) -> SequentialLR:
    """A schedule that rises in a straight line for `num_steps` steps, then does what `scheduler` does from its start.

        scheduler = warmup(CosineAnnealingLR(optimizer, T_max=9_000), num_steps=1_000)

    Args:
        scheduler: made, but not stepped yet.
        num_steps: how long the rise takes; `scheduler` begins then.
        start_factor: the first learning rate, as a share of the initial one.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    optimizer = scheduler.optimizer
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    rise = LinearLR(optimizer, start_factor=start_factor, total_iters=num_steps)
    return SequentialLR(optimizer, [rise, scheduler], milestones=[num_steps])


_DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda share: 1.0 - share,
    "cosine": lambda share: 0.5 * (1.0 + math.cos(math.pi * share)),
    "1-sqrt": lambda share: 1.0 - math.sqrt(share),
}
"""From 1 to 0, by the share of the decay that is behind."""


class WarmupStableDecayLR(LRScheduler):
    """Up in a straight line, a long time at the initial learning rate, then down (WSD; Hu et al. 2024, MiniCPM).

    A run can be prolonged from any point before the decay, because nothing before it depends on its length.

    Args:
        optimizer: see `LRScheduler`.
        num_warmup_steps: steps of the rise, from `1 / num_warmup_steps` of the learning rate on; 0: none.
        num_stable_steps: steps at the initial learning rate.
        num_decay_steps: steps of the decay.
        decay: "linear", "cosine", or "1-sqrt" (Hägele et al. 2024).
        min_factor: what stays after the decay, as a share of the initial learning rate.
        last_epoch: see `LRScheduler`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        num_warmup_steps: int,
        num_stable_steps: int,
        num_decay_steps: int,
        decay: Literal["linear", "cosine", "1-sqrt"] = "linear",
        min_factor: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if decay not in _DECAYS:
            raise ValueError(f"decay must be one of {', '.join(_DECAYS)}, got {decay!r}")
        if min(num_warmup_steps, num_stable_steps, num_decay_steps) < 0:
            raise ValueError(
                f"the numbers of steps must not be negative, got {num_warmup_steps}, {num_stable_steps} and "
                f"{num_decay_steps}"
            )
        if not 0 <= min_factor <= 1:
            raise ValueError(f"min_factor must be from 0 to 1, got {min_factor}")
        self.num_warmup_steps = num_warmup_steps
        self.num_stable_steps = num_stable_steps
        self.num_decay_steps = num_decay_steps
        self.decay = decay
        self.min_factor = min_factor
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        self._warn_outside_step()
        return self._get_closed_form_lr()

    def _get_closed_form_lr(self) -> list[float]:
        factor = self._factor(self.last_epoch)
        return [base * factor for base in self.base_lrs]

    def _factor(self, step: int) -> float:
        if step < self.num_warmup_steps:
            return (step + 1) / self.num_warmup_steps
        behind = step - self.num_warmup_steps - self.num_stable_steps
        if behind <= 0:
            return 1.0
        if behind >= self.num_decay_steps:
            return self.min_factor
        return self.min_factor + (1.0 - self.min_factor) * _DECAYS[self.decay](behind / self.num_decay_steps)
