"""The largest and the smallest elements over dimensions, and where they are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cordee.trainer.autograd.record import Sampler, op
from cordee.trainer.ops.axes import (
    Axis,
    ValuesAndIndices,
    as_axis,
    axes_cases,
    bad_axis,
    extreme_of,
    in_one_dimension,
    kept_shape,
    plain,
    reduced_shape_of_some,
)
from cordee.trainer.tensors import Tensor

__all__ = ["amax", "amin", "aminmax", "argmax", "argmin", "max", "min"]

METHODS = "amax amin aminmax argmax argmin max min"


def _extreme_vjp(F: Any, g: Any, out: Any, a: Any, *, axis: Axis, keepdims: bool) -> Any:
    """To whichever element attains the extreme; in equal parts where several do."""
    kept = kept_shape(a.shape, axis)
    hit = F.cast(a == F.reshape(out, shape=kept), dtype=a.dtype, source=None)
    return hit * (F.reshape(g, shape=kept) / F.sum(hit, axis=axis, keepdims=True))


def _nothing(s: Sampler) -> list[Any]:
    return [*bad_axis(s), s.case(s.normal(0, 3), axis=0, keepdims=False), s.case(s.normal(0), axis=None, keepdims=True)]


AMAX = op(
    "amax", "the largest element over dimensions; equal ones share the gradient",
    forward=lambda xp, a, *, axis, keepdims: extreme_of(xp, a, axis, keepdims, True),
    vjps=(_extreme_vjp,), saves=("a out",), samples=axes_cases("distinct", empty=False), shape=reduced_shape_of_some,
    reference=lambda a, axis, keepdims: np.max(a, axis, keepdims=keepdims), errors=_nothing,
)  # fmt: skip

AMIN = op(
    "amin", "the smallest element over dimensions; equal ones share the gradient",
    forward=lambda xp, a, *, axis, keepdims: extreme_of(xp, a, axis, keepdims, False),
    vjps=(_extreme_vjp,), saves=("a out",), samples=axes_cases("distinct", empty=False), shape=reduced_shape_of_some,
    reference=lambda a, axis, keepdims: np.min(a, axis, keepdims=keepdims), errors=_nothing,
)  # fmt: skip


class MinAndMax(NamedTuple):
    """What `aminmax` returns."""

    min: Tensor
    max: Tensor


def amax(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The largest element over all dimensions, one, or several."""
    return AMAX.run(input, axis=as_axis(dim), keepdims=keepdim)


def amin(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The smallest element over all dimensions, one, or several."""
    return AMIN.run(input, axis=as_axis(dim), keepdims=keepdim)


def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> MinAndMax:
    """The smallest and the largest element."""
    return MinAndMax(amin(input, dim, keepdim), amax(input, dim, keepdim))


def max(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest element; along a dimension, `(values, indices)`; with a tensor, the elementwise maximum."""
    return _extreme(input, dim, keepdim, amax, argmax, "maximum")


def min(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest element; along a dimension, `(values, indices)`; with a tensor, the elementwise minimum."""
    return _extreme(input, dim, keepdim, amin, argmin, "minimum")


def _extreme(input: Tensor, dim: Any, keepdim: bool, value: Any, place: Any, elementwise: str) -> Any:
    if dim is None:
        return value(input)
    if isinstance(dim, Tensor):
        return getattr(input, elementwise)(dim)
    if not input.ndim:
        return in_one_dimension(_extreme, input, dim, True, value, place, elementwise)
    indices = place(input, dim, True)
    values = input.gather(dim, indices)
    return ValuesAndIndices(values, indices) if keepdim else ValuesAndIndices(values.squeeze(dim), indices.squeeze(dim))


def _place(name: str) -> Any:
    def forward(xp: Any, a: Any, *, axis: int | None, keepdims: bool) -> Any:
        if a.dtype.kind == "b":
            a = a.view(np.uint8)
        return getattr(a, name)(axis=axis, keepdims=keepdims)

    return forward


def _one_axis(make: str) -> Any:
    def samples(s: Sampler) -> list[Any]:
        draw = getattr(s, make)
        return [
            s.case(draw(2, 3), axis=None, keepdims=False),
            s.case(draw(2, 3, 2), axis=1, keepdims=True),
            s.case(draw(2, 3), axis=-1, keepdims=False),
            s.case(draw(), axis=0, keepdims=False),
            s.case(draw(0, 3), axis=1, keepdims=False),
        ]

    return samples


def _no_place(s: Sampler) -> list[Any]:
    return [s.case(s.normal(2, 3), axis=2, keepdims=False), s.case(s.normal(0, 3), axis=0, keepdims=False)]


ARGMAX = op(
    "argmax", "where the largest element is (the first, if there are several; NaN counts as the largest)",
    forward=_place("argmax"), vjps=(None,), saves=("",), samples=_one_axis("distinct"), shape=reduced_shape_of_some,
    dtype="int64", reference=lambda a, axis, keepdims: np.argmax(a, axis, keepdims=keepdims), errors=_no_place,
)  # fmt: skip

ARGMIN = op(
    "argmin", "where the smallest element is (the first, if there are several; NaN counts as the smallest)",
    forward=_place("argmin"), vjps=(None,), saves=("",), samples=_one_axis("distinct"), shape=reduced_shape_of_some,
    dtype="int64", reference=lambda a, axis, keepdims: np.argmin(a, axis, keepdims=keepdims), errors=_no_place,
)  # fmt: skip


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the largest element is (the first, if there are several)."""
    return plain(ARGMAX, input, axis=dim, keepdims=keepdim)


def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the smallest element is (the first, if there are several)."""
    return plain(ARGMIN, input, axis=dim, keepdims=keepdim)
