"""The law of `Batch.indices`: they name the samples that are in the batch, because they come with them from where these
were read, and not from a plan of what should have been."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cordee.trainer.data import Batch, ConcatDataset, DataLoader, Subset, TensorDataset
from cordee.trainer.data.fetch import Recipe, Task
from cordee.trainer.data.prefetch import Ahead

NUMBERS = np.arange(50)
KINDS: list[Any] = [
    {},
    {"num_workers": 1},
    {"num_workers": 3, "prefetch_factor": 1},
    pytest.param({"num_workers": 2, "workers": "processes"}, marks=pytest.mark.slow),
]


@pytest.fixture
def support(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("data_support")


class InLists:
    """A dataset that is asked for several samples at once."""

    def __len__(self) -> int:
        return len(NUMBERS)

    def __getitems__(self, numbers: list[int]) -> list[int]:
        return numbers


def told(batch: Batch | None) -> list[int]:
    """Which samples a batch says it has."""
    return [] if batch is None or batch.indices is None else [int(number) for number in batch.indices]


def held(batch: Batch | None) -> list[int]:
    """Which it has: every sample of these datasets is its own number."""
    return [] if batch is None else [int(number) for number in batch.x.numpy()]


@pytest.mark.parametrize("kind", KINDS)
def test_every_batch_says_which_samples_it_has(support: Any, kind: dict[str, Any]) -> None:
    loader = DataLoader(support.Plain(50), 8, shuffle=True, seed=5, **kind)
    for _ in range(2):
        seen = []
        for batch in loader:
            assert told(batch) == held(batch)
            seen += told(batch)
        assert sorted(seen) == list(range(50))


@pytest.mark.parametrize("kind", KINDS)
def test_so_does_every_shard_in_worlds_that_change(support: Any, kind: dict[str, Any]) -> None:
    loader = DataLoader(support.Plain(50), 16, shuffle=True, shards=5, **kind)
    for epoch, index, shards in ((0, 0, (0, 2)), (0, 1, (0, 2)), (0, 1, (0, 5)), (0, 2, (3, 5)), (0, 3, (0, 5))):
        loader.expect(epoch, index, shards)
        for shard in range(*shards):
            batch = loader.shard_batch(epoch, index, shard)
            assert told(batch) == held(batch)
            start, stop = loader.shard_bounds(index, shard, epoch)
            assert told(batch) == loader.batch_indices(epoch, index)[start:stop].tolist()


@pytest.mark.parametrize(
    "dataset",
    [
        TensorDataset(NUMBERS),
        InLists(),
        NUMBERS.tolist(),
        Subset(TensorDataset(NUMBERS), range(50)),
        ConcatDataset([TensorDataset(NUMBERS[:20]), TensorDataset(NUMBERS[20:])]),
    ],
)
@pytest.mark.parametrize("collate_fn", [None, np.array])
def test_whatever_the_dataset_and_the_way_it_is_asked(dataset: Any, collate_fn: Any) -> None:
    if collate_fn is not None and isinstance(dataset, (TensorDataset, Subset, ConcatDataset)):
        collate_fn = lambda samples: np.array([sample[0] for sample in samples])  # noqa: E731
    for batch in DataLoader(dataset, 8, shuffle=True, collate_fn=collate_fn):
        assert told(batch) == held(batch)


def test_samples_that_come_twice_and_in_any_order_are_named_as_often(support: Any) -> None:
    visits = [3, 3, 7, 1, 0, 3]
    batches = list(DataLoader(support.Plain(50), 4, sampler=visits))
    assert [told(batch) for batch in batches] == [[3, 3, 7, 1], [0, 3]]
    assert [held(batch) for batch in batches] == [[3, 3, 7, 1], [0, 3]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_says_which_positions_were_read(support: Any, kind: dict[str, Any]) -> None:
    loader = DataLoader(support.Seeking(20), 8, shards=3, **kind)
    for index in range(3):
        loader.expect(0, index, (0, 3))
        for shard in range(3):
            batch = loader.shard_batch(0, index, shard)
            assert told(batch) == held(batch)
    assert [told(batch) for batch in DataLoader(support.Seeking(5), 4)] == [[0, 1, 2, 3], [4]]


def test_what_was_read_is_told_even_if_another_batch_was_wanted(support: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that mixes up what it has loaded ahead hands out other samples than planned; the batch shows it."""
    loader = DataLoader(support.Plain(50), 8, shuffle=True, num_workers=1)
    take = Ahead.take
    wrong = (0, 0, 0)

    def mixed_up(ahead: Ahead, key: Any, timeout: float | None) -> Any:
        take(ahead, key, timeout)
        return Recipe(loader.dataset, None, 0)(Task(*wrong, indices=np.array([7])))

    monkeypatch.setattr(Ahead, "take", mixed_up)
    loader.expect(0, 0, (0, 8))
    assert told(loader.shard_batch(0, 0, 1)) == [7]


def test_a_batch_of_ones_own_has_none() -> None:
    assert Batch([np.zeros(3)]).indices is None
