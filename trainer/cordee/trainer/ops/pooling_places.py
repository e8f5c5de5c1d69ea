"""Pooling that says where: the largest of adaptive and of random parts, and the way back from indices.

Indices count in the flattened spatial dimensions of a channel, as PyTorch's do. Values are gathered by them, so that
gradients go where values came from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer import random
from cordee.trainer.array import array_module, is_float
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.autograd.record import Shape, op
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.ops.interpolation import adaptive_sizes, segments
from cordee.trainer.ops.pooling import batched, max_pool1d, max_pool2d, max_pool3d, take_planes
from cordee.trainer.ops.windows import Sizes, numbers
from cordee.trainer.ops.writing import assign_at
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "fractional_max_pool2d",
    "fractional_max_pool3d", "max_unpool1d", "max_unpool2d", "max_unpool3d",
]  # fmt: skip


def _best(xp: Any, planes: Any, places: Any) -> Any:
    """Of each row of places (…, K) in planes (N, C, L), that of the first largest value, or of the last NaN: (N, C, …).

    Places are the same for all channels, or have (N, C) in front.
    """
    n, c = planes.shape[:2]
    if places.ndim > 2 and places.shape[:2] == (n, c):
        flat = places.reshape(n, c, math.prod(places.shape[2:]))
        values = xp.take_along_axis(planes, flat, 2).reshape(places.shape)
    else:
        values = planes[:, :, places]
        places = xp.broadcast_to(places, values.shape)
    best = values.argmax(-1)
    if is_float(values.dtype):
        nan = xp.isnan(values)
        last = values.shape[-1] - 1 - nan[..., ::-1].argmax(-1)
        best = xp.where(nan.any(-1), last, best)
    return xp.take_along_axis(places, best[..., None], -1)[..., 0]


def _result(input: Tensor, batch: Tensor, indices: Any, ndim: int, return_indices: bool) -> Any:
    found = wrap(indices if batch is input else indices[0])
    values = take_planes(input, found, ndim)
    return (values, found) if return_indices else values


# -- adaptive ----------------------------------------------------------------------------------------------------------


def _adaptive_max(ndim: int, input: Tensor, output_size: Any, return_indices: bool) -> Any:
    name = f"adaptive_max_pool{ndim}d"
    batch = batched(name, input, ndim)
    sizes, old = adaptive_sizes(name, batch, output_size, ndim), batch.shape[2:]
    if all(m and n % m == 0 for n, m in zip(old, sizes, strict=True)):
        pool = (max_pool1d, max_pool2d, max_pool3d)[ndim - 1]
        kernel = tuple(n // m for n, m in zip(old, sizes, strict=True))
        return pool(input, kernel, return_indices=return_indices)
    along = []
    for n, m in zip(old, sizes, strict=True):
        start, end = segments(n, m)
        steps = np.arange(int((end - start).max(initial=1)))
        along.append(np.minimum(start[:, None] + steps, end[:, None] - 1))
    xp = array_module(batch.data)
    planes = batch.data.reshape(*batch.shape[:2], math.prod(old))
    return _result(input, batch, _best(xp, planes, xp.asarray(_grid(along, old))), ndim, return_indices)


def _grid(along: list[Any], sizes: Sizes) -> Any:
    """Places along each dimension (M, K) combined into flat ones (*Ms, product of Ks)."""
    ndim, flat = len(along), np.zeros((), np.int64)
    for i, places in enumerate(along):
        shape = [1] * (2 * ndim)
        shape[i], shape[ndim + i] = places.shape
        flat = flat + places.reshape(shape) * math.prod(sizes[i + 1 :])
    return flat.reshape(*(len(places) for places in along), math.prod(places.shape[1] for places in along))


def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The largest of nearly equal parts of `(N, C, L)` or `(C, L)`; see `adaptive_avg_pool2d`."""
    return _adaptive_max(1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The largest of nearly equal parts of `(N, C, H, W)` or `(C, H, W)`; see `adaptive_avg_pool2d`."""
    return _adaptive_max(2, input, output_size, return_indices)


@autocasts("single on cpu")
def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The largest of nearly equal parts of `(N, C, D, H, W)` or `(C, D, H, W)`; see `adaptive_avg_pool2d`."""
    return _adaptive_max(3, input, output_size, return_indices)


# -- random parts ------------------------------------------------------------------------------------------------------


def _starts(samples: Any, size: int, kernel: int, count: int) -> Any:
    """Where windows begin, (N, C, count), by Graham's pseudo-random sequence from one number per channel."""
    if count == 1:
        return np.full((*samples.shape, 1), size - kernel, np.int64)
    step = (size - kernel) / (count - 1)
    steps = np.arange(count - 1)
    found = ((steps + samples[..., None]) * step).astype(np.int64) - (samples[..., None] * step).astype(np.int64)
    return np.concatenate([found, np.full((*samples.shape, 1), size - kernel, np.int64)], -1)


def _fractional(
    ndim: int, input: Tensor, kernel_size: Any, output_size: Any, output_ratio: Any, return_indices: bool,
    random_samples: Tensor | None,
) -> Any:  # fmt: skip
    name = f"fractional_max_pool{ndim}d"
    batch = batched(name, input, ndim)
    old, kernel = batch.shape[2:], numbers(name, "kernel_size", kernel_size, ndim)
    if (output_size is None) == (output_ratio is None):
        raise ValueError(f"{name}: give either output_size or output_ratio")
    if output_size is not None:
        sizes = numbers(name, "output_size", output_size, ndim)
    else:
        ratios = output_ratio if isinstance(output_ratio, Sequence) else (output_ratio,) * ndim
        if not all(0.0 < ratio < 1.0 for ratio in ratios):
            raise ValueError(f"{name}: output_ratio must be between 0 and 1, not {output_ratio}")
        sizes = tuple(int(n * ratio) for n, ratio in zip(old, ratios, strict=True))
    for n, m, k in zip(old, sizes, kernel, strict=True):
        if m < 1 or m + k - 1 > n:
            raise ShapeError(f"{name}: {sizes} windows of {kernel} do not fit into input {input.shape}")
    if random_samples is None:
        draws = random.generator().random((*batch.shape[:2], ndim))
    else:
        draws = np.asarray(random_samples.numpy(), np.float64).reshape(*batch.shape[:2], ndim)
    flat: Any = np.zeros((), np.int64)
    for i, (n, m, k) in enumerate(zip(old, sizes, kernel, strict=True)):
        # PyTorch's samples name the last dimension first in two dimensions, and the first first in three
        start = _starts(draws[..., ndim - 1 - i if ndim == 2 else i], n, k, m)
        places = start[..., None] + np.arange(k)
        shape = [1] * (2 * ndim)
        shape[i], shape[ndim + i] = m, k
        flat = flat + places.reshape(*batch.shape[:2], *shape) * math.prod(old[i + 1 :])
    xp = array_module(batch.data)
    places = xp.asarray(flat.reshape(*batch.shape[:2], *sizes, math.prod(kernel)))
    planes = batch.data.reshape(*batch.shape[:2], math.prod(old))
    return _result(input, batch, _best(xp, planes, places), ndim, return_indices)


@autocasts("single on cpu")
def fractional_max_pool2d(
    input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None, return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:  # fmt: skip
    """The largest of windows of `(N, C, H, W)` at pseudo-random distances: so many, or that share of H and W.

    (Graham, 2014.) The draw is keyed as `cordee.trainer.random` describes; `_random_samples (N, C, 2)` replaces it.
    """
    return _fractional(2, input, kernel_size, output_size, output_ratio, return_indices, _random_samples)


@autocasts("single on cpu")
def fractional_max_pool3d(
    input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None, return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:  # fmt: skip
    """The largest of windows of `(N, C, D, H, W)` at pseudo-random distances; see `fractional_max_pool2d`."""
    return _fractional(3, input, kernel_size, output_size, output_ratio, return_indices, _random_samples)


# -- the way back ------------------------------------------------------------------------------------------------------


def _max_unpool(xp: Any, a: Any, *, indices: Any, sizes: Sizes) -> Any:
    if indices.shape != a.shape:
        raise ValueError("there must be an index for each value")
    if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < math.prod(sizes):
        raise IndexError("an index is outside")  # NumPy would count a negative one from the end, CuPy wrap all around
    n, c = a.shape[:2]
    out = xp.zeros((n * c, math.prod(sizes)), a.dtype)
    rows = xp.arange(n * c)[:, None]
    if a.size:
        assign_at(xp, out, (rows, indices.reshape(n * c, -1)), a.reshape(n * c, -1))
    return out.reshape(n, c, *sizes)


def _max_unpool_vjp(F: Any, g: Any, out: Any, a: Any, *, indices: Any, sizes: Sizes) -> Any:
    planes = g.reshape((*a[:2], math.prod(sizes)))
    places = indices.reshape(*a[:2], math.prod(a[2:]))
    return F.gather(planes, places, axis=2).reshape(a)


def _max_unpool_shape(a: Any, *, indices: Any, sizes: Sizes) -> Shape:
    if tuple(a) != indices.shape:
        raise ShapeError(f"indices must have the input's shape, not {indices.shape}")
    if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < math.prod(sizes):
        bad = int(indices.min()) if int(indices.min()) < 0 else int(indices.max())
        raise TrainerIndexError(f"index {bad} is outside a channel of {math.prod(sizes)} elements ({sizes})")
    return (*a[:2], *sizes)


def _max_unpool_reference(a: Any, indices: Any, sizes: Sizes) -> Any:
    out = np.zeros((*a.shape[:2], math.prod(sizes)))
    for place in np.ndindex(*a.shape):
        out[(*place[:2], indices[place])] = a[place]
    return out.reshape(*a.shape[:2], *sizes)


_PLACES = np.array([[[[0, 3], [10, 9]]]])

MAX_UNPOOL = op(
    "max_unpool", "zeros, and values where indices into each channel say",
    autocast="single on cpu",
    forward=_max_unpool, vjps=(_max_unpool_vjp,), saves=("",), dtype="first", shape=_max_unpool_shape,
    reference=_max_unpool_reference,
    samples=lambda s: [
        s.case(s.normal(1, 1, 2, 2), indices=_PLACES, sizes=(3, 4)),
        s.case(s.normal(1, 2, 2), indices=np.array([[[1, 3], [0, 4]]]), sizes=(5,)),
    ],
    errors=lambda s: [
        s.case(s.normal(1, 1, 2, 2), indices=_PLACES, sizes=(3, 3)),
        s.case(s.normal(1, 1, 2, 2), indices=-_PLACES, sizes=(3, 4)),
        s.case(s.normal(1, 1, 2), indices=_PLACES, sizes=(3, 4)),
    ],
)  # fmt: skip


def _unpool(
    ndim: int, input: Tensor, indices: Tensor, kernel_size: Any, stride: Any, padding: Any, output_size: Any
) -> Tensor:
    name = f"max_unpool{ndim}d"
    kernel = numbers(name, "kernel_size", kernel_size, ndim)
    steps = kernel if stride is None else numbers(name, "stride", stride, ndim)
    borders = numbers(name, "padding", padding, ndim)
    if min(steps) < 1:
        raise ValueError(f"{name}: stride must be at least 1, not {steps}")
    batch, places = batched(name, input, ndim), batched(name, indices, ndim)
    usual = tuple((n - 1) * s + k - 2 * p for n, s, k, p in zip(batch.shape[2:], steps, kernel, borders, strict=True))
    if output_size is None:
        sizes = usual
    else:
        sizes = tuple(int(n) for n in output_size)[-ndim:]
        for n, m, s in zip(sizes, usual, steps, strict=True):
            if not m - s < n < m + s:
                raise ValueError(f"{name}: output_size {sizes} must be within a stride of {usual}")
    out = MAX_UNPOOL.run(batch, indices=places.data, sizes=sizes)
    return out if batch is input else out.squeeze(0)


def max_unpool1d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """Zeros, and the values where `max_pool1d` found them; see `max_unpool2d`."""
    return _unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """Zeros, and the values where `max_pool2d(…, return_indices=True)` found them: `(N, C, h, w)` to `(N, C, H, W)`.

    `output_size` says which of the sizes that pool to this one; of an index named twice, the last value stays.
    """
    return _unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """Zeros, and the values where `max_pool3d` found them; see `max_unpool2d`."""
    return _unpool(3, input, indices, kernel_size, stride, padding, output_size)
