"""Pooling: one number from every window of an image, in any number of dimensions. All of it is a handful of passes over
strided views.

The gradient of a maximum goes to the element that was it: each window remembers the place of its winner, in a byte.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from cordee.trainer.array import array_module, is_float
from cordee.trainer.autograd.graph import apply_one
from cordee.trainer.autograd.record import Op, Shape, op
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.indexing import gather
from cordee.trainer.ops.windows import Sizes, Window, bordered, inside, numbers, pooled_shape
from cordee.trainer.ops.windows import window as make_window
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "lp_pool1d", "lp_pool2d", "lp_pool3d", "max_pool1d", "max_pool2d",
    "max_pool3d",
]  # fmt: skip


def _blank(xp: Any, shape: Sizes, border: list[tuple[int, int]], like: Any) -> Any:
    """A zero image with its border; in memory it is ordered as `like` is."""
    sizes = tuple(n + p + q for n, (p, q) in zip(shape[2:], border, strict=True))
    if like.strides[0] < like.strides[1]:  # channels before samples, as convolutions leave it
        return xp.zeros((shape[1], shape[0], *sizes), like.dtype).swapaxes(0, 1)
    return xp.zeros((*shape[:2], *sizes), like.dtype)


def _checked(a: Any, window: Window) -> tuple[Sizes, list[tuple[int, int]]]:
    """How many windows there are, and the border they need."""
    if a.ndim != len(window.kernel) + 2 or any(2 * p > k for p, k in zip(window.padding, window.kernel, strict=True)):
        raise ValueError("the window does not fit")
    size = window.size(a.shape[2:])
    return size, window.border(a.shape[2:], size)


def _window_values(a: Any, window: Window, fill: float) -> Any:
    """For the references: every window's content, (N, C, *size, places)."""
    size = window.size(a.shape[2:])
    padded = np.pad(a, ((0, 0), (0, 0), *window.border(a.shape[2:], size)), constant_values=fill)
    return np.stack([padded[(slice(None), slice(None), *view)] for _, view in window.views(size)], -1)


_ONE = Window((3,), (2,), (1,), (1,))
_ONE_WIDE = Window((2,), (1,), (0,), (2,), ceil=True)
_HALVES = Window((2, 2), (2, 2), (0, 0), (1, 1))
_ODD = Window((3, 2), (1, 2), (1, 1), (1, 1))
_CEIL = Window((2, 3), (2, 2), (0, 1), (1, 1), ceil=True)
_CUBES = Window((1, 2, 2), (1, 1, 2), (0, 1, 0), (1, 1, 1))


def _cases(ndim: int, **more: Any) -> Any:
    shapes: Any = {
        1: [((2, 1, 5), _ONE), ((1, 2, 4), _ONE_WIDE), ((0, 2, 5), _ONE)],
        2: [((2, 2, 4, 4), _HALVES), ((1, 2, 5, 4), _ODD), ((1, 1, 3, 4), _CEIL)],
        3: [((1, 2, 2, 3, 2), _CUBES), ((1, 1, 1, 2, 4), _CUBES)],
    }
    return lambda s: [s.case(s.distinct(*shape), window=window, **more) for shape, window in shapes[ndim]]


def _errors(ndim: int, **more: Any) -> Any:
    ones = (1,) * ndim
    large = Window((3,) * ndim, ones, (0,) * ndim, ones)
    padded = Window((2,) * ndim, ones, (2,) * ndim, ones)
    return lambda s: [
        s.case(s.normal(2, *(4,) * (ndim - 1)), window=large, **more),
        s.case(s.normal(1, 1, *(2,) * ndim), window=large, **more),
        s.case(s.normal(1, 1, *(4,) * ndim), window=padded, **more),
    ]


# -- the largest -------------------------------------------------------------------------------------------------------


def _lowest(dtype: Any) -> Any:
    """What a border holds, so that no element is smaller."""
    return -math.inf if is_float(dtype) else np.iinfo(dtype).min


def _max_pool(xp: Any, a: Any, *, window: Window) -> Any:
    size, border = _checked(a, window)
    image = bordered(xp, a, border, _lowest(a.dtype))
    kind = np.dtype("uint8" if len(window.places) < 256 else "int32")
    best: Any = None
    winner: Any = None
    for number, (_, view) in enumerate(window.views(size)):
        seen = image[(slice(None), slice(None), *view)].copy("K")  # strided once, contiguous in what follows
        if best is None:
            best = seen
            winner = xp.zeros_like(best, dtype=kind)
        else:
            # Places are numbered in the order of their visit, so the last one to win has the largest number. Small
            # arithmetic over everything is several times faster than writing where a mask says.
            won = xp.multiply(seen > best, number, dtype=kind)
            xp.maximum(winner, won, out=winner)
            xp.maximum(best, seen, out=best)
    if _is_special(xp, best):
        winner = _special_winners(xp, a, window, size, kind)
    return best, winner


def _is_special(xp: Any, best: Any) -> bool:
    """Whether some winner is NaN or the lowest there is, and so may not be the one that was noted.

    On a GPU the answer would have to be waited for; there the winners are always looked for twice.
    """
    if xp is not np:
        return True
    return best.size > 0 and not (best.max() >= best.min() > _lowest(best.dtype))  # NaN is not >= anything


def _special_winners(xp: Any, a: Any, window: Window, size: Sizes, kind: Any) -> Any:
    """As PyTorch: the first of the largest that is no border; the last NaN."""
    border = window.border(a.shape[2:], size)
    image = bordered(xp, a, border, _lowest(a.dtype))
    inner = bordered(xp, xp.ones((1, 1, *a.shape[2:]), bool), border, False)
    best = winner = found = None
    for number, (_, view) in enumerate(window.views(size)):
        place = (slice(None), slice(None), *view)
        seen, real = image[place], xp.broadcast_to(inner[place], (*a.shape[:2], *size))
        if best is None or winner is None or found is None:
            best, winner, found = seen.copy(), xp.zeros(seen.shape, kind), real.copy()
            continue
        won = real & ((seen > best) | _is_nan(xp, seen) | ~found)
        best, winner = xp.where(won, seen, best), xp.where(won, kind.type(number), winner)
        found |= real
    return winner


def _is_nan(xp: Any, a: Any) -> Any:
    return xp.isnan(a) if is_float(a.dtype) else False


def _unpool(xp: Any, a: Any, *, winner: Any, shape: Sizes, window: Window) -> Any:
    size = a.shape[2:]
    border = window.border(shape[2:], size)
    image = _blank(xp, shape, border, a)
    apart = all(s >= k for s, k in zip(window.stride, window.kernel, strict=True)) and max(window.dilation) == 1
    for number, (_, view) in enumerate(window.views(size)):
        here, place = winner == number, (slice(None), slice(None), *view)
        if apart:  # nothing else is written to these elements
            xp.multiply(a, here, out=image[place])
        else:
            image[place] += a * here
    return image[(..., *inside(shape[2:], border))]


def _pool_take(xp: Any, a: Any, *, winner: Any, window: Window) -> Any:
    size = winner.shape[2:]
    if (*a.shape[:2], *window.size(a.shape[2:])) != winner.shape:
        raise ValueError("the windows are not those that have winners")
    image = bordered(xp, a, window.border(a.shape[2:], size))
    out = xp.zeros(winner.shape, a.dtype)
    for number, (_, view) in enumerate(window.views(size)):
        xp.copyto(out, image[(slice(None), slice(None), *view)], where=winner == number)
    return out


def _unpool_shape(a: Any, *, winner: Any, shape: Sizes, window: Window) -> Shape:
    if tuple(a) != winner.shape:
        raise ShapeError(f"there are winners for {winner.shape}, not for {tuple(a)}")
    return shape


def _take_shape(a: Any, *, winner: Any, window: Window) -> Shape:
    if pooled_shape(a, window=window) != winner.shape:
        raise ShapeError(f"there are winners for {winner.shape}, but the windows are {pooled_shape(a, window=window)}")
    return winner.shape  # type: ignore[no-any-return]


def _declare_max(ndim: int) -> Op:
    return op(
        f"max_pool{ndim}d", "the largest of every window; of several, the first gets the gradient",
        forward=_max_pool, saves=("",), aux=True, shape=pooled_shape, dtype="first",
        vjps=(lambda F, g, out, a, *, aux, window: F.unpool(g, winner=aux, shape=a, window=window),),
        reference=lambda a, window: _window_values(a, window, -np.inf).max(-1),
        samples=_cases(ndim), errors=_errors(ndim),
    )  # fmt: skip


MAX_POOL = {ndim: _declare_max(ndim) for ndim in (1, 2, 3)}
_WINNER = np.array([[[[0, 1], [2, 3]]]])

UNPOOL = op(
    "unpool", "every window's number put back to where it came from: the gradient of max_pool",
    forward=_unpool, saves=("",), shape=_unpool_shape, dtype="first",
    vjps=(lambda F, g, out, a, *, shape, **where: F.pool_take(g, **where),),
    reference=lambda a, winner, shape, window: np.array([[[
        [a[0, 0, y // 2, x // 2] * (winner[0, 0, y // 2, x // 2] == y % 2 * 2 + x % 2) for x in range(4)]
        for y in range(4)
    ]]]),
    samples=lambda s: [s.case(s.normal(1, 1, 2, 2), winner=_WINNER, shape=(1, 1, 4, 4), window=_HALVES)],
    errors=lambda s: [s.case(s.normal(1, 1, 3, 2), winner=_WINNER, shape=(1, 1, 4, 4), window=_HALVES)],
)  # fmt: skip

POOL_TAKE = op(
    "pool_take", "one given element of every window: the gradient of unpool",
    forward=_pool_take, saves=("",), shape=_take_shape, dtype="first",
    vjps=(lambda F, g, out, a, *, winner, window: F.unpool(g, winner=winner, shape=a, window=window),),
    reference=lambda a, winner, window: np.take_along_axis(
        _window_values(a, window, 0.0), winner[..., None], -1)[..., 0],
    samples=lambda s: [s.case(s.normal(1, 1, 4, 4), winner=_WINNER, window=_HALVES)],
    errors=lambda s: [s.case(s.normal(1, 1, 2, 4), winner=_WINNER, window=_HALVES)],
)  # fmt: skip


def batched(name: str, input: Tensor, ndim: int) -> Tensor:
    """With a batch dimension, which PyTorch lets one leave out."""
    if input.ndim not in (ndim + 1, ndim + 2):
        raise ShapeError(
            f"{name}: input must have {ndim + 2} dimensions (N, C, sizes), or {ndim + 1} without the batch; "
            f"its shape is {input.shape}"
        )
    return input if input.ndim == ndim + 2 else input.reshape(1, *input.shape)


def _pool(record: Op, input: Tensor, sliding: Window, **params: Any) -> Tensor:
    if input.ndim == len(sliding.kernel) + 1:
        return apply_one(record, input.reshape(1, *input.shape), window=sliding, **params).squeeze(0)
    return apply_one(record, input, window=sliding, **params)


def _max(
    ndim: int, input: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool,
    return_indices: bool,
) -> Any:  # fmt: skip
    record = MAX_POOL[ndim]
    sliding = make_window(record.name, ndim, kernel_size, stride, padding, dilation, ceil_mode)
    if not return_indices:
        return _pool(record, input, sliding)
    batch = batched(record.name, input, ndim)
    indices = _flat_places(array_module(batch.data), batch.data, sliding)
    if input.ndim == ndim + 1:
        indices = indices[0]
    return take_planes(input, wrap(indices), ndim), wrap(indices)


def _flat_places(xp: Any, a: Any, window: Window) -> Any:
    """Where in the flattened spatial dimensions of (N, C, *sizes) each window has its largest element."""
    values, winner = _max_pool(xp, a, window=window)
    sizes, size, number, flat = a.shape[2:], values.shape[2:], winner.astype(np.int64), 0
    for i in reversed(range(len(sizes))):
        number, place = xp.divmod(number, window.kernel[i]) if i else (None, number)
        first = xp.arange(size[i]) * window.stride[i] - window.padding[i]
        along = first.reshape(-1, *(1,) * (len(sizes) - 1 - i)) + place * window.dilation[i]
        flat = flat + along * math.prod(sizes[i + 1 :])
    return flat


def take_planes(input: Tensor, indices: Tensor, ndim: int) -> Tensor:
    """The elements of each channel that indices into its flattened spatial dimensions name."""
    lead = input.shape[: input.ndim - ndim]
    planes, places = input.reshape(*lead, math.prod(input.shape[-ndim:])), indices.data.reshape(*lead, -1)
    return gather(planes, -1, wrap(places)).reshape(indices.shape)


def max_pool1d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest of every window of `(N, C, L)` or `(C, L)`; see `max_pool2d`."""
    return _max(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest of every window of `(N, C, H, W)` or `(C, H, W)`; the stride is the kernel size unless given.

    With `return_indices`, also where each was found, in the flattened spatial dimensions: what `max_unpool2d` takes.
    """
    return _max(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest of every window of `(N, C, D, H, W)` or `(C, D, H, W)`; see `max_pool2d`."""
    return _max(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


# -- the mean ----------------------------------------------------------------------------------------------------------


def _sum_pool(xp: Any, a: Any, *, window: Window) -> Any:
    size, border = _checked(a, window)
    image = bordered(xp, a, border)
    total: Any = None
    for _, view in window.views(size):
        seen = image[(slice(None), slice(None), *view)]
        if total is None:
            total = seen.copy("K")
        else:
            total += seen
    return total


def _spread_pool(xp: Any, a: Any, *, shape: Sizes, window: Window) -> Any:
    size = window.size(shape[2:])
    if (*shape[:2], *size) != a.shape:
        raise ValueError("the windows are not those of such an image")
    border = window.border(shape[2:], size)
    image = _blank(xp, shape, border, a)
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
    return xp.multiply(total, _shares(xp, window, a.shape[2:], count_pad, divisor, a.dtype), out=total)


def _avg_pool_vjp(F: Any, g: Any, out: Any, a: Any, *, window: Window, count_pad: bool, divisor: int | None) -> Any:
    xp = F.xp if F.raw else array_module(g.data)
    shared = g * _shares(xp, window, a[2:], count_pad, divisor, g.dtype)
    return F.spread_pool(shared, shape=a, window=window)


def _avg_reference(a: Any, window: Window, count_pad: bool, divisor: int | None) -> Any:
    sums = _window_values(a, window, 0.0).sum(-1)
    if divisor is not None:
        return sums / divisor
    ones = np.ones((1, 1, *a.shape[2:]))
    if count_pad:
        ones = np.pad(ones, ((0, 0), (0, 0), *((p, p) for p in window.padding)), constant_values=1.0)
        counted = Window(window.kernel, window.stride, (0,) * len(window.padding), window.dilation)
        missing = [max(0, (m - 1) * s + k - n) for m, s, k, n in zip(
            sums.shape[2:], window.stride, window.kernel, ones.shape[2:], strict=True)]  # fmt: skip
        ones = np.pad(ones, ((0, 0), (0, 0), *((0, n) for n in missing)))
        counts = _window_values(ones, counted, 0.0).sum(-1)
        return sums / counts[(..., *map(slice, sums.shape[2:]))]
    return sums / _window_values(ones, window, 0.0).sum(-1)


SUM_POOL = op(
    "sum_pool", "the sum of every window",
    forward=_sum_pool, saves=("",), shape=pooled_shape, dtype="first",
    vjps=(lambda F, g, out, a, *, window: F.spread_pool(g, shape=a, window=window),),
    reference=lambda a, window: _window_values(a, window, 0.0).sum(-1),
    samples=lambda s: [*_cases(2)(s), *_cases(1)(s)], errors=_errors(2),
)  # fmt: skip

SPREAD_POOL = op(
    "spread_pool", "every window's number added to all its elements: the gradient of sum_pool",
    forward=_spread_pool, saves=("",), shape=_spread_shape, dtype="first",
    vjps=(lambda F, g, out, a, *, shape, window: F.sum_pool(g, window=window),),
    reference=lambda a, **_: np.repeat(np.repeat(a, 2, 2), 2, 3),
    samples=lambda s: [
        s.case(s.normal(1, 1, 2, 2), shape=(1, 1, 4, 4), window=_HALVES),
        s.case(s.normal(0, 1, 1, 2), shape=(0, 1, 2, 4), window=_HALVES),
    ],
    errors=lambda s: [s.case(s.normal(1, 1, 3, 2), shape=(1, 1, 4, 4), window=_HALVES)],
)  # fmt: skip

_PLAIN: dict[str, Any] = {"count_pad": True, "divisor": None}


def _declare_avg(ndim: int) -> Op:
    return op(
        f"avg_pool{ndim}d", "the mean of every window",
        forward=_avg_pool, saves=("",), vjps=(_avg_pool_vjp,), reference=_avg_reference, dtype="first",
        shape=lambda a, *, window, count_pad, divisor: pooled_shape(a, window=window),
        samples=lambda s: [
            *_cases(ndim, **_PLAIN)(s),
            *_cases(ndim, count_pad=False, divisor=None)(s)[1:],
            *_cases(ndim, count_pad=True, divisor=3)(s)[1:],
        ],
        errors=_errors(ndim, **_PLAIN),
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
    if not is_float(input.dtype):
        raise TypeError(f"{record.name}: takes floating-point tensors, not {input.dtype.name}")
    return _pool(record, input, sliding, count_pad=count_include_pad, divisor=divisor_override)


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
