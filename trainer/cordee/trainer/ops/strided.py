"""Views that show elements more than once: sliding windows, and any strides. Their gradients add up what was shown."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.autograd.record import Shape, op
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.ops.shape import dimension
from cordee.trainer.ops.writing import add_rows
from cordee.trainer.tensors import Tensor

__all__ = ["as_strided"]

METHODS = "as_strided unfold"


# -- sliding windows ---------------------------------------------------------------------------------------------------


def _slide(xp: Any, a: Any, *, axis: int, size: int, step: int) -> Any:
    if step < 1 or not 0 <= size <= a.shape[axis]:
        raise ValueError("the window does not fit")
    count = (a.shape[axis] - size) // step + 1
    shape = (*a.shape[:axis], count, *a.shape[axis + 1 :], size)
    strides = (*a.strides[:axis], a.strides[axis] * step, *a.strides[axis + 1 :], a.strides[axis])
    return xp.lib.stride_tricks.as_strided(a, shape, strides)


def _slide_shape(a: tuple[int, ...], *, axis: int, size: int, step: int) -> Shape:
    if step < 1 or size < 0:
        raise ShapeError(f"a window of size {size} with step {step}: the step must be at least 1, the size at least 0")
    if size > a[axis]:
        raise ShapeError(f"a window of size {size} is larger than dimension {axis}, which has size {a[axis]}")
    return (*a[:axis], (a[axis] - size) // step + 1, *a[axis + 1 :], size)


def _unslide(xp: Any, a: Any, *, axis: int, step: int, shape: tuple[int, ...]) -> Any:
    out = xp.zeros(shape, a.dtype)
    count, lead = a.shape[axis], (slice(None),) * axis
    for k in range(a.shape[-1]):  # one slice for each place in the window: always in the same order
        out[(*lead, slice(k, k + step * (count - 1) + 1, step))] += a[..., k]
    return out


def _unslide_shape(a: tuple[int, ...], *, axis: int, step: int, shape: tuple[int, ...]) -> Shape:
    if _slide_shape(shape, axis=axis, size=a[-1], step=step) != a:
        raise ShapeError(f"shape {a} is not that of the windows over shape {shape}")
    return shape


SLIDE = op(
    "slide", "windows along a dimension, each as a new last dimension: a view",
    forward=_slide,
    vjps=(lambda F, g, out, a, *, axis, size, step: F.unslide(g, axis=axis, step=step, shape=a),), saves=("",),
    shape=_slide_shape, dtype="first", view=True,
    reference=lambda a, axis, size, step: np.stack(
        [a.take(range(k, k + (a.shape[axis] - size) // step * step + 1, step), axis) for k in range(size)], -1
    ),
    samples=lambda s: [
        s.case(s.normal(7), axis=0, size=3, step=2),
        s.case(s.normal(2, 5, 2), axis=1, size=2, step=1),
        s.case(s.normal(0, 4), axis=1, size=4, step=3),
    ],
    errors=lambda s: [s.case(s.normal(2, 3), axis=1, size=4, step=1), s.case(s.normal(3), axis=0, size=2, step=0)],
)  # fmt: skip

UNSLIDE = op(
    "unslide", "windows added up where they overlap: the gradient of slide",
    forward=_unslide,
    vjps=(lambda F, g, out, a, *, axis, step, shape: F.slide(g, axis=axis, size=a[-1], step=step),), saves=("",),
    shape=_unslide_shape, dtype="first",
    reference=lambda a, axis, step, shape: sum(
        np.pad(
            np.insert(a[..., k], np.repeat(range(1, a.shape[axis]), step - 1), 0, axis),
            [(0, 0)] * axis
            + [(k, shape[axis] - k - (a.shape[axis] - 1) * step - 1)]
            + [(0, 0)] * (len(shape) - axis - 1),
        )
        for k in range(a.shape[-1])
    ),
    samples=lambda s: [
        s.case(s.normal(3, 3), axis=0, step=2, shape=(7,)),
        s.case(s.normal(2, 4, 2, 2), axis=1, step=1, shape=(2, 5, 2)),
    ],
    errors=lambda s: [s.case(s.normal(3, 3), axis=0, step=2, shape=(6,))],
)  # fmt: skip


def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of `size` along a dimension, every `step` elements, each as a new last dimension: a view."""
    if not input.ndim:
        return unfold(input.reshape(1), dimension, size, step).reshape(size)
    return SLIDE.run(input, axis=_dimension("unfold", input, dimension), size=size, step=step)


_dimension = dimension


# -- any strides -------------------------------------------------------------------------------------------------------


def _last(size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> int:
    """The furthest element that is shown."""
    return offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))


def _as_strided(xp: Any, a: Any, *, size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> Any:
    if len(size) != len(stride) or offset < 0 or min(stride, default=0) < 0 or min(size, default=0) < 0:
        raise ValueError("no such strides")
    if math.prod(size) and _last(size, stride, offset) >= a.size:
        raise IndexError("outside the tensor")
    flat = a.reshape(-1)[offset:]
    return xp.lib.stride_tricks.as_strided(flat, size, tuple(step * flat.strides[0] for step in stride))


def _as_strided_shape(a: tuple[int, ...], *, size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> Shape:
    if len(size) != len(stride):
        raise ShapeError(f"{len(size)} sizes {size} for {len(stride)} strides {stride}")
    if offset < 0 or min(stride, default=0) < 0 or min(size, default=0) < 0:
        raise ShapeError(f"sizes {size}, strides {stride} and offset {offset} must not be negative")
    if math.prod(size) and _last(size, stride, offset) >= math.prod(a):
        raise TrainerIndexError(
            f"sizes {size} with strides {stride} and offset {offset} reach element {_last(size, stride, offset)}; "
            f"the tensor has {math.prod(a)}"
        )
    return size


def _strided_places(xp: Any, size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> Any:
    places = xp.full(size, offset)
    for dim, (n, step) in enumerate(zip(size, stride, strict=True)):
        places += (xp.arange(n) * step).reshape(-1, *(1,) * (len(size) - dim - 1))
    return places


def _unstride(
    xp: Any, a: Any, *, size: tuple[int, ...], stride: tuple[int, ...], offset: int, shape: tuple[int, ...]
) -> Any:
    out = xp.zeros(math.prod(shape), a.dtype)
    add_rows(xp, out, _strided_places(xp, size, stride, offset).reshape(-1), a.reshape(-1))
    return out.reshape(shape)


def _unstride_shape(
    a: tuple[int, ...], *, size: tuple[int, ...], stride: tuple[int, ...], offset: int, shape: tuple[int, ...]
) -> Shape:
    if a != _as_strided_shape(shape, size=size, stride=stride, offset=offset):
        raise ShapeError(f"shape {a} is not {size}")
    return shape


def _unstride_reference(a: Any, shape: tuple[int, ...], **layout: Any) -> Any:
    out = np.zeros(math.prod(shape))
    np.add.at(out, _strided_places(np, **layout), a)
    return out.reshape(shape)


AS_STRIDED = op(
    "as_strided", "the elements at the places that sizes, strides and an offset name, in row-major order",
    forward=_as_strided, vjps=(lambda F, g, out, a, **layout: F.unstride(g, **layout, shape=a),), saves=("",),
    shape=_as_strided_shape, dtype="first", view=True,
    reference=lambda a, size, stride, offset: a.reshape(-1)[_strided_places(np, size, stride, offset)],
    samples=lambda s: [
        s.case(s.normal(3, 4), size=(2, 3), stride=(5, 1), offset=1),
        s.case(s.normal(5), size=(3, 2), stride=(1, 1), offset=0),
        s.case(s.normal(4), size=(), stride=(), offset=2),
        s.case(s.normal(4), size=(2, 3), stride=(0, 1), offset=0),
    ],
    errors=lambda s: [
        s.case(s.normal(3, 4), size=(3, 3), stride=(5, 1), offset=0),
        s.case(s.normal(4), size=(2,), stride=(1, 1), offset=0),
    ],
)  # fmt: skip

UNSTRIDE = op(
    "unstride", "zeros, and elements added at the places of strides: the gradient of as_strided",
    forward=_unstride, vjps=(lambda F, g, out, a, *, shape, **layout: F.as_strided(g, **layout),), saves=("",),
    shape=_unstride_shape, dtype="first", reference=_unstride_reference,
    samples=lambda s: [
        s.case(s.normal(2, 3), size=(2, 3), stride=(1, 1), offset=1, shape=(3, 4)),
        s.case(s.normal(0, 3), size=(0, 3), stride=(1, 1), offset=1, shape=(3,)),
    ],
    errors=lambda s: [s.case(s.normal(2), size=(3,), stride=(1,), offset=0, shape=(4,))],
)  # fmt: skip


def as_strided(input: Tensor, size: Any, stride: Any, storage_offset: int | None = None) -> Tensor:
    """The elements at given strides, counted in elements of `input` in row-major order: a view where `input` lies so.

    Raises:
        TrainerIndexError: they reach outside the tensor.
    """
    return AS_STRIDED.run(input, size=tuple(size), stride=tuple(stride), offset=storage_offset or 0)
