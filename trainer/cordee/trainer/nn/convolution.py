"""Convolution layers."""

from __future__ import annotations

import math
from typing import Literal

from cordee.trainer.array import DTypeLike
from cordee.trainer.nn import init
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.parameter import Parameter, empty_parameter
from cordee.trainer.ops import conv2d
from cordee.trainer.tensors import Tensor

__all__ = ["Conv2d"]

Pair = int | tuple[int, int]


class Conv2d(Module):
    """Slides `out_channels` filters over images: `(N, C_in, H, W)` to `(N, C_out, H', W')`.

    Padding is a number, one for each axis, or "same" (as large as the input) or "valid" (none).
    `H' = (H + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1`, W' likewise. Weight
    `(C_out, C_in / groups, *kernel_size)` and bias start uniform within ±1/√(C_in / groups * kernel area).
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | Literal["same", "valid"] = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        dtype: DTypeLike = None,
    ) -> None:
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if groups < 1 or channels % groups:
                raise ValueError(f"{name} ({channels}) must be divisible by groups ({groups})")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = pair(kernel_size)
        self.stride = pair(stride)
        self.padding = padding if isinstance(padding, str) else pair(padding)
        self.dilation = pair(dilation)
        self.groups = groups
        self.weight = empty_parameter((out_channels, in_channels // groups, *self.kernel_size), dtype)
        self.bias = empty_parameter((out_channels,), dtype) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        fan_in = math.prod(self.weight.shape[1:])
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        return conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        for name, usual in (("padding", (0, 0)), ("dilation", (1, 1)), ("groups", 1)):
            if getattr(self, name) != usual:
                text += f", {name}={getattr(self, name)}"
        return text if self.bias is not None else text + ", bias=False"


def pair(value: Pair) -> tuple[int, int]:
    """A number for both axes, or one for each."""
    if isinstance(value, int):
        return value, value
    height, width = value
    return height, width
