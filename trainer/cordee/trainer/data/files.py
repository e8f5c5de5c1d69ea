"""Datasets that stay in their files: arrays and tokens that are mapped into memory, so that only what is looked at is
read, all data workers share the pages, and starting takes no time, however large the files are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cordee.trainer.data.dataset import Dataset
from cordee.trainer.data.sampler import whole

__all__ = ["MemmapDataset", "TokenDataset"]

PathLike: TypeAlias = "str | os.PathLike[str]"


class MemmapDataset(Dataset[tuple[Any, ...]]):
    """Arrays in `.npy` files whose first axes count the same samples: sample `i` is `(a[i], b[i], …)`.

        MemmapDataset("images.npy", "labels.npy")
        MemmapDataset("images", "labels")           # folders of .npy parts, in the order of their names

    Args:
        paths: one per field: a file, or a folder of parts, which count as one array.

    Raises:
        FileNotFoundError: there is no such file, or no part in a folder.
        ValueError: fields differ in their number of samples, or parts in the shape or type of a sample.
    """

    def __init__(self, *paths: PathLike) -> None:
        if not paths:
            raise ValueError("MemmapDataset needs at least one file or folder")
        self._fields = [_Parts(Path(path)) for path in paths]
        lengths = {len(field) for field in self._fields}
        if len(lengths) > 1:
            told = ", ".join(f"{path} {len(field)}" for path, field in zip(paths, self._fields, strict=True))
            raise ValueError(f"the files of a MemmapDataset must have equally many samples: {told}")

    def __len__(self) -> int:
        return len(self._fields[0])

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for a dataset of {len(self)} samples")
        return tuple(array[0] for array in self.fetch(np.array([index % len(self)])))

    def fetch(self, indices: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        return tuple(field.take(indices) for field in self._fields)


class _Parts:
    """One array in one or several files."""

    def __init__(self, path: Path) -> None:
        files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"there is no .npy file in {path}")
        self._parts = [np.load(file, mmap_mode="r", allow_pickle=False) for file in files]
        for file, part in zip(files, self._parts, strict=True):
            if part.ndim == 0:
                raise ValueError(f"{file} holds a scalar, where a first axis of samples is needed")
            if part.shape[1:] != self._parts[0].shape[1:] or part.dtype != self._parts[0].dtype:
                raise ValueError(
                    f"{file} has samples of {part.dtype} {part.shape[1:]}, {files[0]} of {self._parts[0].dtype} "
                    f"{self._parts[0].shape[1:]}"
                )
        self._ends = np.cumsum([len(part) for part in self._parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        if len(self._parts) == 1:
            return np.asarray(self._parts[0].take(indices, axis=0))
        taken = np.empty((len(indices), *self._parts[0].shape[1:]), self._parts[0].dtype)
        places = np.searchsorted(self._ends, indices, side="right")
        for number in np.unique(places).tolist():
            mine = places == number
            part = self._parts[number]
            taken[mine] = part.take(indices[mine] - (self._ends[number] - len(part)), axis=0)
        return taken


class TokenDataset(Dataset[tuple[Any, ...]]):
    """Windows of a long text of tokens, for language models: `x` is `context` tokens, `y` the same shifted by one.

        dataset = TokenDataset("train.bin", context=256)                    # one after the other, without overlap
        dataset = TokenDataset("train.bin", context=256, stride=1)          # every window there is
        sampler = RandomSampler(dataset, num_samples=100_000)               # so many of them per epoch, at random
        loader = DataLoader(dataset, 64, sampler=sampler, shards=8)

    Args:
        tokens: a file of raw numbers (as nanoGPT's `.bin`), a `.npy` file, or an array of shape `(num_tokens,)`.
        context: tokens per window.
        stride: how far the next window begins after the last one; `context` by default.
        dtype: the type of the numbers in a raw file, uint16 by default.

    Samples are int64 arrays `(context,)`, `(context,)`. Tokens after the last whole window are left out.

    Raises:
        ValueError: there are not enough tokens for one window, or the file's size does not fit `dtype`.
    """

    def __init__(
        self,
        tokens: PathLike | NDArray[Any] | Sequence[int],
        context: int,
        *,
        stride: int | None = None,
        dtype: DTypeLike = np.uint16,
    ) -> None:
        self.tokens = _tokens(tokens, np.dtype(dtype))
        self.context = whole("context", context, least=1)
        self.stride = self.context if stride is None else whole("stride", stride, least=1)
        spare = len(self.tokens) - self.context - 1
        if spare < 0:
            raise ValueError(
                f"{len(self.tokens)} tokens are not enough for a window of {self.context} and the one that follows it"
            )
        self._length = spare // self.stride + 1
        self._offsets = np.arange(self.context + 1)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for a dataset of {len(self)} windows")
        x, y = self.fetch(np.array([index % len(self)]))
        return x[0], y[0]

    def fetch(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        windows = np.asarray(self.tokens[(indices * self.stride)[:, None] + self._offsets]).astype(np.int64)
        return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])


def _tokens(tokens: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    if isinstance(tokens, (str, os.PathLike)):
        path = Path(tokens)
        if path.suffix == ".npy":
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            size = path.stat().st_size
            if size == 0 or size % dtype.itemsize:
                raise ValueError(f"{path} has {size} bytes, which is no number of {dtype.name}s; is dtype right?")
            tokens = np.memmap(path, dtype, "r")
    array: NDArray[Any] = np.asanyarray(tokens)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"tokens must be whole numbers in one dimension, got {array.dtype} of shape {array.shape}")
    return array
