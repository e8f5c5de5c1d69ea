"""Convolution, pooling, resizing, normalisation, attention: calls and layers that read the same in PyTorch and here.

`F` is either library's `nn.functional`. Inputs are drawn by the engine's own sampler (without ties, so that maxima have
one place), parameters of layers are cosines of their places: nothing needs storing but PyTorch's answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cordee.trainer.autograd.record import Sampler

__all__ = ["CALLS", "LAYERS", "Call", "Layer", "fill", "inputs_of", "output_weights"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """`call(F, *floats, *constants)`; the floats have these shapes, the constants are these arrays."""

    call: Callable[..., Any]
    shapes: tuple[Shape, ...]
    constants: tuple[Any, ...] = ()
    twice: bool = True
    """PyTorch has a second gradient too."""
    single: bool = True
    """Single precision decides as double does: no place is just between two pixels."""


@dataclass(frozen=True)
class Layer:
    """`make(nn)` gives the layer, which takes an input of this shape and returns a tensor, or a tensor and indices."""

    make: Callable[[Any], Any]
    shape: Shape


L1, L2, L3 = (2, 3, 7), (2, 3, 6, 5), (1, 2, 3, 5, 4)
Q, K = (2, 4, 3, 2), (2, 4, 5, 2)
SEEN = np.array([[True, False, True, True, False], [False] * 5, [True] * 5])
PLACES = np.array([[[0, 3, 8], [2, 5, 11]]])
FLAT = np.array([[[[0, 7], [12, 19]], [[1, 8], [15, 18]]]])
GRID = (2, 3, 4, 2)
SAMPLES = np.array([[[0.1, 0.7], [0.4, 0.2], [0.9, 0.5]], [[0.3, 0.3], [0.8, 0.1], [0.6, 0.95]]])
MEANS, VARS = np.array([0.3, -0.2, 0.1]), np.array([0.5, 1.5, 2.0])


def _sdpa(F: Any, *inputs: Any, **options: Any) -> Any:
    return F.scaled_dot_product_attention(*inputs, **options)


CALLS: dict[str, Call] = {
    # convolution
    "conv1d": Call(lambda F, x, w, b: F.conv1d(x, w, b, stride=2, padding=1), (L1, (4, 3, 3), (4,))),
    "conv1d, unbatched": Call(lambda F, x, w: F.conv1d(x, w, dilation=2), ((3, 7), (4, 3, 3))),
    "conv1d, same and even": Call(lambda F, x, w: F.conv1d(x, w, padding="same"), (L1, (4, 3, 4))),
    "conv2d": Call(lambda F, x, w, b: F.conv2d(x, w, b, (2, 1), (1, 2)), (L2, (4, 3, 3, 2), (4,))),
    "conv2d, 1x1": Call(lambda F, x, w, b: F.conv2d(x, w, b), (L2, (4, 3, 1, 1), (4,))),
    "conv2d, 1x1 with stride": Call(lambda F, x, w: F.conv2d(x, w, stride=2), (L2, (4, 3, 1, 1))),
    "conv2d, groups": Call(lambda F, x, w: F.conv2d(x, w, groups=2, dilation=(1, 2)), ((2, 4, 5, 5), (6, 2, 3, 2))),
    "conv2d, depthwise": Call(lambda F, x, w, b: F.conv2d(x, w, b, padding=1, groups=3), (L2, (3, 1, 3, 3), (3,))),
    "conv2d, depthwise with stride": Call(
        lambda F, x, w: F.conv2d(x, w, padding=(0, 1), stride=2, groups=3), (L2, (6, 1, 3, 2))
    ),
    "conv2d, depthwise dilated": Call(lambda F, x, w: F.conv2d(x, w, dilation=2, groups=3), (L2, (6, 1, 2, 2))),
    "conv2d, unbatched": Call(lambda F, x, w, b: F.conv2d(x, w, b, padding="same"), (L2[1:], (2, 3, 3, 3), (2,))),
    "conv3d": Call(lambda F, x, w, b: F.conv3d(x, w, b, (1, 2, 1), 1), (L3, (3, 2, 2, 3, 2), (3,))),
    "conv3d, groups": Call(lambda F, x, w: F.conv3d(x, w, groups=2), (L3, (4, 1, 2, 2, 2))),
    "conv_transpose1d": Call(
        lambda F, x, w, b: F.conv_transpose1d(x, w, b, 2, 1, output_padding=1), (L1, (3, 2, 3), (2,))
    ),
    "conv_transpose1d, unbatched": Call(lambda F, x, w: F.conv_transpose1d(x, w, dilation=2), ((3, 4), (3, 2, 3))),
    "conv_transpose2d": Call(
        lambda F, x, w, b: F.conv_transpose2d(x, w, b, (2, 1), (1, 0), (1, 0)), (L2, (3, 2, 3, 2), (2,))
    ),
    "conv_transpose2d, groups": Call(
        lambda F, x, w, b: F.conv_transpose2d(x, w, b, stride=2, groups=2), ((1, 4, 3, 3), (4, 2, 2, 3), (4,))
    ),
    "conv_transpose2d, depthwise": Call(lambda F, x, w: F.conv_transpose2d(x, w, groups=3), (L2, (3, 1, 3, 3))),
    "conv_transpose2d, padded by less than its dilation": Call(
        lambda F, x, w, b: F.conv_transpose2d(x, w, b, stride=1, output_padding=(1, 0), dilation=2),
        (L2, (3, 2, 2, 2), (2,)),
    ),
    "conv_transpose3d": Call(
        lambda F, x, w, b: F.conv_transpose3d(x, w, b, 2, 1, (0, 1, 1)), (L3, (2, 3, 2, 3, 2), (3,))
    ),
    # the largest
    "max_pool1d": Call(lambda F, x: F.max_pool1d(x, 3, 2, 1), (L1,)),
    "max_pool1d, ceil": Call(lambda F, x: F.max_pool1d(x, 2, 3, ceil_mode=True), (L1,)),
    "max_pool2d": Call(lambda F, x: F.max_pool2d(x, 2), (L2,)),
    "max_pool2d, dilated": Call(lambda F, x: F.max_pool2d(x, (2, 3), 1, (1, 0), (3, 2)), (L2,)),
    "max_pool2d, ceil": Call(lambda F, x: F.max_pool2d(x, (3, 2), 2, (1, 0), ceil_mode=True), (L2,)),
    "max_pool2d, unbatched": Call(lambda F, x: F.max_pool2d(x, 3, padding=1), (L2[1:],)),
    "max_pool2d, values by indices": Call(lambda F, x: F.max_pool2d(x, 3, 2, 1, return_indices=True)[0], (L2,)),
    "max_pool3d": Call(lambda F, x: F.max_pool3d(x, (2, 3, 2), (1, 2, 1), (1, 1, 0)), (L3,)),
    "max_unpool1d": Call(
        lambda F, x, i: F.max_unpool1d(x, i, 4), ((1, 2, 3),), (PLACES,)
    ),
    "max_unpool2d": Call(
        lambda F, x, i: F.max_unpool2d(x, i, 2, output_size=(5, 4)), ((1, 2, 2, 2),), (FLAT,)
    ),
    "max_unpool3d": Call(
        lambda F, x, i: F.max_unpool3d(x, i, (1, 2, 3)), ((1, 2, 2, 1, 2),), (FLAT.reshape(1, 2, 2, 1, 2) // 2,)
    ),
    "adaptive_max_pool1d": Call(lambda F, x: F.adaptive_max_pool1d(x, 3), (L1,)),
    "adaptive_max_pool2d": Call(lambda F, x: F.adaptive_max_pool2d(x, (4, None)), (L2,)),
    "adaptive_max_pool2d, whole parts": Call(lambda F, x: F.adaptive_max_pool2d(x, (3, 1)), (L2,)),
    "adaptive_max_pool2d, larger": Call(lambda F, x: F.adaptive_max_pool2d(x, (7, 4)), (L2,)),
    "adaptive_max_pool3d": Call(lambda F, x: F.adaptive_max_pool3d(x, (2, 3, 3)), (L3,)),
    "fractional_max_pool2d": Call(
        lambda F, x, s: F.fractional_max_pool2d(x, 2, (3, 2), _random_samples=s), (L2,), (SAMPLES,), twice=False
    ),
    "fractional_max_pool2d, ratio": Call(
        lambda F, x, s: F.fractional_max_pool2d(x, (2, 3), output_ratio=(0.5, 0.6), _random_samples=s), (L2,),
        (SAMPLES,), twice=False,
    ),
    # means and norms
    "avg_pool1d": Call(lambda F, x: F.avg_pool1d(x, 3, 2, 1), (L1,)),
    "avg_pool1d, ceil": Call(lambda F, x: F.avg_pool1d(x, 4, 2, 1, ceil_mode=True), (L1,)),
    "avg_pool2d": Call(lambda F, x: F.avg_pool2d(x, (3, 2)), (L2,)),
    "avg_pool2d, ceil": Call(lambda F, x: F.avg_pool2d(x, (4, 2), 3, (1, 0), ceil_mode=True), (L2,)),
    "avg_pool2d, without the border": Call(
        lambda F, x: F.avg_pool2d(x, (4, 2), 3, (1, 0), ceil_mode=True, count_include_pad=False), (L2,)
    ),
    "avg_pool2d, divisor": Call(lambda F, x: F.avg_pool2d(x, 3, 1, 1, divisor_override=5), (L2,)),
    "avg_pool2d, unbatched": Call(lambda F, x: F.avg_pool2d(x, 2), (L2[1:],)),
    "avg_pool3d": Call(lambda F, x: F.avg_pool3d(x, (2, 2, 3), (1, 2, 1), (1, 0, 1), True, False), (L3,)),
    "lp_pool1d": Call(lambda F, x: F.lp_pool1d(x * x, 3, 2), (L1,)),
    "lp_pool2d": Call(lambda F, x: F.lp_pool2d(x, 2, (2, 3), stride=1), (L2,)),
    "lp_pool3d": Call(lambda F, x: F.lp_pool3d(x, 2, 2), (L3,)),
    "adaptive_avg_pool1d": Call(lambda F, x: F.adaptive_avg_pool1d(x, 4), (L1,)),
    "adaptive_avg_pool2d": Call(lambda F, x: F.adaptive_avg_pool2d(x, (4, 3)), (L2,)),
    "adaptive_avg_pool2d, all": Call(lambda F, x: F.adaptive_avg_pool2d(x, 1), (L2,)),
    "adaptive_avg_pool2d, whole parts": Call(lambda F, x: F.adaptive_avg_pool2d(x, (2, None)), (L2,)),
    "adaptive_avg_pool2d, larger": Call(lambda F, x: F.adaptive_avg_pool2d(x, (9, 7)), (L2[1:],)),
    "adaptive_avg_pool3d": Call(lambda F, x: F.adaptive_avg_pool3d(x, (2, 3, 5)), (L3,)),
    # resizing
    "nearest, twice": Call(lambda F, x: F.interpolate(x, scale_factor=2), (L2,)),
    "nearest, smaller": Call(lambda F, x: F.interpolate(x, size=(4, 3)), (L2,)),
    "nearest, by a factor": Call(lambda F, x: F.interpolate(x, scale_factor=1.7), (L1,)),
    "nearest, by a recomputed factor": Call(
        lambda F, x: F.interpolate(x, scale_factor=(1.7, 0.6), recompute_scale_factor=True), (L2,)
    ),
    "nearest, volume": Call(lambda F, x: F.interpolate(x, size=(4, 7, 3)), (L3,)),
    "nearest-exact": Call(lambda F, x: F.interpolate(x, size=(4, 8), mode="nearest-exact"), (L2,)),
    "nearest-exact, by a factor": Call(lambda F, x: F.interpolate(x, scale_factor=0.6, mode="nearest-exact"), (L1,)),
    "linear": Call(lambda F, x: F.interpolate(x, size=10, mode="linear"), (L1,)),
    "linear, aligned": Call(lambda F, x: F.interpolate(x, size=4, mode="linear", align_corners=True), (L1,)),
    "bilinear": Call(lambda F, x: F.interpolate(x, scale_factor=(1.6, 2.0), mode="bilinear"), (L2,)),
    "bilinear, smaller": Call(lambda F, x: F.interpolate(x, size=(3, 2), mode="bilinear"), (L2,)),
    "bilinear, aligned": Call(
        lambda F, x: F.interpolate(x, size=(9, 1), mode="bilinear", align_corners=True), (L2,)
    ),
    "bilinear, same size by a factor": Call(
        lambda F, x: F.interpolate(x, scale_factor=(1.1, 1.15), mode="bilinear"), (L2,)
    ),
    "bilinear, antialias": Call(
        lambda F, x: F.interpolate(x, size=(3, 7), mode="bilinear", antialias=True), ((2, 3, 8, 5),), twice=False
    ),
    "bicubic": Call(lambda F, x: F.interpolate(x, size=(9, 4), mode="bicubic"), (L2,)),
    "bicubic, aligned": Call(lambda F, x: F.interpolate(x, size=(4, 8), mode="bicubic", align_corners=True), (L2,)),
    "bicubic, antialias": Call(
        lambda F, x: F.interpolate(x, scale_factor=(0.4, 0.7), mode="bicubic", antialias=True), ((2, 3, 8, 7),),
        twice=False,
    ),
    "trilinear": Call(lambda F, x: F.interpolate(x, size=(5, 3, 6), mode="trilinear"), (L3,)),
    "area": Call(lambda F, x: F.interpolate(x, size=(4, 3), mode="area"), (L2,)),
    "upsample": Call(lambda F, x: F.interpolate(x, size=(8, 9), mode="bilinear", align_corners=True), (L2,)),
    # places
    **{
        f"grid_sample, {mode}, {padding}, {'aligned' if align else 'edges'}": Call(
            lambda F, x, g, mode=mode, padding=padding, align=align: F.grid_sample(x, g * 0.9, mode, padding, align),
            (L2, GRID), twice=mode == "bilinear" and padding == "zeros", single=mode != "nearest",
        )
        for mode in ("bilinear", "nearest", "bicubic")
        for padding in ("zeros", "border", "reflection")
        for align in (True, False)
    },
    **{
        f"grid_sample, volume, {mode}, {padding}": Call(
            lambda F, x, g, mode=mode, padding=padding: F.grid_sample(x, g, mode, padding, False),
            (L3, (1, 2, 2, 3, 3)), twice=False, single=mode != "nearest",
        )
        for mode in ("bilinear", "nearest")
        for padding in ("zeros", "border", "reflection")
    },
    "affine_grid": Call(lambda F, t: F.affine_grid(t, (2, 1, 3, 4), False), ((2, 2, 3),)),
    "affine_grid, aligned volume": Call(lambda F, t: F.affine_grid(t, (1, 1, 2, 3, 1), True), ((1, 3, 4),)),
    # windows as columns, pixels as channels
    "unfold": Call(lambda F, x: F.unfold(x, (2, 3), (2, 1), 1, (1, 2)), (L2,)),
    "unfold, unbatched": Call(lambda F, x: F.unfold(x, 2), (L2[1:],)),
    "fold": Call(lambda F, x: F.fold(x, (4, 5), (2, 3), padding=(0, 1), stride=(2, 1)), ((2, 12, 10),)),
    "fold, unbatched": Call(lambda F, x: F.fold(x, (3, 3), 2), ((8, 4),)),
    "pixel_shuffle": Call(lambda F, x: F.pixel_shuffle(x, 2) * 1.5, ((2, 8, 2, 3),)),
    "pixel_unshuffle": Call(lambda F, x: F.pixel_unshuffle(x, 2) * 1.5, ((2, 2, 4, 6),)),
    "channel_shuffle": Call(lambda F, x: F.channel_shuffle(x, 2) * 1.5, ((2, 4, 3, 2),), twice=False),
    # normalisation
    "batch_norm": Call(
        lambda F, x, w, b: F.batch_norm(x, None, None, w, b, True), (L2, (3,), (3,))
    ),
    "batch_norm, features": Call(lambda F, x: F.batch_norm(x, None, None, training=True, eps=0.1), ((5, 3),)),
    "batch_norm, remembered": Call(
        lambda F, x, w, b, m, v: F.batch_norm(x, m, v, w, b, False), (L1, (3,), (3,)), (MEANS, VARS)
    ),
    "instance_norm": Call(lambda F, x, w, b: F.instance_norm(x, weight=w, bias=b), (L2, (3,), (3,))),
    "group_norm": Call(lambda F, x, w, b: F.group_norm(x, 2, w, b, 1e-3), ((2, 4, 3, 2), (4,), (4,))),
    "group_norm, features": Call(lambda F, x: F.group_norm(x, 3), ((2, 6),)),
    "layer_norm": Call(lambda F, x, w, b: F.layer_norm(x, (3, 4), w, b), ((2, 3, 4), (3, 4), (3, 4))),
    "layer_norm, bias alone": Call(lambda F, x, b: F.layer_norm(x, (4,), None, b), ((2, 3, 4), (4,)), twice=False),
    "rms_norm": Call(lambda F, x, w: F.rms_norm(x, (4,), w), ((2, 3, 4), (4,))),
    "rms_norm, two dimensions": Call(lambda F, x: F.rms_norm(x, (3, 4), eps=0.1), ((2, 3, 4),)),
    "local_response_norm": Call(lambda F, x: F.local_response_norm(x, 3, 0.5, 0.6, 2.0), ((2, 5, 4),)),
    "local_response_norm, even": Call(lambda F, x: F.local_response_norm(x, 2, 0.5), ((2, 5, 2, 3),)),
    # attention
    "attention": Call(_sdpa, (Q, K, K), twice=False),
    "attention, causal": Call(lambda F, q, k, v: _sdpa(F, q, k, v, is_causal=True), (Q, K, (2, 4, 5, 3))),
    "attention, seeing nothing": Call(_sdpa, (Q, K, (2, 4, 5, 3)), (SEEN,)),
    "attention, added": Call(lambda F, q, k, v, m: _sdpa(F, q, k, v, m, scale=0.3), (Q, K, (2, 4, 5, 3), (2, 1, 3, 5))),
    "attention, grouped heads": Call(
        lambda F, q, k, v: _sdpa(F, q, k, v, enable_gqa=True), (Q, (2, 2, 5, 2), (2, 2, 5, 3))
    ),
}  # fmt: skip

LAYERS: dict[str, Layer] = {
    "Conv1d": Layer(lambda nn: nn.Conv1d(3, 4, 3, padding=2, padding_mode="reflect"), L1),
    "Conv1d, same, circular": Layer(lambda nn: nn.Conv1d(3, 4, 4, padding="same", padding_mode="circular"), L1),
    "Conv2d": Layer(lambda nn: nn.Conv2d(3, 6, (3, 2), 2, (1, 2), groups=3, bias=False, padding_mode="replicate"), L2),
    "Conv2d, circular": Layer(lambda nn: nn.Conv2d(3, 2, 3, padding=(2, 1), padding_mode="circular"), L2),
    "Conv2d, valid": Layer(lambda nn: nn.Conv2d(3, 2, 3, padding="valid", padding_mode="reflect"), L2),
    "Conv3d": Layer(lambda nn: nn.Conv3d(2, 3, 2, dilation=(1, 2, 1)), L3),
    "ConvTranspose1d": Layer(lambda nn: nn.ConvTranspose1d(3, 4, 3, 2, 1, 1, dilation=2), L1),
    "ConvTranspose2d": Layer(lambda nn: nn.ConvTranspose2d(3, 6, 3, 2, groups=3, bias=False), L2),
    "ConvTranspose3d": Layer(lambda nn: nn.ConvTranspose3d(2, 2, (1, 2, 3)), L3),
    "MaxPool1d": Layer(lambda nn: nn.MaxPool1d(3, 2, 1, ceil_mode=True), L1),
    "MaxPool2d": Layer(lambda nn: nn.MaxPool2d(3, 2, 1, return_indices=True), L2),
    "MaxPool3d": Layer(lambda nn: nn.MaxPool3d(2, dilation=1, return_indices=True), L3),
    "AvgPool1d": Layer(lambda nn: nn.AvgPool1d(3, 2, 1, count_include_pad=False), L1),
    "AvgPool2d": Layer(lambda nn: nn.AvgPool2d(3, 2, 1, True, True, 4), L2),
    "AvgPool3d": Layer(lambda nn: nn.AvgPool3d(2), L3),
    "LPPool1d": Layer(lambda nn: nn.LPPool1d(2, 3), L1),
    "LPPool2d": Layer(lambda nn: nn.LPPool2d(2, 2, ceil_mode=True), L2),
    "LPPool3d": Layer(lambda nn: nn.LPPool3d(2, 2), L3),
    "AdaptiveAvgPool1d": Layer(lambda nn: nn.AdaptiveAvgPool1d(3), L1),
    "AdaptiveAvgPool2d": Layer(lambda nn: nn.AdaptiveAvgPool2d((None, 2)), L2),
    "AdaptiveAvgPool3d": Layer(lambda nn: nn.AdaptiveAvgPool3d(2), L3),
    "AdaptiveMaxPool1d": Layer(lambda nn: nn.AdaptiveMaxPool1d(4, return_indices=True), L1),
    "AdaptiveMaxPool2d": Layer(lambda nn: nn.AdaptiveMaxPool2d((4, 3), return_indices=True), L2),
    "AdaptiveMaxPool3d": Layer(lambda nn: nn.AdaptiveMaxPool3d((2, 1, None)), L3),
    "BatchNorm1d": Layer(lambda nn: nn.BatchNorm1d(3), (5, 3)),
    "BatchNorm1d, cumulative": Layer(lambda nn: nn.BatchNorm1d(3, momentum=None), L1),
    "BatchNorm2d": Layer(lambda nn: nn.BatchNorm2d(3, eps=0.1, momentum=0.3), L2),
    "BatchNorm2d, not tracking": Layer(lambda nn: nn.BatchNorm2d(3, track_running_stats=False), L2),
    "BatchNorm3d, not affine": Layer(lambda nn: nn.BatchNorm3d(2, affine=False), L3),
    "InstanceNorm1d": Layer(lambda nn: nn.InstanceNorm1d(3), L1),
    "InstanceNorm2d": Layer(lambda nn: nn.InstanceNorm2d(3, affine=True), L2),
    "InstanceNorm2d, tracking": Layer(lambda nn: nn.InstanceNorm2d(3, affine=True, track_running_stats=True), L2),
    "InstanceNorm2d, unbatched": Layer(lambda nn: nn.InstanceNorm2d(3), L2[1:]),
    "InstanceNorm3d": Layer(lambda nn: nn.InstanceNorm3d(2, momentum=0.5, track_running_stats=True), L3),
    "GroupNorm": Layer(lambda nn: nn.GroupNorm(2, 4), (2, 4, 3)),
    "GroupNorm, not affine": Layer(lambda nn: nn.GroupNorm(1, 3, affine=False), L2),
    "LayerNorm": Layer(lambda nn: nn.LayerNorm((6, 5), bias=False), L2),
    "RMSNorm": Layer(lambda nn: nn.RMSNorm(5), L2),
    "LocalResponseNorm": Layer(lambda nn: nn.LocalResponseNorm(2, alpha=0.3), L2),
    "Upsample": Layer(lambda nn: nn.Upsample(scale_factor=2, mode="bicubic"), L2),
    "UpsamplingNearest2d": Layer(lambda nn: nn.UpsamplingNearest2d(size=(4, 9)), L2),
    "UpsamplingBilinear2d": Layer(lambda nn: nn.UpsamplingBilinear2d(scale_factor=3), L2),
    "PixelShuffle": Layer(lambda nn: nn.PixelShuffle(2), (1, 4, 2, 3)),
    "PixelUnshuffle": Layer(lambda nn: nn.PixelUnshuffle(2), (1, 1, 4, 2)),
    "ChannelShuffle": Layer(lambda nn: nn.ChannelShuffle(3), (2, 6, 2)),
    "Unfold": Layer(lambda nn: nn.Unfold(3, padding=1), L2),
    "Fold": Layer(lambda nn: nn.Fold((4, 4), 2, stride=2), (2, 12, 4)),
    "ConstantPad1d": Layer(lambda nn: nn.ConstantPad1d((1, 2), 0.5), L1),
    "ConstantPad2d": Layer(lambda nn: nn.ConstantPad2d(1, 0.5), L2),
    "ConstantPad3d": Layer(lambda nn: nn.ConstantPad3d((1, 0, -1, 2, 0, 1), 0.5), L3),
    "ZeroPad1d": Layer(lambda nn: nn.ZeroPad1d(2), L1),
    "ZeroPad2d": Layer(lambda nn: nn.ZeroPad2d((1, 2, 0, -1)), L2),
    "ZeroPad3d": Layer(lambda nn: nn.ZeroPad3d(1), L3),
    "ReflectionPad1d": Layer(lambda nn: nn.ReflectionPad1d((3, 1)), L1),
    "ReflectionPad2d": Layer(lambda nn: nn.ReflectionPad2d(2), L2),
    "ReflectionPad3d": Layer(lambda nn: nn.ReflectionPad3d(1), L3),
    "ReplicationPad1d": Layer(lambda nn: nn.ReplicationPad1d((3, 1)), L1),
    "ReplicationPad2d": Layer(lambda nn: nn.ReplicationPad2d((1, 2, 3, 0)), L2),
    "ReplicationPad3d": Layer(lambda nn: nn.ReplicationPad3d(1), L3),
    "CircularPad1d": Layer(lambda nn: nn.CircularPad1d((3, 1)), L1),
    "CircularPad2d": Layer(lambda nn: nn.CircularPad2d((1, 2, 3, 0)), L2),
    "CircularPad3d": Layer(lambda nn: nn.CircularPad3d(1), L3),
}  # fmt: skip


def inputs_of(shapes: tuple[Shape, ...], constants: tuple[Any, ...] = ()) -> tuple[list[Any], list[Any]]:
    """The floating arrays, and the constant ones."""
    sampler = Sampler(5)
    floats = []
    for shape in shapes:
        array = sampler.distinct(*shape)
        floats.append(array * (1.5 / max(abs(array).max(), 1e-9)))
    return floats, [np.array(c) for c in constants]


def output_weights(shape: Shape) -> Any:
    """The gradient that is sent into a result: different for each element."""
    return np.cos(np.arange(int(np.prod(shape, dtype=int)), dtype=np.float64)).reshape(shape)


def fill(layer: Any, tensor: Callable[[Any], Any]) -> None:
    """Give a layer, in either library, parameters that are cosines."""
    state = {}
    for number, (name, parameter) in enumerate(layer.named_parameters()):
        size = int(np.prod(tuple(parameter.shape), dtype=int))
        state[name] = tensor(np.cos(np.arange(size) * 1.3 + number).reshape(tuple(parameter.shape)))
    layer.load_state_dict({**{k: v for k, v in layer.state_dict().items() if k not in state}, **state})
