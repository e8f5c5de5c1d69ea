"""Pooling layers: what is left of windows of an image."""

from __future__ import annotations

from cordee.trainer.nn.convolution import Pair, pair
from cordee.trainer.nn.module import Module
from cordee.trainer.ops import avg_pool2d, max_pool2d
from cordee.trainer.tensors import Tensor

__all__ = ["AvgPool2d", "MaxPool2d"]


class _Pool2d(Module):
    def __init__(self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0) -> None:
        self.kernel_size = pair(kernel_size)
        self.stride = self.kernel_size if stride is None else pair(stride)
        self.padding = pair(padding)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool2d(_Pool2d):
    """The largest value of every window: `(N, C, H, W)` to `(N, C, H', W')`. By default windows do not overlap."""

    def forward(self, input: Tensor) -> Tensor:
        return max_pool2d(input, self.kernel_size, self.stride, self.padding)


class AvgPool2d(_Pool2d):
    """The mean of every window, padding counted as zeros: `(N, C, H, W)` to `(N, C, H', W')`."""

    def forward(self, input: Tensor) -> Tensor:
        return avg_pool2d(input, self.kernel_size, self.stride, self.padding)
