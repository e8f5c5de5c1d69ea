"""Laws of samplers: any stretch of any epoch can be looked up, and is what iterating gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from cordee.trainer import data
from cordee.trainer.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

NUMBERS = range(10)
WEIGHTS = [0.0, 1.0, 2.0, 0.5, 0.0, 3.0]
SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "sequential": lambda: SequentialSampler(NUMBERS),
    "random": lambda: RandomSampler(NUMBERS, seed=3),
    "some": lambda: RandomSampler(NUMBERS, num_samples=4),
    "replacement": lambda: RandomSampler(NUMBERS, True, 25),
    "subset": lambda: SubsetRandomSampler([7, 3, 5]),
    "weighted": lambda: WeightedRandomSampler(WEIGHTS, 9),
    "weighted once": lambda: WeightedRandomSampler(WEIGHTS, 4, replacement=False),
    "distributed": lambda: DistributedSampler(NUMBERS, 3, 1),
}
MANY = range(10_000)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_stretch_is_what_iterating_gives(name: str) -> None:
    sampler = SAMPLERS[name]()
    sampler.set_epoch(2)
    everything = list(sampler)
    assert len(everything) == len(sampler)
    for start, stop in ((0, len(sampler)), (1, 3), (2, 2), (len(sampler) - 1, len(sampler))):
        found = SAMPLERS[name]().indices(2, start, stop)
        assert found.dtype == np.int64
        assert found.tolist() == everything[start:stop]


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("sequential", "distributed")])
def test_iterating_again_is_the_next_epoch(name: str) -> None:
    sampler = SAMPLERS[name]()
    assert len({tuple(sampler) for _ in range(6)}) > 1
    assert sampler.epoch == 6


def test_each_gives_the_samples_it_is_to() -> None:
    assert sorted(SAMPLERS["random"]()) == list(NUMBERS)
    assert len(set(SAMPLERS["some"]())) == 4
    assert sorted(SAMPLERS["subset"]()) == [3, 5, 7]
    assert set(SAMPLERS["weighted"]()) <= {1, 2, 3, 5}
    assert sorted(SAMPLERS["weighted once"]()) == [1, 2, 3, 5]


def test_draws_with_replacement_are_uniform() -> None:
    counts = np.bincount(RandomSampler(NUMBERS, True, 50_000).indices(0, 0, 50_000), minlength=10)
    assert np.abs(counts - 5000).max() < 5 * np.sqrt(4500)  # binomial: 5 standard deviations


@pytest.mark.parametrize("replacement", [True, False])
def test_draws_are_as_likely_as_their_weights(replacement: bool) -> None:
    # The first draw has the probabilities of the weights, with and without replacement.
    draws = 20_000 if replacement else 4000
    if replacement:
        found = WeightedRandomSampler(WEIGHTS, draws).indices(0, 0, draws)
    else:
        sampler = WeightedRandomSampler(WEIGHTS, 4, replacement=False)
        found = np.array([sampler.indices(epoch, 0, 1)[0] for epoch in range(draws)])
    share = np.array(WEIGHTS) / sum(WEIGHTS)
    counts = np.bincount(found, minlength=len(WEIGHTS))
    assert (counts[share == 0] == 0).all()
    assert (np.abs(counts - draws * share) <= 5 * np.sqrt(draws * share * (1 - share))).all()


def test_replicas_share_the_samples_of_an_epoch() -> None:
    shares = [DistributedSampler(NUMBERS, 3, rank, seed=4) for rank in range(3)]
    for epoch in range(2):
        for share in shares:
            share.set_epoch(epoch)
        dealt = [list(share) for share in shares]
        assert [len(one) for one in dealt] == [4, 4, 4]
        order = data.epoch_order(10, seed=4, epoch=epoch).tolist()
        assert [dealt[place % 3][place // 3] for place in range(12)] == order + order[:2]
    assert [len(DistributedSampler(NUMBERS, 3, rank, drop_last=True)) for rank in range(3)] == [3, 3, 3]
    assert list(DistributedSampler(NUMBERS, 4, 3, shuffle=False)) == [3, 7, 1]


def test_a_batch_sampler_cuts_lists() -> None:
    assert list(BatchSampler(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(BatchSampler(range(7), 3, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]
    assert (len(BatchSampler(range(7), 3)), len(BatchSampler(range(7), 3, True))) == (3, 2)


class Backwards:
    """Somebody's own sampler: turns round in odd epochs."""

    epoch = 0

    def __len__(self) -> int:
        return 10

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(10) if self.epoch % 2 == 0 else range(9, -1, -1))


class Uneven:
    """Somebody's own batch sampler: batches of different sizes, others in odd epochs."""

    epoch = 0

    def __len__(self) -> int:
        return 3

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        yield from ([0, 1, 2], [3], [4, 5]) if self.epoch % 2 == 0 else ([5], [4, 3, 2, 1], [0])


def read(loader: DataLoader) -> list[list[int]]:
    return [batch.x.numpy().tolist() for batch in loader]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_follows_any_sampler(num_workers: int) -> None:
    loader = DataLoader(NUMBERS, 4, sampler=Backwards(), num_workers=num_workers)
    assert read(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert read(loader) == [[9, 8, 7, 6], [5, 4, 3, 2], [1, 0]]
    assert loader.batch(0, 1).x.numpy().tolist() == [4, 5, 6, 7]
    chosen = DataLoader(NUMBERS, 2, sampler=SubsetRandomSampler([8, 1, 4]), num_workers=num_workers)
    assert (len(chosen), chosen.samples_per_epoch, sorted(number for batch in read(chosen) for number in batch)) == (
        2,
        3,
        [1, 4, 8],
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_follows_any_batch_sampler(num_workers: int) -> None:
    loader = DataLoader(NUMBERS, batch_sampler=Uneven(), num_workers=num_workers, shards=2)
    assert read(loader) == [[0, 1, 2], [3], [4, 5]]
    assert read(loader) == [[5], [4, 3, 2, 1], [0]]
    assert [loader.num_samples(index, epoch) for epoch in (0, 1) for index in range(3)] == [3, 1, 2, 1, 4, 1]
    assert [values(loader.shard_batch(1, 1, shard)) for shard in range(2)] == [[4, 3], [2, 1]]
    looked_up = DataLoader(NUMBERS, batch_sampler=BatchSampler(RandomSampler(NUMBERS, seed=2), 4))
    assert read(looked_up) == read(DataLoader(NUMBERS, 4, shuffle=True, seed=2))


def values(batch: Any) -> list[int]:
    return batch.x.numpy().tolist()  # type: ignore[no-any-return]


def test_augmentations_of_a_sample_that_comes_twice_differ() -> None:
    class Noise(data.Dataset[float]):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> float:
            return data.sample_rng().random()

    loader = DataLoader(Noise(), 4, sampler=RandomSampler(range(1), True, 4))
    assert len(set(values(loader.batch(0, 0)))) == 4


def test_what_decides_the_samples_is_in_the_loaders_name_and_nothing_else() -> None:
    def name(sampler: Any, **kwargs: Any) -> str:
        return repr(DataLoader(range(6), 2, sampler=sampler, **kwargs))

    assert name(SubsetRandomSampler([1, 2])) != name(SubsetRandomSampler([1, 3]))
    assert name(WeightedRandomSampler(WEIGHTS, 3)) != name(WeightedRandomSampler(WEIGHTS[::-1], 3))
    assert name(RandomSampler(range(6), seed=1)) != name(RandomSampler(range(6), seed=2))
    assert name(DistributedSampler(range(6), 2, 0)) != name(DistributedSampler(range(6), 2, 1))
    assert "0x" not in name(Backwards())
    assert name(None, num_workers=3, prefetch_factor=4, timeout=2) == name(None)
    assert name(None) == "DataLoader(6 samples, batch_size=2, shuffle=False, shards=8, seed=0, drop_last=False)"


class Liar(Backwards):
    def __len__(self) -> int:
        return 11


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: RandomSampler([]), ValueError, "nothing to draw from"),
        (lambda: RandomSampler(NUMBERS, num_samples=11), ValueError, "draw with replacement=True"),
        (lambda: WeightedRandomSampler([1, -1], 1), ValueError, "weights must be finite and not negative"),
        (lambda: WeightedRandomSampler([0, 0], 1), ValueError, "one of them positive"),
        (lambda: WeightedRandomSampler([0, 1], 2, False), ValueError, "only 1 positive weights"),
        (lambda: WeightedRandomSampler([[1.0]], 2), ValueError, r"an array of shape \(1, 1\)"),
        (lambda: DistributedSampler(NUMBERS, 2, 2), ValueError, "rank must be from 0 to 1, got 2"),
        (lambda: DataLoader(NUMBERS, shuffle=True, sampler=Backwards()), ValueError, "leave out shuffle"),
        (lambda: DataLoader(NUMBERS, 2, batch_sampler=Uneven()), ValueError, "batch_sampler decides all"),
        (lambda: DataLoader(NUMBERS, sampler=[]), ValueError, "sampler is empty"),
        (lambda: DataLoader(NUMBERS, sampler=Liar()).batch(0, 0), ValueError, "length of 11, but gave 10 samples"),
        (lambda: DataLoader(NUMBERS, batch_sampler=[[1], []]).batch(0, 0), ValueError, "a batch of no samples"),
        (lambda: DataLoader(NUMBERS, steps_per_epoch=3), ValueError, "steps_per_epoch is for streams"),
        (lambda: RandomSampler(NUMBERS, generator="x"), TypeError, "generator must be a whole number"),
    ],
)
def test_a_mistake_is_a_sentence(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()
