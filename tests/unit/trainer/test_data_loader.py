"""Laws of the loader: every epoch is each sample once, and what a step reads depends on seed and epoch alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.trainer.data import Batch, DataLoader, Subset, TensorDataset, epoch_order
from cordee.trainer.tensors import Tensor

loaders = st.builds(
    lambda size, batch_size, shards, seed, shuffle, drop_last: DataLoader(
        TensorDataset(np.arange(size), np.arange(size) * 0.5),
        min(batch_size, size),
        shuffle,
        shards=shards,
        seed=seed,
        drop_last=drop_last,
    ),
    st.integers(1, 200),
    st.integers(1, 64),
    st.integers(1, 20),
    st.integers(-5, 2**70),
    st.booleans(),
    st.booleans(),
)


def values(batch: Batch | None) -> list[int]:
    return [] if batch is None else [int(value) for value in batch.x.numpy()]


@given(loaders, st.integers(0, 3))
def test_shards_partition_every_global_batch(loader: DataLoader, epoch: int) -> None:
    for index in range(len(loader)):
        shards = [values(loader.shard_batch(epoch, index, shard)) for shard in range(loader.num_shards)]
        assert list(itertools.chain(*shards)) == values(loader.batch(epoch, index))
        sizes = [len(shard) for shard in shards]
        assert sum(sizes) == loader.num_samples(index)
        assert max(sizes) - min(sizes) <= 1


@given(loaders, st.integers(0, 3))
def test_an_epoch_is_every_sample_once(loader: DataLoader, epoch: int) -> None:
    seen = list(itertools.chain(*(values(loader.batch(epoch, index)) for index in range(len(loader)))))
    assert len(seen) == len(set(seen)) == loader.samples_per_epoch
    if not loader.drop_last:
        assert sorted(seen) == list(range(loader.num_dataset_samples))
    if not loader.shuffle:
        assert seen == sorted(seen)


@given(loaders, st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1000), st.integers(0, 1000)), max_size=8))
def test_a_shard_is_the_same_whatever_was_read_before(loader: DataLoader, reads: list[tuple[int, int, int]]) -> None:
    fresh = DataLoader(loader.dataset, loader.batch_size, loader.shuffle, shards=loader.num_shards, seed=loader.seed)
    for epoch, index, shard in reads:
        loader.shard_batch(epoch, index % len(loader), shard % loader.num_shards)
    for epoch in (2, 0):
        assert values(loader.shard_batch(epoch, 0, loader.num_shards - 1)) == values(
            fresh.shard_batch(epoch, 0, loader.num_shards - 1)
        )


def test_the_order_never_changes_between_releases() -> None:
    # Written down once: weights of old runs must stay reachable.
    assert epoch_order(10, seed=1, epoch=2).tolist() == ORDER_10_1_2
    assert epoch_order(10, seed=2, epoch=1).tolist() != ORDER_10_1_2


ORDER_10_1_2 = [1, 5, 2, 0, 4, 9, 7, 6, 3, 8]


@given(st.integers(0, 300), st.integers(0, 2**64 - 1), st.integers(0, 100))
def test_an_order_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(size, seed=seed, epoch=epoch).tolist()) == list(range(size))


def test_orders_are_uniform() -> None:
    # 3 samples have 6 orders; 6,000 epochs give each about 1,000 times (standard deviation 29).
    counts: dict[tuple[int, ...], int] = {}
    for epoch in range(6000):
        order = tuple(epoch_order(3, seed=7, epoch=epoch).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert all(abs(count - 1000) < 150 for count in counts.values())


def test_seed_and_epoch_change_the_order() -> None:
    orders = {tuple(epoch_order(50, seed=seed, epoch=epoch).tolist()) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_plain_iteration_goes_on_to_the_next_epoch() -> None:
    loader = DataLoader(TensorDataset(np.arange(40)), 16, shuffle=True, seed=3)
    first = [values(batch) for batch in loader]
    second = [values(batch) for batch in loader]
    assert [len(batch) for batch in first] == [16, 16, 8]
    assert first != second
    assert first == [values(loader.batch(0, index)) for index in range(3)]
    loader.epoch = 1
    assert [values(batch) for batch in loader] == second


def test_a_batch_unpacks_into_fields_and_counts_samples() -> None:
    batch = DataLoader(TensorDataset(np.ones((6, 2), np.float32), np.arange(6)), 4).batch(0, 0)
    x, y = batch
    assert (len(batch), x.shape, y.shape) == (4, (4, 2), (4,))
    assert x is batch.x is batch[0]
    assert y is batch.y
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert repr(batch) == "Batch(float32[4, 2], int64[4])"
    with pytest.raises(AttributeError, match="one field alone"):
        _ = Batch([x]).y


def test_more_shards_than_samples_leave_some_empty() -> None:
    loader = DataLoader(TensorDataset(np.arange(3)), 3, shards=8)
    shards = [loader.shard_batch(0, 0, shard) for shard in range(8)]
    assert sum(shard is None for shard in shards) == 5


class Pairs:
    """A dataset that gives one sample at a time."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return np.full(2, index, np.float32), index, index / 2, Tensor(np.array([index]))


def test_samples_of_any_dataset_are_stacked_by_field() -> None:
    fields = tuple(DataLoader(Pairs(), 3).batch(0, 1))
    assert [field.shape for field in fields] == [(2, 2), (2,), (2,), (2, 1)]
    assert [field.dtype for field in fields] == [np.float32, np.int64, np.float32, np.int64]
    assert [field.numpy().ravel()[-1] for field in fields] == [4, 4, 2, 4]


def test_a_list_is_a_dataset_and_a_bare_sample_one_field() -> None:
    (x,) = DataLoader([1.5, 2.5, 3.5], 3).batch(0, 0)
    assert x.numpy().tolist() == [1.5, 2.5, 3.5]


def test_collate_fn_makes_the_fields() -> None:
    def pad(samples: list[list[int]]) -> Any:
        width = max(map(len, samples))
        return np.array([sample + [0] * (width - len(sample)) for sample in samples])

    loader = DataLoader([[1], [2, 3], [4, 5, 6]], 3, collate_fn=pad)
    assert loader.batch(0, 0).x.numpy().tolist() == [[1, 0, 0], [2, 3, 0], [4, 5, 6]]


def test_a_subset_keeps_its_order_and_fetches_at_once() -> None:
    subset = Subset(TensorDataset(np.arange(10) * 10), [7, -1, 0])
    assert DataLoader(subset, 3).batch(0, 0).x.numpy().tolist() == [70, 90, 0]
    assert subset[1][0].numpy() == 90
    assert DataLoader(Subset([5, 6, 7], [2, 0]), 2).batch(0, 0).x.numpy().tolist() == [7, 5]
    with pytest.raises(IndexError, match="index 3 is out of range for a dataset of 3 samples"):
        Subset([5, 6, 7], [3])


samples = TensorDataset(np.arange(10))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DataLoader(samples, 0), ValueError, "batch_size must be at least 1, got 0"),
        (lambda: DataLoader(samples, -3), ValueError, "batch_size must be at least 1, got -3"),
        (lambda: DataLoader(samples, 2.5), TypeError, "batch_size must be a whole number, got 2.5"),
        (lambda: DataLoader(samples, True), TypeError, "batch_size must be a whole number, got True"),
        (lambda: DataLoader(samples, 2, shards=0), ValueError, "shards must be at least 1, got 0"),
        (lambda: DataLoader(samples, 2, seed="x"), TypeError, "seed must be a whole number, got 'x'"),
        (lambda: DataLoader([], 2), ValueError, "dataset is empty"),
        (lambda: DataLoader(iter([1]), 2), TypeError, "dataset must have a length and an index; list_iterator has no"),
        (lambda: DataLoader(samples, 11, drop_last=True), ValueError, "drop_last leaves nothing: dataset has 10"),
        (lambda: DataLoader(samples, 4).batch(0, 3), IndexError, "no batch 3: an epoch has 3, counted from 0"),
        (lambda: DataLoader(samples, 4).num_samples(-1), IndexError, "no batch -1"),
        (lambda: DataLoader(samples, 4).shard_batch(0, 0, 8), IndexError, "no shard 8: a global batch has 8"),
        (lambda: DataLoader(samples, 4, True).batch(-1, 0), ValueError, "epoch must not be negative, got -1"),
        (TensorDataset, ValueError, "at least one array"),
        (lambda: TensorDataset(np.arange(3), np.arange(4)), ValueError, "equally many samples, got 3, 4"),
        (lambda: TensorDataset(np.arange(3), 4), ValueError, "array 1 is a scalar"),
        (lambda: DataLoader([np.array(["a"])], 1).batch(0, 0), TypeError, "the samples: the array is not numeric"),
        (
            lambda: DataLoader([(1, None)], 1).batch(0, 0),
            TypeError,
            "field 1 of the samples cannot be stacked: NoneType",
        ),
        (lambda: DataLoader([{"x": 1}, {"y": 1}], 2).batch(0, 0), ValueError, r"same keys; one has \['x'\], another"),
        (lambda: DataLoader([(1, 2), (1,)], 2).batch(0, 0), ValueError, "one has 2 of them, another 1"),
        (lambda: DataLoader([np.ones(1), np.ones(2)], 2).batch(0, 0), ValueError, r"shapes, such as \(1,\) and \(2,\)"),
    ],
)
def test_a_mistake_is_a_sentence_that_names_the_argument(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
