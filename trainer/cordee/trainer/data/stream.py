"""Samples that come in a stream: how global batches and shards are cut from it, and how to come back to any place.

Position `p` of an epoch's stream is its p-th sample; batch `i` is positions `[i * batch_size, (i + 1) * batch_size)`,
cut into shards like any other. So what a step reads follows from its number, here too; whoever needs other positions
than the next one skips to them. There are three ways, from the best to the one that always works:

- the iterator has `skip(count)`;
- the dataset defines `stream(epoch, start)`, which begins anywhere (say, seeks in a file);
- else samples are read and dropped.

In an elastic run every worker skips the shards of the others in each step, and a resumed run skips all that was read
before: give a dataset that is large or slow to read one of the first two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Generic, TypeVar, cast

import numpy as np

from cordee.trainer import random
from cordee.trainer.data.order import Permutation
from cordee.trainer.data.sampler import whole

__all__ = ["ChainDataset", "IterableDataset", "MappedStream", "ShuffledStream", "StreamReader", "is_stream"]

T_co = TypeVar("T_co", covariant=True)


class IterableDataset(Generic[T_co]):
    """Samples in a stream: a subclass gives `__iter__`, or better `stream(epoch, start)`.

        class Lines(data.IterableDataset):
            def stream(self, epoch, start):
                with open(self.path) as file:
                    yield from itertools.islice(file, start, None)

    Every worker must get the same samples in the same order, so nothing here may look at who asks (PyTorch's idiom of
    splitting by `get_worker_info()` is not needed: no sample comes twice). With a `__len__`, the samples per epoch, it
    serves elastic runs; else give the loader `steps_per_epoch`.
    """

    def __iter__(self) -> Iterator[T_co]:
        return self.stream(0, 0)

    def stream(self, epoch: int, start: int) -> Iterator[T_co]:
        """The samples of an epoch from position `start` on.

        Unless overridden: a fresh iteration (after `set_epoch(epoch)`, where there is one), of which `start` samples
        are dropped.
        """
        if type(self).__iter__ is IterableDataset.__iter__:
            raise NotImplementedError(f"{type(self).__name__} is to define __iter__() or stream(epoch, start)")
        set_epoch: Callable[[int], object] | None = getattr(self, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
        return _dropped(iter(self), start)

    def __add__(self, other: Iterable[Any]) -> ChainDataset:
        return ChainDataset([self, other])


def is_stream(dataset: object) -> bool:
    """Whether `dataset` is read in order: it says so, or can be iterated, again and again, and has no index."""
    kind = type(dataset)
    return isinstance(dataset, IterableDataset) or (
        hasattr(kind, "__iter__") and not hasattr(kind, "__getitem__") and not hasattr(kind, "__next__")
    )


def _seeks(dataset: object) -> bool:
    """Whether starting in the middle is cheaper than reading up to there."""
    own = getattr(dataset, "seeks", None)
    if own is not None:
        return bool(own)
    stream = getattr(type(dataset), "stream", None)
    return stream is not None and stream is not IterableDataset.stream


def open_stream(dataset: Any, epoch: int, start: int) -> Iterator[Any]:
    """The samples of a stream of any kind from `start` on; an iterable that knows no `stream` is read from its head."""
    if hasattr(dataset, "stream"):
        return iter(dataset.stream(epoch, start))
    return _dropped(iter(dataset), start)


def _dropped(iterator: Iterator[Any], count: int) -> Iterator[Any]:
    """`iterator` without its first `count` samples."""
    with _keyed() as at:
        for position in range(count):
            at(position)
            if next(iterator, _END) is _END:
                break
    return iterator


@contextlib.contextmanager
def _keyed() -> Iterator[Callable[[int], None]]:
    """For reading ahead: what is drawn inside is keyed by the position told, and what is drawn after it as before."""
    place = random.data_place()
    if place is None:
        yield lambda _: None
        return
    before = place.stream, place.number, place.draws
    try:
        yield lambda position: place.at(random.STREAM_SAMPLE, position)
    finally:
        place.stream, place.number, place.draws = before


_END = object()


class StreamReader:
    """Reads stretches of a stream, going on where it stands if it can."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._iterator: Iterator[Any] | None = None
        self._epoch = -1
        self._position = 0

    def read(self, epoch: int, start: int, count: int, place: random.DataPlace) -> list[Any]:
        """The samples at positions `start` to `start + count - 1`: fewer at the end of the stream, none after it.

        What the dataset draws while it makes a sample is keyed by the sample's position.
        """
        try:
            iterator = self._go_to(epoch, start)
            samples = []
            for position in range(start, start + count):
                place.at(random.STREAM_SAMPLE, position)
                try:
                    samples.append(next(iterator))
                except StopIteration:
                    break
            self._position = start + len(samples)
        except BaseException:
            self._iterator = None  # it may stand anywhere now
            raise
        return samples

    def _go_to(self, epoch: int, start: int) -> Iterator[Any]:
        iterator: Any = self._iterator
        gap = start - self._position
        if iterator is None or self._epoch != epoch or gap < 0:
            iterator = None
        elif gap and hasattr(iterator, "skip"):
            iterator.skip(gap)
        elif gap and _seeks(self._dataset):
            iterator = None
        elif gap:
            _dropped(iterator, gap)
        found: Iterator[Any] = open_stream(self._dataset, epoch, start) if iterator is None else iterator
        self._iterator, self._epoch, self._position = found, epoch, start
        return found


class ChainDataset(IterableDataset[Any]):
    """Several streams, one after the other. It skips whole parts that have a length."""

    def __init__(self, datasets: Iterable[Iterable[Any]]) -> None:
        self.datasets = list(datasets)

    @property
    def seeks(self) -> bool:
        return all(hasattr(dataset, "__len__") or _seeks(dataset) for dataset in self.datasets)

    def __len__(self) -> int:
        return sum(len(cast(Sized, dataset)) for dataset in self.datasets)

    def stream(self, epoch: int, start: int) -> Iterator[Any]:
        for dataset in self.datasets:
            if hasattr(dataset, "__len__"):
                size = len(cast(Sized, dataset))
                if start < size:
                    yield from open_stream(dataset, epoch, start)
                start = max(start - size, 0)
            else:
                iterator = open_stream(dataset, epoch, 0)
                with _keyed() as at:
                    while start:
                        at(0)
                        if next(iterator, _END) is _END:
                            break
                        start -= 1
                yield from iterator


class MappedStream(IterableDataset[Any]):
    """The samples of another stream, each put through `function`."""

    def __init__(self, dataset: Iterable[Any], function: Callable[[Any], Any]) -> None:
        self.dataset = dataset
        self.function = function

    @property
    def seeks(self) -> bool:
        return _seeks(self.dataset)

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def stream(self, epoch: int, start: int) -> Iterator[Any]:
        return map(self.function, open_stream(self.dataset, epoch, start))


class ShuffledStream(IterableDataset[Any]):
    """A stream in which every stretch of `block` samples is shuffled, anew in every epoch.

    A sample goes no further than its block, so coming back to a place costs reading one block at most (a reservoir,
    which lets samples drift without a bound, would have to be replayed from the start). Memory: one block.

    Args:
        dataset: the stream.
        block: samples shuffled together: the larger, the better mixed.
        seed: decides, with the epoch, the order.
    """

    def __init__(self, dataset: Iterable[Any], block: int, *, seed: int = 0) -> None:
        self.dataset = dataset
        self.block = whole("block", block, least=1)
        self.seed = whole("seed", seed)

    @property
    def seeks(self) -> bool:
        return _seeks(self.dataset)

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def stream(self, epoch: int, start: int) -> Iterator[Any]:
        number, skip = divmod(start, self.block)
        source = open_stream(self.dataset, epoch, number * self.block)
        while samples := self._read(source, number * self.block):
            order = Permutation(len(samples), seed=self.seed, epoch=epoch, purpose=_BLOCKS + number)
            for index in order(np.arange(skip, len(samples))).tolist():
                yield samples[index]
            number, skip = number + 1, 0

    def _read(self, source: Iterator[Any], first: int) -> list[Any]:
        samples = []
        with _keyed() as at:
            for position in range(first, first + self.block):
                at(position)
                sample = next(source, _END)
                if sample is _END:
                    break
                samples.append(sample)
        return samples


_BLOCKS = 1 << 32  # purposes from here on: one per block
