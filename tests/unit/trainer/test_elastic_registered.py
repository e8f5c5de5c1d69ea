"""What a user registers travels with a run, whatever it is; what cannot is refused with a sentence."""

from __future__ import annotations

import json
import random
from collections import deque
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import data, elastic, nn, optim
from cordee.trainer.elastic.registered import Registered, arrays_of, scalars_of


def handed_on(giver: Registered, taker: Registered) -> None:
    states = giver.flat()
    arrays = {name: np.array(getattr(array, "data", array)) for name, array in arrays_of(states).items()}
    taker.load(json.loads(json.dumps(scalars_of(states), allow_nan=False)), arrays)


class Meter:
    def __init__(self) -> None:
        self.values: list[float] = []

    def state_dict(self) -> Any:
        return {"values": self.values}

    def load_state_dict(self, state: Any) -> None:
        self.values = state["values"]


def draws(generator: Any) -> Any:
    return [generator.random() for _ in range(3)]


@pytest.mark.parametrize(
    "seeded", [np.random.default_rng, random.Random, np.random.RandomState], ids=lambda f: f.__name__
)
def test_random_generators_go_on_where_they_were(seeded: Any) -> None:
    here, there = seeded(1), seeded(2)
    giver, taker = Registered(), Registered()
    giver.register("draws", here)
    taker.register("draws", there)
    draws(here)
    handed_on(giver, taker)
    assert draws(there) == draws(here)


@pytest.mark.parametrize("module", [random, np.random], ids=["random", "numpy"])
def test_the_global_generators_can_be_registered_by_their_modules(module: Any) -> None:
    registered = Registered()
    registered.register("global", module)
    moment = registered.moment()
    first = [module.random() for _ in range(3)]
    registered.take_back(moment)
    assert [module.random() for _ in range(3)] == first


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ({"a": 1, (2, 3): [1.5]}, {"b": 2}),
        ([1, "x", None], [2]),
        ({1, 2}, {5}),
        (deque([1, 2], 4), deque(maxlen=4)),
    ],
    ids=["dict", "list", "set", "deque"],
)
def test_collections_are_filled_in_place(here: Any, there: Any) -> None:
    giver, taker = Registered(), Registered()
    giver.register("it", here)
    taker.register("it", there)
    handed_on(giver, taker)
    assert there == here


def test_arrays_and_tensors_are_written_to_in_place() -> None:
    giver, taker = Registered(), Registered()
    array, tensor = np.zeros((2, 2)), ct.zeros(3)
    giver.register("array", np.full((2, 2), 7.0))
    giver.register("tensor", ct.ones(3))
    taker.register("array", array)
    taker.register("tensor", tensor)
    handed_on(giver, taker)
    assert array.tolist() == [[7, 7], [7, 7]]
    assert tensor.tolist() == [1, 1, 1]
    other = Registered()
    other.register("array", np.zeros(3))
    with pytest.raises(ValueError, match=r"a registered array is float64\[2, 2\] elsewhere, and float64\[3\] here"):
        handed_on(giver, other)


def test_a_state_waits_for_its_thing_and_can_be_handed_on_meanwhile() -> None:
    giver, between, taker = Registered(), Registered(), Registered()
    meter = Meter()
    giver.register("meter", meter)
    giver.register("rows", np.arange(3.0))
    meter.values += [1.0, 2.0]
    handed_on(giver, between)
    handed_on(between, taker)
    found, rows = Meter(), np.zeros(3)
    taker.register("meter", found)
    taker.register("rows", rows)
    assert found.values == [1.0, 2.0]
    assert rows.tolist() == [0, 1, 2]
    assert taker.flat().keys() == {"meter", "rows"}


def test_a_moment_is_not_changed_by_what_comes() -> None:
    registered = Registered()
    array, meter = np.zeros(2), Meter()
    registered.register("array", array)
    registered.register("meter", meter)
    moment = registered.moment()
    array += 1
    meter.values.append(1.0)
    late = [1]
    registered.register("late", late)
    late.append(2)
    registered.take_back(moment)
    assert array.tolist() == [0, 0]
    assert meter.values == []
    assert late == [1], "as it was when it was registered"


@pytest.mark.parametrize(
    ("name", "thing", "error", "message"),
    [
        ("a", object(), TypeError, "the state 'a' is a object; what can be registered has state_dict"),
        ("a", {"f": print}, TypeError, "the state 'a' cannot travel: what is under 'f' is a builtin"),
        ("a/b", [], ValueError, "without slashes and colons"),
        ("", [], ValueError, "without slashes and colons"),
        ("used", [], ValueError, "a state 'used' is registered already"),
    ],
)
def test_what_cannot_travel_is_refused(name: str, thing: Any, error: Any, message: str) -> None:
    registered = Registered()
    registered.register("used", [])
    with pytest.raises(error, match=message):
        registered.register(name, thing)


def _run(**options: Any) -> elastic.Run:
    ct.manual_seed(0)
    net = nn.Linear(3, 1)
    loader = data.DataLoader(data.TensorDataset(np.ones((8, 3), np.float32)), batch_size=4, shards=2)
    return elastic.Run(net, optim.SGD(net.parameters(), lr=0.1), loader, **options)


@pytest.mark.parametrize(
    "thing", [np.random.default_rng(0), random.Random(0), [], np.zeros(1)], ids=lambda t: str(type(t))
)
def test_what_changes_inside_the_shards_is_noticed(thing: Any) -> None:
    """Each worker would have its own: the natural mistake, a generator used for a sample's noise, is no silent one."""
    run = _run(state={"mine": thing, "other": [1]})
    with pytest.raises(RuntimeError, match=r"step 1: 'mine' changed inside `for batch in step\.shards`"):
        for step in run.steps(1):
            for (x,) in step.shards:
                if isinstance(thing, list):
                    thing.append(1)
                elif isinstance(thing, np.ndarray):
                    thing += 1
                else:
                    thing.random()
                step.backward(run.model(x).mean())
            step.commit()


def test_numpy_numbers_for_shards_come_from_cordees_generator() -> None:
    def train(shuffled: bool) -> list[float]:
        run = _run()
        seen = []
        for step in run.steps(1):
            for (x,) in step.shards:
                if shuffled:
                    np.random.default_rng().random()
                noise = ct.random.generator().standard_normal(3).astype(np.float32)
                seen.append(float(noise[0]))
                step.backward(run.model(x + ct.tensor(noise)).mean())
            step.commit()
        return seen

    assert train(shuffled=False) == train(shuffled=True)
    assert len(set(train(shuffled=False))) == 4


class Counting(nn.Module):
    def __init__(self, inside: bool) -> None:
        self.linear = nn.Linear(3, 1)
        self.inside = inside
        self.calls = 0

    def forward(self, x: ct.Tensor) -> Any:
        self.calls += self.inside
        return self.linear(x)

    def get_extra_state(self) -> Any:
        return {"calls": self.calls, "rows": np.zeros(self.calls)}

    def set_extra_state(self, state: Any) -> None:
        self.calls = state["calls"]


def test_extra_state_travels_and_must_not_follow_the_shards() -> None:
    loader = data.DataLoader(data.TensorDataset(np.ones((8, 3), np.float32)), batch_size=4, shards=2)
    net = nn.Sequential(Counting(inside=False))
    run = elastic.Run(net, optim.SGD(net.parameters(), lr=0.1), loader)
    net[0].calls = 5
    other = nn.Sequential(Counting(inside=False))
    taker = elastic.Run(other, optim.SGD(other.parameters(), lr=0.1), loader)
    taker._state.restore(run._state.host_copies(), json.loads(json.dumps(run._state.scalars())))
    assert other[0].calls == 5
    net = nn.Sequential(Counting(inside=True))
    run = elastic.Run(net, optim.SGD(net.parameters(), lr=0.1), loader)
    with pytest.raises(RuntimeError, match=r"'module:0' changed inside"):
        for step in run.steps(1):
            for (x,) in step.shards:
                step.backward(net(x).mean())
