"""Images made larger or smaller: `interpolate` and adaptive averages, each dimension by itself.

The tables follow PyTorch's: without `align_corners`, a pixel is a square whose centre counts (place `i + 0.5`); with
it, the centres of the corner pixels stay where they are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cordee.trainer.array import Array, is_float
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.pooling import batched
from cordee.trainer.ops.pooling_mean import avg_pool1d, avg_pool2d, avg_pool3d
from cordee.trainer.ops.resampling import RESAMPLE, Taps
from cordee.trainer.ops.windows import Sizes
from cordee.trainer.tensors import Tensor

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "interpolate", "upsample",
    "upsample_bilinear", "upsample_nearest",
]  # fmt: skip


# -- tables ------------------------------------------------------------------------------------------------------------


def segments(size: int, new_size: int) -> tuple[Array, Array]:
    """Where the parts begin and end that adaptive pooling divides a dimension into: nearly equal, they may overlap."""
    numbers = np.arange(new_size, dtype=np.int64)
    return numbers * size // new_size, -(-(numbers + 1) * size // new_size)


@functools.lru_cache(maxsize=256)
def _area(size: int, new_size: int, _: float | None, __: bool) -> Taps:
    start, end = segments(size, new_size)
    places = start + np.arange(int((end - start).max(initial=1)))[:, None]
    return Taps(np.minimum(places, size - 1), (places < end) / np.maximum(end - start, 1), size)


def _ratio(size: int, new_size: int, scale: float | None, align_corners: bool) -> float:
    """How far apart new places are, in old ones."""
    if align_corners:
        return (size - 1) / (new_size - 1) if new_size > 1 else 0.0
    return 1.0 / scale if scale else size / new_size


def _nearest_taps(size: int, new_size: int, scale: float | None, shift: float) -> Taps:
    # in single precision, as PyTorch for every dtype: which place is nearest may hang on the last bit
    ratio = np.float32(1.0 / scale) if scale else np.float32(size) / np.float32(new_size)
    places = np.floor((np.arange(new_size, dtype=np.float32) + np.float32(shift)) * ratio).astype(np.int64)
    return Taps(np.minimum(places, size - 1)[None], np.ones((1, new_size)), size)


@functools.lru_cache(maxsize=256)
def _nearest(size: int, new_size: int, scale: float | None, _: bool) -> Taps:
    return _nearest_taps(size, new_size, scale, 0.0)


@functools.lru_cache(maxsize=256)
def _nearest_exact(size: int, new_size: int, scale: float | None, _: bool) -> Taps:
    return _nearest_taps(size, new_size, scale, 0.5)


def _centres(size: int, new_size: int, scale: float | None, align_corners: bool) -> Array:
    ratio = _ratio(size, new_size, scale, align_corners)
    numbers = np.arange(new_size, dtype=np.float64)
    return numbers * ratio if align_corners else (numbers + 0.5) * ratio - 0.5


@functools.lru_cache(maxsize=256)
def _linear(size: int, new_size: int, scale: float | None, align_corners: bool) -> Taps:
    centres = np.maximum(_centres(size, new_size, scale, align_corners), 0.0)
    first = np.minimum(np.floor(centres).astype(np.int64), size - 1)
    part = np.clip(centres - first, 0.0, 1.0)
    return Taps(np.stack([first, np.minimum(first + 1, size - 1)]), np.stack([1.0 - part, part]), size)


def cubic(distance: Any, a: float = -0.75) -> Any:
    """Keys' cubic convolution kernel; PyTorch takes a = -0.75, and -0.5 where it smooths."""
    x = abs(distance)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = ((x - 5.0) * x + 8.0) * x * a - 4.0 * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


@functools.lru_cache(maxsize=256)
def _cubic(size: int, new_size: int, scale: float | None, align_corners: bool) -> Taps:
    centres = _centres(size, new_size, scale, align_corners)
    places = np.floor(centres) + np.arange(-1, 3)[:, None]
    return Taps(np.clip(places, 0, size - 1), cubic(centres - places), size)


def _triangle(distance: Any) -> Any:
    return np.maximum(1.0 - abs(distance), 0.0)


def _smooth(kernel: Callable[[Any], Any], reach: float) -> Callable[..., Taps]:
    """A kernel as wide as the new pixels are apart, where they are further apart than old ones."""

    @functools.lru_cache(maxsize=256)
    def taps(size: int, new_size: int, scale: float | None, align_corners: bool) -> Taps:
        ratio = _ratio(size, new_size, scale, align_corners)
        stretch = max(ratio, 1.0)
        centres, support = (np.arange(new_size) + 0.5) * ratio, reach * stretch
        start = np.maximum((centres - support + 0.5).astype(np.int64), 0)
        end = np.minimum((centres + support + 0.5).astype(np.int64), size)
        places = start + np.arange(max(int((end - start).max(initial=1)), 1))[:, None]
        weights = np.where(places < end, kernel((places - centres + 0.5) / stretch), 0.0)
        return Taps(np.minimum(places, size - 1), weights / weights.sum(0), size)

    return taps


_TABLES: dict[tuple[str, bool], Callable[[int, int, float | None, bool], Taps]] = {
    ("nearest", False): _nearest,
    ("nearest-exact", False): _nearest_exact,
    ("linear", False): _linear,
    ("cubic", False): _cubic,
    ("area", False): _area,
    ("linear", True): _smooth(_triangle, 1.0),
    ("cubic", True): _smooth(functools.partial(cubic, a=-0.5), 2.0),
}
_MODES: dict[str, tuple[str, int | None]] = {
    "nearest": ("nearest", None),
    "nearest-exact": ("nearest-exact", None),
    "linear": ("linear", 1),
    "bilinear": ("linear", 2),
    "trilinear": ("linear", 3),
    "bicubic": ("cubic", 2),
    "area": ("area", None),
}
"""By PyTorch's name: the table, and for how many spatial dimensions it is (None: any)."""


def _resized(input: Tensor, sizes: Sizes, scales: Any, align_corners: bool, kind: tuple[str, bool]) -> Tensor:
    """One dimension after the other; the one that shrinks most first."""
    if input.data.dtype.itemsize < 4 and is_float(input.data.dtype) and not kind[0].startswith("nearest"):
        return _resized(input.float(), sizes, scales, align_corners, kind).to(input.dtype)
    table, ndim = _TABLES[kind], len(sizes)
    order = sorted(range(ndim), key=lambda i: sizes[i] / max(input.shape[i + 2], 1))
    for i in order:
        if kind == ("linear", False) and sizes[i] == input.shape[i + 2]:
            continue  # as in PyTorch: also where the factor is not quite 1
        taps = table(input.shape[i + 2], sizes[i], scales[i], align_corners)
        if sizes[i] != taps.size or not _is_identity(taps):
            input = RESAMPLE.run(input, axis=i + 2, taps=taps)
    return input


def _is_identity(taps: Taps) -> bool:
    return all(
        (weights == 0).all() or ((weights == 1).all() and (places == np.arange(taps.size)).all())
        for places, weights in zip(taps.places, taps.weights, strict=True)
    )


# -- interpolation -----------------------------------------------------------------------------------------------------


@autocasts("single on cuda")
def interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Images `(N, C, *sizes)` of one to three dimensions in another size, or made larger by a factor.

    Args:
        size: the new size, or one for each dimension.
        scale_factor: instead: the factor, or one for each dimension. New sizes are rounded down; places are counted
            by this factor, or with `recompute_scale_factor` by the quotient of the sizes.
        mode: "nearest", "nearest-exact" (which counts pixels' centres, as image libraries do), "linear" (for one
            dimension), "bilinear", "bicubic" (two), "trilinear" (three), or "area" (means, as adaptive pooling).
        align_corners: whether the corner pixels' centres stay in place; for the linear and cubic modes only.
        antialias: whether what is made smaller is smoothed first; for "bilinear" and "bicubic" only.

    Raises:
        ShapeError: the input has not as many dimensions as the mode needs, or a size would be less than 1.
        ValueError: options that do not go together.
        TypeError: integers in another mode than the nearest ones.
    """
    ndim = input.ndim - 2
    if mode not in _MODES:
        raise ValueError(f"interpolate: mode is one of {', '.join(_MODES)}, not {mode!r}")
    table, needed = _MODES[mode]
    if not 1 <= ndim <= 3 or needed not in (None, ndim):
        raise ShapeError(
            f"interpolate: mode {mode!r} takes {'3 to 5' if needed is None else needed + 2} dimensions "
            f"(N, C, sizes), not {input.ndim} (the input's shape is {input.shape})"
        )
    if align_corners is not None and needed is None:
        raise ValueError(f"interpolate: align_corners is for linear and cubic modes, not for {mode!r}")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError(f"interpolate: antialias is for the modes bilinear and bicubic, not for {mode!r}")
    if not is_float(input.dtype) and not table.startswith("nearest"):
        raise TypeError(f"interpolate: mode {mode!r} takes floating-point tensors, not {input.dtype.name}")
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give either size or scale_factor")
    scales: list[float | None] = [None] * ndim
    if size is not None:
        if recompute_scale_factor:
            raise ValueError("interpolate: recompute_scale_factor is for scale_factor, not for size")
        sizes = tuple(map(int, _for_each("size", size, ndim)))
    else:
        factors = [float(f) for f in _for_each("scale_factor", scale_factor, ndim)]
        sizes = tuple(math.floor(n * f) for n, f in zip(input.shape[2:], factors, strict=True))
        scales = scales if recompute_scale_factor else list(factors)
    if min(sizes) < 1 or min(input.shape[2:]) < 1:
        raise ShapeError(f"interpolate: sizes must be at least 1; input {input.shape} would get sizes {sizes}")
    return _resized(input, sizes, scales, bool(align_corners), (table, antialias))


def upsample(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None
) -> Tensor:
    """`interpolate` by its older name."""
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """`interpolate` to the nearest pixels, by its older name."""
    return interpolate(input, size, scale_factor, "nearest")


def upsample_bilinear(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """Bilinear `interpolate` with aligned corners, by its older name."""
    return interpolate(input, size, scale_factor, "bilinear", align_corners=True)


def _for_each(name: str, value: Any, ndim: int) -> Any:
    if isinstance(value, (int, float)):
        return (value,) * ndim
    if len(value) != ndim:
        raise ValueError(f"interpolate: {name} is a number or {ndim} numbers, not {value!r}")
    return value


# -- adaptive averages -------------------------------------------------------------------------------------------------


def adaptive_sizes(name: str, input: Tensor, output_size: Any, ndim: int) -> Sizes:
    """The output sizes, where None stands for the input's."""
    given = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * ndim
    if len(given) != ndim:
        raise ValueError(f"{name}: output_size is a number or {ndim} numbers, not {output_size!r}")
    sizes = tuple(n if m is None else int(m) for n, m in zip(input.shape[-ndim:], given, strict=True))
    if min(sizes) < 0 or min(input.shape[-ndim:], default=0) < 1:
        raise ShapeError(f"{name}: sizes {sizes} cannot be made of input {input.shape}")
    return sizes


_AVERAGES: dict[int, Callable[..., Tensor]] = {1: avg_pool1d, 2: avg_pool2d, 3: avg_pool3d}


def _adaptive_avg(ndim: int, input: Tensor, output_size: Any) -> Tensor:
    name = f"adaptive_avg_pool{ndim}d"
    batch = batched(name, input, ndim)
    sizes = adaptive_sizes(name, batch, output_size, ndim)
    if not is_float(input.dtype):
        raise TypeError(f"{name}: takes floating-point tensors, not {input.dtype.name}")
    if all(m == 1 for m in sizes):
        out = batch.mean(tuple(range(2, ndim + 2)), True)
    elif all(m and n % m == 0 for n, m in zip(batch.shape[2:], sizes, strict=True)):
        out = _AVERAGES[ndim](batch, tuple(n // m for n, m in zip(batch.shape[2:], sizes, strict=True)))
    else:
        out = _resized(batch, sizes, (None,) * ndim, False, ("area", False))
    return out if batch is input else out.squeeze(0)


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """Means of nearly equal parts of `(N, C, L)` or `(C, L)`; see `adaptive_avg_pool2d`."""
    return _adaptive_avg(1, input, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Means of nearly equal parts of `(N, C, H, W)` or `(C, H, W)`: as many as `output_size` says, None for as before.

    Part i of m of n elements goes from floor(i·n/m) to ceil((i+1)·n/m).
    """
    return _adaptive_avg(2, input, output_size)


@autocasts("single on cpu")
def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """Means of nearly equal parts of `(N, C, D, H, W)` or `(C, D, H, W)`; see `adaptive_avg_pool2d`."""
    return _adaptive_avg(3, input, output_size)
