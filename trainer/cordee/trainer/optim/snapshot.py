"""Copies of an optimiser's state, to take back what a lost step has done: of the scalars alone, or of everything.

Every elastic step keeps its optimisers' scalars, so that is made to be cheap. One that applies an optimiser in its
middle keeps everything that the update changes until it is committed; the copies' memory is used again by the next.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.casting import forget_casts
from cordee.trainer.nested import copied, flatten, unflatten
from cordee.trainer.optim.own import references
from cordee.trainer.optim.plain import from_json, to_json

if TYPE_CHECKING:
    from cordee.trainer.optim.flat import FlatGroup
    from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["Scalars", "Snapshot"]

_NOT_OPTIONS = frozenset(("params", "names"))


class Scalars:
    """Of one optimiser at one moment: options, counts, numbers."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._options = [dict(options) for options in optimizer.param_groups]
        self._steps = [group.steps.copy() for group in optimizer.groups]
        self._numbers = [{name: values.copy() for name, values in group.numbers.items()} for group in optimizer.groups]
        self._extra = to_json(optimizer.extra) if optimizer.extra else {}

    def put_back(self) -> None:
        """Makes them what they were; an option that was not there yet stays."""
        optimizer = self._optimizer
        for options, saved in zip(optimizer.param_groups, self._options, strict=False):
            options.update((key, value) for key, value in saved.items() if key not in _NOT_OPTIONS)
        for group, steps, numbers in zip(optimizer.groups, self._steps, self._numbers, strict=False):
            group.steps[:] = steps
            for name, values in numbers.items():
                group.numbers[name][:] = values
        optimizer.extra = from_json(self._extra)  # a new one: `OwnState` sees that its entries are old


class Snapshot:
    """Of one optimiser: parameters, state and scalars."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._groups = [_Group(group) for group in optimizer.groups]
        self._extra: dict[str, Any] = {}
        self._own: tuple[Any, dict[str, Any]] = ({}, {})

    def take(self) -> None:
        """Copies what stands now."""
        for group in self._groups:
            group.take()
        self._extra = copy.deepcopy(self._optimizer.extra)
        self._own = copied(flatten(self._optimizer.own_attributes(), references(self._optimizer)))

    def put_back(self) -> None:
        """Makes everything what it was, in place."""
        for group in self._groups:
            group.put_back()
        forget_casts()
        self._optimizer.forget_blocks()  # which may hold arrays that are gone
        self._optimizer.extra = copy.deepcopy(self._extra)  # a new one: `OwnState` sees that its entries are old
        self._optimizer.set_own_attributes(unflatten(*self._own, references(self._optimizer)))


class _Group:
    def __init__(self, group: FlatGroup) -> None:
        self._group = group
        self._data: Any = None
        self._state: dict[str, Any] = {}
        self._parts: dict[str, dict[int, tuple[Any, Any]]] = {}
        """The arrays that were there, each with a copy of what was in it."""
        self._numbers: dict[str, Any] = {}
        self._steps: Any = None
        self._options: dict[str, Any] = {}

    def take(self) -> None:
        group = self._group
        group.adopt()
        self._data = _copied(group.data, self._data)
        self._state = {name: _copied(buffer, self._state.get(name)) for name, buffer in group.state.items()}
        self._parts = {
            name: {index: (array, array_module(array).array(array)) for index, array in parts.items()}
            for name, parts in group.parts.items()
        }
        self._numbers = {name: values.copy() for name, values in group.numbers.items()}
        self._steps = group.steps.copy()
        self._options = {key: value for key, value in group.options.items() if key not in _NOT_OPTIONS}

    def put_back(self) -> None:
        group = self._group
        group.adopt()
        group.data[...] = self._data
        for name in group.state.keys() - self._state.keys():
            del group.state[name]
        for name, values in self._state.items():
            group.state[name][...] = values
        group.parts.clear()
        for name, parts in self._parts.items():
            for index, (array, values) in parts.items():
                array[...] = values
                group.parts.setdefault(name, {})[index] = array
        for name, numbers in self._numbers.items():
            group.numbers[name][:] = numbers
        group.steps[:] = self._steps
        for key in group.options.keys() - self._options.keys() - _NOT_OPTIONS:
            del group.options[key]
        group.options.update(self._options)


def _copied(array: Any, into: Any) -> Any:
    """A copy of an array, in memory that an earlier one was in where it fits."""
    if into is None or into.shape != array.shape or into.dtype != array.dtype:
        return array_module(array).array(array)
    if isinstance(into, np.ndarray):
        np.copyto(into, array)
    else:
        into[...] = array
    return into
