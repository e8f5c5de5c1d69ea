"""Laws of streams: batches and shards are stretches of them, for whoever reads them, from wherever they begin."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cordee.trainer import data
from cordee.trainer.data import ChainDataset, DataLoader, MappedStream, ShuffledStream
from cordee.trainer.data.stream import StreamReader

KINDS = ["Counting", "Seeking", "Skipping"]


@pytest.fixture
def support(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("data_support")


def pairs(batch: Any) -> list[tuple[int, float]]:
    return [] if batch is None else list(zip(batch.x.tolist(), batch.y.tolist(), strict=True))


def wrapped(support: Any, kind: str, wrapper: str) -> Any:
    stream = getattr(support, kind)(23)
    return {
        "bare": lambda: stream,
        "shuffled": lambda: ShuffledStream(stream, 5, seed=1),
        "mapped": lambda: MappedStream(stream, noisier),
        "shuffled and mapped": lambda: MappedStream(ShuffledStream(stream, 4), noisier),
        "chained": lambda: ChainDataset([getattr(support, kind)(9), stream]),
    }[wrapper]()


def noisier(sample: tuple[int, float]) -> tuple[int, float]:
    return sample[0], sample[1] + data.sample_rng().random()


WRAPPERS = ["bare", "shuffled", "mapped", "shuffled and mapped", "chained"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("num_workers", [0, 3])
def test_batches_and_shards_are_stretches_from_wherever_one_begins(
    support: Any, kind: str, wrapper: str, num_workers: int
) -> None:
    def loader(**kwargs: Any) -> DataLoader:
        return DataLoader(wrapped(support, kind, wrapper), 4, shards=3, steps_per_epoch=5, seed=7, **kwargs)

    straight = [pairs(batch) for batch in loader()]
    assert len(straight) == 5
    assert len({number for batch in straight for number, _ in batch}) == (20 if wrapper != "chained" else 11)
    assert [pairs(batch) for batch in loader(num_workers=num_workers)] == straight
    for index in (4, 1, 3):  # as after a resume, and back
        assert pairs(loader().batch(0, index)) == straight[index]
    elsewhere = loader(num_workers=num_workers) if num_workers else loader()
    for index, batch in enumerate(straight):
        elsewhere.expect(0, index, (1, 3))
        shards = [pairs(elsewhere.shard_batch(0, index, shard)) for shard in (1, 2)]
        assert shards[0] + shards[1] == batch[1:]
    assert pairs(elsewhere.batch(1, 0)) != straight[0]


@pytest.mark.slow
def test_processes_read_a_stream_once(support: Any) -> None:
    straight = [pairs(batch) for batch in DataLoader(support.Counting(23), 4)]
    helped = DataLoader(support.Counting(23), 4, num_workers=3, workers="processes")
    assert [pairs(batch) for batch in helped] == straight
    assert [len(batch) for batch in straight] == [4, 4, 4, 4, 4, 3]


def test_what_need_not_be_read_is_not(support: Any) -> None:
    def reads(kind: str) -> tuple[int, list[int]]:
        dataset = getattr(support, kind)(1000)
        loader = DataLoader(dataset, 10, shards=2, steps_per_epoch=100)
        for index in range(50, 53):
            loader.shard_batch(0, index, 1)
        return dataset.read, getattr(dataset, "opened", [])

    assert reads("Counting")[0] == 530
    assert reads("Seeking") == (15, [505, 515, 525])
    assert reads("Skipping") == (15, [505])


def test_going_on_does_not_begin_anew(support: Any) -> None:
    dataset = support.Seeking(100)
    list(DataLoader(dataset, 8))
    assert (dataset.opened, dataset.read) == ([0], 100)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_ends_with_the_stream_or_where_it_is_told_to(support: Any, num_workers: int) -> None:
    def sizes(dataset: Any, **kwargs: Any) -> list[int]:
        loader = DataLoader(dataset, 4, num_workers=num_workers, **kwargs)
        first = [len(batch) for batch in loader]
        assert [len(batch) for batch in loader] == first
        return first

    for kind in KINDS:
        assert sizes(getattr(support, kind)(10)) == [4, 4, 2]
        assert sizes(getattr(support, kind)(10), drop_last=True) == [4, 4]
        assert sizes(getattr(support, kind)(8)) == [4, 4]
        assert sizes(getattr(support, kind)(10), steps_per_epoch=2) == [4, 4]
    assert len(DataLoader(support.Seeking(10), 4)) == 3
    with pytest.raises(TypeError, match="Counting has no length; give it a __len__"):
        len(DataLoader(support.Counting(10), 4))


def test_epochs_of_a_stream_differ_as_it_says(support: Any) -> None:
    for kind in KINDS:
        loader = DataLoader(getattr(support, kind)(6), 4)
        assert [batch.x.tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5]]
        assert [batch.x.tolist() for batch in loader] == [[1000, 1001, 1002, 1003], [1004, 1005]]


def test_a_shuffled_stream_is_every_sample_once_within_its_blocks(support: Any) -> None:
    stream = ShuffledStream(support.Seeking(23), 5, seed=2)
    orders = [[sample[0] % 1000 for sample in stream.stream(epoch, 0)] for epoch in range(2)]
    assert orders[0] != orders[1]
    for order in orders:
        for first in range(0, 23, 5):
            assert sorted(order[first : first + 5]) == list(range(first, min(first + 5, 23)))
    assert [[sample[0] for sample in stream.stream(0, start)] for start in range(24)] == [
        orders[0][start:] for start in range(24)
    ]
    support_stream = support.Seeking(1000)
    next(ShuffledStream(support_stream, 5).stream(0, 700))
    assert support_stream.read == 5


def test_a_chain_skips_what_it_can(support: Any) -> None:
    first, second = support.Seeking(100), support.Seeking(100)
    chain = ChainDataset([first, second])
    assert len(chain) == 200
    assert next(chain.stream(0, 150))[0] == 50
    assert (first.read, second.read) == (0, 1)
    assert [sample[0] for sample in (support.Counting(3) + support.Counting(2)).stream(0, 1)] == [1, 2, 0, 1]


def test_any_iterable_without_an_index_is_a_stream() -> None:
    class Lines:
        def __iter__(self) -> Any:
            return iter(["a", "b", "c"])

    assert [batch[0] for batch in DataLoader(Lines(), 2)] == [["a", "b"], ["c"]]
    assert [batch.x.tolist() for batch in DataLoader({1, 2, 3}, 2)] == [[1, 2], [3]]


def test_a_reader_that_failed_begins_anew() -> None:
    class Fragile(data.IterableDataset[int]):
        broken = True

        def stream(self, epoch: int, start: int) -> Any:
            for number in range(start, 10):
                if number == 5 and self.broken:
                    raise OSError("the disk is away")
                yield number

    dataset = Fragile()
    loader = DataLoader(dataset, 4, steps_per_epoch=2)
    loader.batch(0, 0)
    with pytest.raises(OSError, match="the disk is away"):
        loader.batch(0, 1)
    dataset.broken = False
    assert loader.batch(0, 1).x.tolist() == [4, 5, 6, 7]
    assert StreamReader(dataset) is not None


class Short(data.IterableDataset[int]):
    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Any:
        return iter(range(7))


class Undefined(data.IterableDataset[int]):
    pass


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: list(DataLoader(Short(), 4)), ValueError, "Short has no sample number 7 in epoch 0, .* promised 10"),
        (lambda: DataLoader(Short(), 4).batch(0, 2), ValueError, "no sample number 8"),
        (lambda: DataLoader(Short(), 4, shuffle=True), ValueError, "data.ShuffledStream shuffles"),
        (lambda: DataLoader(Short(), 20, drop_last=True), ValueError, "the stream has 10 samples, batch_size is 20"),
        (lambda: DataLoader(Short(), 4).batch_indices(0, 0), TypeError, "the samples of a stream have no numbers"),
        (lambda: list(DataLoader(Undefined(), 4)), NotImplementedError, "Undefined is to define __iter__"),
        (lambda: ShuffledStream(Short(), 0), ValueError, "block must be at least 1"),
        (lambda: DataLoader(Short(), 4, steps_per_epoch=0), ValueError, "steps_per_epoch must be at least 1"),
    ],
)
def test_a_mistake_is_a_sentence(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_numbers_of_a_stream_stay_whole(support: Any) -> None:
    assert DataLoader(support.Seeking(3), 3).batch(0, 0).x.dtype == np.int64
