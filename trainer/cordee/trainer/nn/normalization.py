"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence

from cordee.trainer.array import DTypeLike
from cordee.trainer.nn import init
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.parameter import Parameter, empty_parameter
from cordee.trainer.ops import layer_norm
from cordee.trainer.tensors import Tensor

__all__ = ["LayerNorm"]


class LayerNorm(Module):
    """Brings every sample to mean 0 and variance 1 over its last dimensions, then scales and shifts it.

    Args:
        normalized_shape: the sizes of those last dimensions.
        eps: keeps the quotient finite; added to the variance.
        elementwise_affine: whether there is a weight (ones at first).
        bias: whether there is a bias (zeros at first); there is none without a weight.
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = None,
    ) -> None:
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.weight = empty_parameter(self.normalized_shape, dtype) if elementwise_affine else None
        self.bias = empty_parameter(self.normalized_shape, dtype) if elementwise_affine and bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
