"""Layers that are one matrix product, or none."""

from __future__ import annotations

import math
from typing import Any

from cordee.trainer.array import DTypeLike
from cordee.trainer.errors import ShapeError
from cordee.trainer.nn import init
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.parameter import Parameter, empty_parameter
from cordee.trainer.ops import linear
from cordee.trainer.tensors import Tensor

__all__ = ["Bilinear", "Identity", "Linear", "bilinear"]


class Linear(Module):
    """`input @ weight.T + bias`: `(…, in_features)` to `(…, out_features)`.

    Weight `(out_features, in_features)` and bias start uniform within ±1/√in_features.
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: DTypeLike = None
    ) -> None:
        self.in_features = in_features
        self.out_features = out_features
        self.weight = empty_parameter((out_features, in_features), dtype, device)
        self.bias = empty_parameter((out_features,), dtype, device) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`input1ᵀ · weight[k] · input2 + bias[k]` for every k: `(…, A)`, `(…, B)` and `(K, A, B)` to `(…, K)`."""
    if input1.shape[:-1] != input2.shape[:-1] or (input1.shape[-1:] + input2.shape[-1:]) != weight.shape[1:]:
        raise ShapeError(
            f"bilinear: input1 (…, {weight.shape[1]}) and input2 (…, {weight.shape[2]}) go with this weight, alike in "
            f"the other dimensions; input1 has shape {input1.shape}, input2 {input2.shape}, weight {weight.shape}"
        )
    first, second = input1.reshape(-1, input1.shape[-1]), input2.reshape(-1, input2.shape[-1])
    # (N, A) · (A, K B) -> (N, K, B), then with (N, B) over B: no array of size N · A · B is ever there.
    num_out, width1, width2 = weight.shape
    across = first @ weight.permute(1, 0, 2).reshape(width1, num_out * width2)
    out = (across.reshape(-1, num_out, width2) @ second.unsqueeze(-1)).reshape((*input1.shape[:-1], num_out))
    return out if bias is None else out + bias


class Bilinear(Module):
    """`x1ᵀ · weight[k] · x2 + bias[k]`: `(…, in1_features)` and `(…, in2_features)` to `(…, out_features)`.

    Weight `(out_features, in1_features, in2_features)` and bias start uniform within ±1/√in1_features.
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: DTypeLike = None,
    ) -> None:
        if in1_features < 1:
            raise ValueError(f"in1_features must be at least 1, got {in1_features}")
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        self.weight = empty_parameter((out_features, in1_features, in2_features), dtype, device)
        self.bias = empty_parameter((out_features,), dtype, device) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.in1_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        return bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )


class Identity(Module):
    """Gives back what it gets; takes and ignores any arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def forward(self, input: Tensor) -> Tensor:
        return input
