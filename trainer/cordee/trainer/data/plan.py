"""How an epoch is cut into global batches and these into shards: numbers alone, nothing is loaded here.

Shard `s` of a batch of `n` samples is its samples `[s * n // shards, (s + 1) * n // shards)`: contiguous, sizes at most
one apart, decided by nothing but `n` and `shards`. Where a batch comes from differs: a stretch of an order, a list that
a batch sampler made, a stretch of a stream.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cordee.trainer.data.fetch import Task
from cordee.trainer.data.sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler, describe
from cordee.trainer.data.stream import is_stream

__all__ = ["BatchesPlan", "IteratedSampler", "OrderPlan", "Plan", "StreamPlan", "make_plan"]

T = TypeVar("T")


class Plan(Protocol):
    """Which samples the batches of an epoch have."""

    @property
    def num_batches(self) -> int | None:
        """Batches per epoch; None if only the end of a stream will tell."""
        ...

    @property
    def samples_per_epoch(self) -> int: ...

    def num_samples(self, epoch: int, index: int) -> int:
        """How many samples a batch has."""
        ...

    def task(self, epoch: int, index: int, start: int, stop: int) -> Task:
        """Loads the samples `[start, stop)` of a batch."""
        ...


def _count(samples: int, batch_size: int, drop_last: bool) -> int:
    whole, rest = divmod(samples, batch_size)
    return whole if drop_last or not rest else whole + 1


class OrderPlan:
    """Batches are stretches of what a sampler gives."""

    def __init__(self, sampler: Sampler, batch_size: int, drop_last: bool) -> None:
        self._sampler = sampler
        self._batch_size = batch_size
        self._available = len(sampler)
        self.num_batches: int | None = _count(self._available, batch_size, drop_last)

    @property
    def samples_per_epoch(self) -> int:
        return min((self.num_batches or 0) * self._batch_size, self._available)

    def num_samples(self, epoch: int, index: int) -> int:  # noqa: ARG002
        return min(self._batch_size, self._available - index * self._batch_size)

    def task(self, epoch: int, index: int, start: int, stop: int) -> Task:
        first = index * self._batch_size + start
        indices = self._sampler.indices(epoch, first, first + stop - start)
        return Task(epoch, first, stop - start, self._sampler.repeats, indices)


class BatchesPlan:
    """Batches are what a batch sampler gives: read once per epoch, and kept as two arrays."""

    def __init__(self, batch_sampler: Any) -> None:
        self._sampler = batch_sampler
        self.num_batches: int | None = len(batch_sampler)
        self._epochs = _PerEpoch(self._read)

    def _read(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if hasattr(self._sampler, "set_epoch"):
            self._sampler.set_epoch(epoch)
        batches = [np.fromiter(batch, np.int64) for batch in self._sampler]
        if len(batches) != self.num_batches:
            raise ValueError(f"batch_sampler has a length of {self.num_batches}, but gave {len(batches)} batches")
        if not all(map(len, batches)):
            raise ValueError("batch_sampler gave a batch of no samples")
        ends = np.cumsum([0, *map(len, batches)], dtype=np.int64)
        return np.concatenate(batches), ends

    @property
    def samples_per_epoch(self) -> int:
        return len(self._epochs[0][0])

    def num_samples(self, epoch: int, index: int) -> int:
        ends = self._epochs[epoch][1]
        return int(ends[index + 1] - ends[index])

    def task(self, epoch: int, index: int, start: int, stop: int) -> Task:
        indices, ends = self._epochs[epoch]
        first = int(ends[index]) + start
        return Task(epoch, first, stop - start, True, indices[first : first + stop - start])


class StreamPlan:
    """Batches are stretches of a stream. Its length may be told, or set by the number of steps, or unknown."""

    def __init__(self, num_samples: int | None, batch_size: int, drop_last: bool, steps: int | None) -> None:
        self._batch_size = batch_size
        self._samples = num_samples if steps is None else steps * batch_size
        self.num_batches: int | None = None if self._samples is None else _count(self._samples, batch_size, drop_last)

    @property
    def samples_per_epoch(self) -> int:
        if self._samples is None or self.num_batches is None:
            raise TypeError("how many samples the stream has is not known: give its dataset a __len__()")
        return min(self.num_batches * self._batch_size, self._samples)

    def num_samples(self, epoch: int, index: int) -> int:  # noqa: ARG002
        if self._samples is None:
            return self._batch_size
        return min(self._batch_size, self._samples - index * self._batch_size)

    def task(self, epoch: int, index: int, start: int, stop: int) -> Task:
        return Task(epoch, index * self._batch_size + start, stop - start)


class IteratedSampler(Sampler):
    """Somebody's own sampler, which can only be iterated: read once per epoch, and kept as an array."""

    repeats = True  # for all we know

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self._length = len(sampler)
        self._epochs = _PerEpoch(self._read)

    def _read(self, epoch: int) -> NDArray[np.int64]:
        if hasattr(self._sampler, "set_epoch"):
            self._sampler.set_epoch(epoch)
        indices = np.fromiter(self._sampler, np.int64)
        if len(indices) != self._length:
            raise ValueError(f"sampler has a length of {self._length}, but gave {len(indices)} samples")
        return indices

    def __len__(self) -> int:
        return self._length

    def indices(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        return self._epochs[epoch][start:stop]

    def __repr__(self) -> str:
        return describe(self._sampler)


class _PerEpoch(Generic[T]):
    """Something made once per epoch; the two newest are kept, because loading ahead crosses the end of an epoch."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}
        self._lock = threading.Lock()

    def __getitem__(self, epoch: int) -> T:
        with self._lock:
            made = self._made.get(epoch)
            if made is None:
                made = self._made[epoch] = self._make(epoch)
                if len(self._made) > 2:
                    del self._made[next(iter(self._made))]
            return made


class Choice(Protocol):
    """What decides a plan: these attributes of a loader."""

    dataset: Any
    batch_size: int
    shuffle: bool
    drop_last: bool
    sampler: Any
    batch_sampler: Any
    seed: int
    steps_per_epoch: int | None


def make_plan(loader: Choice) -> Plan:
    """The plan that a loader's arguments ask for.

    Raises:
        TypeError: the dataset has neither a length nor a stream.
        ValueError: arguments contradict each other, or leave nothing to load.
    """
    if is_stream(loader.dataset):
        return _plan_stream(loader)
    if loader.steps_per_epoch is not None:
        raise ValueError("steps_per_epoch is for streams; a RandomSampler(…, num_samples=…) shortens an epoch")
    dataset = loader.dataset
    try:
        size = len(dataset)
    except TypeError as error:
        raise TypeError(f"dataset must have a length and an index; {type(dataset).__name__} has no length") from error
    if size == 0:
        raise ValueError("dataset is empty: there is nothing to load")
    if loader.batch_sampler is not None:
        return _plan_batches(loader)
    if loader.sampler is not None and loader.shuffle:
        raise ValueError("sampler decides the order: leave out shuffle")
    if loader.sampler is not None:
        return _plan_order(loader.sampler, loader.batch_size, loader.drop_last)
    sampler = RandomSampler(dataset, seed=loader.seed) if loader.shuffle else SequentialSampler(dataset)
    return _plan_order(sampler, loader.batch_size, loader.drop_last)


def _plan_order(given: Any, batch_size: int, drop_last: bool) -> Plan:
    sampler = given if isinstance(given, Sampler) else IteratedSampler(given)
    if len(sampler) == 0:
        raise ValueError("sampler is empty: there is nothing to load")
    if drop_last and len(sampler) < batch_size:
        raise ValueError(f"drop_last leaves nothing: dataset has {len(sampler)} samples, batch_size is {batch_size}")
    return OrderPlan(sampler, batch_size, drop_last)


def _plan_batches(loader: Choice) -> Plan:
    if loader.batch_size != 1 or loader.shuffle or loader.sampler is not None or loader.drop_last:
        raise ValueError("batch_sampler decides all: leave out batch_size, shuffle, sampler and drop_last")
    given = loader.batch_sampler
    if type(given) is BatchSampler:  # every batch of it can be looked up
        return _plan_order(given.sampler, given.batch_size, given.drop_last)
    return BatchesPlan(given)


def _plan_stream(loader: Choice) -> Plan:
    if loader.shuffle or loader.sampler is not None or loader.batch_sampler is not None:
        raise ValueError(
            "a stream is read in its own order: leave out shuffle and samplers (data.ShuffledStream shuffles)"
        )
    try:
        size = len(loader.dataset) if hasattr(loader.dataset, "__len__") else None
    except TypeError:  # a wrapper has no length if what it wraps has none
        size = None
    plan = StreamPlan(size, loader.batch_size, loader.drop_last, loader.steps_per_epoch)
    if plan.num_batches == 0:
        raise ValueError(f"there is nothing to load: the stream has {size} samples, batch_size is {loader.batch_size}")
    return plan
