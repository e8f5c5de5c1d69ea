"""Reshaping as layers."""

from __future__ import annotations

from collections.abc import Sequence

from cordee.trainer.nn.module import Module
from cordee.trainer.ops import flatten, unflatten
from cordee.trainer.tensors import Tensor

__all__ = ["Flatten", "Unflatten"]


class Flatten(Module):
    """Makes dimensions `start_dim` to `end_dim` one; by default all but the first."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Tensor) -> Tensor:
        return flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Makes dimension `dim` several, of these sizes."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        self.dim = dim
        self.unflattened_size = tuple(unflattened_size)

    def forward(self, input: Tensor) -> Tensor:
        return unflatten(input, self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
