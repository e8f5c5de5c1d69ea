"""Reductions: many elements to few. Gradients are spread back over what was reduced. Extremes are in `extremes.py`."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np

from cordee.trainer.array import DTypeLike, array_module
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.autograd.out import into
from cordee.trainer.autograd.record import NO_ERRORS, Shape, op
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.arithmetic import as_mask
from cordee.trainer.ops.axes import (
    Axis,
    as_axis,
    axes_cases,
    bad_axis,
    count,
    is_large,
    kept_shape,
    plain,
    product,
    reduced_shape,
    require_float,
    square_total,
    wide_sum,
    wide_sum_dtype,
)
from cordee.trainer.ops.extremes import amax, amin
from cordee.trainer.tensors import Tensor

__all__ = [
    "all", "any", "count_nonzero", "dist", "logsumexp", "mean", "nanmean", "nansum", "norm", "prod", "sum",
]  # fmt: skip

METHODS = "all any count_nonzero dist logsumexp mean nanmean nansum norm prod sum"


# -- sums --------------------------------------------------------------------------------------------------------------


def _spread(xp: Any, g: Any, *, shape: tuple[int, ...], axis: Axis) -> Any:
    """The opposite of a sum: repeat over what was reduced."""
    out = xp.empty(shape, g.dtype)
    out[...] = g if axis is None or g.ndim == len(shape) else g.reshape(kept_shape(shape, axis))
    return out


def _spread_shape(a: Shape, *, shape: Any, axis: Axis) -> Shape:
    wanted = kept_shape(shape, axis)
    if math.prod(wanted) != math.prod(n or 0 for n in a):
        raise ShapeError(f"a gradient of shape {a} is not that of a reduction of {shape} over {axis}")
    return tuple(shape)


SPREAD = op(
    "spread", "repeat a reduction's result over what was reduced",
    forward=_spread,
    vjps=(lambda F, g, out, a, *, shape, axis: F.reshape(F.sum(g, axis=axis, keepdims=True), shape=a),),
    saves=("",), shape=_spread_shape, dtype="first",
    reference=lambda a, shape, axis: np.broadcast_to(a.reshape(kept_shape(shape, axis)), shape),
    samples=lambda s: [
        s.case(s.normal(), shape=(2, 3), axis=None),
        s.case(s.normal(2), shape=(2, 3), axis=1),
        s.case(s.normal(1, 3, 1), shape=(2, 3, 2), axis=(0, 2)),
        s.case(s.normal(2), shape=(2, 0), axis=1),
    ],
    errors=lambda s: [s.case(s.normal(2), shape=(3, 2), axis=1)],
)  # fmt: skip

SUM = op(
    "sum", "the sum over dimensions",
    autocast="single on cuda",
    forward=lambda xp, a, *, axis, keepdims: wide_sum(a, axis, keepdims),
    vjps=(lambda F, g, out, a, *, axis, keepdims: F.spread(g, shape=a, axis=axis),),
    saves=("",), samples=axes_cases("normal"), reference=lambda a, axis, keepdims: np.sum(a, axis, keepdims=keepdims),
    errors=bad_axis, shape=reduced_shape,
    dtype=lambda a, **_: wide_sum_dtype(a) if a.kind in "iub" else a,
)  # fmt: skip


def _mean(xp: Any, a: Any, *, axis: Axis, keepdims: bool) -> Any:
    number = count(a.shape, axis) or math.nan
    if a.dtype.itemsize != 2:
        return wide_sum(a, axis, keepdims) / number
    if xp is not np:
        return (wide_sum(a.astype(np.float32), axis, keepdims) / number).astype(a.dtype)
    return (a.sum(axis=axis, keepdims=keepdims, dtype=np.float32) / number).astype(a.dtype)


MEAN = op(
    "mean", "the mean over dimensions",
    forward=_mean,
    vjps=(lambda F, g, out, a, *, axis, keepdims: F.spread(g * (1.0 / (count(a, axis) or 1)), shape=a, axis=axis),),
    saves=("",), samples=axes_cases("normal", empty=False),
    reference=lambda a, axis, keepdims: np.sum(a, axis, keepdims=keepdims) / count(a.shape, axis),
    errors=bad_axis, shape=reduced_shape,
)  # fmt: skip


def _length(xp: Any, a: Any, *, axis: Axis, keepdims: bool) -> Any:
    if xp is not np:
        wide = a.astype(np.float32) if a.dtype.itemsize == 2 else a
        return xp.sqrt(wide_sum(wide * wide, axis, keepdims)).astype(a.dtype, copy=False)
    if a.dtype.itemsize == 2:
        wide = a.astype(np.float32)
        return xp.sqrt((wide * wide).sum(axis=axis, keepdims=keepdims)).astype(a.dtype)
    if is_large(a):
        return xp.sqrt(square_total(xp, a, axis=axis, keepdims=keepdims))
    return xp.sqrt((a * a).sum(axis=axis, keepdims=keepdims))


def _length_vjp(F: Any, g: Any, out: Any, a: Any, *, axis: Axis, keepdims: bool) -> Any:
    kept = kept_shape(a.shape, axis)
    out = F.reshape(out, shape=kept)
    return a * (F.reshape(g, shape=kept) / (out + as_mask(F, out == 0, out)))


LENGTH = op(
    "length", "the square root of the sum of squares over dimensions; gradient 0 at 0",
    autocast="single on cuda",
    forward=_length,
    vjps=(_length_vjp,), saves=("a out",), samples=axes_cases("distinct"), errors=bad_axis, shape=reduced_shape,
    reference=lambda a, axis, keepdims: np.sqrt(np.sum(a**2, axis, keepdims=keepdims)),
)  # fmt: skip


def _power_sum(xp: Any, a: Any, *, axis: Axis, keepdims: bool, p: float) -> Any:
    return (xp.abs(a) ** p).sum(axis=axis, keepdims=keepdims) ** (1.0 / p)


def _p_norm_vjp(F: Any, g: Any, out: Any, a: Any, *, axis: Axis, keepdims: bool, p: float) -> Any:
    """sign(a) · (|a| / norm)^(p - 1), 0 where a or the norm is 0."""
    kept = kept_shape(a.shape, axis)
    out = F.reshape(out, shape=kept)
    size = F.abs(a) + as_mask(F, a == 0, a)
    return F.sign(a) * F.power(size / (out + as_mask(F, out == 0, out)), exponent=p - 1.0) * F.reshape(g, shape=kept)


P_NORM = op(
    "p_norm", "the p-th root of the sum of p-th powers of magnitudes; gradient 0 at 0",
    autocast="single on cuda",
    forward=_power_sum, vjps=(_p_norm_vjp,), saves=("a out",), samples=axes_cases("distinct", p=2.5), errors=NO_ERRORS,
    shape=reduced_shape,
    reference=lambda a, axis, keepdims, p: np.sum(np.abs(a) ** p, axis, keepdims=keepdims) ** (1 / p),
)  # fmt: skip


def _sum_to(xp: Any, a: Any, *, shape: tuple[int, ...]) -> Any:
    lead = a.ndim - len(shape)
    axes = (*range(lead), *(i + lead for i, n in enumerate(shape) if n == 1 and a.shape[i + lead] != 1))
    return wide_sum(a, axes, True).reshape(shape) if axes else a.reshape(shape)


def _sum_to_shape(a: Shape, *, shape: tuple[int, ...]) -> Shape:
    tail = a[len(a) - len(shape) :] if shape else ()
    if len(a) < len(shape) or builtins.any(n not in (1, m) for n, m in zip(shape, tail, strict=True)):
        raise ShapeError(f"{shape} does not broadcast to {a}")
    return tuple(shape)


SUM_TO = op(
    "sum_to", "the sum over what broadcasting from the given shape repeated",
    forward=_sum_to,
    vjps=(lambda F, g, out, a, *, shape: F.broadcast_to(g, shape=a),),
    saves=("",), reference=lambda a, shape: _sum_to(np, a, shape=shape), shape=_sum_to_shape,
    samples=lambda s: [
        s.case(s.normal(2, 3), shape=(3,)),
        s.case(s.normal(4, 2, 3), shape=(2, 1)),
        s.case(s.normal(2), shape=()),
        s.case(s.normal(0, 3), shape=(1, 3)),
    ],
    errors=lambda s: [s.case(s.normal(2, 3), shape=(2,))],
)  # fmt: skip


def sum(
    input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: DTypeLike = None, out: Tensor | None = None
) -> Tensor:
    """The sum over all dimensions, one, or several; of whole numbers and bools, in int64."""
    if out is not None:
        return into(out, sum(input, dim, keepdim, dtype=dtype))
    if dtype is not None:
        input = input.to(dtype)
    return SUM.run(input, dim if dim is None or type(dim) is int else as_axis(dim), keepdim)


def mean(
    input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: DTypeLike = None, out: Tensor | None = None
) -> Tensor:
    """The mean over all dimensions, one, or several; NaN of no elements."""
    if out is not None:
        return into(out, mean(input, dim, keepdim, dtype=dtype))
    if dtype is not None:
        input = input.to(dtype)
    require_float(input, "mean")
    return MEAN.run(input, axis=as_axis(dim), keepdims=keepdim)


def nansum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: DTypeLike = None) -> Tensor:
    """The sum of what is not NaN."""
    return sum(input.masked_fill(input.isnan(), 0), dim, keepdim, dtype=dtype)


def nanmean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: DTypeLike = None) -> Tensor:
    """The mean of what is not NaN."""
    numbers = sum(input.isnan().logical_not(), dim, keepdim)
    return nansum(input, dim, keepdim, dtype=dtype) / numbers


@autocasts("single on cuda")
def norm(
    input: Tensor, p: float | str | None = "fro", dim: Any = None, keepdim: bool = False, *, dtype: DTypeLike = None
) -> Tensor:
    """The p-norm over dimensions: the p-th root of the sum of p-th powers ("fro": 2; 0 counts; ±inf: extremes).

    Raises:
        ValueError: another p than these and "nuc"; matrix norms are in `linalg.matrix_norm`.
    """
    if dtype is not None:
        input = input.to(dtype)
    require_float(input, "norm")
    if p == "nuc":
        from cordee.trainer.ops.linalg.norms import matrix_norm

        return matrix_norm(input, "nuc", (0, 1) if dim is None else tuple(dim), keepdim)
    if input.dtype.kind == "c":
        input = input.abs()
    if p in (None, "fro", 2):
        return LENGTH.run(input, axis=as_axis(dim), keepdims=keepdim)
    if isinstance(p, str):
        raise ValueError(f"norm: p is a number, 'fro' or 'nuc', not {p!r}; matrix norms are in linalg.matrix_norm")
    if p == 0:
        return count_nonzero(input, dim, keepdim).to(input.dtype)
    if p == math.inf:
        return amax(input.abs(), dim, keepdim)
    if p == -math.inf:
        return amin(input.abs(), dim, keepdim)
    if p == 1:
        return sum(input.abs(), dim, keepdim)
    return P_NORM.run(input, axis=as_axis(dim), keepdims=keepdim, p=float(p))


@autocasts("single on cuda")
def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of input - other."""
    return norm(input - other, p)


# -- truth and counts --------------------------------------------------------------------------------------------------

ALL = op(
    "all", "whether every element is true (not 0)",
    forward=lambda xp, a, *, axis, keepdims: (a != 0).all(axis=axis, keepdims=keepdims),
    vjps=(None,), saves=("",), samples=axes_cases("mask"), shape=reduced_shape, dtype="bool", errors=bad_axis,
    reference=lambda a, axis, keepdims: np.all(a, axis, keepdims=keepdims),
)  # fmt: skip

ANY = op(
    "any", "whether some element is true (not 0)",
    forward=lambda xp, a, *, axis, keepdims: (a != 0).any(axis=axis, keepdims=keepdims),
    vjps=(None,), saves=("",), samples=axes_cases("mask"), shape=reduced_shape, dtype="bool", errors=bad_axis,
    reference=lambda a, axis, keepdims: np.any(a, axis, keepdims=keepdims),
)  # fmt: skip

COUNT_NONZERO = op(
    "count_nonzero", "how many elements are not 0",
    forward=lambda xp, a, *, axis, keepdims: (a != 0).sum(axis=axis, keepdims=keepdims, dtype=np.int64),
    vjps=(None,), saves=("",), samples=axes_cases("mask"), shape=reduced_shape, dtype="int64", errors=bad_axis,
    reference=lambda a, axis, keepdims: np.count_nonzero(a, axis, keepdims=keepdims),
)  # fmt: skip


def all(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether every element is true."""
    return plain(ALL, input, axis=as_axis(dim), keepdims=keepdim)


def any(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether some element is true."""
    return plain(ANY, input, axis=as_axis(dim), keepdims=keepdim)


def count_nonzero(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """How many elements are not 0."""
    return plain(COUNT_NONZERO, input, axis=as_axis(dim), keepdims=keepdim)


# -- products and sums of exponentials ---------------------------------------------------------------------------------


def _prod(xp: Any, a: Any, *, axis: Axis, keepdims: bool) -> Any:
    if a.dtype.itemsize == 2 and a.dtype.kind in "fV":
        return a.prod(axis=axis, keepdims=keepdims, dtype=np.float32).astype(a.dtype)
    if is_large(a):
        return product(xp, a, axis=axis, keepdims=keepdims)
    return a.prod(axis=axis, keepdims=keepdims, dtype=np.int64 if a.dtype.kind in "iub" else None)


def _prod_vjp(F: Any, g: Any, out: Any, a: Any, *, axis: Axis, keepdims: bool) -> Any:
    """g times the product of the other elements, also where some are 0."""
    kept = kept_shape(a.shape, axis)
    g = F.reshape(g, shape=kept)
    zero = as_mask(F, a == 0, a)
    if not F.raw and (a.data == 0).any():
        return g * _product_of_others(F, a, axis, kept)
    filled = a + zero
    others = F.prod(filled, axis=axis, keepdims=True) / filled
    return g * others * as_mask(F, F.sum(zero, axis=axis, keepdims=True) - zero == 0, a)


def _product_of_others(F: Any, a: Any, axis: Axis, kept: tuple[int, ...]) -> Any:
    """By products in full, n² of them: where elements are 0, dividing would lose the second gradient."""
    reduced = [i for i, (n, k) in enumerate(zip(a.shape, kept, strict=True)) if axis is None or n != k]
    order = (*(i for i in range(len(kept)) if i not in reduced), *reduced)
    n = math.prod(a.shape[i] for i in reduced)
    lines = F.reshape(F.permute(a, axes=order), shape=(-1, 1, n))
    own = array_module(lines if F.raw else lines.data).eye(n, dtype=bool)
    others = F.prod(F.where(own, 1.0, lines), axis=-1, keepdims=False)
    back = F.reshape(others, shape=tuple(a.shape[i] for i in order))
    return F.permute(back, axes=tuple(order.index(i) for i in range(len(order))))


PROD = op(
    "prod", "the product over dimensions",
    autocast="single",
    forward=_prod, vjps=(_prod_vjp,), saves=("a",), shape=reduced_shape,
    samples=lambda s: [
        *axes_cases("positive")(s),
        s.case(s.positive(2, 3) * np.array([[1, 0, 1], [1, 1, 1]]), axis=1, keepdims=False),
        s.case(s.positive(2, 3) * np.array([[0, 0, 1], [1, 0, 1]]), axis=1, keepdims=True),
        s.case(s.positive(2, 2) * np.array([[0, 1], [1, 1]]), axis=None, keepdims=False),
    ],
    dtype=lambda a, **_: np.dtype("int64") if a.kind in "iub" else a,
    reference=lambda a, axis, keepdims: np.prod(a, axis, keepdims=keepdims), errors=bad_axis,
)  # fmt: skip


def _logsumexp(xp: Any, a: Any, *, axis: Axis, keepdims: bool) -> Any:
    top = a.max(axis=axis, keepdims=True) if a.size else xp.full(kept_shape(a.shape, axis), -math.inf, a.dtype)
    top = xp.where(xp.isfinite(top), top, top.dtype.type(0))
    out = xp.log(wide_sum(xp.exp(a - top), axis, True)) + top
    return out if keepdims else out.reshape(reduced_shape(a.shape, axis=axis))


def _logsumexp_vjp(F: Any, g: Any, out: Any, a: Any, *, axis: Axis, keepdims: bool) -> Any:
    kept = kept_shape(a.shape, axis)
    out = F.reshape(out, shape=kept)
    if F.raw:
        nothing = out == -math.inf
        if F.xp is not np or nothing.any():  # a device would have to be waited for
            out = F.where(nothing, 0.0, out)
    return F.exp(a - out) * F.reshape(g, shape=kept)


LOGSUMEXP = op(
    "logsumexp", "log of the sum of exponentials, without overflow",
    autocast="single on cuda",
    forward=_logsumexp, vjps=(_logsumexp_vjp,), saves=("a out",), samples=axes_cases("normal"), shape=reduced_shape,
    reference=lambda a, axis, keepdims: np.log(np.sum(np.exp(a), axis, keepdims=keepdims)), errors=bad_axis,
)  # fmt: skip


def prod(
    input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: DTypeLike = None, out: Tensor | None = None
) -> Tensor:
    """The product over all dimensions, or some; of whole numbers and bools, in int64."""
    if out is not None:
        return into(out, prod(input, dim, keepdim, dtype=dtype))
    if dtype is not None:
        input = input.to(dtype)
    return PROD.run(input, axis=as_axis(dim), keepdims=keepdim)


def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """log(sum(exp(input))) over dimensions, without overflow; -inf of no elements."""
    if input.dtype.kind in "iub":
        input = input.float()
    return LOGSUMEXP.run(input, axis=as_axis(dim), keepdims=keepdim)
