"""From samples to a batch: fetch them, stack every field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cordee.trainer.array import to_numpy
from cordee.trainer.data.dataset import BatchedDataset, Dataset
from cordee.trainer.tensors import Tensor

__all__ = ["CollateFunction", "default_collate", "gather"]

CollateFunction = Callable[[list[Any]], Any]
"""Turns a list of samples into a tuple of arrays (or one array), each with the samples along its first axis."""


def gather(
    dataset: Dataset | BatchedDataset, indices: NDArray[np.int64], collate_fn: CollateFunction | None
) -> tuple[Any, ...]:
    """The stacked fields of these samples."""
    if collate_fn is None and isinstance(dataset, BatchedDataset):
        return dataset.fetch(indices)
    samples = [dataset[index] for index in indices.tolist()]  # type: ignore[index]
    stacked = default_collate(samples) if collate_fn is None else collate_fn(samples)
    return tuple(stacked) if isinstance(stacked, (tuple, list)) else (stacked,)


def default_collate(samples: Sequence[Any]) -> tuple[Any, ...]:
    """Stacks every field of the samples. Python's floats become float32, its integers int64; arrays keep their type."""
    first = samples[0]
    if isinstance(first, dict):
        raise TypeError(
            "a sample is a tuple of fields, not a dict; give the loader a collate_fn that orders the fields"
        )
    if not isinstance(first, (tuple, list)):
        return (_stack(samples, 0),)
    for sample in samples:
        if len(sample) != len(first):
            raise ValueError(
                f"every sample must have the same fields; one has {len(first)} of them, another {len(sample)}"
            )
    return tuple(_stack(values, field) for field, values in enumerate(zip(*samples, strict=True)))


def _stack(values: Sequence[Any], field: int) -> NDArray[Any]:
    arrays = [to_numpy(value.data if isinstance(value, Tensor) else value) for value in values]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        listed = " and ".join(map(str, sorted(shapes)[:2]))
        raise ValueError(
            f"field {field} of the samples has different shapes, such as {listed}; pad them in a collate_fn"
        )
    stacked = np.stack(arrays)
    if stacked.dtype.kind not in "biuf":
        raise TypeError(f"field {field} of the samples is not numeric ({stacked.dtype}); convert it in a collate_fn")
    return stacked.astype(np.float32) if isinstance(values[0], float) else stacked
