"""Where samples come from: anything with a length and an index, or arrays that give many samples at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cordee.trainer.tensors import Tensor

__all__ = ["BatchedDataset", "Dataset", "Subset", "TensorDataset"]


class Dataset(Protocol):
    """Samples by number. A sample is a tuple of fields (arrays, tensors or numbers), or a single field.

    The same number must always give the same sample: after a loss, a step is done again by another worker. A list is a
    dataset too; a subclass need not call anything of this class.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class BatchedDataset(Protocol):
    """A dataset that gives many samples at once, which spares a Python call per sample."""

    def __len__(self) -> int: ...

    def fetch(self, indices: NDArray[np.int64]) -> tuple[Any, ...]:
        """The fields of these samples, stacked along a new first axis."""
        ...


class TensorDataset:
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

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(Tensor(array[index]) for array in self.arrays)

    def fetch(self, indices: NDArray[np.int64]) -> tuple[Any, ...]:
        return tuple(array.take(indices, axis=0) for array in self.arrays)


class Subset:
    """Some samples of another dataset, by number, in this order."""

    def __init__(self, dataset: Dataset | BatchedDataset, indices: Sequence[int] | NDArray[np.integer[Any]]) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        size = len(dataset)
        wrong = self.indices[(self.indices < -size) | (self.indices >= size)]
        if wrong.size:
            raise IndexError(f"index {wrong[0]} is out of range for a dataset of {size} samples")
        self.indices[self.indices < 0] += size

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[index])]  # type: ignore[index]

    def fetch(self, indices: NDArray[np.int64]) -> tuple[Any, ...]:
        from cordee.trainer.data.collate import gather

        return gather(self.dataset, self.indices[indices], None)


def _as_array(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.data
    return values if hasattr(values, "take") and hasattr(values, "dtype") else np.asarray(values)
