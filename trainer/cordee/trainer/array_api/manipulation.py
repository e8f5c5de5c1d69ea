"""Shapes, by the array API's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import cordee.trainer as ct
from cordee.trainer.tensors import Tensor

__all__ = [
    "broadcast_arrays", "broadcast_to", "concat", "expand_dims", "flip", "moveaxis", "permute_dims", "repeat",
    "reshape", "roll", "squeeze", "stack", "tile", "unstack",
]  # fmt: skip

Axes = int | tuple[int, ...] | None


def _tuple(value: Any) -> tuple[int, ...]:
    return (int(value),) if isinstance(value, int) else tuple(value)


def broadcast_arrays(*arrays: Tensor) -> list[Tensor]:
    """All in their common shape."""
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    return [array.broadcast_to(shape) for array in arrays]


def broadcast_to(x: Tensor, /, shape: tuple[int, ...]) -> Tensor:
    """Repeated along new and single dimensions."""
    return x.broadcast_to(_tuple(shape))


def concat(arrays: Sequence[Tensor], /, *, axis: int | None = 0) -> Tensor:
    """One after the other; axis None: all as vectors."""
    dtype = np.result_type(*(array.dtype for array in arrays))
    parts = [array.to(dtype) for array in arrays]
    return ct.cat([part.reshape(-1) for part in parts], 0) if axis is None else ct.cat(parts, axis)  # type: ignore[no-any-return]


def expand_dims(x: Tensor, /, axis: int | tuple[int, ...] = 0) -> Tensor:
    """New single dimensions, at these places of the result."""
    ndim = x.ndim + len(_tuple(axis))
    for place in sorted(_places(_tuple(axis), ndim)):
        x = x.unsqueeze(place)
    return x


def _places(axes: tuple[int, ...], ndim: int) -> list[int]:
    if any(not -ndim <= axis < ndim for axis in axes):
        raise IndexError(f"there is no axis {axes} in a tensor of {ndim} dimensions")
    return [axis % ndim for axis in axes]


def flip(x: Tensor, /, *, axis: Axes = None) -> Tensor:
    """In reverse order along the axes, or along all."""
    return x.flip(tuple(range(x.ndim)) if axis is None else _tuple(axis))


def moveaxis(x: Tensor, source: int | tuple[int, ...], destination: int | tuple[int, ...], /) -> Tensor:
    """Dimensions moved to other places."""
    return x.movedim(source, destination)


def permute_dims(x: Tensor, /, axes: tuple[int, ...]) -> Tensor:
    """Dimensions in another order."""
    return x.permute(*axes)


def repeat(x: Tensor, repeats: int | Tensor, /, *, axis: int | None = None) -> Tensor:
    """Each element as many times as `repeats` says."""
    if axis is None:
        x, axis = x.reshape(-1), 0
    return ct.repeat_interleave(x, repeats, axis)  # type: ignore[no-any-return]


def reshape(x: Tensor, /, shape: tuple[int, ...], *, copy: bool | None = None) -> Tensor:
    """The same elements in another shape. `copy`: True always copies, False raises where a copy is needed."""
    if copy is False:
        return x.view(*_tuple(shape))
    made = x.reshape(*_tuple(shape))
    return made.clone() if copy else made


def roll(x: Tensor, /, shift: int | tuple[int, ...], *, axis: Axes = None) -> Tensor:
    """Shifted, what leaves at one end coming in at the other."""
    return ct.roll(x, shift, axis)  # type: ignore[no-any-return]


def squeeze(x: Tensor, /, axis: int | tuple[int, ...]) -> Tensor:
    """Without these dimensions, which must be of size 1."""
    places = _places(_tuple(axis), x.ndim)
    if any(x.shape[place] != 1 for place in places):
        raise ValueError(f"squeeze: the axes {axis} of shape {x.shape} are not all of size 1")
    return x.reshape(*(size for place, size in enumerate(x.shape) if place not in places))


def stack(arrays: Sequence[Tensor], /, *, axis: int = 0) -> Tensor:
    """Along a new dimension."""
    dtype = np.result_type(*(array.dtype for array in arrays))
    return ct.stack([array.to(dtype) for array in arrays], axis)  # type: ignore[no-any-return]


def tile(x: Tensor, repetitions: tuple[int, ...], /) -> Tensor:
    """The whole tensor, repeated in each dimension."""
    return ct.tile(x, _tuple(repetitions))  # type: ignore[no-any-return]


def unstack(x: Tensor, /, *, axis: int = 0) -> tuple[Tensor, ...]:
    """The slices along a dimension."""
    return tuple(x.unbind(axis))
