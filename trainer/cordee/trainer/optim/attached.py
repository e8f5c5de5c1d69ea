"""What travels with a run beside its model and its optimiser: schedules and averaged models.

A schedule is attached to its optimiser, an average to the model that it averages, when they are made, and weakly: who
is dropped no longer travels. Their names are their classes', numbered from the second on ("StepLR", "StepLR.2"): the
same script makes the same ones in the same order on every worker and every time, so the names agree.

A state may come before what it is for: a worker joins at step 900, and its script makes the second schedule only when
it gets there. Such a state waits, and is taken over by whoever gets its name.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from cordee.trainer.array import Array, as_array, to_numpy
from cordee.trainer.optim.saved import options_of, restore_options

__all__ = ["StepWatch", "Travelling", "attach", "detach", "watch_of"]


class Traveller(Protocol):
    """What can be attached."""

    def scalars(self) -> dict[str, Any]:
        """The state that is no arrays, in JSON's types."""
        ...

    def load_scalars(self, scalars: Mapping[str, Any]) -> None: ...

    def arrays(self) -> dict[str, Array]:
        """The state that is arrays, by name, as views to be written to."""
        ...


@dataclass
class StepWatch:
    """Tells what is attached to a model how the elastic step at hand stands."""

    step: Any = None
    """With `committed` and `lost`; None: there is no elastic step."""
    knows: Callable[[Any], bool] = lambda _: True
    """Whether something travels with the run."""


@dataclass
class _Waiting:
    scalars: Mapping[str, Any]
    arrays: Mapping[str, Any]
    options: list[dict[str, Any]]
    """Of the optimiser's groups, which making a schedule changes."""


@dataclass
class _Attachments:
    """What is attached to one owner: an optimiser or a module."""

    things: dict[str, weakref.ref[Traveller]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, _Waiting] = field(default_factory=dict)
    watch: StepWatch = field(default_factory=StepWatch)

    def live(self) -> dict[str, Traveller]:
        found = {name: reference() for name, reference in self.things.items()}
        return {name: thing for name, thing in found.items() if thing is not None}


_ATTACHMENTS: weakref.WeakKeyDictionary[Any, _Attachments] = weakref.WeakKeyDictionary()


def _of(owner: Any) -> _Attachments:
    found = _ATTACHMENTS.get(owner)
    if found is None:
        found = _ATTACHMENTS[owner] = _Attachments()
    return found


def attach(owner: Any, thing: Traveller) -> bool:
    """Makes `thing` travel with `owner`. Returns whether a state was waiting for it, which it has then taken over."""
    attachments = _of(owner)
    kind = type(thing).__name__
    count = attachments.counts[kind] = attachments.counts.get(kind, 0) + 1
    name = kind if count == 1 else f"{kind}.{count}"
    attachments.things[name] = weakref.ref(thing)
    waiting = attachments.waiting.pop(name, None)
    if waiting is None or not _fits(thing, waiting.scalars):
        return False
    _give(thing, waiting.scalars, waiting.arrays)
    for options, saved in zip(getattr(owner, "param_groups", ()), waiting.options, strict=False):
        restore_options(options, saved)
    return True


def detach(owner: Any, thing: Traveller) -> None:
    """`thing` travels no longer: it is part of something that does."""
    attachments = _of(owner)
    for name, held in attachments.live().items():
        if held is thing:
            del attachments.things[name]


def watch_of(owner: Any) -> StepWatch:
    """How the elastic step at hand stands, for what is attached to `owner`."""
    return _of(owner).watch


class Travelling:
    """All that is attached to optimisers and to the modules of a model, at any time."""

    def __init__(self, model: Any, optimizers: Mapping[str, Any]) -> None:
        """`optimizers`: by name; a single one has the name ""."""
        self.watch = StepWatch(knows=self._knows)
        named = {f"optimizer.{name}" if name else "optimizer": optimizer for name, optimizer in optimizers.items()}
        self._optimizers = {name: weakref.ref(optimizer) for name, optimizer in named.items()}
        self._owners = {name: _of(optimizer) for name, optimizer in named.items()}
        for path, module in model.named_modules():
            self._owners[f"model.{path}" if path else "model"] = _of(module)
        for attachments in self._owners.values():
            attachments.watch = self.watch

    def _knows(self, thing: Any) -> bool:
        return any(thing is other for other in self._live().values())

    def _live(self) -> dict[str, Traveller]:
        return {
            f"{key}.{name}": thing
            for key, attachments in self._owners.items()
            if attachments.things
            for name, thing in attachments.live().items()
        }

    def _waiting(self) -> dict[str, _Waiting]:
        return {
            f"{key}.{name}": waiting
            for key, attachments in self._owners.items()
            if attachments.waiting
            for name, waiting in attachments.waiting.items()
        }

    def arrays(self) -> dict[str, Array]:
        """Every array, by the name of what it belongs to and its own; also those that wait for their owner."""
        arrays = {
            f"attached.{name}/{key}": array
            for name, waiting in self._waiting().items()
            for key, array in waiting.arrays.items()
        }
        for name, thing in self._live().items():
            arrays.update((f"attached.{name}/{key}", array) for key, array in thing.arrays().items())
        return arrays

    def scalars(self) -> dict[str, Any]:
        """What is no array, by name."""
        scalars: dict[str, Any] = {name: waiting.scalars for name, waiting in self._waiting().items()}
        scalars.update((name, thing.scalars()) for name, thing in self._live().items())
        return scalars

    def problems(self, scalars: Mapping[str, Any], arrays: Mapping[str, Any]) -> list[str]:
        """Why a state does not fit, in words. What is only on one side fits: it waits, or stays as it is."""
        problems = [
            f"{name} belongs to a module that is unknown here"
            for name in scalars
            if not any(name.startswith(f"{key}.") for key in self._owners)
        ]
        for name, thing in self._live().items():
            if name not in scalars or not _fits(thing, scalars[name]):
                continue
            given = _part(arrays, name)
            for key, view in thing.arrays().items():
                array = given.get(key)
                if array is None:
                    problems.append(f"attached.{name}/{key} is missing")
                elif tuple(array.shape) != tuple(view.shape) or array.dtype != view.dtype:
                    problems.append(
                        f"attached.{name}/{key} is {tuple(array.shape)} {array.dtype} there, {tuple(view.shape)} "
                        f"{view.dtype} here"
                    )
        return problems

    def load(self, scalars: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        """Takes over a state; parts of it whose owner is still to be made wait for it."""
        live = self._live()
        for name, state in scalars.items():
            thing = live.get(name)
            if thing is not None:
                if _fits(thing, state):
                    _give(thing, state, _part(arrays, name))
                else:
                    thing.pass_over(state)  # type: ignore[attr-defined]
                continue
            path = max((key for key in self._owners if name.startswith(f"{key}.")), key=len)
            owner = self._optimizers[path]() if path in self._optimizers else None
            options = [options_of(group) for group in getattr(owner, "param_groups", ())]
            kept = {key: np.array(to_numpy(array)) for key, array in _part(arrays, name).items()}
            self._owners[path].waiting[name[len(path) + 1 :]] = _Waiting(state, kept, options)

    def load_scalars(self, scalars: Mapping[str, Any]) -> None:
        """Takes back the scalars of a moment ago."""
        for name, thing in self._live().items():
            if name in scalars and _fits(thing, scalars[name]):
                thing.load_scalars(scalars[name])


def _fits(thing: Traveller, scalars: Mapping[str, Any]) -> bool:
    """Whether a state is for a thing as it is now; some can tell, by a method `fits`, and have `pass_over` for others.
    What was passed over comes again (see `elastic.Run.behind`)."""
    fits = getattr(thing, "fits", None)
    return fits is None or bool(fits(scalars))


def _part(arrays: Mapping[str, Any], name: str) -> dict[str, Any]:
    prefix = f"attached.{name}/"
    return {key[len(prefix) :]: array for key, array in arrays.items() if key.startswith(prefix)}


def _give(thing: Traveller, scalars: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    for key, view in thing.arrays().items():
        if key in arrays:
            view[...] = as_array(arrays[key])
    thing.load_scalars(scalars)
