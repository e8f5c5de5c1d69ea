"""Images read at places that a network may compute: `grid_sample`, and the places of an affine map, `affine_grid`.

Made of other operations: the weights of a place's neighbours are differentiable functions of the place, the neighbours
themselves are gathered. So gradients of every order are those of the parts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cordee.trainer.array import array_module, is_float
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.errors import ShapeError
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["affine_grid", "grid_sample"]


def _piecewise(moved: Any, slope: Any, places: Tensor) -> Tensor:
    """The tensor of values `moved`, which is linear in `places` with this slope (0, 1 or -1) almost everywhere."""
    return places * wrap(slope) + wrap(moved - places.data * slope)


def _clip(places: Tensor, size: int) -> Tensor:
    """The nearest place inside; the gradient is 0 outside and at the edges."""
    xp, x = array_module(places.data), places.data
    inside = (x > 0) & (x < size - 1)
    # NaN is a place outside
    moved = xp.where(inside, x, xp.where(x >= size - 1, size - 1, 0)).astype(x.dtype)
    return _piecewise(moved, inside.astype(x.dtype), wrap(xp.where(xp.isfinite(x), x, 0), places._node))


def _reflect(places: Tensor, low: float, high: float) -> Tensor:
    """Mirrored at two edges as often as it takes to be between them."""
    xp, x = array_module(places.data), places.data
    if high <= low:
        return places * 0.0
    x = xp.where(xp.isfinite(x), x, 0).astype(x.dtype)
    span = high - low
    away = xp.abs(x - low)
    flips = xp.floor(away / span)
    rest = away - flips * span
    even = flips % 2 == 0
    slope = xp.where(x < low, -1, 1) * xp.where(even, 1, -1)
    moved = xp.where(even, rest + low, span - rest + low).astype(x.dtype)
    return _piecewise(moved, slope.astype(x.dtype), wrap(x, places._node))


def _reflect_and_clip(places: Tensor, size: int, align_corners: bool) -> Tensor:
    low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
    return _clip(_reflect(places, low, high), size)


_BORDERS: dict[str, Callable[[Tensor, int, bool], Tensor]] = {
    "zeros": lambda places, size, align_corners: places,
    "border": lambda places, size, align_corners: _clip(places, size),
    "reflection": _reflect_and_clip,
}


def _cubic_weights(part: Tensor, a: float = -0.75) -> list[Tensor]:
    """Of the four neighbours of a place that is `part` behind the second."""

    def near(x: Tensor) -> Tensor:
        return ((x * (a + 2.0) - (a + 3.0)) * x) * x + 1.0

    def far(x: Tensor) -> Tensor:
        return ((x - 5.0) * x + 8.0) * x * a - 4.0 * a

    return [far(part + 1.0), near(part), near(1.0 - part), far(2.0 - part)]


def _take(image: Tensor, whole: Sequence[Any], zeros: bool) -> Tensor:
    """Pixels `(N, *places, C)` of `(N, *sizes, C)` at whole places, one array per dimension; zeros outside."""
    xp = array_module(image.data)
    sizes, valid, index = image.shape[1:-1], None, []
    for places, size in zip(whole, sizes, strict=True):
        inside = (places >= 0) & (places < size)
        valid = inside if valid is None else valid & inside
        index.append(xp.clip(xp.nan_to_num(places), 0, size - 1).astype(np.int64))
    batch = xp.arange(image.shape[0]).reshape(-1, *(1,) * (whole[0].ndim - 1))
    pixels: Tensor = image[(wrap(xp.broadcast_to(batch, whole[0].shape)), *map(wrap, index))]
    if zeros and valid is not None and not (xp is np and valid.all()):
        pixels = pixels * wrap(valid[..., None].astype(image.dtype))
    return pixels


def _sum(image: Tensor, neighbours: Sequence[Sequence[tuple[Any, Tensor]]], zeros: bool) -> Tensor:
    """Per dimension, neighbours' whole places and weights: the weighted sum over all combinations."""
    total: Tensor | None = None
    for combination in itertools.product(*neighbours):
        weight = math.prod((w for _, w in combination[1:]), start=combination[0][1])
        part = _take(image, [places for places, _ in combination], zeros) * weight.unsqueeze(-1)
        total = part if total is None else total + part
    assert total is not None  # there is at least one dimension
    return total


@autocasts("single on cpu")
def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """The images `(N, C, H, W)` or `(N, C, D, H, W)` read at the places of `grid (N, h, w, 2)` or `(N, d, h, w, 3)`.

    A place is (x, y) or (x, y, z), from -1 to 1: with `align_corners` from the centre of the first pixel to that of the
    last, else from edge to edge. The result has shape `(N, C, h, w)` or `(N, C, d, h, w)`.

    Args:
        mode: "bilinear" (in three dimensions trilinear), "nearest", or "bicubic".
        padding_mode: what is outside: "zeros", the nearest pixel ("border"), or the image mirrored ("reflection").

    Raises:
        ShapeError: input and grid do not go together.
        ValueError: an unknown mode.
    """
    ndim = input.ndim - 2
    if mode not in ("bilinear", "nearest", "bicubic"):
        raise ValueError(f"grid_sample: mode is 'bilinear', 'nearest' or 'bicubic', not {mode!r}")
    if padding_mode not in _BORDERS:
        raise ValueError(f"grid_sample: padding_mode is one of {', '.join(map(repr, _BORDERS))}, not {padding_mode!r}")
    if ndim not in (2, 3) or grid.ndim != input.ndim or grid.shape[-1] != ndim or grid.shape[0] != input.shape[0]:
        raise ShapeError(
            "grid_sample: input (N, C, H, W) takes a grid (N, h, w, 2), input (N, C, D, H, W) one of (N, d, h, w, 3), "
            f"with the same N; input has shape {input.shape}, grid {grid.shape}"
        )
    if min(input.shape[1:]) < 1:
        raise ShapeError(f"grid_sample: there is nothing to read in an input of shape {input.shape}")
    if not is_float(input.dtype) or not is_float(grid.dtype):
        raise TypeError(f"grid_sample: takes floating-point tensors, not {input.dtype.name} and {grid.dtype.name}")
    if input.data.dtype.itemsize < 4:  # places are too coarse in half precision
        return grid_sample(input.float(), grid.float(), mode, padding_mode, align_corners).to(input.dtype)
    align, xp = bool(align_corners), array_module(input.data)
    image = input.movedim(1, -1)
    neighbours: list[list[tuple[Any, Tensor]]] = []
    for dim, size in enumerate(input.shape[2:]):
        given = grid.select(-1, ndim - 1 - dim)
        places = (given + 1.0) * ((size - 1) / 2.0) if align else ((given + 1.0) * float(size) - 1.0) * 0.5
        if mode == "bicubic":  # the neighbours are brought inside, not the place
            first = xp.floor(places.data)
            part = places - wrap(first)
            outside = [
                _BORDERS[padding_mode](wrap(first + i), size, align).data if padding_mode != "zeros" else first + i
                for i in (-1, 0, 1, 2)
            ]
            neighbours.append(list(zip(outside, _cubic_weights(part), strict=True)))
            continue
        places = _BORDERS[padding_mode](places, size, align)
        if mode == "nearest":
            x = places.data
            known = wrap(xp.where(xp.isfinite(x), x, 0), places._node)
            neighbours.append([(xp.rint(x), _piecewise(xp.ones_like(x), xp.zeros_like(x), known))])
            continue
        first = xp.floor(places.data)
        part = places - wrap(first)
        neighbours.append([(first, 1.0 - part), (first + 1, part)])
    # in "border" and "reflection" the last neighbour may be just outside: with weight 0
    return _sum(image, neighbours, zeros=True).movedim(-1, 1)


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """The places that `theta (N, 2, 3)` or `(N, 3, 4)` maps the pixels of `size` (`(N, C, H, W)` or `(N, C, D, H, W)`)
    to, for `grid_sample`: `(N, H, W, 2)` or `(N, D, H, W, 3)`.

    Raises:
        ShapeError: theta does not go with the size.
    """
    sizes = tuple(size)
    ndim = len(sizes) - 2
    if ndim not in (2, 3) or theta.shape != (sizes[0], ndim, ndim + 1):
        raise ShapeError(
            "affine_grid: size (N, C, H, W) takes theta (N, 2, 3), size (N, C, D, H, W) takes theta (N, 3, 4); "
            f"size is {sizes}, theta has shape {theta.shape}"
        )
    if min(sizes) < 1:
        raise ShapeError(f"affine_grid: sizes must be at least 1, not {sizes}")
    xp = array_module(theta.data)
    along = []
    for n in sizes[2:]:
        ends = 1.0 if align_corners else (n - 1) / n
        along.append(xp.linspace(-ends, ends, n) if n > 1 else xp.zeros(1))
    meshes = xp.meshgrid(*along, indexing="ij")[::-1]  # x first
    base = xp.stack([*meshes, xp.ones(sizes[2:])], -1).astype(theta.dtype).reshape(1, -1, ndim + 1)
    return (wrap(base) @ theta.transpose(1, 2)).reshape(sizes[0], *sizes[2:], ndim)
