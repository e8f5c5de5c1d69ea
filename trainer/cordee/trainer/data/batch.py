"""What a loader hands out: the fields of some samples, each with the samples along its first axis."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cordee.trainer.tensors import Tensor

__all__ = ["Batch", "Indices", "map_leaves"]

Indices: TypeAlias = "NDArray[np.int64] | range"
"""Numbers of samples; of a stream, a range of positions."""


class Batch:
    """The fields of a number of samples, as tensors: `x, y = batch`, or `batch.x` and `batch.y`, or `batch[0]`.

    Samples that are dicts give a batch with names: `batch["image"]`, `batch.items()`, `model(**batch)`; iterating goes
    over the names then, as over a dict's. Else iterating and indexing go over the *fields*. `len(batch)` is the number
    of *samples*, which is what a loss is weighted by.

    Args:
        fields: the fields, in order or by name. A field is a tensor; or, where samples hold such things, a list of
            strings, or a tuple, list or dict of fields.
        num_samples: how many samples these are; what the first field has along its first axis by default.
        indices: the numbers of the samples, written down where they were read (in a data worker, if that is where):
            what the dataset was asked for, in order. Of a stream, the positions in the epoch that were read. None: the
            batch does not come from a loader. They are not to be written to.
    """

    __slots__ = ("_named", "fields", "indices", "num_samples")

    def __init__(
        self,
        fields: Sequence[Any] | Mapping[str, Any],
        num_samples: int | None = None,
        indices: Indices | None = None,
    ) -> None:
        if not fields:
            raise ValueError("a batch has at least one field")
        self._named: dict[str, Any] | None = None
        if type(fields) is not list and isinstance(fields, Mapping):
            self._named = dict(fields)
            fields = list(fields.values())
        self.fields: tuple[Any, ...] = tuple(fields)
        self.num_samples: int = int(self.fields[0].shape[0]) if num_samples is None else num_samples
        self.indices = indices

    @property
    def x(self) -> Tensor:
        """The field of that name, or else the first one: the inputs."""
        if self._named is not None and "x" in self._named:
            return self._named["x"]  # type: ignore[no-any-return]
        return self.fields[0]  # type: ignore[no-any-return]

    @property
    def y(self) -> Tensor:
        """The field of that name, or else the second one: the targets."""
        if self._named is not None and "y" in self._named:
            return self._named["y"]  # type: ignore[no-any-return]
        if len(self.fields) < 2:
            raise AttributeError("this batch has one field alone, x: its dataset gives no second one")
        return self.fields[1]  # type: ignore[no-any-return]

    def keys(self) -> KeysView[str]:
        """The names of the fields, of a batch that has names."""
        return self._names().keys()

    def values(self) -> ValuesView[Any]:
        """The fields of a batch that has names."""
        return self._names().values()

    def items(self) -> ItemsView[str, Any]:
        """Names and fields, of a batch that has names."""
        return self._names().items()

    def _names(self) -> dict[str, Any]:
        if self._named is None:
            raise TypeError("the fields of this batch have no names: its samples are tuples, not dicts")
        return self._named

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fields if self._named is None else self._named)

    def __contains__(self, name: object) -> bool:
        return name in (self.fields if self._named is None else self._named)

    def __getitem__(self, index: int | str) -> Any:
        return self._names()[index] if isinstance(index, str) else self.fields[index]

    def __len__(self) -> int:
        return self.num_samples

    def __repr__(self) -> str:
        names = [""] * len(self.fields) if self._named is None else [f"{name}: " for name in self._named]
        fields = [name + _describe(field) for name, field in zip(names, self.fields, strict=True)]
        return f"Batch({', '.join(fields)})"


def _describe(field: Any) -> str:
    return f"{field.dtype}{list(field.shape)}" if isinstance(field, Tensor) else type(field).__name__


def map_leaves(function: Callable[[Any], Any], structure: Any) -> Any:
    """`structure` with `function` applied to all that is no dict, list or tuple in it."""
    if isinstance(structure, Mapping):
        return {key: map_leaves(function, value) for key, value in structure.items()}
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(map_leaves(function, value) for value in structure))
    if isinstance(structure, (tuple, list)):
        return type(structure)([map_leaves(function, value) for value in structure])
    return function(structure)
