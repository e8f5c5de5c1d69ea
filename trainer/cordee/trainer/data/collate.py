"""From samples to a batch: every field stacked along a new first axis.

Stacking happens where the samples are loaded, which may be another process, so it is done on host arrays; they become
tensors on the device where the batch is handed out. One thing differs from PyTorch: Python's floats become the default
floating type, not float64, because that is what a model computes in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cordee.trainer.array import as_array, default_dtype, to_numpy
from cordee.trainer.data.batch import map_leaves
from cordee.trainer.tensors import Tensor

__all__ = ["AsItIs", "CollateFunction", "default_collate", "default_convert", "pad_collate", "stack"]

CollateFunction = Callable[[list[Any]], Any]
"""Turns a list of samples into what a batch holds: a tuple, list or dict of arrays or tensors, or a single one."""


def default_collate(batch: Sequence[Any]) -> Any:
    """Stacks samples into tensors, through dicts, lists, tuples and named tuples; strings stay a list.

    Raises:
        ValueError: the samples differ in their fields or in the shape of one; the sentence says which.
        TypeError: a field is nothing that can be stacked.
    """
    return default_convert(stack(batch))


def default_convert(data: Any) -> Any:
    """Makes tensors of the arrays in `data`, through dicts, lists and tuples; leaves everything else as it is."""
    return map_leaves(_as_tensor, data)


def _as_tensor(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value
    return Tensor(as_array(value)) if hasattr(value, "dtype") and _is_numeric(value.dtype) else value


def stack(samples: Sequence[Any]) -> Any:
    """As `default_collate`, but of host arrays. Arrays keep their type; Python's integers become int64."""
    if not samples:
        raise ValueError("there are no samples to stack")
    return _stack(samples, "the samples")


def _stack(values: Sequence[Any], where: str) -> Any:
    first = values[0]
    kind = type(first)
    if kind is float or kind is int or kind is bool or kind is complex:
        return _stack_numbers(values, where)
    if hasattr(first, "dtype"):
        return _stack_arrays(values, where)
    if isinstance(first, (str, bytes)):
        return list(values)
    if isinstance(first, Mapping):
        for value in values:
            if value.keys() != first.keys():
                raise ValueError(
                    f"{where} must have the same keys; one has {sorted(map(str, first))}, "
                    f"another {sorted(map(str, value))}"
                )
        return {key: _stack([value[key] for value in values], _inside(where, repr(key))) for key in first}
    if isinstance(first, (tuple, list)):
        for value in values:
            if len(value) != len(first):
                raise ValueError(
                    f"{where} must have the same fields; one has {len(first)} of them, another {len(value)}"
                )
        fields = [_stack(column, _inside(where, index)) for index, column in enumerate(zip(*values, strict=True))]
        if hasattr(first, "_fields"):
            return kind(*fields)
        return tuple(fields) if isinstance(first, tuple) else fields
    raise TypeError(f"{where} cannot be stacked: {kind.__name__} is no number, array or text; give a collate_fn")


def _stack_numbers(values: Sequence[Any], where: str) -> NDArray[Any]:
    try:
        array = np.array(values)
    except ValueError as error:
        raise _differ(values, where) from error
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{where}: not all of them are numbers; give a collate_fn")
    if array.dtype.kind == "f":
        return array.astype(default_dtype())
    if array.dtype.kind == "c":
        return array.astype(np.complex64 if default_dtype().itemsize <= 4 else np.complex128)
    return array


def _stack_arrays(values: Sequence[Any], where: str) -> NDArray[Any]:
    arrays = [to_numpy(value.data if isinstance(value, Tensor) else value) for value in values]
    if not _is_numeric(arrays[0].dtype):
        raise TypeError(f"{where}: the array is not numeric ({arrays[0].dtype}); convert it in a collate_fn")
    try:
        return np.stack(arrays)
    except ValueError as error:
        raise _differ(arrays, where) from error


def _differ(values: Sequence[Any], where: str) -> ValueError:
    listed = " and ".join(str(shape) for shape in sorted({np.shape(value) for value in values})[:2])
    return ValueError(
        f"{where} has different shapes, such as {listed}; pad them in a collate_fn, as pad_collate() does"
    )


def _inside(where: str, name: object) -> str:
    return f"field {name} of the samples" if where == "the samples" else f"field {name} of {where}"


def _is_numeric(dtype: np.dtype[Any]) -> bool:
    """Numbers and truths, bfloat16 and its like included, which NumPy counts among the records."""
    return dtype.kind in "biufc" or (dtype.kind == "V" and dtype.names is None and dtype.subdtype is None)


class AsItIs:
    """The `collate_fn` of a loader that makes no batches: the one sample is the batch."""

    def __init__(self, function: Callable[[Any], Any] | None) -> None:
        self.function = function

    def __call__(self, samples: Sequence[Any]) -> Any:
        """The sample, put through the user's own function, if there is one."""
        (sample,) = samples
        return sample if self.function is None else self.function(sample)


class pad_collate:  # noqa: N801 (used as a function; a class so that a data worker can be sent it)
    """A `collate_fn` for samples of different lengths: pads every field at its end to the longest one of the batch.

        DataLoader(sentences, 32, collate_fn=data.pad_collate(value=0, lengths=True))

    All axes are padded. What the longest sample is depends on the batch, so in an elastic run on the shard: fine for a
    model that looks at the lengths or at a mask. `multiple_of` rounds widths up.

    Args:
        value: what to pad with.
        multiple_of: padded sizes are multiples of this.
        lengths: adds a last field, an int64 array `(num_samples,)`: how long the first field of every sample was.
    """

    def __init__(self, value: float = 0, *, multiple_of: int = 1, lengths: bool = False) -> None:
        if multiple_of < 1:
            raise ValueError(f"multiple_of must be at least 1, got {multiple_of}")
        self.value = value
        self.multiple_of = multiple_of
        self.lengths = lengths

    def __call__(self, samples: Sequence[Any]) -> Any:
        """The stacked, padded fields of `samples`: of a tuple for tuples, of a dict for dicts."""
        first = samples[0]
        if isinstance(first, Mapping):
            named = {key: self._pad([sample[key] for sample in samples]) for key in first}
            return {**named, "lengths": self._measure(samples, next(iter(first)))} if self.lengths else named
        if isinstance(first, tuple):
            fields = tuple(self._pad(list(column)) for column in zip(*samples, strict=True))
            return (*fields, self._measure(samples, 0)) if self.lengths else fields
        padded = self._pad(samples)
        return (padded, self._measure(samples, None)) if self.lengths else (padded,)

    def _measure(self, samples: Sequence[Any], key: Any) -> NDArray[np.int64]:
        return np.array([len(sample if key is None else sample[key]) for sample in samples], dtype=np.int64)

    def _pad(self, values: Sequence[Any]) -> Any:
        arrays = [to_numpy(value.data if isinstance(value, Tensor) else value) for value in values]
        if arrays[0].ndim == 0 or not _is_numeric(arrays[0].dtype):
            return _stack(values, "the samples")
        if any(array.ndim != arrays[0].ndim for array in arrays):
            raise _differ(arrays, "a field of the samples")
        longest = np.max([array.shape for array in arrays], axis=0)
        shape = (-(-longest // self.multiple_of) * self.multiple_of).tolist()
        dtype = np.result_type(*{array.dtype for array in arrays})
        if dtype == np.float64 and not hasattr(values[0], "dtype"):
            dtype = default_dtype()
        padded = np.full((len(arrays), *shape), self.value, dtype)
        for row, array in zip(padded, arrays, strict=True):
            row[tuple(map(slice, array.shape))] = array
        return padded
