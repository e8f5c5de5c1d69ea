"""The loader: global batches, each cut into a fixed number of logical shards.

`batch_size` is the size of the *global* batch: all samples of one step, whoever computes them. Shard `s` of a batch of
`n` samples is its samples `[s * n // shards, (s + 1) * n // shards)`: contiguous, sizes at most one apart, decided by
nothing but `n` and `shards`. So the sums over shards never depend on the number of workers. What a step reads is a
function of `(seed, epoch, index, shard)`: nothing is consumed, so doing a step again reads the same samples, and
resuming needs no state of the loader.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cordee.trainer.array import as_array
from cordee.trainer.data.batch import Batch
from cordee.trainer.data.collate import CollateFunction, gather
from cordee.trainer.data.dataset import BatchedDataset, Dataset
from cordee.trainer.data.sampler import epoch_order
from cordee.trainer.tensors import Tensor

__all__ = ["DataLoader"]


class DataLoader:
    """Goes through a dataset in global batches; `len(loader)` is the number of steps per epoch.

    Args:
        dataset: anything with `len()` and an index; a `fetch` method (as `TensorDataset` has) is used when there is
        one.
        batch_size: samples per global batch.
        shuffle: visit the samples in a new order every epoch, decided by `seed` and the epoch's number.
        shards: how many logical shards a global batch is cut into. It is part of what decides the weights, the number
        of
            workers is not; so choose at least the largest number of workers, and leave it.
        seed: decides the order.
        drop_last: leave out the last batch of an epoch when it is smaller than the others.
        collate_fn: makes a tuple of stacked arrays of a list of samples.
    """

    def __init__(
        self,
        dataset: Dataset | BatchedDataset,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        shards: int = 8,
        seed: int = 0,
        drop_last: bool = False,
        collate_fn: CollateFunction | None = None,
    ) -> None:
        self.batch_size = _whole("batch_size", batch_size, least=1)
        self.num_shards = _whole("shards", shards, least=1)
        self.seed = _whole("seed", seed)
        try:
            self.num_dataset_samples = len(dataset)
        except TypeError as error:
            raise TypeError(
                f"dataset must have a length and an index; {type(dataset).__name__} has no length"
            ) from error
        if self.num_dataset_samples == 0:
            raise ValueError("dataset is empty: there is nothing to load")
        if drop_last and self.num_dataset_samples < batch_size:
            raise ValueError(
                f"drop_last leaves nothing: dataset has {self.num_dataset_samples} samples, batch_size is {batch_size}"
            )
        self.dataset = dataset
        self.shuffle = bool(shuffle)
        self.drop_last = bool(drop_last)
        self.collate_fn = collate_fn
        self.epoch = 0
        """The epoch that the next plain iteration (`for x, y in loader`) goes through; each one moves it on."""
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        """Steps per epoch."""
        whole, rest = divmod(self.num_dataset_samples, self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    @property
    def samples_per_epoch(self) -> int:
        return min(len(self) * self.batch_size, self.num_dataset_samples)

    def num_samples(self, index: int) -> int:
        """How many samples the global batch `index` has; the same in every epoch."""
        self._check_index(index)
        return min(self.batch_size, self.num_dataset_samples - index * self.batch_size)

    def shard_bounds(self, index: int, shard: int) -> tuple[int, int]:
        """Where in the global batch `index` this shard lies: `[start, stop)`."""
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"no shard {shard}: a global batch has {self.num_shards}, counted from 0")
        count = self.num_samples(index)
        return shard * count // self.num_shards, (shard + 1) * count // self.num_shards

    def batch_indices(self, epoch: int, index: int) -> NDArray[np.int64]:
        """The numbers of the samples of a global batch, in order."""
        start = index * self.batch_size
        return self._epoch_order(epoch)[start : start + self.num_samples(index)]

    def batch(self, epoch: int, index: int) -> Batch:
        """A whole global batch."""
        return self._load(self.batch_indices(epoch, index))

    def shard_batch(self, epoch: int, index: int, shard: int) -> Batch | None:
        """One shard of a global batch; None when the batch has too few samples to give this shard one."""
        start, stop = self.shard_bounds(index, shard)
        if start == stop:
            return None
        return self._load(self.batch_indices(epoch, index)[start:stop])

    def __iter__(self) -> Iterator[Batch]:
        """One epoch of whole global batches."""
        epoch = self.epoch
        self.epoch += 1
        return (self.batch(epoch, index) for index in range(len(self)))

    def _load(self, indices: NDArray[np.int64]) -> Batch:
        batch = Batch([_as_tensor(field) for field in gather(self.dataset, indices, self.collate_fn)])
        if len(batch) != len(indices):
            raise ValueError(
                f"collate_fn (or the dataset's fetch) gave {len(batch)} samples where {len(indices)} were asked for"
            )
        return batch

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        """The order of an epoch. The last one is kept: one epoch is read at a time."""
        if self._order is None or self._order[0] != (epoch if self.shuffle else 0):
            if self.shuffle:
                self._order = (epoch, epoch_order(self.num_dataset_samples, seed=self.seed, epoch=epoch))
            else:
                self._order = (0, np.arange(self.num_dataset_samples, dtype=np.int64))
        return self._order[1]

    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"no batch {index}: an epoch has {len(self)}, counted from 0")

    def __repr__(self) -> str:
        return (
            f"DataLoader({self.num_dataset_samples} samples, batch_size={self.batch_size}, shuffle={self.shuffle}, "
            f"shards={self.num_shards}, seed={self.seed}, drop_last={self.drop_last})"
        )


def _as_tensor(values: object) -> Tensor:
    return values if isinstance(values, Tensor) else Tensor(as_array(values))


def _whole(name: str, value: object, *, least: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)
