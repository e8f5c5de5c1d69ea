"""Initial values, written into a tensor in place: PyTorch's distributions, drawn from our own generator."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from cordee.trainer import random
from cordee.trainer.array import as_array
from cordee.trainer.tensors import Tensor

__all__ = [
    "calculate_gain",
    "constant_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

_GAINS = {"linear": 1.0, "conv2d": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3.0, "relu": math.sqrt(2.0)}


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Uniform from `a` to `b`."""
    draws = random.generator().random(tensor.shape, dtype=_draw_dtype(tensor))
    draws *= b - a
    draws += a
    return _assign(tensor, draws)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Normal with this mean and standard deviation."""
    draws = random.generator().standard_normal(tensor.shape, dtype=_draw_dtype(tensor))
    draws *= std
    draws += mean
    return _assign(tensor, draws)


def constant_(tensor: Tensor, val: float) -> Tensor:
    tensor.data[...] = val
    return tensor


def zeros_(tensor: Tensor) -> Tensor:
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    return constant_(tensor, 1.0)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor on the standard deviation that keeps a signal's size through this nonlinearity."""
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1.0 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in _GAINS:
        raise ValueError(f"nonlinearity must be one of leaky_relu, {', '.join(_GAINS)}, got {nonlinearity!r}")
    return _GAINS[nonlinearity]


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: Literal["fan_in", "fan_out"] = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Uniform, of variance `gain² / fan`: keeps the size of signals (fan_in) or gradients (fan_out) through ReLUs."""
    bound = math.sqrt(3.0) * calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode))
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: Tensor, a: float = 0.0, mode: Literal["fan_in", "fan_out"] = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Normal, of variance `gain² / fan`."""
    return normal_(tensor, 0.0, calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode)))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform, of variance `2 gain² / (fan_in + fan_out)`."""
    bound = math.sqrt(3.0) * gain * math.sqrt(2.0 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Normal, of variance `2 gain² / (fan_in + fan_out)`."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_fans(tensor))))


def _fans(tensor: Tensor) -> tuple[int, int]:
    """How many inputs an output has, and how many outputs an input reaches, for a weight `(out, in, *kernel)`."""
    if len(tensor.shape) < 2:
        raise ValueError(
            f"fan_in and fan_out need a weight of at least two dimensions, got shape {tuple(tensor.shape)}"
        )
    receptive = math.prod(tensor.shape[2:])
    return tensor.shape[1] * receptive, tensor.shape[0] * receptive


def _fan(tensor: Tensor, mode: str) -> int:
    if mode not in {"fan_in", "fan_out"}:
        raise ValueError(f"mode must be fan_in or fan_out, got {mode!r}")
    return _fans(tensor)[mode == "fan_out"]


def _draw_dtype(tensor: Tensor) -> type[np.float32] | type[np.float64]:
    return np.float64 if tensor.data.dtype == np.float64 else np.float32


def _assign(tensor: Tensor, draws: object) -> Tensor:
    tensor.data[...] = as_array(draws)
    return tensor
