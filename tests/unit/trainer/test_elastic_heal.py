"""Who gives which part of a state to a joiner."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.trainer import data, nn, optim
from cordee.trainer.array import to_numpy
from cordee.trainer.elastic import World, heal
from cordee.trainer.elastic.heal import LEAST_SHARE_BYTES, shares, synchronise
from cordee.trainer.elastic.position import Position
from cordee.trainer.elastic.state import StateError, TrainingState


@given(st.integers(0, 1 << 40), st.integers(1, 64))
def test_shares_tile_the_state_and_none_is_tiny(num_bytes: int, givers: int) -> None:
    cuts = shares(num_bytes, givers)
    assert len(cuts) == givers
    assert cuts[0][0] == 0
    assert cuts[-1][1] == num_bytes
    assert all(before[1] == after[0] for before, after in itertools.pairwise(cuts))
    sizes = [stop - start for start, stop in cuts]
    assert all(size == 0 or size >= LEAST_SHARE_BYTES for size in sizes[1:])
    assert max(sizes) - min(size for size in sizes if size or not num_bytes) <= 1


@dataclass
class Wires:
    """Connects members that are threads."""

    turn: threading.Condition = field(default_factory=threading.Condition)
    sent: dict[tuple[int, int], Any] = field(default_factory=dict)


@dataclass
class WireCommunicator:
    wires: Wires
    rank: int
    size: int

    def send_states(self, ranks: Sequence[int], meta: bytes, buffers: Sequence[Any]) -> None:
        with self.wires.turn:
            for rank in ranks:
                self.wires.sent[self.rank, rank] = (meta, [memoryview(bytes(buffer)) for buffer in buffers])
            self.wires.turn.notify_all()

    def recv_states(self, ranks: Sequence[int]) -> list[tuple[bytes, list[memoryview]]]:
        with self.wires.turn:
            assert self.wires.turn.wait_for(lambda: all((rank, self.rank) in self.wires.sent for rank in ranks), 10)
            return [self.wires.sent[rank, self.rank] for rank in ranks]


def made(value: float, width: int = 9) -> tuple[nn.Module, TrainingState]:
    model = nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.Linear(width, 3))
    optimizer = optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.data[...] = value
    loader = data.DataLoader(data.TensorDataset(np.zeros((8, 5), np.float32)), 4, shards=2)
    return model, TrainingState(model, optimizer, loader)


def meet(steps: Sequence[int | None], states: Sequence[TrainingState]) -> list[Any]:
    wires, size = Wires(), len(steps)
    furthest = max(step for step in steps if step is not None)
    results: list[Any] = [None] * size

    def work(rank: int) -> None:
        communicator: Any = WireCommunicator(wires, rank, size)
        world = World(1, rank, size, furthest, tuple(steps), communicator)
        position = Position(step=steps[rank] or 0)
        try:
            results[rank] = synchronise(world, states[rank], position, lambda: position)
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


@pytest.mark.parametrize("least", [1, 100, 1 << 20])
@pytest.mark.parametrize("steps", [(7, 7, 7, None), (None, 7, 6, 7), (7, None, None, None), (6, 7, 7, None)])
def test_a_joiner_takes_its_state_from_all_holders(
    monkeypatch: pytest.MonkeyPatch, steps: tuple[int | None, ...], least: int
) -> None:
    monkeypatch.setattr(heal, "LEAST_SHARE_BYTES", least)
    models, states = zip(*(made(1.5 if step == 7 else -1.0) for step in steps), strict=True)
    results = meet(steps, states)
    holders = tuple(rank for rank, step in enumerate(steps) if step == 7)
    for rank, step in enumerate(steps):
        position, givers = results[rank]
        assert position.step == 7
        assert givers == (() if step == 7 else holders)
    whole = [{name: to_numpy(view).tobytes() for name, view in state.views().items()} for state in states]
    assert all(one == whole[0] for one in whole)
    assert all((to_numpy(parameter.data) == 1.5).all() for model in models for parameter in model.parameters())


def test_holders_of_different_states_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heal, "LEAST_SHARE_BYTES", 1)
    states = [made(1.0)[1], made(1.0, width=8)[1], made(0.0)[1]]
    result = meet((3, 3, None), states)[2]
    assert isinstance(result, StateError)
    assert "ranks 0 and 1 hold different states" in str(result)
