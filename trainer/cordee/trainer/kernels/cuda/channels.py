"""Batch norm, group norm and affine channels on a GPU: how their kernels are launched.

Whatever the order of an image's dimensions in memory is, the result has it, too: images that cuDNN lays out with
channels last stay so. Statistics are single precision, of halves, too. It has not yet run on a device.
"""

from __future__ import annotations

import importlib
import math
from typing import Any, NamedTuple

import numpy as np

from cordee.trainer.kernels.cuda.channels_text import THREADS
from cordee.trainer.kernels.cuda.launch import blocks, dense, function, inner, kind_of, like, pointer, single

__all__ = ["MAX_SAMPLES", "Columns", "batch_norm", "batch_norm_grad", "channel_affine", "group_norm", "group_norm_grad"]

MAX_SAMPLES = 65535
"""Of a grid's third dimension."""
_ENOUGH_BLOCKS = 512
"""For all of a GPU's processors to have some."""


class Columns(NamedTuple):
    """Memory of which each column is one statistic's: (samples, outer, channels, inner)."""

    samples: int
    outer: int
    channels: int
    inner: int

    @property
    def length(self) -> int:
        """Elements of a column."""
        return self.outer * self.inner

    @property
    def number(self) -> int:
        """Of columns."""
        return self.samples * self.channels

    @property
    def tile(self) -> int:
        """Columns that a block adds up side by side: as many as make a run in memory."""
        return 32 if self.inner == 1 else 1

    @property
    def chunks(self) -> int:
        """Of a column: by shapes alone, so that sums have one order."""
        side_by_side = -(-self.channels // self.tile) * self.samples
        return max(1, min(_ENOUGH_BLOCKS // side_by_side, self.length // 128, 128))


def _add(name: str, kind: str, columns: Columns, *arrays: Any, more: tuple[Any, ...] = ()) -> Any:
    """What a kernel finds in columns, chunk by chunk."""
    cupy: Any = importlib.import_module("cupy")
    sums = cupy.empty((columns.samples, columns.chunks, 2, columns.channels), np.float32)
    function("channels", kind, name)(
        (-(-columns.channels // columns.tile), columns.chunks, columns.samples), (THREADS,),
        (*arrays, sums, *map(np.int64, columns[1:]), np.int32(columns.tile), *more),
    )  # fmt: skip
    return sums


def _statistics(kind: str, input: Any, columns: Columns, eps: float, with_var: bool) -> Any:
    cupy: Any = importlib.import_module("cupy")
    sums = _add("moments", kind, columns, input)
    mean, inverse = cupy.empty(columns.number, np.float32), cupy.empty(columns.number, np.float32)
    var = cupy.empty(columns.number, np.float32) if with_var else None
    function("channels", kind, "statistics")(
        blocks(columns.number, THREADS), (THREADS,),
        (sums, mean, pointer(var), inverse, np.int32(columns.chunks), np.int64(columns.length),
         np.int64(columns.channels), np.int64(columns.number), np.float32(eps)),
    )  # fmt: skip
    return mean, var, inverse


def _totals(kind: str, columns: Columns, *arrays: Any, width: int) -> Any:
    cupy: Any = importlib.import_module("cupy")
    sums = _add("slopes", kind, columns, *arrays, more=(np.int64(width),))
    dots, totals = cupy.empty(columns.number, np.float32), cupy.empty(columns.number, np.float32)
    function("channels", kind, "slope_totals")(
        blocks(columns.number, THREADS), (THREADS,),
        (sums, dots, totals, np.int32(columns.chunks), np.int64(columns.channels), np.int64(columns.number)),
    )  # fmt: skip
    return dots, totals


def _means(kind: str, dots: Any, totals: Any, weight: Any, channels: int, width: int, count: int) -> Any:
    cupy: Any = importlib.import_module("cupy")
    number = dots.size // width
    along, level = cupy.empty(number, np.float32), cupy.empty(number, np.float32)
    function("channels", kind, "slope_means")(
        blocks(number, THREADS), (THREADS,),
        (dots, totals, pointer(weight), along, level, np.int64(number), np.int64(channels), np.int64(width),
         np.float32(count)),
    )  # fmt: skip
    return along, level


def _each(name: str, kind: str, input: Any, *args: Any, per: int, width: int, more: tuple[Any, ...] = ()) -> None:
    """Launch a kernel that has a thread per element."""
    sizes = (input.size, input.shape[1], inner(input) or 1, per, width)
    function("channels", kind, name)(
        blocks(input.size, THREADS), (THREADS,), (*args, *map(np.int64, sizes), *more)
    )  # fmt: skip


def _normalised(kind: str, input: Any, *given: Any, per: int, width: int) -> Any:
    out = importlib.import_module("cupy").empty_like(input)
    _each("normalise", kind, input, input, *map(pointer, given), out, per=per, width=width)
    return out


def _per_channel(input: Any, *values: Any) -> bool:
    """Whether these are numbers of up to 32 bits, one per channel."""
    given = [each for each in values if each is not None]
    return input.ndim >= 2 and all(each.shape == input.shape[1:2] and each.dtype.itemsize <= 4 for each in given)


# -- batch norm --------------------------------------------------------------------------------------------------------


def _of_channels(input: Any) -> Columns:
    channels, run = input.shape[1], inner(input) or 1
    return Columns(1, input.size // (channels * run), channels, run)


def batch_norm(input: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    kind = kind_of(input)
    if not kind or not _per_channel(input, weight, bias):
        return NotImplemented
    image = dense(input)
    mean, var, inverse = _statistics(kind, image, _of_channels(image), eps, with_var=True)
    out = _normalised(kind, image, single(weight), single(bias), mean, inverse, per=0, width=1)
    return (out, mean, var), (mean, inverse)


def batch_norm_grad(
    g: Any, g_mean: Any, g_var: Any, input: Any, weight: Any, mean: Any, inverse: Any, *, needs: Any
) -> Any:
    if g is None:  # only statistics were used
        return NotImplemented
    kind = kind_of(input, g)
    if not kind or g.shape != input.shape or not _per_channel(input, weight, mean, inverse, g_mean, g_var):
        return NotImplemented
    image = dense(input)
    slope, columns = like(g, image), _of_channels(image)
    scale, mean, inverse = single(weight), single(mean), single(inverse)
    dots, totals = _totals(kind, columns, slope, image, mean, inverse, width=1)
    if not needs[0]:
        return None, dots, totals
    along, level = _means(kind, dots, totals, scale, columns.channels, 1, columns.length)
    into = importlib.import_module("cupy").empty_like(image)
    operands = (slope, image, pointer(scale), mean, inverse, along, level, pointer(single(g_mean)))
    _each(
        "normalise_grad", kind, image, *operands, pointer(single(g_var)), into, per=0, width=1,
        more=(np.float32(columns.length),),
    )  # fmt: skip
    return into, dots, totals


def channel_affine(input: Any, scale: Any, shift: Any) -> Any:
    kind = kind_of(input)
    if not kind or not _per_channel(input, scale, shift):
        return NotImplemented
    return _normalised(kind, dense(input), single(scale), single(shift), None, None, per=0, width=1)


# -- group norm --------------------------------------------------------------------------------------------------------


def _first_or_last(input: Any) -> tuple[Any, int]:
    """An image with channels before the sizes, or behind them, and how many outer indices a sample takes."""
    spatial = math.prod(input.shape[2:])
    run = inner(input)
    if run == 1 and input.shape[1] > 1 and _samples_first(input):
        return input, spatial
    if run != spatial or not _samples_first(input):
        input = importlib.import_module("cupy").ascontiguousarray(input)
    return input, 1


def _samples_first(input: Any) -> bool:
    return bool(input.shape[0] == 1 or input.strides[0] == input.nbytes // input.shape[0])


def _columns_of(input: Any, per: int, parts: int) -> Columns:
    """Each sample's channels in so many parts, one statistic each."""
    n, channels = input.shape[:2]
    spatial, width = math.prod(input.shape[2:]), channels // parts
    if per == 1:
        return Columns(1, 1, n * parts, width * spatial)
    return Columns(n, spatial, parts, width)


def group_norm(input: Any, weight: Any, bias: Any, *, groups: int, eps: float) -> Any:
    kind = kind_of(input)
    if not kind or not _per_channel(input, weight, bias) or input.shape[1] % groups or len(input) > MAX_SAMPLES:
        return NotImplemented
    image, per = _first_or_last(input)
    columns = _columns_of(image, per, groups)
    mean, _, inverse = _statistics(kind, image, columns, eps, with_var=False)
    width = input.shape[1] // groups
    out = _normalised(kind, image, single(weight), single(bias), mean, inverse, per=per, width=width)
    return out, (mean.reshape(-1, 1), inverse.reshape(-1, 1))


def group_norm_grad(g: Any, input: Any, weight: Any, mean: Any, inverse: Any, *, needs: Any) -> Any:
    kind = kind_of(input, g)
    if not kind or g.shape != input.shape or not _per_channel(input, weight) or len(input) > MAX_SAMPLES:
        return NotImplemented
    cupy: Any = importlib.import_module("cupy")
    image, per = _first_or_last(input)
    slope, (n, channels), scale = like(g, image), image.shape[:2], single(weight)
    width = channels * n // mean.size
    mean, inverse = single(mean.reshape(-1)), single(inverse.reshape(-1))
    dots, totals = _totals(kind, _columns_of(image, per, channels), slope, image, mean, inverse, width=width)
    into = of_weight = of_bias = None
    if any(needs[1:]):
        of_weight, of_bias = cupy.empty(channels, np.float32), cupy.empty(channels, np.float32)
        function("channels", kind, "sample_totals")(
            blocks(channels, THREADS), (THREADS,),
            (dots, totals, of_weight, of_bias, np.int64(n), np.int64(channels)),
        )  # fmt: skip
    if needs[0]:
        count = image.size // mean.size
        along, level = _means(kind, dots, totals, scale, channels, width, count)
        into = cupy.empty_like(image)
        operands = (slope, image, pointer(scale), mean, inverse, along, level, pointer(None), pointer(None), into)
        _each("normalise_grad", kind, image, *operands, per=per, width=width, more=(np.float32(count),))
    return into, of_weight if needs[1] else None, of_bias if needs[2] else None
