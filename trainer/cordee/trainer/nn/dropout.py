"""Dropout."""

from __future__ import annotations

from cordee.trainer.nn import functional
from cordee.trainer.nn.module import Module
from cordee.trainer.tensors import Tensor

__all__ = ["Dropout"]


class Dropout(Module):
    """In training, zeroes elements with probability `p` and scales the others by `1 / (1 - p)`; else does nothing.

    Inside `random.scope(step, shard)`, as in an elastic step, what is dropped depends on seed, step, shard and the
    number of the draw, never on who computes it.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        del inplace
        if not 0 <= p <= 1:
            raise ValueError(f"p must be a probability, from 0 to 1, got {p}")
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        return functional.dropout(input, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"
