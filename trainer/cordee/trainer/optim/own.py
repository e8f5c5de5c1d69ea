"""Optimisers of the user's own, as PyTorch's are written: a `step` that goes over `param_groups` and `self.state`.

Such a class keeps what it likes in `self.state[p]`, a dictionary per parameter. After every step what is in there is
noted down where the state of all optimisers is: tensors and NumPy arrays among the group's arrays (the same memory),
numbers in `extra`. So `state_dict`, checkpoints and workers that join an elastic run know it, and the class has to do
nothing for it. Whoever takes a state over changes `extra`; that is when `self.state` is made anew from what is there.

Others keep their state in attributes of the optimiser, which is found there (`own_attributes`).
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.nested import NotPlainError, References, flatten
from cordee.trainer.optim.flat import FlatGroup
from cordee.trainer.optim.holder import Holder, Stepping
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["OwnState", "own_attributes", "references", "set_own_attributes", "stepping"]

_KEY = "own"
_NUMBERS = (bool, int, float, str, type(None))


def stepping(step: Callable[..., Any]) -> Callable[..., Any]:
    """A user's `step`, with what `Optimizer.step` does before and after: hooks, and noting down the state."""

    @functools.wraps(step)
    def call(self: Stepping, *args: Any, **kwargs: Any) -> Any:
        if self.held_by is not None:
            raise RuntimeError(f"optimizer.step() is not called here: {self.held_by}")
        for hook in tuple(self._pre_hooks.values()):
            changed = hook(self, args, kwargs)
            if changed is not None:
                args, kwargs = changed
        for group in self.groups:
            group.adopt()
        result = step(self, *args, **kwargs)
        self.note_own_state()
        self.stepped = True
        for hook in tuple(self._post_hooks.values()):
            hook(self, args, kwargs)
        return result

    return call


class OwnState:
    """`self.state` of one such optimiser: what its `step` put there, by parameter."""

    def __init__(self, optimizer: Holder) -> None:
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
                        kinds = {key: kind for key, (_, _, kind) in map(_spec, known[name]["arrays"].items())}
                        found = group.arrays(index)
                        values = {key: _RESTORED[kind](found[key]) for key, kind in kinds.items()}
                        self._entries[group.parameters[index]] = {**known[name]["numbers"], **values}
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
                    if isinstance(value, Tensor):
                        group.parts.setdefault(key, {})[index] = value.data
                        arrays[key] = [list(value.shape), value.dtype.name, "tensor"]
                    elif isinstance(
                        value, (np.ndarray, np.generic, complex)
                    ):  # a number of NumPy's has a dtype to be kept
                        array = np.asarray(value)
                        group.parts.setdefault(key, {})[index] = array
                        kind = "array" if isinstance(value, np.ndarray) else "scalar"
                        arrays[key] = [list(array.shape), array.dtype.name, kind]
                    elif isinstance(value, _NUMBERS):
                        numbers[key] = value
                    else:
                        raise TypeError(
                            f"{type(self._optimizer).__name__}: state[p][{key!r}] is a {type(value).__name__}: what is "
                            "to be saved and handed on is a tensor, an array or a number"
                        )
                for key in group.parts.keys() - arrays.keys():
                    group.parts[key].pop(index, None)
                own[group.names[index]] = {"numbers": numbers, "arrays": arrays}
                group.steps[index] = _count(entry.get("step"), int(group.steps[index]))
        self._optimizer.extra = self._extra = {**self._optimizer.extra, _KEY: own}

    @staticmethod
    def shapes(extra: Mapping[str, Any], name: str) -> dict[str, tuple[int, ...]]:
        """The arrays of a parameter under this `extra`."""
        arrays = extra.get(_KEY, {}).get(name, {}).get("arrays", {})
        return {key: tuple(shape) for key, (shape, _, _) in map(_spec, arrays.items())}

    @staticmethod
    def allocate(group: FlatGroup, extra: Mapping[str, Any]) -> None:
        """See to it that the group has the arrays that this `extra` speaks of."""
        for index, name in enumerate(group.names):
            for key, (shape, dtype, kind) in map(_spec, extra.get(_KEY, {}).get(name, {}).get("arrays", {}).items()):
                parts = group.parts.setdefault(key, {})
                if index not in parts or parts[index].shape != tuple(shape) or parts[index].dtype.name != dtype:
                    xp = array_module(group.data) if kind == "tensor" else np
                    parts[index] = xp.zeros(tuple(shape), np.dtype(dtype))


def _count(steps: Any, before: int) -> int:
    """How many updates a parameter has had: what the class counts itself, or one more than before."""
    is_number = isinstance(steps, (int, float, np.generic)) or (isinstance(steps, Tensor) and not steps.ndim)
    return int(float(steps)) if is_number else before + 1


_RESTORED: dict[str, Callable[[Any], Any]] = {"tensor": wrap, "array": lambda array: array, "scalar": lambda a: a[()]}


def _spec(item: tuple[str, Any]) -> tuple[str, tuple[list[int], str, str]]:
    """An array's name, and its shape, dtype and kind (which older states do not tell: they knew tensors alone)."""
    key, (shape, dtype, *kind) = item
    return key, (shape, dtype, kind[0] if kind else "tensor")


def references(optimizer: Holder) -> References:
    """An optimiser's parameters, as what its attributes may refer to."""
    return References(
        {
            f"{i}.{name}": parameter
            for i, group in enumerate(optimizer.groups)
            for name, parameter in zip(group.names, group.parameters, strict=True)
        }
    )


def own_attributes(optimizer: Holder) -> dict[str, Any]:
    """See `Optimizer.own_attributes`."""
    if type(optimizer).__module__.startswith("cordee."):
        return {}
    known = references(optimizer)
    found = {}
    for name, value in vars(optimizer).items():
        if name in _OF_THE_BASE:
            continue
        try:
            flatten(value, known)
        except NotPlainError:
            continue  # a function, a module: how it works, not where it stands
        found[name] = value
    return found


def set_own_attributes(optimizer: Holder, attributes: Mapping[str, Any]) -> None:
    """See `Optimizer.set_own_attributes`."""
    if type(optimizer).__module__.startswith("cordee."):
        return
    for name in own_attributes(optimizer).keys() - attributes.keys():
        delattr(optimizer, name)
    for name, value in attributes.items():
        held = vars(optimizer).get(name)
        if isinstance(held, defaultdict) and isinstance(value, dict):  # what makes its missing values may be a lambda
            held.clear()
            held.update(value)
        else:
            setattr(optimizer, name, value)


_OF_THE_BASE = frozenset(
    (
        "_cutter",
        "_own",
        "_post_hooks",
        "_pre_hooks",
        "defaults",
        "extra",
        "groups",
        "held_by",
        "param_groups",
        "stepped",
    )
)
