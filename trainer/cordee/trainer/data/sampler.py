"""Samplers: which samples an epoch visits, and in which order, as a function of (epoch, position).

A sampler of this module can be asked for any stretch of any epoch (`indices`), so whoever comes late, resumes or is
dealt other shards looks it up instead of reading on from the start; nothing is consumed. Iterating one goes through
`epoch` and moves it on, as PyTorch users expect of a fresh permutation per pass.

A sampler of one's own is anything that can be iterated and has a length, as with PyTorch: it is read once per epoch
(after `set_epoch(epoch)`, if it has that), and kept as one array of 64-bit numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cordee.trainer.data.order import Permutation, epoch_order, random_words

__all__ = [
    "BatchSampler",
    "DistributedSampler",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "SubsetRandomSampler",
    "WeightedRandomSampler",
    "describe",
    "epoch_order",
    "seed_of",
    "whole",
]

_STRETCH = 4096
_REPLACEMENT, _WEIGHTED = 1, 2  # purposes: draws that have nothing to do with the order of the same seed and epoch


class Sampler:
    """The base of those here: a subclass gives `__len__` and `indices`.

    Attributes:
        epoch: the epoch that the next iteration goes through.
        repeats: whether an epoch may visit a sample more than once. (Then what is drawn at random for a sample is keyed
            by its place in the epoch, and else by its number.)
    """

    epoch: int = 0
    repeats: bool = False

    def __len__(self) -> int:
        """Samples per epoch."""
        raise NotImplementedError

    def indices(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """The numbers of the samples at positions `start` to `stop - 1` of an epoch. Not to be written to."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """The next iteration goes through this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        return self._walk(epoch)

    def _walk(self, epoch: int) -> Iterator[int]:
        for start in range(0, len(self), _STRETCH):
            yield from self.indices(epoch, start, min(start + _STRETCH, len(self))).tolist()


class SequentialSampler(Sampler):
    """All samples, in the order of their numbers."""

    def __init__(self, data_source: Sized) -> None:
        self._size = len(data_source)

    def __len__(self) -> int:
        return self._size

    def indices(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:  # noqa: ARG002
        return np.arange(start, stop, dtype=np.int64)

    def __repr__(self) -> str:
        return f"SequentialSampler({self._size})"


class RandomSampler(Sampler):
    """All samples, in a new order every epoch; or `num_samples` of them, or that many draws with replacement.

    It costs no memory and no time to start, however many samples there are.

    Args:
        data_source: what has the samples: only its length is looked at.
        replacement: draw every sample afresh, so that one can come twice.
        num_samples: samples per epoch; all of them by default.
        generator: a seed, or a generator whose `initial_seed()` is taken. Use either this or `seed`.
        seed: decides, with the epoch, what is drawn.
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Any = None,
        *,
        seed: int = 0,
    ) -> None:
        self._size = len(data_source)
        if self._size == 0:
            raise ValueError("RandomSampler: there is nothing to draw from, data_source is empty")
        self._num_samples = self._size if num_samples is None else whole("num_samples", num_samples, least=1)
        self.repeats = bool(replacement)
        if not replacement and self._num_samples > self._size:
            raise ValueError(
                f"num_samples is {self._num_samples}, but there are {self._size} samples: draw with replacement=True"
            )
        self._seed = seed_of(generator, seed)
        self._order: tuple[int, Permutation] | None = None

    def __len__(self) -> int:
        return self._num_samples

    def indices(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        if self.repeats:
            words = random_words(stop - start, seed=self._seed, epoch=epoch, purpose=_REPLACEMENT, start=start)
            return (words % np.uint64(self._size)).view(np.int64)
        order = self._order
        if order is None or order[0] != epoch:
            order = self._order = (epoch, Permutation(self._size, seed=self._seed, epoch=epoch))
        return order[1].slice(start, stop)

    def __repr__(self) -> str:
        return (
            f"RandomSampler({self._size}, replacement={self.repeats}, num_samples={self._num_samples}, "
            f"seed={self._seed})"
        )


class SubsetRandomSampler(Sampler):
    """These samples, in a new order every epoch."""

    def __init__(self, indices: Sequence[int] | NDArray[np.integer], generator: Any = None, *, seed: int = 0) -> None:
        self._chosen = np.array(indices, dtype=np.int64).reshape(-1)
        self._shuffled = RandomSampler(self._chosen, generator=generator, seed=seed)
        self.repeats = len(np.unique(self._chosen)) < len(self._chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    def indices(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        return self._chosen[self._shuffled.indices(epoch, start, stop)]

    def __repr__(self) -> str:
        return f"SubsetRandomSampler({_digest(self._chosen)}, {self._shuffled!r})"


class WeightedRandomSampler(Sampler):
    """Draws in which a sample is as likely as its weight says.

    Args:
        weights: one per sample, not negative, of any sum.
        num_samples: draws per epoch.
        replacement: without it, a sample comes once at most, and the heavy ones come first (Efraimidis and Spirakis,
            "Weighted random sampling with a reservoir", 2006).
        generator: a seed, or a generator whose `initial_seed()` is taken. Use either this or `seed`.
        seed: decides, with the epoch, what is drawn.

    Raises:
        ValueError: a weight is negative or not finite, all are zero, or fewer than `num_samples` are positive and there
            is no replacement.
    """

    def __init__(
        self,
        weights: Sequence[float] | NDArray[Any],
        num_samples: int,
        replacement: bool = True,
        generator: Any = None,
        *,
        seed: int = 0,
    ) -> None:
        self._weights = np.array(weights, dtype=np.float64)
        if self._weights.ndim != 1:
            raise ValueError(f"weights must be a sequence of numbers, got an array of shape {self._weights.shape}")
        if not np.isfinite(self._weights).all() or (self._weights < 0).any() or not self._weights.any():
            raise ValueError("weights must be finite and not negative, and one of them positive")
        self._num_samples = whole("num_samples", num_samples, least=1)
        self.repeats = bool(replacement)
        positive = int(np.count_nonzero(self._weights))
        if not replacement and positive < self._num_samples:
            raise ValueError(f"{self._num_samples} samples without replacement, but only {positive} positive weights")
        self._seed = seed_of(generator, seed)
        self._sums = np.cumsum(self._weights)
        self._last = np.int64(np.flatnonzero(self._weights)[-1])
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return self._num_samples

    def indices(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        if not self.repeats:
            order = self._order
            if order is None or order[0] != epoch:
                order = self._order = (epoch, self._drawn_once(epoch))
            return order[1][start:stop]
        draws = self._uniform(epoch, start, stop) * self._sums[-1]
        found: NDArray[np.int64] = np.searchsorted(self._sums, draws, side="right").astype(np.int64)
        return np.minimum(found, self._last, out=found)  # u * total may round up to total

    def _drawn_once(self, epoch: int) -> NDArray[np.int64]:
        uniform = 1.0 - self._uniform(epoch, 0, len(self._weights))
        keys = np.full(len(self._weights), np.inf)
        np.divide(-np.log(uniform), self._weights, out=keys, where=self._weights > 0)
        order: NDArray[np.int64] = np.argsort(keys, kind="stable")[: self._num_samples]
        return order

    def _uniform(self, epoch: int, start: int, stop: int) -> NDArray[np.float64]:
        """Numbers in [0, 1), of 53 random bits each."""
        words = random_words(stop - start, seed=self._seed, epoch=epoch, purpose=_WEIGHTED, start=start)
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def __repr__(self) -> str:
        return (
            f"WeightedRandomSampler({_digest(self._weights)}, num_samples={self._num_samples}, "
            f"replacement={self.repeats}, seed={self._seed})"
        )


class DistributedSampler(Sampler):
    """The share of one of `num_replicas` processes, for scripts that are not (yet) elastic.

    An elastic run needs none, and refuses nothing worse than a wrong result: `DataLoader(batch_size=all together)` and
    `step.shards` deal the work, and keep the numbers the same whatever the number of workers, which a share per rank
    cannot.

    Args:
        dataset: what has the samples: only its length is looked at.
        num_replicas: how many processes there are.
        rank: which one this is, from 0.
        shuffle: a new order every epoch.
        seed: decides the order; to be the same everywhere.
        drop_last: leave out the samples that do not go round; else the first ones come a second time.
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int,
        rank: int,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        self._replicas = whole("num_replicas", num_replicas, least=1)
        self._rank = whole("rank", rank)
        if not 0 <= self._rank < self._replicas:
            raise ValueError(f"rank must be from 0 to {self._replicas - 1}, got {rank}")
        self._size = len(dataset)
        self._shuffle = bool(shuffle)
        self._seed = whole("seed", seed)
        self._share = self._size // self._replicas if drop_last else -(-self._size // self._replicas)

    def __len__(self) -> int:
        return self._share

    def __iter__(self) -> Iterator[int]:
        return self._walk(self.epoch)  # as PyTorch's: the epoch moves by set_epoch alone

    def indices(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        positions = (np.arange(start, stop, dtype=np.int64) * self._replicas + self._rank) % max(self._size, 1)
        return Permutation(self._size, seed=self._seed, epoch=epoch)(positions) if self._shuffle else positions

    def __repr__(self) -> str:
        return (
            f"DistributedSampler({self._share} of {self._size}, num_replicas={self._replicas}, rank={self._rank}, "
            f"shuffle={self._shuffle}, seed={self._seed})"
        )


class BatchSampler:
    """Cuts what a sampler gives into lists of `batch_size` numbers."""

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool = False) -> None:
        self.sampler = sampler
        self.batch_size = whole("batch_size", batch_size, least=1)
        self.drop_last = bool(drop_last)

    def __len__(self) -> int:
        whole_batches, rest = divmod(len(self.sampler), self.batch_size)
        return whole_batches if self.drop_last or not rest else whole_batches + 1

    def set_epoch(self, epoch: int) -> None:
        """The next iteration goes through this epoch."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        for index in self.sampler:
            batch.append(int(index))
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch and not self.drop_last:
            yield batch

    def __repr__(self) -> str:
        return f"BatchSampler({self.sampler!r}, batch_size={self.batch_size}, drop_last={self.drop_last})"


def whole(name: str, value: object, *, least: int | None = None) -> int:
    """`value` as an int; a sentence when it is none, or smaller than `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def seed_of(generator: Any, seed: object) -> int:
    """The seed that a `generator` argument stands for: a number itself, or something with `initial_seed()`."""
    if generator is None:
        return whole("seed", seed)
    return whole("generator", generator.initial_seed() if hasattr(generator, "initial_seed") else generator)


def describe(value: Any) -> str:
    """Its `repr`, or its type's name where that is an address, which would be another one in every process."""
    kind: Any = type(value)
    return repr(value) if kind.__repr__ is not object.__repr__ else str(kind.__qualname__)


def _digest(values: NDArray[Any]) -> str:
    """A word that tells two arrays apart in a `repr`, which is part of what a resumed run is checked by."""
    import hashlib

    return f"{len(values)} of {hashlib.sha256(values.tobytes()).hexdigest()[:12]}"
