"""What loading a batch is: a task of a few numbers, and the recipe that makes arrays of it, here or in any worker.

The recipe holds the dataset and how to stack; the task says which samples, of which epoch. Nothing else goes in: no
state, no worker's number, no clock. So a task gives the same bits wherever, whenever and however often it is done.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cordee.trainer import random
from cordee.trainer.array import to_numpy
from cordee.trainer.data.batch import Batch, Indices, map_leaves
from cordee.trainer.data.collate import CollateFunction, default_convert, stack
from cordee.trainer.data.dataset import TensorDataset, can_fetch
from cordee.trainer.data.stream import StreamReader
from cordee.trainer.tensors import Tensor

__all__ = ["Fetched", "Recipe", "Task", "hand_out", "sample_rng"]


class Task(NamedTuple):
    """Which samples to load: those numbered `indices`, or the stretch `[start, start + size)` of a stream.

    Draws are keyed by a sample's number; where `by_position`, because a sample may come twice, by its place in the
    epoch, the first of which is `start`.
    """

    epoch: int
    start: int
    size: int
    by_position: bool = False
    indices: NDArray[np.int64] | None = None

    def __str__(self) -> str:
        kind = "positions" if self.indices is None else "the samples at positions"
        return f"{kind} {self.start} to {self.start + self.size - 1} of epoch {self.epoch}"


class Fetched(NamedTuple):
    """Stacked fields in host memory, and which samples they are of: written down here, where these are read."""

    num_samples: int
    fields: Any
    indices: Indices = range(0)


def sample_rng() -> np.random.Generator:
    """The generator for what is drawn at random while a sample is made: an augmentation, a crop.

        def __getitem__(self, index):
            image = self.images[index]
            return image[:, ::-1] if data.sample_rng().random() < 0.5 else image

    Within a loader it is keyed by the loader's seed, the epoch and the sample (its number, or its place in the epoch
    if the sampler may repeat one; its position, in a stream), so what comes out depends neither on the number of data
    workers, nor on shards, nor on who loads it; a second call for the same sample gives the next draw. In a
    `collate_fn`, `__getitems__` or `fetch` it is keyed by where the batch or shard begins. Cordee's own functions
    (`trainer.rand`, …) draw from it, too. Outside a loader it is the next draw of `trainer.manual_seed`'s.
    """
    return random.generator()


@dataclass
class Recipe:
    """Makes stacked host arrays of a task."""

    dataset: Any
    collate_fn: CollateFunction | None
    seed: int
    _readers: threading.local = field(default_factory=threading.local, repr=False)

    def __call__(self, task: Task) -> Fetched:
        if task.indices is not None and self.collate_fn is None and type(self.dataset) is TensorDataset:
            return Fetched(len(task.indices), self.dataset.fetch(task.indices), task.indices)
        with random.data_scope(seed=self.seed, epoch=task.epoch) as place:
            if task.indices is None:
                samples = self._reader().read(task.epoch, task.start, task.size, place)
                indices: Indices = range(task.start, task.start + len(samples))
                if not samples:
                    return Fetched(0, None)
                place.at(random.STREAM_BATCH, task.start)
            elif self.collate_fn is None and can_fetch(self.dataset):
                place.at(random.STREAM_BATCH, task.start)
                return self._fetch(task.indices)
            else:
                samples, indices = self._samples(task, task.indices, place), task.indices
                place.at(random.STREAM_BATCH, task.start)
            if self.collate_fn is not None:
                return Fetched(len(samples), _on_host(self.collate_fn(samples)), indices)
            fields = stack(samples)
            fields = fields if isinstance(samples[0], (Mapping, tuple, list)) else (fields,)
            return Fetched(len(samples), fields, indices)

    def _samples(self, task: Task, indices: NDArray[np.int64], place: random.DataPlace) -> list[Any]:
        dataset, numbers = self.dataset, indices.tolist()
        if hasattr(dataset, "__getitems__"):
            place.at(random.STREAM_BATCH, task.start)
            samples = dataset.__getitems__(numbers)
            if len(samples) != len(numbers):
                raise ValueError(
                    f"{type(dataset).__name__}.__getitems__ gave {len(samples)} samples where {len(numbers)} were "
                    "asked for"
                )
            return list(samples)
        samples = []
        for offset, number in enumerate(numbers):
            place.at(random.STREAM_SAMPLE, task.start + offset if task.by_position else number)
            samples.append(dataset[number])
        return samples

    def _fetch(self, indices: NDArray[np.int64]) -> Fetched:
        fields = self.dataset.fetch(indices)
        first: Any = next(iter(fields.values()) if isinstance(fields, Mapping) else iter(fields))
        if len(first) != len(indices):
            raise ValueError(
                f"{type(self.dataset).__name__}.fetch gave {len(first)} samples where {len(indices)} were asked for"
            )
        return Fetched(len(indices), fields, indices)

    def _reader(self) -> StreamReader:
        """This thread's place in the stream."""
        reader: StreamReader | None = getattr(self._readers, "reader", None)
        if reader is None:
            reader = self._readers.reader = StreamReader(self.dataset)
        return reader

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "collate_fn": self.collate_fn, "seed": self.seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _on_host(fields: Any) -> Any:
    """The fields with the tensors among them as host arrays: they become tensors where the batch is handed out."""
    return map_leaves(lambda value: to_numpy(value.data) if isinstance(value, Tensor) else value, fields)


def hand_out(fetched: Fetched) -> Batch:
    """What was fetched, as tensors."""
    fields = fetched.fields
    if type(fields) is tuple:  # by far the most common
        return Batch([_convert(field) for field in fields], fetched.num_samples, fetched.indices)
    if isinstance(fields, Mapping):
        return Batch(default_convert(fields), fetched.num_samples, fetched.indices)
    if not isinstance(fields, (tuple, list)):
        fields = (fields,)
    return Batch([default_convert(field) for field in fields], fetched.num_samples, fetched.indices)


def _convert(field: Any) -> Any:
    return Tensor(field) if type(field) is np.ndarray and field.dtype.kind in "biufc" else default_convert(field)
