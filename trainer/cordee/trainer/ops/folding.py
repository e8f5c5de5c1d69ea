"""Windows as columns and back (`unfold`, `fold`), and pixels moved between channels and space."""

from __future__ import annotations

import math
from typing import Any

from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.pooling import batched
from cordee.trainer.ops.windows import PATCHES, UNPATCHES, numbers
from cordee.trainer.ops.windows import window as make_window
from cordee.trainer.tensors import Tensor

__all__ = ["channel_shuffle", "pixel_shuffle", "pixel_unshuffle"]  # fold and unfold are only names of nn.functional


def unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """What every window over `(N, C, H, W)` sees, as columns: `(N, C · kernel area, windows)`; without N as well."""
    batch = batched("unfold", input, 2)
    sliding = make_window("unfold", 2, kernel_size, stride, padding, dilation)
    patches = PATCHES.run(batch, window=sliding)  # (C, kh, kw, N, h, w)
    n, c = batch.shape[:2]
    num_windows = math.prod(patches.shape[4:])
    columns = patches.permute(3, 0, 1, 2, 4, 5).reshape(n, c * len(sliding.places), num_windows)
    return columns if batch is input else columns.squeeze(0)


def fold(
    input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """Columns `(N, C · kernel area, windows)`, as `unfold` gives them, added up where they came from: `(N, C, H, W)`.

    Raises:
        ShapeError: the columns are not those of windows over images of `output_size`.
    """
    batch = batched("fold", input, 1)
    sliding = make_window("fold", 2, kernel_size, stride, padding, dilation)
    sizes = numbers("fold", "output_size", output_size, 2)
    n, length, count = batch.shape
    area = len(sliding.places)
    if length % area:
        raise ShapeError(f"fold: columns of {length} do not divide by the kernel's area, {area}; input: {input.shape}")
    try:
        high, wide = sliding.size(sizes)
    except ValueError as error:
        raise ShapeError(f"fold: {error}") from None
    if count != high * wide:
        raise ShapeError(f"fold: images of {sizes} have {high}×{wide} windows, input has {count} ({input.shape})")
    columns = batch.reshape(n, length // area, *sliding.kernel, high, wide).permute(1, 2, 3, 0, 4, 5)
    out = UNPATCHES.run(columns, shape=(n, length // area, *sizes), window=sliding)
    return out if batch is input else out.squeeze(0)


def _divided(name: str, what: str, size: int, by: int, input: Tensor) -> int:
    if by < 1 or size % by:
        raise ShapeError(f"{name}: {what} ({size}) is not divisible by {by}; the input's shape is {input.shape}")
    return size // by


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """`(…, C · r², H, W)` to `(…, C, H · r, W · r)`: channels become neighbouring pixels (Shi and others, 2016)."""
    if input.ndim < 3:
        raise ShapeError(f"pixel_shuffle: input must have at least three dimensions; its shape is {input.shape}")
    *batch, channels, high, wide = input.shape
    r = upscale_factor
    c = _divided("pixel_shuffle", "the number of channels", channels, r * r, input)
    k = len(batch)
    spread = input.reshape(*batch, c, r, r, high, wide).permute(*range(k), k, k + 3, k + 1, k + 4, k + 2)
    return spread.reshape(*batch, c, high * r, wide * r)


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """`(…, C, H · r, W · r)` to `(…, C · r², H, W)`: the inverse of `pixel_shuffle`."""
    if input.ndim < 3:
        raise ShapeError(f"pixel_unshuffle: input must have at least three dimensions; its shape is {input.shape}")
    *batch, c, high, wide = input.shape
    r = downscale_factor
    h = _divided("pixel_unshuffle", "the height", high, r, input)
    w = _divided("pixel_unshuffle", "the width", wide, r, input)
    k = len(batch)
    gathered = input.reshape(*batch, c, h, r, w, r).permute(*range(k), k, k + 2, k + 4, k + 1, k + 3)
    return gathered.reshape(*batch, c * r * r, h, w)


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """The channels of `(N, C, …)` dealt out anew: one from each group in turn (Zhang and others, 2018)."""
    if input.ndim < 3:
        raise ShapeError(f"channel_shuffle: input must have at least three dimensions; its shape is {input.shape}")
    n, channels, *sizes = input.shape
    each = _divided("channel_shuffle", "the number of channels", channels, groups, input)
    return input.reshape(n, groups, each, *sizes).transpose(1, 2).reshape(n, channels, *sizes)
