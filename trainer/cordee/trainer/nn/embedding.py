"""A table of vectors, looked up by number."""

from __future__ import annotations

from cordee.trainer.array import DTypeLike
from cordee.trainer.nn import init
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.parameter import Parameter, empty_parameter
from cordee.trainer.ops import embedding
from cordee.trainer.tensors import Tensor

__all__ = ["Embedding"]


class Embedding(Module):
    """Row `i` of `weight` for every number `i`: whole numbers `(…)` to `(…, embedding_dim)`. Starts standard normal."""

    weight: Parameter

    def __init__(self, num_embeddings: int, embedding_dim: int, *, dtype: DTypeLike = None) -> None:
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.weight = empty_parameter((num_embeddings, embedding_dim), dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.normal_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        return embedding(input, self.weight)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"
