"""Everything people train with is inside the promise: whatever happens to the workers, it ends the same, bit for bit.

Each script of `elastic_topics` runs alone, and then in worlds of 1, 2, 3, 5 and 8 workers through random histories of
deaths, joins and departures. `-m long` tries many histories for each.
"""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from cordee.trainer.elastic import early

sys.path.insert(0, str(Path(__file__).parent))
try:
    topics: Any = importlib.import_module("elastic_topics")
    world: Any = importlib.import_module("elastic_world")
finally:
    sys.path.remove(str(Path(__file__).parent))

TOPICS = topics.TOPICS
WORLDS = (1, 2, 3, 5, 8)


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients travel in several pieces while backward still runs, though these models are small."""
    monkeypatch.setattr(early, "BUCKET_BYTES", 256)


@functools.cache
def undisturbed(topic: str) -> Any:
    """The script in a world of one."""
    outcome = world.play(TOPICS[topic], world.History(1, ()))
    assert outcome.sizes == [1]
    return outcome


def alone(topic: str) -> Any:
    """What it returns there."""
    (result,) = undisturbed(topic).results
    return result


def random_history(topic: str, seed: int, workers: int) -> Any:
    """Of which all happens while the script trains."""
    return world.history(seed, workers, undisturbed(topic).num_exchanges)


def check(topic: str, past: Any) -> Any:
    outcome = world.play(TOPICS[topic], past)
    assert outcome.results
    for result in outcome.results:
        assert result == alone(topic), past
    return outcome


@pytest.mark.parametrize("workers", WORLDS)
@pytest.mark.parametrize("topic", TOPICS)
def test_a_random_history_ends_the_same(topic: str, workers: int) -> None:
    outcome = check(topic, random_history(topic, 1, workers))
    assert outcome.num_lost
    assert len(outcome.sizes) > 1


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("topic", TOPICS)
def test_many_random_histories_end_the_same(topic: str) -> None:
    for seed in range(2, 42):
        for workers in WORLDS:
            check(topic, random_history(topic, seed, workers))


@pytest.mark.parametrize("topic", TOPICS)
def test_a_loss_at_every_exchange_ends_the_same(topic: str) -> None:
    """Everybody dies in turn, at one exchange in three, with and without somebody who got the sum."""
    events = [
        world.Event(at, "kill", frozenset({loss % 3}), frozenset({(loss + 1) % 3} if loss % 2 else ()))
        for loss, at in enumerate(range(2, 30, 3))
    ]
    outcome = check(topic, world.History(3, tuple(events)))
    # The first two are surely there; whoever replaces them may come too late to die.
    assert outcome.num_lost >= 2
    assert len(outcome.sizes) > 2


@pytest.mark.parametrize("topic", TOPICS)
def test_losing_everybody_goes_on_from_a_checkpoint_to_the_same_end(topic: str, tmp_path: Path) -> None:
    everybody = world.Event(9, "kill", frozenset(range(2)))
    outcome = check(topic, world.History(2, (everybody,), folder=tmp_path / "checkpoints"))
    assert outcome.num_lost == 2
    assert "restored" in outcome.notes
