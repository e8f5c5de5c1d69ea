"""Schedules that go up and down, the momentum against the learning rate (Smith 2017; Smith and Topin 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from cordee.trainer.optim.lr_scheduler.base import LRScheduler, one_per_group
from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["CyclicLR", "OneCycleLR"]


class _WithMomentum(LRScheduler):
    """Sets the momentum as well: "momentum", or the first of "betas", whichever the optimiser has."""

    use_beta1: bool

    def _find_momentum(self, optimizer: Optimizer) -> None:
        if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
            raise ValueError(
                f"cycle_momentum=True needs an optimiser with momentum or betas, which {type(optimizer).__name__} has "
                "not: give cycle_momentum=False"
            )
        self.use_beta1 = "betas" in optimizer.defaults

    def _set_momentum(self, group: dict[str, Any], value: float) -> None:
        if self.use_beta1:
            group["betas"] = (value, *group["betas"][1:])
        else:
            group["momentum"] = value

    def _begin_momentum(self, optimizer: Optimizer, base: list[float], most: list[float]) -> None:
        for group, base_momentum, max_momentum in zip(optimizer.param_groups, base, most, strict=True):
            self._set_momentum(group, max_momentum)
            group["max_momentum"], group["base_momentum"] = max_momentum, base_momentum


_MODES = ("triangular", "triangular2", "exp_range")


class CyclicLR(_WithMomentum):
    """Up from `base_lr` to `max_lr` and down again, in straight lines, again and again.

    Args:
        optimizer: see `LRScheduler`.
        base_lr: the least learning rate, or one per parameter group.
        max_lr: the highest, before `mode` scales it.
        step_size_up: steps on the way up.
        step_size_down: steps on the way down; None: as many.
        mode: "triangular"; "triangular2": half as high every time; "exp_range": `gamma ** step` times as high.
        gamma: for "exp_range".
        scale_fn: a function that scales the height instead of `mode`.
        scale_mode: of what it is a function: "cycle", from 1, or "iterations".
        cycle_momentum: let the momentum fall from `max_momentum` to `base_momentum` while the learning rate rises.
        base_momentum, max_momentum: a number, or one per parameter group.
        last_epoch: see `LRScheduler`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: Literal["cycle", "iterations"] = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        if mode not in _MODES and scale_fn is None:
            raise ValueError(f"mode must be one of {', '.join(_MODES)}, got {mode!r}; or give scale_fn")
        base_lrs = one_per_group("base_lr", optimizer, base_lr)
        if last_epoch == -1:
            for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
                group["lr"] = lr
        self.max_lrs = one_per_group("max_lr", optimizer, max_lr)
        up = float(step_size_up)
        self.total_size = up + (float(step_size_down) if step_size_down is not None else up)
        self.step_ratio = up / self.total_size
        self.mode = mode
        self.gamma = gamma
        self.scale_mode = scale_mode
        if scale_fn is None:
            self.scale_mode = "iterations" if mode == "exp_range" else "cycle"
        self._scale_fn_custom = scale_fn
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self._find_momentum(optimizer)
            self.base_momentums = one_per_group("base_momentum", optimizer, base_momentum)
            self.max_momentums = one_per_group("max_momentum", optimizer, max_momentum)
            if last_epoch == -1:
                self._begin_momentum(optimizer, self.base_momentums, self.max_momentums)
        self._cycle_lrs = base_lrs
        super().__init__(optimizer, last_epoch)

    def _begin(self, optimizer: Optimizer, last_epoch: int) -> None:
        super()._begin(optimizer, last_epoch)
        self._noted_lrs, self.base_lrs = self.base_lrs, self._cycle_lrs

    def scale_fn(self, x: float) -> float:
        """By what the height of a cycle is scaled, by its number or by the step."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "triangular":
            return 1.0
        return float(1 / (2.0 ** (x - 1)) if self.mode == "triangular2" else self.gamma**x)

    def get_lr(self) -> list[float]:
        self._warn_outside_step()
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        share = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        # The very first step of PyTorch's sees "initial_lr", which an earlier schedule may have noted down.
        bases = self._noted_lrs if self._is_initial else self.base_lrs
        scale = self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            for group, base, most in zip(
                self.optimizer.param_groups, self.base_momentums, self.max_momentums, strict=True
            ):
                self._set_momentum(group, most - (most - base) * share * scale)
        return [base + (most - base) * share * scale for base, most in zip(bases, self.max_lrs, strict=True)]


class OneCycleLR(_WithMomentum):
    """Up to `max_lr`, then down to far below the start, in `total_steps` steps; the momentum the other way round.

    Args:
        optimizer: see `LRScheduler`.
        max_lr: the highest learning rate, or one per parameter group.
        total_steps: steps of the whole schedule; or give `epochs` and `steps_per_epoch`.
        epochs, steps_per_epoch: their product is the number of steps.
        pct_start: the share of the steps on the way up, from 0 to 1.
        anneal_strategy: "cos" or "linear".
        cycle_momentum: let the momentum fall from `max_momentum` to `base_momentum` while the learning rate rises.
        base_momentum, max_momentum: a number, or one per parameter group.
        div_factor: the schedule starts at `max_lr / div_factor`,
        final_div_factor: and ends at this many times less than it started.
        three_phase: come back to the start first, then go down.
        last_epoch: see `LRScheduler`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("give total_steps, or epochs and steps_per_epoch")
            if epochs <= 0 or steps_per_epoch <= 0:
                raise ValueError(f"epochs and steps_per_epoch must be at least 1, got {epochs} and {steps_per_epoch}")
            total_steps = epochs * steps_per_epoch
        if not isinstance(total_steps, int) or total_steps <= 0:
            raise ValueError(f"total_steps must be a whole number of at least 1, got {total_steps}")
        if not 0 <= pct_start <= 1:
            raise ValueError(f"pct_start must be from 0 to 1, got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f'anneal_strategy must be "cos" or "linear", got {anneal_strategy!r}')
        self.total_steps = total_steps
        self._anneal_func_type = anneal_strategy
        # Up to which step, and between which of a group's options.
        rise, fall = ("initial_lr", "max_lr"), ("max_lr", "min_lr")
        peak = float(pct_start * total_steps) - 1
        self._phases: list[tuple[float, tuple[str, str], tuple[str, str]]] = [
            (peak, rise, ("max_momentum", "base_momentum"))
        ]
        if three_phase:
            back = float(2 * pct_start * total_steps) - 2
            self._phases += [
                (back, ("max_lr", "initial_lr"), ("base_momentum", "max_momentum")),
                (total_steps - 1, ("initial_lr", "min_lr"), ("max_momentum", "max_momentum")),
            ]
        else:
            self._phases.append((total_steps - 1, fall, ("base_momentum", "max_momentum")))
        if last_epoch == -1:
            for group, most in zip(optimizer.param_groups, one_per_group("max_lr", optimizer, max_lr), strict=True):
                group["initial_lr"] = most / div_factor
                group["max_lr"] = most
                group["min_lr"] = group["initial_lr"] / final_div_factor
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self._find_momentum(optimizer)
            base_momentums = one_per_group("base_momentum", optimizer, base_momentum)
            max_momentums = one_per_group("max_momentum", optimizer, max_momentum)
            if last_epoch == -1:
                self._begin_momentum(optimizer, base_momentums, max_momentums)
        super().__init__(optimizer, last_epoch)

    def _anneal(self, start: float, end: float, share: float) -> float:
        if self._anneal_func_type == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)

    def get_lr(self) -> list[float]:
        self._warn_outside_step()
        step = self.last_epoch
        if step > self.total_steps:
            raise ValueError(f"the schedule has {self.total_steps} steps; step {step} is beyond its end")
        index = next((i for i, phase in enumerate(self._phases) if step <= phase[0]), len(self._phases) - 1)
        start = self._phases[index - 1][0] if index else 0.0
        end, lrs, momenta = self._phases[index]
        share = (step - start) / (end - start)
        values = []
        for group in self.optimizer.param_groups:
            values.append(self._anneal(group[lrs[0]], group[lrs[1]], share))
            if self.cycle_momentum:
                self._set_momentum(group, self._anneal(group[momenta[0]], group[momenta[1]], share))
        return values
