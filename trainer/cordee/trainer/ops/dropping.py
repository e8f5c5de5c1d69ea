"""Dropout of single elements and of whole channels, on counted random numbers.

What is dropped is decided by one byte per element, and by more bits only for the few whose byte is just at the border:
the probability is exact, and eight times fewer random bits are drawn than by comparing floating-point numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer import random
from cordee.trainer.array import array_module
from cordee.trainer.autograd.record import Shape, op
from cordee.trainer.errors import ShapeError
from cordee.trainer.kernels import kernel
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout", "feature_dropout",
]  # fmt: skip


def kept_mask(shape: tuple[int, ...], p: float, xp: Any) -> Any:
    """Which elements dropout with probability p keeps: one draw, keyed as `cordee.trainer.random` describes."""
    generator, count = random.generator(), math.prod(shape)
    draws = _random_words(xp, generator, -(-count // 8)).view(xp.uint8)[:count].reshape(shape)
    border, rest = divmod(p * 256.0, 1.0)
    if not rest:
        return draws >= border
    return _kept_bytes(xp, draws, generator, border=int(border), rest=rest)


@kernel
def _kept_bytes(xp: Any, draws: Any, generator: np.random.Generator, *, border: int, rest: float) -> Any:
    """Which bytes are above the border; those at it are decided by the generator's next numbers, one by one."""
    kept = draws > border
    undecided = xp.flatnonzero(draws == border)
    kept.reshape(-1)[undecided] = xp.asarray(generator.random(len(undecided)) >= rest)
    return kept


@kernel
def _random_words(xp: Any, generator: np.random.Generator, count: int) -> Any:
    """The next words of 64 bits, the lowest byte first; the generator goes on behind them."""
    return xp.asarray(generator.integers(0, 1 << 64, count, np.uint64).astype("<u8", copy=False))


def _dropout(xp: Any, a: Any, *, kept: Any, scale: float) -> Any:
    out = a * kept
    out *= scale
    return out


def _dropout_shape(a: Any, *, kept: Any, scale: float) -> Shape:
    wanted = tuple(kept.shape)
    if len(wanted) != len(a) or any(k not in (1, n) for k, n in zip(wanted, a, strict=True)):
        raise ShapeError(f"the mask of shape {wanted} does not fit the input of shape {tuple(a)}")
    return tuple(a)


DROPOUT = op(
    "dropout", "zero where not kept, scaled up elsewhere",
    forward=_dropout, vjps=(lambda F, g, out, a, *, kept, scale: F.dropout(g, kept=kept, scale=scale),), saves=("",),
    reference=lambda a, kept, scale: np.where(kept, a * scale, 0.0), shape=_dropout_shape, dtype="first",
    samples=lambda s: [
        s.case(s.normal(3, 4), kept=s.mask(3, 4), scale=2.0),
        s.case(s.normal(2, 3, 2), kept=s.mask(2, 3, 1), scale=1.25),
        s.case(s.normal(0, 2), kept=s.mask(0, 2), scale=2.0),
    ],
    errors=lambda s: [s.case(s.normal(3, 4), kept=s.mask(3, 3), scale=2.0)],
)  # fmt: skip


def _check(name: str, p: float) -> None:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{name}: p must be between 0 and 1, not {p}")


def _scale(p: float) -> float:
    return 1.0 / (1.0 - p) if p < 1.0 else 0.0


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training: zeroes each element with probability p and scales the others by 1 / (1 - p).

    `inplace` is taken for PyTorch's sake: the result is always a new tensor (or the input itself where nothing is
    dropped).
    """
    _check("dropout", p)
    if not training or p == 0.0:
        return input
    kept = kept_mask(input.shape, p, array_module(input.data))
    return DROPOUT.run(input, kept=kept, scale=_scale(p))


# -- whole channels ----------------------------------------------------------------------------------------------------


def _channels(input: Tensor, p: float) -> Any:
    """One decision per sample and channel."""
    return kept_mask((*input.shape[:2], *(1,) * (input.ndim - 2)), p, array_module(input.data))


def _feature_dropout(name: str, input: Tensor, p: float, training: bool, unbatched: int | None) -> Tensor:
    _check(name, p)
    if input.ndim < 2:
        raise ShapeError(f"{name}: input must have at least two dimensions; its shape is {input.shape}")
    if not training or p == 0.0:
        return input
    if input.ndim == unbatched:
        batch = input.reshape(1, *input.shape)
        return DROPOUT.run(batch, kept=_channels(batch, p), scale=_scale(p)).reshape(input.shape)
    return DROPOUT.run(input, kept=_channels(input, p), scale=_scale(p))


def feature_dropout(input: Tensor, p: float = 0.5, train: bool = True) -> Tensor:
    """In training: zeroes whole channels of `(N, C, …)` with probability p and scales the others by 1 / (1 - p)."""
    return _feature_dropout("feature_dropout", input, p, train, None)


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`feature_dropout` of `(N, C, L)` or `(C, L)`."""
    if input.ndim not in (2, 3):
        raise ShapeError(f"dropout1d: input must have two or three dimensions; its shape is {input.shape}")
    return _feature_dropout("dropout1d", input, p, training, 2)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`feature_dropout` of `(N, C, H, W)`. As in PyTorch, three dimensions are read as `(N, C, L)`."""
    return _feature_dropout("dropout2d", input, p, training, None)


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`feature_dropout` of `(N, C, D, H, W)` or `(C, D, H, W)`."""
    return _feature_dropout("dropout3d", input, p, training, 4)


# -- for self-normalising nets -----------------------------------------------------------------------------------------

_LOW = -1.0507009873554805 * 1.6732632423543772
"""Where SELU ends up far on the left: what a dropped element becomes."""


def _alpha(input: Tensor, p: float, kept: Any) -> Tensor:
    """Keeps mean 0 and variance 1 (Klambauer and others, 2017)."""
    if p == 1.0:
        return input * 0.0
    factor = ((1.0 - p) * (1.0 + p * _LOW * _LOW)) ** -0.5
    shift = -factor * _LOW * p
    xp = array_module(input.data)
    added = xp.where(kept, shift, factor * _LOW + shift).astype(input.dtype)
    scaled: Tensor = DROPOUT.run(input, kept=kept, scale=factor)
    return scaled + wrap(added)


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """In training: sets each element to SELU's lowest value with probability p, then brings back mean and variance."""
    _check("alpha_dropout", p)
    if not training or p == 0.0:
        return input
    return _alpha(input, p, kept_mask(input.shape, p, array_module(input.data)))


def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """`alpha_dropout` of whole channels of `(N, C, …)`."""
    _check("feature_alpha_dropout", p)
    if not training or p == 0.0:
        return input
    if input.ndim < 2:
        raise ShapeError(f"feature_alpha_dropout: input must have at least two dimensions; its shape is {input.shape}")
    return _alpha(input, p, _channels(input, p))
