"""Reductions: many elements to few. Gradients are spread back over what was reduced."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from cordee.trainer.array import DTypeLike, array_module
from cordee.trainer.autograd.graph import apply_one
from cordee.trainer.autograd.record import Sampler, op
from cordee.trainer.ops.elementwise import as_mask
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "MaxResult", "all", "amax", "amin", "any", "argmax", "argmin", "argsort", "cumsum", "logsumexp", "max", "mean",
    "min", "norm", "prod", "std", "sum", "topk", "var",
]  # fmt: skip

METHODS = "all amax amin any argmax argmin argsort cumsum logsumexp max mean min norm prod std sum topk var"

Axis: TypeAlias = "int | tuple[int, ...] | None"


def _kept_shape(shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    """The shape after a reduction that keeps the reduced dimensions, as 1."""
    if axis is None:
        return (1,) * len(shape)
    axes = {a % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,))} if shape else set()
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _count(shape: tuple[int, ...], axis: Axis) -> int:
    """How many elements a reduction takes together."""
    return math.prod(n for n, k in zip(shape, _kept_shape(shape, axis), strict=True) if k == 1)


def _axes_cases(make: str, **more: Any) -> Any:
    def samples(s: Sampler) -> list[Any]:
        draw = getattr(s, make)
        return [
            s.case(draw(2, 3), axis=None, keepdims=False, **more),
            s.case(draw(2, 3, 2), axis=1, keepdims=False, **more),
            s.case(draw(2, 3, 2), axis=(0, -1), keepdims=True, **more),
            s.case(draw(), axis=None, keepdims=False, **more),
        ]

    return samples


def _bad_axis(s: Sampler) -> list[Any]:
    return [s.case(s.normal(2, 3), axis=2, keepdims=False)]


def _explain_axis(shape: tuple[int, ...], *, axis: Axis, **_: Any) -> str:
    return f"there is no dimension {axis} in a tensor of {len(shape)} dimensions"


# -- sums --------------------------------------------------------------------------------------------------------------


def _spread(xp: Any, g: Any, *, shape: tuple[int, ...], axis: Axis) -> Any:
    """The opposite of a sum: repeat over what was reduced."""
    out = xp.empty(shape, g.dtype)
    out[...] = g if axis is None else g.reshape(_kept_shape(shape, axis))
    return out


SPREAD = op(
    "spread", "repeat a reduction's result over what was reduced",
    forward=_spread,
    vjps=(lambda F, g, out, a, *, shape, axis: F.reshape(F.sum(g, axis=axis, keepdims=True), shape=a),),
    saves=("",),
    reference=lambda a, shape, axis: np.broadcast_to(a.reshape(_kept_shape(shape, axis)), shape),
    samples=lambda s: [
        s.case(s.normal(), shape=(2, 3), axis=None),
        s.case(s.normal(2), shape=(2, 3), axis=1),
        s.case(s.normal(1, 3, 1), shape=(2, 3, 2), axis=(0, 2)),
    ],
)  # fmt: skip

SUM = op(
    "sum", "the sum over dimensions",
    forward=lambda xp, a, *, axis, keepdims: a.sum(axis=axis, keepdims=keepdims),
    vjps=(lambda F, g, out, a, *, axis, keepdims: F.spread(g, shape=a, axis=axis),),
    saves=("",), samples=_axes_cases("normal"), reference=lambda a, axis, keepdims: np.sum(a, axis, keepdims=keepdims),
    errors=_bad_axis, explain=_explain_axis,
)  # fmt: skip

MEAN = op(
    "mean", "the mean over dimensions",
    forward=lambda xp, a, *, axis, keepdims: a.sum(axis=axis, keepdims=keepdims) / (_count(a.shape, axis) or math.nan),
    vjps=(lambda F, g, out, a, *, axis, keepdims: F.spread(g * (1.0 / (_count(a, axis) or 1)), shape=a, axis=axis),),
    saves=("",), samples=_axes_cases("normal"), reference=lambda a, axis, keepdims: np.mean(a, axis, keepdims=keepdims),
    errors=_bad_axis, explain=_explain_axis,
)  # fmt: skip


def _length_vjp(F: Any, g: Any, out: Any, a: Any, *, axis: Axis, keepdims: bool) -> Any:
    kept = _kept_shape(a.shape, axis)
    out = F.reshape(out, shape=kept)
    return a * (F.reshape(g, shape=kept) / (out + as_mask(F, out == 0, out)))


LENGTH = op(
    "length", "the square root of the sum of squares over dimensions; gradient 0 at 0",
    forward=lambda xp, a, *, axis, keepdims: xp.sqrt((a * a).sum(axis=axis, keepdims=keepdims)),
    vjps=(_length_vjp,), saves=("a out",), samples=_axes_cases("normal"), errors=_bad_axis, explain=_explain_axis,
    reference=lambda a, axis, keepdims: np.sqrt(np.sum(a**2, axis, keepdims=keepdims)),
)  # fmt: skip


def _sum_to(xp: Any, a: Any, *, shape: tuple[int, ...]) -> Any:
    lead = a.ndim - len(shape)
    axes = (*range(lead), *(i + lead for i, n in enumerate(shape) if n == 1 and a.shape[i + lead] != 1))
    return a.sum(axis=axes, keepdims=True).reshape(shape) if axes else a.reshape(shape)


SUM_TO = op(
    "sum_to", "the sum over what broadcasting from the given shape repeated",
    forward=_sum_to,
    vjps=(lambda F, g, out, a, *, shape: F.broadcast_to(g, shape=a),),
    saves=("",), reference=lambda a, shape: _sum_to(np, a, shape=shape),
    samples=lambda s: [
        s.case(s.normal(2, 3), shape=(3,)),
        s.case(s.normal(4, 2, 3), shape=(2, 1)),
        s.case(s.normal(2), shape=()),
    ],
)  # fmt: skip


def _axis(input: Tensor, dim: Any) -> Axis:
    if dim is None or isinstance(dim, int):
        return dim
    return tuple(int(d) for d in dim) or None


def _require_float(input: Tensor, name: str) -> None:
    if input.dtype.kind != "f":
        raise TypeError(f"{name} needs a floating-point tensor, not {input.dtype.name}: convert it by .float()")


def sum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: DTypeLike = None) -> Tensor:
    """The sum over all dimensions, one, or several."""
    if dtype is not None:
        input = input.to(dtype)
    return apply_one(SUM, input, axis=_axis(input, dim), keepdims=keepdim)


def mean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: DTypeLike = None) -> Tensor:
    """The mean over all dimensions, one, or several."""
    if dtype is not None:
        input = input.to(dtype)
    if input.dtype.kind != "c":
        _require_float(input, "mean")
    return apply_one(MEAN, input, axis=_axis(input, dim), keepdims=keepdim)


def var(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Tensor:
    """The variance: mean squared distance from the mean, divided by n - correction (1 unless `unbiased=False`)."""
    _require_float(input, "var")
    axis = _axis(input, dim)
    count = _count(input.shape, axis)
    less = (1.0 if unbiased else 0.0) if correction is None else correction
    away = input - apply_one(MEAN, input, axis=axis, keepdims=True)
    total = apply_one(SUM, away * away, axis=axis, keepdims=keepdim)
    return total / (count - less) if count > less else total * math.nan


def std(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Tensor:
    """The standard deviation: the square root of `var`; its gradient is 0 where all elements are equal."""
    _require_float(input, "std")
    axis = _axis(input, dim)
    less = (1.0 if unbiased else 0.0) if correction is None else correction
    freedom = _count(input.shape, axis) - less
    away = input - apply_one(MEAN, input, axis=axis, keepdims=True)
    return apply_one(LENGTH, away, axis=axis, keepdims=keepdim) * (freedom**-0.5 if freedom > 0 else math.nan)


def norm(input: Tensor, p: float = 2.0, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The p-norm over dimensions (p may be infinite)."""
    if p == 2.0:
        return apply_one(LENGTH, input, axis=_axis(input, dim), keepdims=keepdim)
    if p == math.inf:
        return amax(input.abs(), dim, keepdim)
    if p == 1.0:
        return sum(input.abs(), dim, keepdim)
    return sum(input.abs() ** p, dim, keepdim) ** (1.0 / p)


# -- extremes ----------------------------------------------------------------------------------------------------------


def _extreme_vjp(F: Any, g: Any, out: Any, a: Any, *, axis: Axis, keepdims: bool) -> Any:
    """To whichever element attains the extreme; in equal parts where several do."""
    kept = _kept_shape(a.shape, axis)
    hit = F.cast(a == F.reshape(out, shape=kept), dtype=a.dtype, source=None)
    return hit * (F.reshape(g, shape=kept) / F.sum(hit, axis=axis, keepdims=True))


AMAX = op(
    "amax", "the largest element over dimensions; equal ones share the gradient",
    forward=lambda xp, a, *, axis, keepdims: a.max(axis=axis, keepdims=keepdims),
    vjps=(_extreme_vjp,), saves=("a out",), samples=_axes_cases("distinct"),
    reference=lambda a, axis, keepdims: np.max(a, axis, keepdims=keepdims), errors=_bad_axis, explain=_explain_axis,
)  # fmt: skip

AMIN = op(
    "amin", "the smallest element over dimensions; equal ones share the gradient",
    forward=lambda xp, a, *, axis, keepdims: a.min(axis=axis, keepdims=keepdims),
    vjps=(_extreme_vjp,), saves=("a out",), samples=_axes_cases("distinct"),
    reference=lambda a, axis, keepdims: np.min(a, axis, keepdims=keepdims), errors=_bad_axis, explain=_explain_axis,
)  # fmt: skip


class MaxResult(NamedTuple):
    """What `max`, `min` and `topk` along a dimension return."""

    values: Tensor
    indices: Tensor


def amax(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The largest element over all dimensions, one, or several."""
    return apply_one(AMAX, input, axis=_axis(input, dim), keepdims=keepdim)


def amin(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The smallest element over all dimensions, one, or several."""
    return apply_one(AMIN, input, axis=_axis(input, dim), keepdims=keepdim)


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
    indices = place(input, dim, True)
    values = input.gather(dim, indices)
    return MaxResult(values, indices) if keepdim else MaxResult(values.squeeze(dim), indices.squeeze(dim))


def _raw(input: Tensor) -> Any:
    return input.data


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the largest element is (the first, if there are several)."""
    return _settled(_raw(input).argmax(axis=dim, keepdims=keepdim))


def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the smallest element is (the first, if there are several)."""
    return _settled(_raw(input).argmin(axis=dim, keepdims=keepdim))


def argsort(input: Tensor, dim: int = -1, descending: bool = False) -> Tensor:
    """The indices that sort the tensor along a dimension; equal elements keep their order."""
    if not descending:
        return wrap(input.data.argsort(axis=dim, kind="stable"))
    # Not by sorting -input: the smallest integer, and unsigned ones, have no negative. Backwards, and backwards again,
    # equal elements keep their order.
    xp = array_module(input.data)
    backwards = xp.flip(input.data, dim).argsort(axis=dim, kind="stable")
    return wrap(xp.flip(input.data.shape[dim] - 1 - backwards, dim))


def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True) -> MaxResult:
    """The k largest (or smallest) elements along a dimension, in order, and where they are."""
    if k > input.shape[dim]:
        raise ValueError(f"topk: k is {k}, but dimension {dim} of shape {input.shape} has only {input.shape[dim]}")
    order = argsort(input, dim, descending=largest)
    indices = order.narrow(dim, 0, k)
    return MaxResult(input.gather(dim, indices), indices)


def all(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether every element is true."""
    return _settled(input.data.all(axis=_axis(input, dim), keepdims=keepdim))


def any(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether some element is true."""
    return _settled(input.data.any(axis=_axis(input, dim), keepdims=keepdim))


def _settled(value: Any) -> Tensor:
    return wrap(array_module(value).asarray(value))


# -- scans and products ------------------------------------------------------------------------------------------------

CUMSUM = op(
    "cumsum", "running sums along a dimension",
    forward=lambda xp, a, *, axis, reverse: xp.flip(xp.flip(a, axis).cumsum(axis), axis) if reverse else a.cumsum(axis),
    vjps=(lambda F, g, out, a, *, axis, reverse: F.cumsum(g, axis=axis, reverse=not reverse),),
    saves=("",),
    reference=lambda a, axis, reverse: np.cumsum(a[::-1], 0)[::-1] if reverse else np.cumsum(a, axis),
    samples=lambda s: [s.case(s.normal(2, 3), axis=1, reverse=False), s.case(s.normal(3, 2), axis=0, reverse=True)],
)  # fmt: skip


def _prod_vjp(F: Any, g: Any, out: Any, a: Any, *, axis: Axis, keepdims: bool) -> Any:
    """The product of the other elements: not by dividing by one that is 0."""
    zero = as_mask(F, a == 0, a)
    filled = a + zero
    others = F.prod(filled, axis=axis, keepdims=True) / filled
    none_of_them_zero = as_mask(F, F.sum(zero, axis=axis, keepdims=True) - zero == 0, a)
    return F.reshape(g, shape=_kept_shape(a.shape, axis)) * others * none_of_them_zero


PROD = op(
    "prod", "the product over dimensions; its second gradient needs elements other than 0",
    forward=lambda xp, a, *, axis, keepdims: a.prod(axis=axis, keepdims=keepdims),
    vjps=(_prod_vjp,), saves=("a",), samples=_axes_cases("positive"),
    reference=lambda a, axis, keepdims: np.prod(a, axis, keepdims=keepdims), errors=_bad_axis, explain=_explain_axis,
)  # fmt: skip


def _logsumexp(xp: Any, a: Any, *, axis: Axis, keepdims: bool) -> Any:
    top = a.max(axis=axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0.0).astype(a.dtype)
    out = xp.log(xp.exp(a - top).sum(axis=axis, keepdims=True)) + top
    return out if keepdims else out.reshape([n for n, k in zip(a.shape, _reduced(a.shape, axis), strict=True) if not k])


def _reduced(shape: tuple[int, ...], axis: Axis) -> list[bool]:
    axes = (
        range(len(shape)) if axis is None else [a % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,))]
    )
    return [i in axes for i in range(len(shape))]


LOGSUMEXP = op(
    "logsumexp", "log of the sum of exponentials, without overflow",
    forward=_logsumexp,
    vjps=(
        lambda F, g, out, a, *, axis, keepdims: F.exp(a - F.reshape(out, shape=_kept_shape(a.shape, axis)))
        * F.reshape(g, shape=_kept_shape(a.shape, axis)),
    ),
    saves=("a out",), samples=_axes_cases("normal"),
    reference=lambda a, axis, keepdims: np.log(np.sum(np.exp(a), axis, keepdims=keepdims)),
    errors=_bad_axis, explain=_explain_axis,
)  # fmt: skip


def cumsum(input: Tensor, dim: int) -> Tensor:
    """Running sums along a dimension."""
    return apply_one(CUMSUM, input, axis=dim, reverse=False)


def prod(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The product over all dimensions, or one."""
    return apply_one(PROD, input, axis=_axis(input, dim), keepdims=keepdim)


def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """log(sum(exp(input))) over dimensions, without overflow."""
    return apply_one(LOGSUMEXP, input, axis=_axis(input, dim), keepdims=keepdim)
