"""What `fit`, `evaluate` and `predict` take, made into a loader."""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.data import DataLoader, TensorDataset
from cordee.trainer.tensors import Tensor

__all__ = ["as_loader", "split_off"]


def as_loader(
    x: Any, y: Any = None, *, batch_size: int, shuffle: bool = False, shards: int = 8, seed: int = 0
) -> DataLoader:
    """A loader over arrays, or over a dataset; a loader stays what it is.

    Raises:
        ValueError: inputs and targets have different lengths, or there is nothing in them.
        TypeError: targets beside a dataset that has its own.
    """
    if isinstance(x, DataLoader):
        _refuse_targets(y, "DataLoader")
        return x
    if _is_dataset(x):
        _refuse_targets(y, "dataset")
        dataset = x
    else:
        dataset = _arrays(x, y)
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, shards=shards, seed=seed)


def split_off(x: Any, y: Any, fraction: float) -> tuple[Any, Any, Any]:
    """Inputs and targets without their last part, and that part as `(x, y)`.

    Raises:
        ValueError: the fraction leaves nothing on one side, or the data is no arrays.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"validation_split must be between 0 and 1, not {fraction}")
    if isinstance(x, DataLoader) or _is_dataset(x):
        raise ValueError("validation_split is for arrays: split the dataset by data.random_split, give validation_data")
    size = len(_first(x))
    kept = size - int(size * fraction)
    if kept in (0, size):
        raise ValueError(f"validation_split={fraction} of {size} samples leaves nothing on one side")

    def cut(value: Any, part: slice) -> Any:
        if isinstance(value, tuple):
            return tuple(cut(one, part) for one in value)
        return None if value is None else value[part]

    head, tail = slice(None, kept), slice(kept, None)
    return cut(x, head), cut(y, head), (cut(x, tail), cut(y, tail))


def _first(x: Any) -> Any:
    return x[0] if isinstance(x, tuple) else x


def _is_dataset(x: Any) -> bool:
    return not isinstance(x, (tuple, list, np.ndarray, Tensor)) and not hasattr(x, "__array__")


def _refuse_targets(y: Any, what: str) -> None:
    if y is not None:
        raise TypeError(f"y is for arrays: a {what} gives the targets itself")


def _arrays(x: Any, y: Any) -> TensorDataset:
    fields = [*(x if isinstance(x, tuple) else [x]), *([] if y is None else [y])]
    arrays = [value if isinstance(value, Tensor) else np.asarray(value) for value in fields]
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        names = [f"input {i}" for i in range(len(arrays) - (y is not None))] + ["targets"]
        listed = ", ".join(f"{name} {length}" for name, length in zip(names, lengths, strict=False))
        raise ValueError(f"inputs and targets must have as many samples as each other: {listed}")
    if not lengths[0]:
        raise ValueError("there are no samples")
    return TensorDataset(*arrays)
