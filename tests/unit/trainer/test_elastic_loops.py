"""Scripts with several loops over steps, and loops that are left early: what a worker does that comes late, or lost the
step in which the others left."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import data, elastic, nn, optim

sys.path.insert(0, str(Path(__file__).parent))
from elastic_world import Event, History, play


def make() -> tuple[nn.Linear, optim.Optimizer, data.DataLoader]:
    ct.manual_seed(1)
    model = nn.Linear(4, 3)
    numbers = np.random.default_rng(0)
    dataset = data.TensorDataset(
        ct.tensor(numbers.standard_normal((64, 4), np.float32)),
        ct.tensor(numbers.standard_normal((64, 3), np.float32)),
    )
    return model, optim.SGD(model.parameters(), lr=0.05, momentum=0.9), data.DataLoader(dataset, 16, shards=4, seed=0)


def several_loops(stop_at: int = 0) -> Any:
    """The first is left early; every one trains with another loss and another rate."""
    model, optimizer, loader = make()
    run = elastic.Run(model, optimizer, loader)
    for step in run.steps(epochs=3):
        for batch in step.shards:
            step.backward(((model(batch.x) - batch.y) ** 2).mean())
        if step.commit() and step.number == 3:
            break
    for group in optimizer.groups:
        group.options["lr"] *= 0.5
    if run.step < 2 * len(loader):  # where the others have been
        for step in run.steps(epochs=2):
            for batch in step.shards:
                step.backward((model(batch.x) - batch.y).abs().mean())
            step.commit()
    for group in optimizer.groups:
        group.options["lr"] *= 0.5
    for step in run.steps(epochs=4):
        for batch in step.shards:
            step.backward(((model(batch.x) - batch.y) ** 4).mean())
        if step.commit() and step.number == stop_at:
            break
    run.conclude()
    return run.weights_sha256(), run.step, optimizer.groups[0].options["lr"]


@pytest.mark.parametrize("exchange", range(1, 15))
def test_who_is_given_a_state_of_a_later_loop_leaves_the_one_at_hand(exchange: int) -> None:
    alone = play(several_loops, History(1, ())).results
    losses = (
        Event(exchange, "kill", frozenset({1}), frozenset({0})),
        Event(exchange + 2, "kill", frozenset({0}), frozenset({1})),
    )
    outcome = play(several_loops, History(2, losses))
    assert set(outcome.results) == set(alone)


@pytest.mark.parametrize("exchange", range(1, 15))
def test_a_survivor_that_lost_the_step_in_which_the_others_left_follows_them(exchange: int) -> None:
    alone = play(several_loops, History(1, ())).results
    loss = Event(exchange, "kill", frozenset({2}), frozenset({0}))
    outcome = play(several_loops, History(3, (loss,), respawn=False))
    assert len(outcome.results) == 2
    assert set(outcome.results) == set(alone)


def test_a_checkpoint_of_a_later_loop_is_handed_on_as_one(tmp_path: Path) -> None:
    alone = play(several_loops, History(1, ())).results
    play(lambda: several_loops(stop_at=11), History(1, (), folder=tmp_path))
    outcome = play(several_loops, History(2, (), folder=tmp_path))
    assert outcome.notes[:2] == ["restored", "healed"]
    assert len(outcome.results) == 2
    assert set(outcome.results) == set(alone)


def test_a_loop_that_is_left_in_a_lost_step_is_no_result() -> None:
    survivors: list[elastic.Run] = []

    def script() -> Any:
        model, optimizer, loader = make()
        run = elastic.Run(model, optimizer, loader)
        for step in run.steps(epochs=3):
            for batch in step.shards:
                step.backward(((model(batch.x) - batch.y) ** 2).mean())
            step.commit()
            run.weights()
            if step.number == 5:
                break
        try:
            return run.weights_sha256()
        except OSError:
            survivors.append(run)
            raise

    assert len(set(play(script, History(2, ())).results)) == 1
    with pytest.raises(OSError, match=r"left its loop in step 5, which was lost"):
        play(script, History(2, (Event(5, "kill", frozenset({1})),), respawn=False))
    [survivor] = survivors
    with pytest.raises(OSError, match=r"if step\.commit"):
        survivor.conclude()
    with pytest.raises(OSError, match="come again"):
        next(survivor.steps(4))
