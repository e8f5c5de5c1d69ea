"""Dropout, of elements and of channels.

Inside `random.scope(step, shard)`, as in an elastic step, what is dropped depends on seed, step, shard and the number
of the draw, never on who computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from cordee.trainer.nn import functional
from cordee.trainer.nn.module import Module
from cordee.trainer.tensors import Tensor

__all__ = ["AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"]


class _Dropout(Module):
    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p must be a probability, from 0 to 1, got {p}")
        self.p = p
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return type(self).function(input, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """In training, zeroes elements with probability `p` and scales the others by `1 / (1 - p)`; else does nothing.

    `inplace` is taken for PyTorch's sake; the result is a new tensor in any case.
    """

    function = staticmethod(functional.dropout)


class Dropout1d(_Dropout):
    """`Dropout` of whole channels of `(N, C, L)` or `(C, L)`."""

    function = staticmethod(functional.dropout1d)


class Dropout2d(_Dropout):
    """`Dropout` of whole channels of `(N, C, H, W)`; neighbouring pixels are too much alike to drop them singly."""

    function = staticmethod(functional.dropout2d)


class Dropout3d(_Dropout):
    """`Dropout` of whole channels of `(N, C, D, H, W)` or `(C, D, H, W)`."""

    function = staticmethod(functional.dropout3d)


class AlphaDropout(_Dropout):
    """In training, sets elements to SELU's lowest value with probability `p`, then restores mean 0 and variance 1."""

    function = staticmethod(functional.alpha_dropout)


class FeatureAlphaDropout(_Dropout):
    """`AlphaDropout` of whole channels of `(N, C, …)`."""

    function = staticmethod(functional.feature_alpha_dropout)
