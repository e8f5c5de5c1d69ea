"""Tensors at random: draws of the process's counter-based generator (`cordee.trainer.random`).

Drawn on the host, so that every device has the same numbers. `bernoulli`, `multinomial` and `poisson` have no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer import random
from cordee.trainer.array import DTypeLike, default_dtype, default_module, is_float, to_numpy
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.creation import finish, sizes
from cordee.trainer.tensors import Tensor

__all__ = [
    "bernoulli", "multinomial", "normal", "poisson", "rand", "rand_like", "randint", "randint_like", "randn",
    "randn_like", "randperm",
]  # fmt: skip

METHODS = "bernoulli multinomial"


def drawn(array: Any, dtype: DTypeLike, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """Host numbers as a tensor of that dtype."""
    return finish(default_module().asarray(array, dtype=dtype), requires_grad, device)


def draw_dtype(dtype: np.dtype[Any]) -> Any:
    """In which precision to draw for a dtype."""
    return np.float64 if dtype == np.float64 else np.float32


def uniform_numbers(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Uniform in [0, 1), also after rounding to the dtype."""
    numbers = random.generator().random(shape, dtype=draw_dtype(dtype))
    if dtype.itemsize == 2:
        digits = 2.0 ** (11 if dtype.kind == "f" else 8)
        numbers = np.floor(numbers * digits) / digits
    return numbers


def _floating(dtype: DTypeLike, name: str) -> np.dtype[Any]:
    wanted = np.dtype(dtype or default_dtype())
    if not is_float(wanted):
        raise TypeError(f"{name} makes floating-point tensors, not {wanted.name}")
    return wanted


def rand(*size: Any, dtype: DTypeLike = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Uniform in [0, 1)."""
    wanted = _floating(dtype, "rand")
    return drawn(uniform_numbers(sizes(size), wanted), wanted, requires_grad, device)


def randn(*size: Any, dtype: DTypeLike = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Normal, of mean 0 and variance 1."""
    wanted = _floating(dtype, "randn")
    numbers = random.generator().standard_normal(sizes(size), dtype=draw_dtype(wanted))
    return drawn(numbers, wanted, requires_grad, device)


def rand_like(input: Tensor, *, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """Uniform in [0, 1), in another tensor's shape and dtype."""
    return rand(input.shape, dtype=dtype or input.dtype, requires_grad=requires_grad)


def randn_like(input: Tensor, *, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """Normal, in another tensor's shape and dtype."""
    return randn(input.shape, dtype=dtype or input.dtype, requires_grad=requires_grad)


def randint(
    low: int,
    high: int | Sequence[int] | None = None,
    size: Sequence[int] = (),
    *,
    dtype: DTypeLike = np.int64,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Whole numbers, uniform from low (0 if only one bound is given) up to, without, high.

    Both `randint(high, size)` and `randint(low, high, size)` are understood.

    Raises:
        ValueError: there is no number between the bounds.
    """
    if high is None:
        first, end, shape = 0, low, size
    elif isinstance(high, (int, np.integer)):
        first, end, shape = low, int(high), size
    else:
        first, end, shape = 0, low, high
    if first >= end:
        raise ValueError(f"randint: there is no whole number from {first} up to, without, {end}")
    return drawn(random.generator().integers(first, end, tuple(shape)), dtype, requires_grad, device)


def randint_like(input: Tensor, low: int, high: int | None = None, *, dtype: DTypeLike = None) -> Tensor:
    """Whole numbers as by `randint`, in another tensor's shape and dtype."""
    return randint(low, high, input.shape, dtype=dtype or input.dtype)


def randperm(n: int, *, dtype: DTypeLike = np.int64, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """The numbers below n in random order."""
    return drawn(random.generator().permutation(n), dtype, requires_grad, device)


def normal(
    mean: Tensor | float = 0.0,
    std: Tensor | float = 1.0,
    size: Sequence[int] | None = None,
    *,
    dtype: DTypeLike = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normal, with the mean and standard deviation of each element, or of all in a shape.

    Raises:
        ValueError: a negative standard deviation, or numbers without `size`.
    """
    given = [x for x in (mean, std) if isinstance(x, Tensor)]
    if not given and size is None:
        raise ValueError("normal: mean and std are numbers, so give size")
    middle, spread = (to_numpy(x.data) if isinstance(x, Tensor) else x for x in (mean, std))
    if np.any(np.asarray(spread) < 0):
        raise ValueError("normal: std must not be negative")
    wanted = np.dtype(dtype or (given[0].dtype if given else default_dtype()))
    shape = np.broadcast_shapes(np.shape(middle), np.shape(spread)) if size is None else tuple(size)
    numbers = random.generator().standard_normal(shape, dtype=draw_dtype(wanted))
    return drawn(middle + numbers * spread, wanted, requires_grad, device)


def bernoulli(input: Tensor, p: float | None = None) -> Tensor:
    """1 with the probability that the element gives (or p, for all), else 0; in the tensor's dtype.

    Raises:
        ValueError: a probability outside [0, 1].
    """
    chances = to_numpy(input.data) if p is None else np.asarray(p)
    if chances.size and not (float(chances.min()) >= 0 and float(chances.max()) <= 1):
        raise ValueError("bernoulli: probabilities must be between 0 and 1")
    return drawn(random.generator().random(input.shape) < chances, input.dtype)


def poisson(input: Tensor) -> Tensor:
    """Poisson numbers with the rate that each element gives; in the tensor's dtype."""
    rates = to_numpy(input.data)
    if rates.size and float(rates.min()) < 0:
        raise ValueError("poisson: rates must not be negative")
    return drawn(random.generator().poisson(rates.astype(np.float64)), input.dtype)


def multinomial(input: Tensor, num_samples: int, replacement: bool = False) -> Tensor:
    """Draws of categories, int64, with probabilities in proportion to weights.

    Shapes: weights (C,) or (N, C) to (num_samples,) or (N, num_samples).

    Raises:
        ShapeError: weights of other shapes.
        ValueError: weights that are negative, not finite or all 0; fewer categories than draws without replacement.
    """
    if input.ndim not in (1, 2):
        raise ShapeError(f"multinomial needs weights of shape (C,) or (N, C), not {input.shape}")
    if not is_float(input.dtype):
        raise TypeError(f"multinomial needs floating-point weights, not {input.dtype.name}")
    weights = np.atleast_2d(to_numpy(input.data).astype(np.float64))
    total = weights.sum(1, keepdims=True)
    if not np.isfinite(total).all() or (weights < 0).any() or (total <= 0).any():
        raise ValueError("multinomial: weights must be finite, not negative, and not all 0")
    rows, classes = weights.shape
    if num_samples < 1 or (not replacement and num_samples > int((weights > 0).sum(1).min(initial=classes))):
        raise ValueError(
            f"multinomial: {num_samples} draws without replacement from fewer categories of a weight above 0"
            if num_samples >= 1
            else f"multinomial: num_samples must be at least 1, not {num_samples}"
        )
    generator = random.generator()
    if replacement:
        edges = np.cumsum(weights, 1)
        points = generator.random((rows, num_samples)) * edges[:, -1:]
        found = np.stack([np.searchsorted(e, q, side="right") for e, q in zip(edges, points, strict=True)])
        found = np.minimum(found, classes - 1)
    else:  # the first to arrive, of exponential times with these rates
        times = generator.standard_exponential((rows, classes))
        found = np.argsort(times / weights, 1, kind="stable")[:, :num_samples]
    return drawn(found if input.ndim == 2 else found[0], np.int64)
