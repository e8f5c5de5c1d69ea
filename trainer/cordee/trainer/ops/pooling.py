"""Pooling: one number from every window of an image. All of it is a handful of passes over strided views."""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.autograd.graph import apply, apply_one
from cordee.trainer.autograd.record import op
from cordee.trainer.ops.convolution import Pair, output_size, pair, windows
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["avg_pool2d", "max_pool2d"]


def _padded(xp: Any, a: Any, padding: Pair, value: float) -> Any:
    (ph, pw), (n, c, h, w) = padding, a.shape
    if not ph and not pw:
        return a
    out = xp.full((n, c, h + 2 * ph, w + 2 * pw), value, a.dtype)
    out[:, :, ph : ph + h, pw : pw + w] = a
    return out


def _blank(xp: Any, shape: tuple[int, ...], padding: Pair, like: Any) -> tuple[Any, Any]:
    """A zero image with its border, and the view of it without; in memory it is ordered as `like` is."""
    (ph, pw), (n, c, h, w) = padding, shape
    if like.strides[0] < like.strides[1]:  # channels before samples, as convolutions leave it
        image = xp.zeros((c, n, h + 2 * ph, w + 2 * pw), like.dtype).transpose(1, 0, 2, 3)
    else:
        image = xp.zeros((n, c, h + 2 * ph, w + 2 * pw), like.dtype)
    return image, image[:, :, ph : ph + h, pw : pw + w]


def _explain_pool(a: tuple[int, ...], *, kernel: Pair, stride: Pair, padding: Pair, **_: Any) -> str | None:
    if len(a) != 4:
        return f"needs four dimensions (N, C, H, W), not {len(a)}"
    if 2 * padding[0] > kernel[0] or 2 * padding[1] > kernel[1]:
        return f"padding {padding} is more than half of the kernel {kernel}"
    if min(output_size(a, kernel, stride, padding)) < 1:
        return f"the {kernel[0]}×{kernel[1]} window is larger than the padded image of {a[2]}×{a[3]}"
    return None


def _checked_size(a: Any, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    if reason := _explain_pool(a.shape, kernel=kernel, stride=stride, padding=padding):
        raise ValueError(reason)
    return output_size(a.shape, kernel, stride, padding)


def _window_values(a: Any, kernel: Pair, stride: Pair, padding: Pair, fill: float) -> Any:
    """For the references: every window's content, (N, C, OH, OW, kh · kw)."""
    padded = np.pad(a, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2), constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(padded, kernel, (2, 3))[:, :, :: stride[0], :: stride[1]]
    return views.reshape(*views.shape[:4], -1)


_ERRORS: Any = lambda s: [  # noqa: E731
    s.case(s.normal(2, 4, 4), kernel=(2, 2), stride=(2, 2), padding=(0, 0)),
    s.case(s.normal(1, 1, 2, 2), kernel=(3, 3), stride=(1, 1), padding=(0, 0)),
    s.case(s.normal(1, 1, 4, 4), kernel=(2, 2), stride=(2, 2), padding=(2, 2)),
]

# -- the largest -------------------------------------------------------------------------------------------------------


def _max_pool2d(xp: Any, a: Any, *, kernel: Pair, stride: Pair, padding: Pair) -> Any:
    size = _checked_size(a, kernel, stride, padding)
    image = _padded(xp, a, padding, -np.inf)
    best: Any = None
    winner: Any = None
    for i, j, rows, columns in windows(kernel, stride, size):
        seen = image[:, :, rows, columns].copy("K")  # strided once, contiguous in what follows
        if best is None:
            best = seen
            winner = xp.zeros_like(best, dtype=np.uint8 if kernel[0] * kernel[1] < 256 else np.int32)
        else:
            # Places are numbered in the order of their visit, so the last one to win has the largest number. Small
            # arithmetic over everything is several times faster than writing where a mask says.
            won = xp.multiply(seen > best, i * kernel[1] + j, dtype=winner.dtype)
            xp.maximum(winner, won, out=winner)
            xp.maximum(best, seen, out=best)
    return best, winner


def _unpool(xp: Any, a: Any, *, winner: Any, shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair) -> Any:
    image, inside = _blank(xp, shape, padding, a)
    apart = stride[0] >= kernel[0] and stride[1] >= kernel[1]
    for i, j, rows, columns in windows(kernel, stride, (a.shape[2], a.shape[3])):
        here = winner == i * kernel[1] + j
        if apart:  # nothing else is written to these elements
            xp.multiply(a, here, out=image[:, :, rows, columns])
        else:
            image[:, :, rows, columns] += a * here
    return inside


def _pool_take(xp: Any, a: Any, *, winner: Any, kernel: Pair, stride: Pair, padding: Pair) -> Any:
    image = _padded(xp, a, padding, 0.0)
    out = xp.zeros(winner.shape, a.dtype)
    for i, j, rows, columns in windows(kernel, stride, (winner.shape[2], winner.shape[3])):
        xp.copyto(out, image[:, :, rows, columns], where=winner == i * kernel[1] + j)
    return out


MAX_POOL2D = op(
    "max_pool2d", "the largest of every window; of several, the first gets the gradient",
    forward=_max_pool2d, saves=("",), aux=True, explain=_explain_pool, errors=_ERRORS,
    vjps=(lambda F, g, out, a, *, aux, **geometry: F.unpool(g, winner=aux, shape=a, **geometry),),
    reference=lambda a, kernel, stride, padding: _window_values(a, kernel, stride, padding, -np.inf).max(-1),
    samples=lambda s: [
        s.case(s.distinct(2, 2, 4, 4), kernel=(2, 2), stride=(2, 2), padding=(0, 0)),
        s.case(s.distinct(1, 2, 5, 4), kernel=(3, 2), stride=(1, 2), padding=(1, 1)),
    ],
)  # fmt: skip

_WINNER = np.array([[[[0, 1], [2, 3]]]])
_HALVES: dict[str, Any] = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0)}

UNPOOL = op(
    "unpool", "every window's number put back to where it came from: the gradient of max_pool2d",
    forward=_unpool, saves=("",),
    vjps=(lambda F, g, out, a, *, shape, **where: F.pool_take(g, **where),),
    reference=lambda a, winner, shape, **_: np.array([[[
        [a[0, 0, y // 2, x // 2] * (winner[0, 0, y // 2, x // 2] == y % 2 * 2 + x % 2) for x in range(4)]
        for y in range(4)
    ]]]),
    samples=lambda s: [s.case(s.normal(1, 1, 2, 2), winner=_WINNER, shape=(1, 1, 4, 4), **_HALVES)],
)  # fmt: skip

POOL_TAKE = op(
    "pool_take", "one given element of every window: the gradient of unpool",
    forward=_pool_take, saves=("",),
    vjps=(lambda F, g, out, a, *, winner, **geometry: F.unpool(g, winner=winner, shape=a, **geometry),),
    reference=lambda a, winner, kernel, stride, padding: np.take_along_axis(
        _window_values(a, kernel, stride, padding, 0.0), winner[..., None], -1)[..., 0],
    samples=lambda s: [s.case(s.normal(1, 1, 4, 4), winner=_WINNER, **_HALVES)],
)  # fmt: skip


def max_pool2d(input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Tensor:
    """The largest of every window of `(N, C, H, W)`; the stride is the kernel size unless given."""
    kernel = pair(kernel_size)
    return apply(
        MAX_POOL2D, input, kernel=kernel, stride=kernel if stride is None else pair(stride), padding=pair(padding)
    )


# -- the mean ----------------------------------------------------------------------------------------------------------


def _sum_pool(xp: Any, a: Any, *, kernel: Pair, stride: Pair, padding: Pair) -> Any:
    size = _checked_size(a, kernel, stride, padding)
    image = _padded(xp, a, padding, 0.0)
    total: Any = None
    for _, _, rows, columns in windows(kernel, stride, size):
        seen = image[:, :, rows, columns]
        if total is None:
            total = seen.copy("K")
        else:
            total += seen
    return total


def _spread_pool(xp: Any, a: Any, *, shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair) -> Any:
    image, inside = _blank(xp, shape, padding, a)
    for _, _, rows, columns in windows(kernel, stride, (a.shape[2], a.shape[3])):
        image[:, :, rows, columns] += a
    return inside


SUM_POOL = op(
    "sum_pool", "the sum of every window",
    forward=_sum_pool, saves=("",), explain=_explain_pool, errors=_ERRORS,
    vjps=(lambda F, g, out, a, **geometry: F.spread_pool(g, shape=a, **geometry),),
    reference=lambda a, kernel, stride, padding: _window_values(a, kernel, stride, padding, 0.0).sum(-1),
    samples=lambda s: [
        s.case(s.normal(2, 2, 4, 4), kernel=(2, 2), stride=(2, 2), padding=(0, 0)),
        s.case(s.normal(1, 2, 5, 4), kernel=(3, 2), stride=(1, 2), padding=(1, 1)),
    ],
)  # fmt: skip

SPREAD_POOL = op(
    "spread_pool", "every window's number added to all its elements: the gradient of sum_pool",
    forward=_spread_pool, saves=("",),
    vjps=(lambda F, g, out, a, *, shape, **geometry: F.sum_pool(g, **geometry),),
    reference=lambda a, **_: np.repeat(np.repeat(a, 2, 2), 2, 3),
    samples=lambda s: [s.case(s.normal(1, 1, 2, 2), shape=(1, 1, 4, 4), **_HALVES)],
)  # fmt: skip


def avg_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, *, count_include_pad: bool = True
) -> Tensor:
    """The mean of every window of `(N, C, H, W)`; the stride is the kernel size unless given."""
    kernel = pair(kernel_size)
    geometry = {"kernel": kernel, "stride": kernel if stride is None else pair(stride), "padding": pair(padding)}
    total = apply_one(SUM_POOL, input, **geometry)
    if count_include_pad or geometry["padding"] == (0, 0):
        return total * (1.0 / (kernel[0] * kernel[1]))
    return total / apply_one(SUM_POOL, wrap(np.ones_like(input.data)), **geometry)
