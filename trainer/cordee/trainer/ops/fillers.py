"""Filling a tensor with random numbers: the methods with an underscore, `x.uniform_()`, `x.normal_()`."""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.array import is_float
from cordee.trainer.ops import sampling
from cordee.trainer.ops.dtypes import finfo, iinfo
from cordee.trainer.ops.sampling import draw_dtype, drawn, uniform_numbers
from cordee.trainer.random import generator
from cordee.trainer.tensors import Tensor

__all__: list[str] = []  # only methods

INPLACE = "bernoulli cauchy exponential geometric log_normal normal random uniform"


def _require_float(input: Tensor, name: str) -> None:
    if not is_float(input.dtype):
        raise TypeError(f"{name}_ fills floating-point tensors, not {input.dtype.name}")


def _normal(input: Tensor) -> Any:
    return generator().standard_normal(input.shape, dtype=draw_dtype(input.dtype))


def uniform(input: Tensor, from_: float = 0.0, to: float = 1.0) -> Tensor:
    """Uniform in [from_, to)."""
    _require_float(input, "uniform")
    if from_ > to:
        raise ValueError(f"uniform_: from {from_} is above to {to}")
    return drawn(uniform_numbers(input.shape, input.dtype) * (to - from_) + from_, input.dtype)


def normal(input: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Normal, of this mean and standard deviation."""
    _require_float(input, "normal")
    if std < 0:
        raise ValueError(f"normal_: std must not be negative, as {std} is")
    return drawn(_normal(input) * std + mean, input.dtype)


def log_normal(input: Tensor, mean: float = 1.0, std: float = 2.0) -> Tensor:
    """Numbers whose logarithms are normal."""
    _require_float(input, "log_normal")
    if std <= 0:
        raise ValueError(f"log_normal_: std must be above 0, not {std}")
    return drawn(np.exp(_normal(input) * std + mean), input.dtype)


def exponential(input: Tensor, lambd: float = 1.0) -> Tensor:
    """Exponential, of this rate."""
    _require_float(input, "exponential")
    if lambd <= 0:
        raise ValueError(f"exponential_: lambd must be above 0, not {lambd}")
    return drawn(generator().standard_exponential(input.shape) / lambd, input.dtype)


def cauchy(input: Tensor, median: float = 0.0, sigma: float = 1.0) -> Tensor:
    """Cauchy's distribution, of this median and scale."""
    _require_float(input, "cauchy")
    if sigma <= 0:
        raise ValueError(f"cauchy_: sigma must be above 0, not {sigma}")
    return drawn(median + sigma * generator().standard_cauchy(input.shape), input.dtype)


def geometric(input: Tensor, p: float) -> Tensor:
    """How many trials of success probability p it takes."""
    if not 0 < p <= 1:
        raise ValueError(f"geometric_: p must be above 0 and at most 1, not {p}")
    return drawn(generator().geometric(p, input.shape), input.dtype)


def bernoulli(input: Tensor, p: Tensor | float = 0.5) -> Tensor:
    """1 with probability p (a number, or a tensor of them), else 0."""
    if isinstance(p, Tensor):
        return sampling.bernoulli(p.expand(*input.shape)).to(input.dtype)
    return sampling.bernoulli(input, p)


def random(input: Tensor, from_: int | None = None, to: int | None = None) -> Tensor:
    """Whole numbers, uniform from from_ up to, without, to; by default all that the dtype can hold exactly."""
    low, high = (0, from_) if to is None else (from_ or 0, to)
    if high is None:
        kind = input.dtype.kind
        if kind in "iu":
            high = iinfo(input.dtype).max + 1
        else:
            high = 2 if kind == "b" else int(2 / finfo(input.dtype).eps) + 1
    drawn_in: Any = np.uint64 if high > 2**63 else np.int64
    return drawn(generator().integers(low, high, input.shape, dtype=drawn_in), input.dtype)
