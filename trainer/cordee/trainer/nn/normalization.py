"""Normalisation layers that look at one sample at a time: layer, RMS, group and local response norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cordee.trainer.array import DTypeLike
from cordee.trainer.nn import init
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.parameter import Parameter, empty_parameter
from cordee.trainer.ops import group_norm, layer_norm, local_response_norm, rms_norm
from cordee.trainer.tensors import Tensor

__all__ = ["GroupNorm", "LayerNorm", "LocalResponseNorm", "RMSNorm"]


class _Affine(Module):
    """A weight, ones at first, and a bias, zeros at first; either may be missing."""

    weight: Parameter | None
    bias: Parameter | None

    def reset_parameters(self) -> None:
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)


class LayerNorm(_Affine):
    """Brings every sample to mean 0 and variance 1 over its last dimensions, then scales and shifts it.

    Args:
        normalized_shape: the sizes of those last dimensions.
        eps: keeps the quotient finite; added to the variance.
        elementwise_affine: whether there is a weight (ones at first).
        bias: whether there is a bias (zeros at first); there is none without a weight.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: DTypeLike = None,
    ) -> None:
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.weight = empty_parameter(self.normalized_shape, dtype, device) if elementwise_affine else None
        self.bias = empty_parameter(self.normalized_shape, dtype, device) if elementwise_affine and bias else None
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(_Affine):
    """Divides every sample by the root mean square of its last dimensions, then scales it. (Zhang and Sennrich, 2019.)

    Args:
        normalized_shape: the sizes of those last dimensions.
        eps: added to the mean square; None: the distance from 1 to the next number of the input's dtype.
        elementwise_affine: whether there is a weight (ones at first).
    """

    bias = None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: DTypeLike = None,
    ) -> None:
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.weight = empty_parameter(self.normalized_shape, dtype, device) if elementwise_affine else None
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        return rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(_Affine):
    """Brings each sample's groups of channels of `(N, C, …)` to mean 0 and variance 1, then scales and shifts channels.

    (Wu and He, 2018.)

    Args:
        num_groups: into how many groups the channels are divided.
        num_channels: C.
        eps: keeps the quotient finite; added to the variance.
        affine: whether there are a weight (ones at first) and a bias (zeros), one number per channel each.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: DTypeLike = None,
    ) -> None:
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups})")
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        self.weight = empty_parameter((num_channels,), dtype, device) if affine else None
        self.bias = empty_parameter((num_channels,), dtype, device) if affine else None
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class LocalResponseNorm(Module):
    """Divides by a power of the mean of squares over `size` neighbouring channels: `(N, C, …)` to the same shape.

    (Krizhevsky, Sutskever and Hinton, 2012.)
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: Tensor) -> Tensor:
        return local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
