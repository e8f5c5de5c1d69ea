"""Layers that are one matrix product, or none."""

from __future__ import annotations

import math
from typing import Any

from cordee.trainer.array import DTypeLike
from cordee.trainer.nn import init
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.parameter import Parameter, empty_parameter
from cordee.trainer.ops import bilinear, linear
from cordee.trainer.tensors import Tensor

__all__ = ["Bilinear", "Identity", "LazyLinear", "Linear"]


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


class LazyLinear(Linear):
    """A `Linear` that learns `in_features` from its first input; from then on it is one.

    Its parameters are made, and drawn, then: call the model once before building the optimiser or loading a state.
    """

    def __init__(self, out_features: int, bias: bool = True, device: Any = None, dtype: DTypeLike = None) -> None:
        self.in_features = 0
        self.out_features = out_features
        self._pending = {"bias": bias, "device": device, "dtype": dtype}

    def forward(self, input: Tensor) -> Tensor:
        pending = vars(self).pop("_pending")
        self.__class__ = Linear  # type: ignore[assignment]
        Linear.__init__(self, input.shape[-1], self.out_features, **pending)
        return self.forward(input)

    def extra_repr(self) -> str:
        return f"in_features=unknown, out_features={self.out_features}, bias={self._pending['bias']}"


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
