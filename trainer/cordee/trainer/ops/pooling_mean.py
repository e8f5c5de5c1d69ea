"""Pooling by sums: the mean of every window, and its p-norm."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from cordee.trainer.array import array_module, is_float
from cordee.trainer.autograd.record import Op, Shape, op
from cordee.trainer.errors import ShapeError
from cordee.trainer.kernels import kernel
from cordee.trainer.ops.pooling import HALVES, blank, checked, pool, sample_cases, sample_errors, window_values
from cordee.trainer.ops.windows import Sizes, Window, bordered, inside, numbers, pooled_shape
from cordee.trainer.ops.windows import window as make_window
from cordee.trainer.tensors import Tensor

__all__ = ["avg_pool1d", "avg_pool2d", "avg_pool3d", "lp_pool1d", "lp_pool2d", "lp_pool3d"]


@kernel
def _sum_pool(xp: Any, a: Any, *, window: Window) -> Any:
    size, border = checked(a, window)
    image = bordered(xp, a, border, order="K")
    total: Any = None
    for _, view in window.views(size):
        seen = image[(slice(None), slice(None), *view)]
        if total is None:
            total = seen.copy("K")
        else:
            total += seen
    return total


@kernel
def _spread_pool(xp: Any, a: Any, *, shape: Sizes, window: Window) -> Any:
    size = window.size(shape[2:])
    if (*shape[:2], *size) != a.shape:
        raise ValueError("the windows are not those of such an image")
    border = window.border(shape[2:], size)
    image = blank(xp, shape, border, a)
    for _, view in window.views(size):
        image[(slice(None), slice(None), *view)] += a
    return image[(..., *inside(shape[2:], border))]


def _spread_shape(a: Any, *, shape: Sizes, window: Window) -> Shape:
    if tuple(a) != pooled_shape(shape, window=window):
        raise ShapeError(f"pooling {shape} gives {pooled_shape(shape, window=window)}, not {tuple(a)}")
    return shape


@functools.lru_cache(maxsize=128)
def _shares(xp: Any, window: Window, sizes: Sizes, count_pad: bool, divisor: int | None, dtype: Any) -> Any:
    """What each window's sum is multiplied by: a number where it is the same for all, else an array of their shape."""
    whole = math.prod(window.kernel)
    plain = not window.ceil and (count_pad or not any(window.padding))
    if divisor is not None or plain:
        return 1.0 / (divisor or whole)
    counts = np.ones(())
    for n, m, k, s, p in zip(sizes, window.size(sizes), window.kernel, window.stride, window.padding, strict=True):
        start = np.arange(m) * s - p
        end = np.minimum(start + k, n + p)
        if not count_pad:
            start, end = np.maximum(start, 0), np.minimum(end, n)
        counts = counts[..., None] * (end - start)
    return xp.asarray((1.0 / counts).astype(dtype))


def _avg_pool(xp: Any, a: Any, *, window: Window, count_pad: bool, divisor: int | None) -> Any:
    total = _sum_pool(xp, a, window=window)
    if not is_float(a.dtype):  # whole numbers: rounded towards zero
        shares = _shares(xp, window, a.shape[2:], count_pad, divisor, np.dtype("float64"))
        return xp.trunc(total / xp.rint(1.0 / shares)).astype(a.dtype)
    return xp.multiply(total, _shares(xp, window, a.shape[2:], count_pad, divisor, a.dtype), out=total)


def _avg_pool_vjp(F: Any, g: Any, out: Any, a: Any, *, window: Window, count_pad: bool, divisor: int | None) -> Any:
    xp = F.xp if F.raw else array_module(g.data)
    shared = g * _shares(xp, window, a[2:], count_pad, divisor, g.dtype)
    return F.spread_pool(shared, shape=a, window=window)


def _avg_reference(a: Any, window: Window, count_pad: bool, divisor: int | None) -> Any:
    sums = window_values(a, window, 0.0).sum(-1)
    if divisor is not None:
        return sums / divisor
    ones = np.ones((1, 1, *a.shape[2:]))
    if count_pad:
        ones = np.pad(ones, ((0, 0), (0, 0), *((p, p) for p in window.padding)), constant_values=1.0)
        counted = Window(window.kernel, window.stride, (0,) * len(window.padding), window.dilation)
        missing = [max(0, (m - 1) * s + k - n) for m, s, k, n in zip(
            sums.shape[2:], window.stride, window.kernel, ones.shape[2:], strict=True)]  # fmt: skip
        ones = np.pad(ones, ((0, 0), (0, 0), *((0, n) for n in missing)))
        counts = window_values(ones, counted, 0.0).sum(-1)
        return sums / counts[(..., *map(slice, sums.shape[2:]))]
    return sums / window_values(ones, window, 0.0).sum(-1)


SUM_POOL = op(
    "sum_pool", "the sum of every window",
    forward=_sum_pool, saves=("",), shape=pooled_shape, dtype="first",
    vjps=(lambda F, g, out, a, *, window: F.spread_pool(g, shape=a, window=window),),
    reference=lambda a, window: window_values(a, window, 0.0).sum(-1),
    samples=lambda s: [*sample_cases(2)(s), *sample_cases(1)(s)], errors=sample_errors(2),
)  # fmt: skip

SPREAD_POOL = op(
    "spread_pool", "every window's number added to all its elements: the gradient of sum_pool",
    forward=_spread_pool, saves=("",), shape=_spread_shape, dtype="first",
    vjps=(lambda F, g, out, a, *, shape, window: F.sum_pool(g, window=window),),
    reference=lambda a, **_: np.repeat(np.repeat(a, 2, 2), 2, 3),
    samples=lambda s: [
        s.case(s.normal(1, 1, 2, 2), shape=(1, 1, 4, 4), window=HALVES),
        s.case(s.normal(0, 1, 1, 2), shape=(0, 1, 2, 4), window=HALVES),
    ],
    errors=lambda s: [s.case(s.normal(1, 1, 3, 2), shape=(1, 1, 4, 4), window=HALVES)],
)  # fmt: skip

_PLAIN: dict[str, Any] = {"count_pad": True, "divisor": None}


def _declare_avg(ndim: int) -> Op:
    return op(
        f"avg_pool{ndim}d", "the mean of every window",
        forward=_avg_pool, saves=("",), vjps=(_avg_pool_vjp,), reference=_avg_reference, dtype="first",
        shape=lambda a, *, window, count_pad, divisor: pooled_shape(a, window=window),
        samples=lambda s: [
            *sample_cases(ndim, **_PLAIN)(s),
            *sample_cases(ndim, count_pad=False, divisor=None)(s)[1:],
            *sample_cases(ndim, count_pad=True, divisor=3)(s)[1:],
        ],
        errors=sample_errors(ndim, **_PLAIN),
    )  # fmt: skip


AVG_POOL = {ndim: _declare_avg(ndim) for ndim in (1, 2, 3)}


def _avg(
    ndim: int, input: Tensor, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:  # fmt: skip
    record = AVG_POOL[ndim]
    if divisor_override == 0:
        raise ValueError(f"{record.name}: divisor_override must not be 0")
    sliding = make_window(record.name, ndim, kernel_size, stride, padding, 1, ceil_mode)
    params = {"count_pad": count_include_pad, "divisor": divisor_override}
    if input.data.dtype.itemsize < 4 and is_float(input.data.dtype):  # added up in single precision
        return pool(record, input.float(), sliding, **params).to(input.dtype)
    return pool(record, input, sliding, **params)


def avg_pool1d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:  # fmt: skip
    """The mean of every window of `(N, C, L)` or `(C, L)`; see `avg_pool2d`."""
    return _avg(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """The mean of every window of `(N, C, H, W)` or `(C, H, W)`; the stride is the kernel size unless given.

    `ceil_mode` lets a last window hang over the end. `count_include_pad=False` divides by the number of real elements,
    `divisor_override` by that number.
    """
    return _avg(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """The mean of every window of `(N, C, D, H, W)` or `(C, D, H, W)`; see `avg_pool2d`."""
    return _avg(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _lp(ndim: int, input: Tensor, norm_type: float, kernel_size: Any, stride: Any, ceil_mode: bool) -> Tensor:
    """By way of the mean, as in PyTorch; negative sums (of an odd power) have their root's sign."""
    mean = _avg(ndim, input**norm_type, kernel_size, stride, 0, ceil_mode, True, None)
    total = mean * math.prod(numbers(f"lp_pool{ndim}d", "kernel_size", kernel_size, ndim))
    return (total.sign() * total.abs().relu()) ** (1.0 / norm_type)


def lp_pool1d(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Tensor:
    """The p-norm of every window of `(N, C, L)`, p being `norm_type`."""
    return _lp(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Tensor:
    """The p-norm of every window of `(N, C, H, W)`, p being `norm_type`."""
    return _lp(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Tensor:
    """The p-norm of every window of `(N, C, D, H, W)`, p being `norm_type`."""
    return _lp(3, input, norm_type, kernel_size, stride, ceil_mode)
