"""Where samples come from, by number: the base class, arrays, and parts and sums of other datasets."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cordee.trainer.array import array_module
from cordee.trainer.data.collate import stack
from cordee.trainer.data.order import Permutation
from cordee.trainer.data.sampler import seed_of
from cordee.trainer.tensors import Tensor

__all__ = [
    "BatchedDataset",
    "ConcatDataset",
    "Dataset",
    "MapStyle",
    "MappedDataset",
    "StackDataset",
    "Subset",
    "TensorDataset",
    "can_fetch",
    "fetch",
    "random_split",
]

T_co = TypeVar("T_co", covariant=True)


@runtime_checkable
class MapStyle(Protocol):
    """All that a loader asks of a dataset: a length and an index. So a list is a dataset, too."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class BatchedDataset(Protocol):
    """A dataset that gives many samples at once, which spares a Python call per sample."""

    def __len__(self) -> int: ...

    def fetch(self, indices: NDArray[np.int64]) -> Any:
        """The fields of these samples, stacked along a new first axis, as host arrays: a tuple, or a dict by name."""
        ...


class Dataset(Generic[T_co]):
    """Samples by number: a subclass gives `__len__` and `__getitem__`.

    A sample is a tuple or dict of fields (arrays, tensors, numbers, strings, or such again), or a single field. The
    same number must always give the same sample: after a loss, a step is done again by another worker. What is drawn at
    random comes from `data.sample_rng()`, which makes it so. Nothing of this class needs to be called.

    A `__getitems__(indices)` that gives a list of samples is used where there is one, as in PyTorch; a `fetch(indices)`
    that gives stacked fields spares stacking, too.
    """

    def __getitem__(self, index: int, /) -> T_co:
        raise NotImplementedError(f"{type(self).__name__} is to define __getitem__(index)")

    def __add__(self, other: MapStyle) -> ConcatDataset:
        return ConcatDataset([self, other])  # type: ignore[list-item]


def can_fetch(dataset: object) -> bool:
    """Whether `dataset` gives many samples at once. Parts and sums do when what they are made of does."""
    return bool(getattr(dataset, "fetches", hasattr(dataset, "fetch")))


def fetch(dataset: Any, indices: NDArray[np.int64]) -> Any:
    """The stacked fields of samples of any dataset, as host arrays."""
    return dataset.fetch(indices) if can_fetch(dataset) else stack([dataset[index] for index in indices.tolist()])


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """Arrays or tensors whose first axes count the same samples: sample `i` is `(a[i], b[i], …)`."""

    def __init__(self, *arrays: Any) -> None:
        if not arrays:
            raise ValueError("TensorDataset needs at least one array")
        self.arrays = tuple(_as_array(array) for array in arrays)
        lengths = [len(array) if array.ndim else None for array in self.arrays]
        if None in lengths:
            raise ValueError(
                f"every array of a TensorDataset needs a first axis of samples; array {lengths.index(None)} is a scalar"
            )
        if len(set(lengths)) > 1:
            raise ValueError(
                f"the arrays of a TensorDataset must have equally many samples, got {', '.join(map(str, lengths))}"
            )

    def __repr__(self) -> str:
        arrays = ", ".join(f"{array.dtype.name}{list(array.shape[1:])}" for array in self.arrays)
        return f"TensorDataset({len(self)} samples: {arrays})"

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The arrays as tensors."""
        return tuple(Tensor(array) for array in self.arrays)

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(Tensor(array[index]) for array in self.arrays)

    def fetch(self, indices: NDArray[np.int64]) -> tuple[Any, ...]:
        return tuple(
            array.take(indices if isinstance(array, np.ndarray) else array_module(array).asarray(indices), axis=0)
            for array in self.arrays
        )


class Subset(Dataset[Any]):
    """Some samples of another dataset, by number, in this order."""

    def __init__(self, dataset: MapStyle, indices: Sequence[int] | NDArray[np.integer[Any]]) -> None:
        self.dataset = dataset
        self.indices = np.array(indices, dtype=np.int64).reshape(-1)
        size = len(dataset)
        wrong = self.indices[(self.indices < -size) | (self.indices >= size)]
        if wrong.size:
            raise IndexError(f"index {wrong[0]} is out of range for a dataset of {size} samples")
        self.indices[self.indices < 0] += size

    def __repr__(self) -> str:
        return f"Subset({len(self)} of the {len(self.dataset)} samples of {type(self.dataset).__name__})"

    @property
    def fetches(self) -> bool:
        return can_fetch(self.dataset)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[index])]

    def fetch(self, indices: NDArray[np.int64]) -> Any:
        return fetch(self.dataset, self.indices[indices])


class ConcatDataset(Dataset[Any]):
    """The samples of several datasets, one dataset after the other."""

    def __init__(self, datasets: Iterable[MapStyle]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset needs at least one dataset")
        self.cumulative_sizes = list(accumulate(_length(dataset, "ConcatDataset") for dataset in self.datasets))

    @property
    def fetches(self) -> bool:
        return all(can_fetch(dataset) for dataset in self.datasets)

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: int) -> Any:
        place = _from_start(index, len(self))
        part = bisect_right(self.cumulative_sizes, place)
        return self.datasets[part][place - (self.cumulative_sizes[part - 1] if part else 0)]

    def fetch(self, indices: NDArray[np.int64]) -> Any:
        parts = np.searchsorted(self.cumulative_sizes, indices, side="right")
        found = np.unique(parts).tolist()
        starts = [0, *self.cumulative_sizes]
        if len(found) == 1:
            return fetch(self.datasets[found[0]], indices - starts[found[0]])
        places = [np.flatnonzero(parts == part) for part in found]
        pieces = [
            fetch(self.datasets[part], indices[at] - starts[part]) for part, at in zip(found, places, strict=True)
        ]
        back = np.argsort(np.concatenate(places), kind="stable")
        return _merge(pieces, back)


class StackDataset(Dataset[Any]):
    """Several datasets side by side: sample `i` is `(a[i], b[i], …)`, or `{"a": a[i], …}` when given by name."""

    def __init__(self, *args: MapStyle, **kwargs: MapStyle) -> None:
        if bool(args) == bool(kwargs):
            raise ValueError("StackDataset needs datasets, either all in order or all by name")
        self.datasets: tuple[MapStyle, ...] | dict[str, MapStyle] = args or kwargs
        lengths = {_length(dataset, "StackDataset") for dataset in args or kwargs.values()}
        if len(lengths) > 1:
            raise ValueError(
                f"the datasets of a StackDataset must have equally many samples, got {', '.join(map(str, lengths))}"
            )
        self._length = lengths.pop()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.datasets, dict):
            return {name: dataset[index] for name, dataset in self.datasets.items()}
        return tuple(dataset[index] for dataset in self.datasets)


class MappedDataset(Dataset[Any]):
    """The samples of another dataset, each put through `function`: an augmentation, a choice of fields.

        train = MappedDataset(images, lambda sample: (flip(sample[0]), sample[1]))

    `function` gets the sample as the dataset gives it. What it draws comes from `data.sample_rng()`. (A lambda cannot
    be sent to data workers that are processes; a function of a module can.)
    """

    def __init__(self, dataset: MapStyle, function: Callable[[Any], Any]) -> None:
        self.dataset = dataset
        self.function = function

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.function(self.dataset[index])


def random_split(dataset: MapStyle, lengths: Sequence[float], generator: Any = None, *, seed: int = 0) -> list[Subset]:
    """Deals the samples at random into parts that do not overlap.

    Args:
        dataset: what is dealt out.
        lengths: how many samples each part gets; or fractions that sum to 1 (what rounding leaves goes to the first
            parts, one each).
        generator: a seed, or a generator whose `initial_seed()` is taken. Use either this or `seed`.
        seed: decides the parts. It defaults to 0, so the parts are the same in every run and on every worker.

    Raises:
        ValueError: the lengths do not sum to the size of the dataset, nor to 1.
    """
    size = len(dataset)
    if not lengths or any(length < 0 for length in lengths):
        raise ValueError(f"random_split needs lengths that are not negative, got {list(lengths)}")
    counts: list[int]
    if any(isinstance(length, float) for length in lengths) and abs(sum(lengths) - 1) < 1e-6:
        counts = [int(size * length) for length in lengths]
        for part in range(size - sum(counts)):
            counts[part % len(counts)] += 1
    else:
        counts = [int(length) for length in lengths]
        if sum(counts) != size or counts != list(lengths):
            raise ValueError(
                f"lengths must be whole numbers that sum to {size}, the size of the dataset, or fractions that sum "
                f"to 1; got {list(lengths)}"
            )
    order = Permutation(size, seed=seed_of(generator, seed), purpose=_SPLIT)(np.arange(size))
    ends = list(accumulate(counts))
    return [Subset(dataset, order[end - count : end]) for count, end in zip(counts, ends, strict=True)]


_SPLIT = 3  # a purpose of its own: an order of the same seed has nothing to do with the split


def _merge(pieces: list[Any], back: NDArray[np.int64]) -> Any:
    """The fields of several fetches in one, its samples put in the order `back`."""
    first = pieces[0]
    if isinstance(first, Mapping):
        return {key: _merge([piece[key] for piece in pieces], back) for key in first}
    if isinstance(first, tuple):
        return tuple(_merge(list(column), back) for column in zip(*pieces, strict=True))
    return np.concatenate(pieces)[back]


def _length(dataset: Any, name: str) -> int:
    try:
        return len(dataset)
    except TypeError as error:
        raise TypeError(f"{name} needs datasets with a length; {type(dataset).__name__} has none") from error


def _from_start(index: int, size: int) -> int:
    if not -size <= index < size:
        raise IndexError(f"index {index} is out of range for a dataset of {size} samples")
    return index % size


def _as_array(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.data
    return values if hasattr(values, "take") and hasattr(values, "dtype") else np.asarray(values)
