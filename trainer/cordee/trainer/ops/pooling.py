"""Pooling: one number from every window of an image, in any number of dimensions; here the largest. All of it is a
handful of passes over strided views.

The gradient of a maximum goes to the element that was it: each window remembers the place of its winner, in a byte.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.array import array_module, is_float
from cordee.trainer.autograd.record import Op, Shape, op
from cordee.trainer.errors import ShapeError
from cordee.trainer.kernels import kernel
from cordee.trainer.ops.scattering import gather
from cordee.trainer.ops.windows import Sizes, Window, bordered, inside, pooled_shape
from cordee.trainer.ops.windows import window as make_window
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["max_pool1d", "max_pool2d", "max_pool3d"]


def blank(xp: Any, shape: Sizes, border: list[tuple[int, int]], like: Any) -> Any:
    """A zero image with its border; in memory it is ordered as `like` is."""
    sizes = tuple(n + p + q for n, (p, q) in zip(shape[2:], border, strict=True))
    return xp.zeros_like(like, order="K", shape=(*shape[:2], *sizes))


def checked(a: Any, window: Window) -> tuple[Sizes, list[tuple[int, int]]]:
    """How many windows there are, and the border they need."""
    if (
        a.ndim != len(window.kernel) + 2
        or 0 in a.shape[1:]
        or any(2 * p > k for p, k in zip(window.padding, window.kernel, strict=True))
    ):
        raise ValueError("the window does not fit")
    size = window.size(a.shape[2:])
    return size, window.border(a.shape[2:], size)


def window_values(a: Any, window: Window, fill: float) -> Any:
    """For the references: every window's content, (N, C, *size, places)."""
    size = window.size(a.shape[2:])
    padded = np.pad(a, ((0, 0), (0, 0), *window.border(a.shape[2:], size)), constant_values=fill)
    return np.stack([padded[(slice(None), slice(None), *view)] for _, view in window.views(size)], -1)


_ONE = Window((3,), (2,), (1,), (1,))
_ONE_WIDE = Window((2,), (1,), (0,), (2,), ceil=True)
HALVES = Window((2, 2), (2, 2), (0, 0), (1, 1))
_ODD = Window((3, 2), (1, 2), (1, 1), (1, 1))
_CEIL = Window((2, 3), (2, 2), (0, 1), (1, 1), ceil=True)
_CUBES = Window((1, 2, 2), (1, 1, 2), (0, 1, 0), (1, 1, 1))


def sample_cases(ndim: int, **more: Any) -> Any:
    shapes: Any = {
        1: [((2, 1, 5), _ONE), ((1, 2, 4), _ONE_WIDE), ((0, 2, 5), _ONE)],
        2: [((2, 2, 4, 4), HALVES), ((1, 2, 5, 4), _ODD), ((1, 1, 3, 4), _CEIL)],
        3: [((1, 2, 2, 3, 2), _CUBES), ((1, 1, 1, 2, 4), _CUBES)],
    }
    return lambda s: [s.case(s.distinct(*shape), window=window, **more) for shape, window in shapes[ndim]]


def sample_errors(ndim: int, **more: Any) -> Any:
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


@kernel
def _max_pool(xp: Any, a: Any, *, window: Window) -> Any:
    size, border = checked(a, window)
    image = bordered(xp, a, border, _lowest(a.dtype), "K")
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
    if is_float(best.dtype):  # one pass; what else is not finite is looked for in vain
        return not math.isfinite(best.sum())
    return best.size > 0 and bool(best.min() == _lowest(best.dtype))


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


@kernel
def _unpool(xp: Any, a: Any, *, winner: Any, shape: Sizes, window: Window) -> Any:
    size = a.shape[2:]
    border = window.border(shape[2:], size)
    image = blank(xp, shape, border, a)
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
    image = bordered(xp, a, window.border(a.shape[2:], size), order="K")
    out = xp.zeros_like(winner, a.dtype)
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
        reference=lambda a, window: window_values(a, window, -np.inf).max(-1),
        samples=sample_cases(ndim), errors=sample_errors(ndim),
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
    samples=lambda s: [s.case(s.normal(1, 1, 2, 2), winner=_WINNER, shape=(1, 1, 4, 4), window=HALVES)],
    errors=lambda s: [s.case(s.normal(1, 1, 3, 2), winner=_WINNER, shape=(1, 1, 4, 4), window=HALVES)],
)  # fmt: skip

POOL_TAKE = op(
    "pool_take", "one given element of every window: the gradient of unpool",
    forward=_pool_take, saves=("",), shape=_take_shape, dtype="first",
    vjps=(lambda F, g, out, a, *, winner, window: F.unpool(g, winner=winner, shape=a, window=window),),
    reference=lambda a, winner, window: np.take_along_axis(
        window_values(a, window, 0.0), winner[..., None], -1)[..., 0],
    samples=lambda s: [s.case(s.normal(1, 1, 4, 4), winner=_WINNER, window=HALVES)],
    errors=lambda s: [s.case(s.normal(1, 1, 2, 4), winner=_WINNER, window=HALVES)],
)  # fmt: skip


def batched(name: str, input: Tensor, ndim: int) -> Tensor:
    """With a batch dimension, which PyTorch lets one leave out."""
    if input.ndim not in (ndim + 1, ndim + 2):
        raise ShapeError(
            f"{name}: input must have {ndim + 2} dimensions (N, C, sizes), or {ndim + 1} without the batch; "
            f"its shape is {input.shape}"
        )
    return input if input.ndim == ndim + 2 else input.reshape(1, *input.shape)


def pool(record: Op, input: Tensor, sliding: Window, **params: Any) -> Tensor:
    if input.ndim == len(sliding.kernel) + 1:
        return record.run(input.reshape(1, *input.shape), window=sliding, **params).squeeze(0)
    return record.run(input, window=sliding, **params)


def _max(
    ndim: int, input: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool,
    return_indices: bool,
) -> Any:  # fmt: skip
    record = MAX_POOL[ndim]
    sliding = make_window(record.name, ndim, kernel_size, stride, padding, dilation, ceil_mode)
    if not return_indices:
        return pool(record, input, sliding)
    batch = batched(record.name, input, ndim)
    indices = _flat_places(array_module(batch.data), batch.data, sliding)
    if input.ndim == ndim + 1:
        indices = indices[0]
    return take_planes(input, wrap(indices), ndim), wrap(indices)


def _flat_places(xp: Any, a: Any, window: Window) -> Any:
    """Where in the flattened spatial dimensions of (N, C, *sizes) each window has its largest element."""
    values, winner = _max_pool(xp, a, window=window)
    sizes, size = a.shape[2:], values.shape[2:]
    number, flat = winner.astype(np.int64), 0
    for i in reversed(range(len(sizes))):
        number, place = xp.divmod(number, window.kernel[i])
        first = xp.arange(size[i]) * window.stride[i] - window.padding[i]
        along = first.reshape(-1, *(1,) * (len(sizes) - 1 - i)) + place * window.dilation[i]
        flat = flat + along * math.prod(sizes[i + 1 :])
    return flat


def take_planes(input: Tensor, indices: Tensor, ndim: int) -> Tensor:
    """The elements of each channel that indices into its flattened spatial dimensions name."""
    lead = input.shape[: input.ndim - ndim]
    planes, places = (
        input.reshape(*lead, math.prod(input.shape[-ndim:])),
        indices.data.reshape(*lead, math.prod(indices.shape[-ndim:])),
    )
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
