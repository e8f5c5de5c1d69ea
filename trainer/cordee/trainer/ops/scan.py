"""Running sums, products and extremes along a dimension, and differences and integrals between neighbours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.array import DTypeLike, array_module
from cordee.trainer.autograd.out import into
from cordee.trainer.autograd.record import Sampler, op
from cordee.trainer.kernels import kernel
from cordee.trainer.ops.arithmetic import as_mask
from cordee.trainer.ops.axes import ValuesAndIndices, in_one_dimension, is_large, same_shape, wide_sum_dtype
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "cummax", "cummin", "cumprod", "cumsum", "cumulative_trapezoid", "diff", "logcumsumexp", "trapezoid", "trapz",
]  # fmt: skip

METHODS = "cummax cummin cumprod cumsum diff logcumsumexp"
INPLACE = "cumprod cumsum"


def _cases(make: str) -> Any:
    def samples(s: Sampler) -> list[Any]:
        draw = getattr(s, make)
        return [
            s.case(draw(2, 3), axis=1, reverse=False),
            s.case(draw(3, 2), axis=0, reverse=True),
            s.case(draw(2, 3, 2), axis=-2, reverse=False),
            s.case(draw(), axis=0, reverse=False),
            s.case(draw(2, 0), axis=1, reverse=False),
        ]

    return samples


def _bad_axis(s: Sampler) -> list[Any]:
    return [s.case(s.normal(2, 3), axis=2, reverse=False), s.case(s.normal(0), axis=-2, reverse=False)]


@kernel
def _running(xp: Any, a: Any, *, axis: int, reverse: bool, what: str) -> Any:
    wide = wide_sum_dtype(a.dtype)
    if reverse:
        return xp.flip(getattr(xp.flip(a, axis), what)(axis, dtype=wide), axis)
    return getattr(a, what)(axis, dtype=wide)


def _scanned(name: str) -> Any:
    """A forward that scans with the array method of that name, backwards if asked."""

    def forward(xp: Any, a: Any, *, axis: int, reverse: bool) -> Any:
        if not a.ndim:
            return getattr(a.reshape(1), name)(axis).reshape(())
        out = (_running if is_large(a) else _running.reference)(xp, a, axis=axis, reverse=reverse, what=name)
        return out.astype(a.dtype) if a.dtype.itemsize == 2 and a.dtype.kind in "fV" else out

    return forward


def _reference(scan: Any) -> Any:
    def compute(a: Any, axis: int, reverse: bool) -> Any:
        if not np.ndim(a):
            return a
        return np.flip(scan(np.flip(a, axis), axis), axis) if reverse else scan(a, axis)

    return compute


def _wide(a: Any, **_: Any) -> Any:
    return np.dtype("int64") if a.kind in "iub" else a


CUMSUM = op(
    "cumsum", "running sums along a dimension",
    autocast="single on cuda",
    forward=_scanned("cumsum"),
    vjps=(lambda F, g, out, a, *, axis, reverse: F.cumsum(g, axis=axis, reverse=not reverse),),
    saves=("",), reference=_reference(np.cumsum), samples=_cases("normal"), errors=_bad_axis, shape=same_shape,
    dtype=_wide,
)  # fmt: skip


def _cumprod_vjp(F: Any, g: Any, out: Any, a: Any, *, axis: int, reverse: bool) -> Any:
    """Σ over k ≥ i of g_k · Π over j ≤ k, j ≠ i, of a_j.

    Without zeros that is Σ g_k out_k / a_i. At the first zero of a line, it is the sum for the line with that zero
    taken for 1; after it, 0.
    """
    if not (F.raw or not (a.data == 0).any()):
        return _cumprod_of_others(F, g, a, axis, reverse)
    zero = a == 0
    if not (zero if F.raw else zero.data).any():
        return F.cumsum(g * out, axis=axis, reverse=not reverse) / a
    zeros = as_mask(F, zero, a)
    passed = F.cumsum(zeros, axis=axis, reverse=reverse)
    first = zeros * as_mask(F, passed == 1, a)
    before = F.cumsum(g * out, axis=axis, reverse=not reverse) / (a + zeros) * as_mask(F, passed == 0, a)
    without = F.cumprod(a + first, axis=axis, reverse=reverse)
    return before + first * F.cumsum(g * without, axis=axis, reverse=not reverse)


def _cumprod_of_others(F: Any, g: Any, a: Any, axis: int, reverse: bool) -> Any:
    """The sum in full, n² products: where elements are 0, dividing would lose the second gradient."""
    if not a.ndim:
        return g
    n, ndim = a.shape[axis], a.ndim
    order = (*(i for i in range(ndim) if i != axis % ndim), axis % ndim)
    lines = F.permute(a, axes=order)
    shape = lines.shape
    xp = array_module(lines if F.raw else lines.data)
    rows = F.where(xp.eye(n, dtype=bool), 1.0, F.reshape(lines, shape=(*shape[:-1], 1, n)))
    products = F.cumprod(rows, axis=-1, reverse=reverse)
    counted = xp.tri(n).T if not reverse else xp.tri(n)
    weights = F.reshape(F.permute(g, axes=order), shape=(*shape[:-1], 1, n))
    total = F.sum(products * weights * counted.astype(a.dtype), axis=-1, keepdims=False)
    return F.permute(total, axes=tuple(order.index(i) for i in range(ndim)))


CUMPROD = op(
    "cumprod", "running products along a dimension",
    autocast="single on cuda",
    forward=_scanned("cumprod"), vjps=(_cumprod_vjp,), saves=("a out",), reference=_reference(np.cumprod),
    samples=lambda s: [
        *_cases("positive")(s),
        s.case(s.positive(2, 4) * np.array([[1, 0, 1, 1], [1, 1, 1, 1]]), axis=1, reverse=False),
        s.case(s.positive(2, 4) * np.array([[1, 0, 0, 1], [0, 1, 1, 0]]), axis=1, reverse=True),
    ],
    errors=_bad_axis, shape=same_shape, dtype=_wide,
)  # fmt: skip


def _log_cumsum_exp(xp: Any, a: Any, *, axis: int, reverse: bool) -> Any:
    if not a.ndim:
        return a.copy()
    if reverse:
        return xp.flip(_log_cumsum_exp(xp, xp.flip(a, axis), axis=axis, reverse=False), axis)
    if xp is np and a.dtype.itemsize > 2:
        return np.logaddexp.accumulate(a, axis)
    return accumulate(xp, xp.logaddexp, a, axis)


def accumulate(xp: Any, combine: Any, a: Any, axis: int) -> Any:
    """The scan by an associative function of two arrays, in log2(n) steps: where there is no `ufunc.accumulate`."""
    out, step = xp.moveaxis(a, axis, 0).copy(), 1
    while step < len(out):
        out[step:] = combine(out[step:], out[:-step].copy())
        step *= 2
    return xp.moveaxis(out, 0, axis)


def _log_cumsum_exp_vjp(F: Any, g: Any, out: Any, a: Any, *, axis: int, reverse: bool) -> Any:
    """exp(a_i) · Σ over k ≥ i of g_k exp(-out_k), kept within range by the largest a of each line."""
    if not a.ndim:
        return g
    if not F.raw:
        top = wrap(a.data.max(axis=axis, keepdims=True)) if a.data.size else 0.0
        return F.exp(a - top) * F.cumsum(g * F.exp(top - out), axis=axis, reverse=not reverse)
    xp = F.xp
    parts = []
    for sign in (1.0, -1.0):  # of positive and negative gradients apart, as logarithms
        logs = xp.log(xp.maximum(g * sign, 0)) - out
        logs = xp.where(out == -math.inf, logs.dtype.type(-math.inf), logs)
        parts.append(xp.exp(_log_cumsum_exp(xp, logs, axis=axis, reverse=not reverse) + a))
    return parts[0] - parts[1]


LOGCUMSUMEXP = op(
    "logcumsumexp", "the logarithm of running sums of exponentials, without overflow",
    forward=_log_cumsum_exp, vjps=(_log_cumsum_exp_vjp,), saves=("a out",), samples=_cases("normal"),
    reference=lambda a, axis, reverse: np.log(_reference(np.cumsum)(np.exp(a), axis, reverse)), errors=_bad_axis,
    shape=same_shape,
)  # fmt: skip


def cumsum(input: Tensor, dim: int, *, dtype: DTypeLike = None, out: Tensor | None = None) -> Tensor:
    """Running sums along a dimension; of whole numbers and bools, in int64."""
    if out is not None:
        return into(out, cumsum(input, dim, dtype=dtype))
    return CUMSUM.run(input if dtype is None else input.to(dtype), axis=dim, reverse=False)


def cumprod(input: Tensor, dim: int, *, dtype: DTypeLike = None, out: Tensor | None = None) -> Tensor:
    """Running products along a dimension; of whole numbers and bools, in int64."""
    if out is not None:
        return into(out, cumprod(input, dim, dtype=dtype))
    return CUMPROD.run(input if dtype is None else input.to(dtype), axis=dim, reverse=False)


def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """The logarithm of running sums of exponentials along a dimension, without overflow."""
    return LOGCUMSUMEXP.run(input, axis=dim, reverse=False)


# -- extremes ----------------------------------------------------------------------------------------------------------


@kernel
def _running_place(xp: Any, a: Any, *, axis: int, what: str) -> Any:
    """Where the extreme of all elements so far is (the last, if several); from a NaN on, the last NaN."""
    best = getattr(np, what).accumulate(a, axis) if xp is np else accumulate(xp, getattr(xp, what), a, axis)
    hit = (a == best) | (a != a)  # noqa: PLR0124 (NaN)
    shape = [1] * a.ndim
    shape[axis] = -1
    places = xp.where(hit, xp.arange(a.shape[axis]).reshape(shape), 0)
    return np.maximum.accumulate(places, axis) if xp is np else accumulate(xp, xp.maximum, places, axis)


def _cumulative(input: Tensor, dim: int, name: str) -> ValuesAndIndices:
    same_shape(input.shape, axis=dim)
    if not input.ndim:
        return in_one_dimension(_cumulative, input, 0, name)  # type: ignore[no-any-return]
    indices = wrap(_running_place(array_module(input.data), input.data, axis=dim, what=name))
    return ValuesAndIndices(input.gather(dim, indices), indices)


def cummax(input: Tensor, dim: int) -> ValuesAndIndices:
    """The largest element so far along a dimension, and where it is (the last, if several)."""
    return _cumulative(input, dim, "maximum")


def cummin(input: Tensor, dim: int) -> ValuesAndIndices:
    """The smallest element so far along a dimension, and where it is (the last, if several)."""
    return _cumulative(input, dim, "minimum")


# -- neighbours --------------------------------------------------------------------------------------------------------


def diff(
    input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """Differences between neighbours along a dimension, n times over.

    Raises:
        ValueError: n is negative, or the tensor has no dimensions.
    """
    if n < 0 or not input.ndim:
        raise ValueError(f"diff needs n ≥ 0 (it is {n}) and a tensor of at least one dimension ({input.ndim})")
    parts = [part for part in (prepend, input, append) if part is not None]
    if n and len(parts) > 1:
        from cordee.trainer.ops.company import cat

        input = cat(parts, dim)
    for _ in range(min(n, input.shape[dim])):
        size = input.shape[dim]
        later, earlier = input.narrow(dim, 1, size - 1), input.narrow(dim, 0, size - 1)
        input = later ^ earlier if input.dtype.kind == "b" else later - earlier
    return input


def _strips(y: Tensor, x: Tensor | None, dx: float | None, dim: int) -> Tensor:
    """The areas of the trapezoids between neighbours."""
    size = y.shape[dim]
    sums = y.narrow(dim, 1, max(size - 1, 0)) + y.narrow(dim, 0, max(size - 1, 0))
    if x is None:
        return sums * ((1.0 if dx is None else dx) / 2.0)
    widths = diff(x, dim=-1 if x.ndim == 1 else dim)
    if x.ndim == 1 and y.ndim > 1:
        widths = widths.reshape([-1 if i == dim % y.ndim else 1 for i in range(y.ndim)])
    return sums * widths / 2.0


def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: float | None = None, dim: int = -1) -> Tensor:
    """The integral of y along a dimension by the trapezoid rule: at the places x, or dx (1) apart."""
    return _strips(y, x, dx, dim).sum(dim)


def cumulative_trapezoid(y: Tensor, x: Tensor | None = None, *, dx: float | None = None, dim: int = -1) -> Tensor:
    """The running integral of y along a dimension by the trapezoid rule."""
    return cumsum(_strips(y, x, dx, dim), dim)


trapz = trapezoid
