"""Layers that are one matrix product, or none."""

from __future__ import annotations

import math
from typing import Any

from cordee.trainer.array import DTypeLike
from cordee.trainer.nn import init
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.parameter import Parameter, empty_parameter
from cordee.trainer.ops import linear
from cordee.trainer.tensors import Tensor

__all__ = ["Identity", "Linear"]


class Linear(Module):
    """`input @ weight.T + bias`: `(…, in_features)` to `(…, out_features)`.

    Weight `(out_features, in_features)` and bias start uniform within ±1/√in_features.
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, dtype: DTypeLike = None) -> None:
        self.in_features = in_features
        self.out_features = out_features
        self.weight = empty_parameter((out_features, in_features), dtype)
        self.bias = empty_parameter((out_features,), dtype) if bias else None
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


class Identity(Module):
    """Gives back what it gets; takes and ignores any arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def forward(self, input: Tensor) -> Tensor:
        return input
