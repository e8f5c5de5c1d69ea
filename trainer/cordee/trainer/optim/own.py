"""Optimisers of the user's own, as PyTorch's are written: a `step` that goes over `param_groups` and `self.state`.

Such a class keeps what it likes in `self.state[p]`, a dictionary per parameter. After every step what is in there is
noted down where the state of all optimisers is: tensors among the group's arrays (the same memory), numbers in `extra`.
So `state_dict`, checkpoints and workers that join an elastic run know it, and the class has to do nothing for it.
Whoever takes a state over changes `extra`; that is when `self.state` is made anew from what is there.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.tensors import Tensor, wrap

if TYPE_CHECKING:
    from cordee.trainer.optim.flat import FlatGroup
    from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["OwnState", "stepping"]

_KEY = "own"
_NUMBERS = (bool, int, float, complex, str, type(None))


def stepping(step: Callable[..., Any]) -> Callable[..., Any]:
    """A user's `step`, with what `Optimizer.step` does before and after: hooks, and noting down the state."""

    @functools.wraps(step)
    def call(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if self.held_by is not None:
            raise RuntimeError(f"optimizer.step() is not called here: {self.held_by}")
        for hook in tuple(self._pre_hooks.values()):
            changed = hook(self, args, kwargs)
            if changed is not None:
                args, kwargs = changed
        for group in self.groups:
            group.adopt()
        result = step(self, *args, **kwargs)
        assert self._own is not None
        self._own.note()
        self.stepped = True
        for hook in tuple(self._post_hooks.values()):
            hook(self, args, kwargs)
        return result

    return call


class OwnState:
    """`self.state` of one such optimiser: what its `step` put there, by parameter."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._extra: Any = None  # what `entries` agree with
        self._entries: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)

    def entries(self) -> dict[Tensor, dict[str, Any]]:
        """A dictionary per parameter; empty where nothing has been put."""
        if self._extra is not self._optimizer.extra:
            self._entries.clear()
            self._extra = self._optimizer.extra
            known = self._extra.get(_KEY, {})
            for group in self._optimizer.groups:
                for index, name in enumerate(group.names):
                    if name in known:
                        arrays = {key: wrap(array) for key, array in group.arrays(index).items()}
                        self._entries[group.parameters[index]] = {**known[name]["numbers"], **arrays}
        return self._entries

    def note(self) -> None:
        """Note down what is there after a step.

        Raises:
            TypeError: something in `self.state[p]` is neither a tensor nor a number.
        """
        entries, own = self.entries(), {}
        for group in self._optimizer.groups:
            for index, parameter in enumerate(group.parameters):
                entry = entries.get(parameter)
                if not entry:
                    continue
                numbers: dict[str, Any] = {}
                arrays: dict[str, list[Any]] = {}
                for key, value in entry.items():
                    if isinstance(value, Tensor) and value.ndim:
                        group.parts.setdefault(key, {})[index] = value.data
                        arrays[key] = [list(value.shape), value.dtype.name]
                    elif isinstance(value, (Tensor, np.generic)):
                        numbers[key] = value.item()
                    elif isinstance(value, _NUMBERS):
                        numbers[key] = value
                    else:
                        raise TypeError(
                            f"{type(self._optimizer).__name__}: state[p][{key!r}] is a {type(value).__name__}: what is "
                            "to be saved and handed on is a tensor or a number"
                        )
                for key in group.parts.keys() - arrays.keys():
                    group.parts[key].pop(index, None)
                own[group.names[index]] = {"numbers": numbers, "arrays": arrays}
                steps = numbers.get("step")
                group.steps[index] = steps if isinstance(steps, (int, float)) else group.steps[index] + 1
        self._optimizer.extra = self._extra = {**self._optimizer.extra, _KEY: own}

    @staticmethod
    def shapes(extra: Mapping[str, Any], name: str) -> dict[str, tuple[int, ...]]:
        """The arrays of a parameter under this `extra`."""
        arrays = extra.get(_KEY, {}).get(name, {}).get("arrays", {})
        return {key: tuple(shape) for key, (shape, _) in arrays.items()}

    @staticmethod
    def allocate(group: FlatGroup, extra: Mapping[str, Any]) -> None:
        """See to it that the group has the arrays that this `extra` speaks of."""
        for index, name in enumerate(group.names):
            for key, (shape, dtype) in extra.get(_KEY, {}).get(name, {}).get("arrays", {}).items():
                parts = group.parts.setdefault(key, {})
                if index not in parts or parts[index].shape != tuple(shape) or parts[index].dtype.name != dtype:
                    parts[index] = array_module(group.data).zeros(tuple(shape), np.dtype(dtype))
