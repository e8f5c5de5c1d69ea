"""What all schedules share: they count steps, set learning rates, and travel with their optimiser.

A schedule changes the options of the optimiser's parameter groups, in its constructor and in every `step()`. Most
compute the next learning rate from the last one (`get_lr`), so that several can be chained; those that can also say it
outright (`_get_closed_form_lr`) can be set back to any step.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from cordee.trainer.array import Array
from cordee.trainer.optim.attached import attach
from cordee.trainer.optim.optimizer import Optimizer
from cordee.trainer.optim.plain import from_json, number, to_json

__all__ = ["LRScheduler", "one_per_group", "values_of"]


def values_of(optimizer: Optimizer, key: str) -> list[Any]:
    """An option of every parameter group."""
    return [group[key] for group in optimizer.param_groups]


def one_per_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """A list with one value per parameter group, from such a list or from one value for all."""
    if not isinstance(value, (list, tuple)):
        return [number(value)] * len(optimizer.param_groups)
    if len(value) != len(optimizer.param_groups):
        raise ValueError(f"{name} has {len(value)} values for {len(optimizer.param_groups)} parameter groups")
    return [number(each) for each in value]


class LRScheduler:
    """The base of all schedules. A schedule of your own defines `get_lr`, as in PyTorch.

    In an elastic run its state goes to workers that join, and into checkpoints, by itself: what is of JSON's types
    among its attributes.

    Args:
        optimizer: whose options change. The learning rates of this moment are noted down as "initial_lr".
        last_epoch: the last step that was made; -1: none, the schedule begins.

    Raises:
        TypeError: `optimizer` is none.
        KeyError: `last_epoch` is not -1, and a parameter group has no "initial_lr".
    """

    optimizer: Optimizer
    last_epoch: int
    base_lrs: list[float]
    _within_step: bool = False
    _is_initial: bool = False

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self._begin(optimizer, last_epoch)
        self.last_epoch = last_epoch
        self._initial_step()
        attach(optimizer, self)

    def _begin(self, optimizer: Optimizer, last_epoch: int) -> None:
        """Takes hold of the optimiser and notes down where its learning rates start."""
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"a schedule changes the options of an optimiser, not of {type(optimizer).__name__}")
        self.optimizer = optimizer
        for index, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", number(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"parameter group {index} has no initial_lr, which going on from last_epoch={last_epoch} needs: "
                    "load the optimiser's state first, or give it in the group"
                )
        self.base_lrs = values_of(optimizer, "initial_lr")

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            del self._is_initial

    def get_lr(self) -> list[float]:
        """The learning rates at `last_epoch`, one per group. Called by `step`; see `get_last_lr` for what is set."""
        raise NotImplementedError(f"{type(self).__name__} does not say its learning rates: define get_lr")

    def get_last_lr(self) -> list[float]:
        """The learning rates that were set last, one per group."""
        return list(self._last_lr)

    def step(self, epoch: int | None = None) -> None:
        """Sets the learning rates of the next step. Call it after `optimizer.step()`.

        Args:
            epoch: jump to this step instead (deprecated in PyTorch, and here).
        """
        optimizer = self.optimizer
        begun = optimizer.stepped or any(group.steps.any() for group in optimizer.groups)  # or taken over from others
        if self._step_count == 1 and not begun and optimizer.held_by is None:
            warnings.warn(
                "scheduler.step() was called before optimizer.step(), so the first learning rate of the schedule is "
                "skipped: call optimizer.step() first",
                UserWarning,
                stacklevel=2,
            )
        self._step_count += 1
        if epoch is not None:
            warnings.warn(
                "scheduler.step(epoch) is deprecated: call scheduler.step() once per epoch", UserWarning, stacklevel=2
            )
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        self._within_step = True
        try:
            if epoch is None:
                self.last_epoch += 1
                values = self.get_lr()
            else:
                self.last_epoch = epoch
                closed_form = getattr(self, "_get_closed_form_lr", None)
                values = closed_form() if closed_form is not None else self.get_lr()
        finally:
            del self._within_step
        self._set(values)

    def _set(self, values: list[float]) -> None:
        for group, value in zip(self.optimizer.param_groups, values, strict=True):
            group["lr"] = number(value)
        self._last_lr: list[float] = values_of(self.optimizer, "lr")

    def _current(self) -> list[float]:
        """The learning rates that the groups have."""
        return values_of(self.optimizer, "lr")

    def _warn_outside_step(self) -> None:
        if not self._within_step:
            warnings.warn("to get the last learning rates, call get_last_lr()", UserWarning, stacklevel=3)

    # State.

    def __repr__(self) -> str:
        rates = ", ".join(f"{rate:g}" for rate in values_of(self.optimizer, "lr"))
        return f"{type(self).__name__}(of {type(self.optimizer).__name__}, step {self.last_epoch}, lr {rates})"

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the optimiser; of functions nothing, of other callables their attributes."""
        return {key: _without_code(value) for key, value in vars(self).items() if key != "optimizer"}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave. The optimiser's options are in its own state."""
        for key, value in state_dict.items():
            ours = vars(self).get(key)
            if callable(ours) or (isinstance(ours, list) and ours and callable(ours[0])):
                _load_into_callables(ours, value)
            elif isinstance(ours, tuple) and isinstance(value, list):
                setattr(self, key, tuple(value))
            else:
                setattr(self, key, copy.copy(value))

    def scalars(self) -> dict[str, Any]:
        """The state in JSON's types."""
        return {key: to_json(value) for key, value in self.state_dict().items() if _is_plain(value)}

    def load_scalars(self, scalars: Mapping[str, Any]) -> None:
        """Takes over what `scalars` gave."""
        self.load_state_dict({key: from_json(value) for key, value in scalars.items()})

    def arrays(self) -> dict[str, Array]:
        """A schedule has none."""
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> LRScheduler:
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        for key, value in vars(self).items():
            setattr(twin, key, copy.deepcopy(value, memo))
        attach(twin.optimizer, twin)
        return twin


def _without_code(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_without_code(each) for each in value)
    if callable(value):
        return dict(vars(value)) if hasattr(value, "__dict__") and not _is_function(value) else None
    return value


def _is_function(value: Any) -> bool:
    return hasattr(value, "__code__") or hasattr(value, "__func__") or hasattr(value, "__self__")


def _load_into_callables(ours: Any, saved: Any) -> None:
    if isinstance(ours, list):
        for each, state in zip(ours, saved, strict=True):
            _load_into_callables(each, state)
    elif saved is not None:
        vars(ours).update(saved)


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold a value."""
    if value is None or isinstance(number(value), (bool, int, float, str)):
        return True
    if isinstance(value, (list, tuple)):
        return all(_is_plain(each) for each in value)
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    return False
