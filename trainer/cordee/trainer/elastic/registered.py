"""State of the user's own that travels with a run: to workers that join, into checkpoints, and back from a lost step.

Whatever has `state_dict` and `load_state_dict` can be registered, and a few things that everybody uses and that have
not: arrays, dictionaries and lists, and random generators. What a state is made of is in `cordee.trainer.nested`.

A state may come before what it is for is registered: a worker joins at step 900, and its script registers something
when it gets there. Such a state waits.

A thing that changes while the shards are gone through follows the shards of this very worker, and so the number of
workers. That is noticed, and refused.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cordee.trainer.array import array_module, as_array
from cordee.trainer.nested import NotPlainError, References, copied, flatten, same, unflatten
from cordee.trainer.tensors import Tensor

__all__ = ["PREFIX", "Frozen", "Registered"]

PREFIX = "state."
"""What the names of its arrays begin with: `state.<name>/<place in it>`."""

Flat = tuple[Any, dict[str, Any]]
Frozen = dict[str, Flat]
"""By name: a state as it was at some time."""


@dataclass(frozen=True)
class Thing:
    """How a state is read and written."""

    get: Callable[[], Any]
    set: Callable[[Any], object]
    references: References
    by_updates: bool = False
    """Whether its arrays change by updates alone, which are taken back elsewhere: no step needs a copy of them."""


class Registered:
    """The things of one run, by name."""

    def __init__(self) -> None:
        self._things: dict[str, Thing] = {}
        self._waiting: Frozen = {}
        self._new: Frozen = {}
        """What has been registered since the moment that a lost step goes back to, as it was then."""

    def __bool__(self) -> bool:
        return bool(self._things or self._waiting)

    def register(self, name: str, thing: Any) -> None:
        """Raises `TypeError` when it is nothing that can be read and written, `ValueError` for a bad or used name."""
        if not isinstance(name, str) or not name or not set(name).isdisjoint("/:"):
            raise ValueError(f"the name of a state is a string without slashes and colons, not {name!r}")
        if name in self._things:
            raise ValueError(f"a state {name!r} is registered already")
        self.add(name, _as_thing(name, thing))

    def add(self, name: str, thing: Thing) -> None:
        """The same for something whose ways are known; names with a colon are for our own."""
        try:
            flatten(thing.get(), thing.references)
        except NotPlainError as error:
            raise TypeError(f"the state {name!r} cannot travel: {error}") from error
        self._things[name] = thing
        waiting = self._waiting.pop(name, None)
        if waiting is not None:
            thing.set(unflatten(*waiting, thing.references))
        self._new[name] = copied(flatten(thing.get(), thing.references))

    def flat(self) -> Frozen:
        """Every state of the moment; the arrays are the live ones."""
        found = dict(self._waiting)
        for name, thing in self._things.items():
            try:
                found[name] = flatten(thing.get(), thing.references)
            except NotPlainError as error:
                raise TypeError(f"the state {name!r} cannot travel: {error}") from error
        return found

    def moment(self) -> Frozen:
        """Every state of the moment, for `take_back`."""
        self._new = {}
        return self.freeze()

    def freeze(self) -> Frozen:
        """Every state of the moment, not to be changed by what comes."""
        return {
            name: flat if name in self._things and self._things[name].by_updates else copied(flat)
            for name, flat in self.flat().items()
        }

    def load(self, states: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        """Takes over states, as `scalars` and `arrays` gave them."""
        self._waiting = {}
        for name, plain in states.items():
            prefix = f"{PREFIX}{name}/"
            own = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
            thing = self._things.get(name)
            if thing is None:
                self._waiting[name] = copied((plain, {key: np.asarray(array) for key, array in own.items()}))
            else:
                thing.set(unflatten(plain, own, thing.references))

    def take_back(self, frozen: Frozen) -> None:
        """Makes every state what it was at a moment, or when it was registered since."""
        frozen = {**self._new, **frozen}
        for name, thing in self._things.items():
            plain, arrays = frozen[name]
            if thing.by_updates:  # whoever has changed its arrays has put them back
                arrays = {**arrays, **flatten(thing.get(), thing.references)[1]}
            thing.set(unflatten(plain, arrays, thing.references))

    def changed(self, frozen: Frozen) -> list[str]:
        """Which states are not what they were; those that nobody may change between two exchanges."""
        now = self.flat()
        return [
            name
            for name, thing in self._things.items()
            if name in frozen and not thing.by_updates and not same(frozen[name], now[name])
        ]


def arrays_of(frozen: Frozen) -> dict[str, Any]:
    """The arrays of states, by their names among a run's arrays."""
    return {f"{PREFIX}{name}/{key}": array for name, (_, own) in frozen.items() for key, array in own.items()}


def scalars_of(frozen: Frozen) -> dict[str, Any]:
    """The rest of states, by name, in JSON's types."""
    return {name: plain for name, (plain, _) in frozen.items()}


_NONE = References({})


def _as_thing(name: str, thing: Any) -> Thing:
    for wanted, make in _KINDS:
        if wanted(thing):
            return Thing(*make(thing), _NONE)
    raise TypeError(
        f"the state {name!r} is a {type(thing).__name__}; what can be registered has state_dict() and "
        "load_state_dict(), or is a dictionary, a list, a set, an array, a tensor or a random generator"
    )


Ways = tuple[Callable[[], Any], Callable[[Any], object]]


def _has(*methods: str) -> Callable[[Any], bool]:
    return lambda thing: all(callable(getattr(thing, method, None)) for method in methods)


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda thing: isinstance(thing, kinds)


def _list(thing: Any) -> Ways:
    def restore(value: Any) -> None:
        thing[:] = value

    return lambda: list(thing), restore


def _collection(add: str) -> Callable[[Any], Ways]:
    def ways(thing: Any) -> Ways:
        def restore(value: Any) -> None:
            thing.clear()
            getattr(thing, add)(value)

        return lambda: type(thing)(thing) if add == "extend" else thing, restore

    return ways


def _dict(thing: Any) -> Ways:
    def restore(value: Any) -> None:
        thing.clear()
        thing.update(value)

    return lambda: dict(thing), restore


def _array(thing: Any) -> Ways:
    def restore(value: Any) -> None:
        if value.shape != thing.shape or value.dtype != thing.dtype:
            raise ValueError(
                f"a registered array is {value.dtype}{list(value.shape)} elsewhere, and {thing.dtype}"
                f"{list(thing.shape)} here"
            )
        thing[...] = value

    return lambda: thing, restore


def _tensor(thing: Any) -> Ways:
    def restore(value: Any) -> None:
        thing.data[...] = array_module(thing.data).asarray(as_array(value.data))

    return lambda: thing, restore


def _bit_generator(thing: Any) -> Ways:
    def restore(value: Any) -> None:
        thing.bit_generator.state = value

    return lambda: thing.bit_generator.state, restore


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Ways]], ...] = (
    (_has("state_dict", "load_state_dict"), lambda thing: (thing.state_dict, thing.load_state_dict)),
    (_is(np.random.Generator), _bit_generator),
    (_is(dict), _dict),
    (_is(list), _list),
    (_is(set), _collection("update")),
    (_is(deque), _collection("extend")),
    (_is(Tensor), _tensor),
    (_is(np.ndarray), _array),
    # Python's and NumPy's generators, and the modules themselves, whose functions are those of a global one.
    (_has("getstate", "setstate"), lambda thing: (thing.getstate, thing.setstate)),
    (
        lambda thing: thing is np.random or isinstance(thing, np.random.RandomState),
        lambda thing: (lambda: thing.get_state(legacy=False), thing.set_state),
    ),
)
assert _has("getstate", "setstate")(random)
