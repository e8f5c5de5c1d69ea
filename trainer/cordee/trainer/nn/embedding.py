"""Tables of vectors, looked up by number."""

from __future__ import annotations

from typing import Any, Literal

from cordee.trainer.array import DTypeLike
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.nn import functional, init
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.parameter import Parameter, empty_parameter
from cordee.trainer.tensors import Tensor

__all__ = ["Embedding", "EmbeddingBag"]


class _Table(Module):
    """What both layers have: the table, and how it starts."""

    weight: Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None,
        max_norm: float | None,
        norm_type: float,
        scale_grad_by_freq: bool,
        weight: Tensor | None,
        freeze: bool,
        device: Any,
        dtype: DTypeLike,
    ) -> None:
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = _row(padding_idx, num_embeddings)
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        if weight is None:
            self.weight = empty_parameter((num_embeddings, embedding_dim), dtype, device)
            self.reset_parameters()
        elif weight.shape == (num_embeddings, embedding_dim):
            self.weight = weight if isinstance(weight, Parameter) else Parameter(weight)
        else:
            raise ShapeError(f"the weight must have shape {(num_embeddings, embedding_dim)}, not {weight.shape}")
        if freeze:
            self.weight.requires_grad = False

    def reset_parameters(self) -> None:
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight.data[self.padding_idx] = 0

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        for name, usual in self._usual():
            if getattr(self, name) != usual:
                text += f", {name}={getattr(self, name)!r}"
        return text

    def _usual(self) -> tuple[tuple[str, Any], ...]:
        return (("padding_idx", None), ("max_norm", None), ("norm_type", 2.0), ("scale_grad_by_freq", False))


class Embedding(_Table):
    """Row `i` of `weight` for every number `i`: whole numbers `(…)` to `(…, embedding_dim)`. Starts standard normal.

    Args:
        padding_idx: a row that starts as zeros and gets no gradient.
        max_norm: rows that are looked up are first shortened to this length, in `norm_type`, in the table itself.
        scale_grad_by_freq: a row's gradient is divided by how often the row was looked up.
        sparse: taken for PyTorch's sake; gradients are dense.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: DTypeLike = None,
    ) -> None:
        del sparse
        super().__init__(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq, _weight, _freeze,
            device, dtype,
        )  # fmt: skip
        self._plain = padding_idx is None and max_norm is None and not scale_grad_by_freq

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Embedding:
        """A layer around a table that is there already, `(num_embeddings, embedding_dim)`; `freeze`: not trained."""
        rows, width = _table_size(embeddings)
        return cls(
            rows, width, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, embeddings, freeze
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        if self._plain:
            return functional.embedding(input, self.weight)
        return functional.embedding(
            input, self.weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq
        )


class EmbeddingBag(_Table):
    """Sums, means or maxima of rows of `weight`, bag by bag, without the rows in between.

    Input `(B, N)`: B bags of N numbers; or `(total,)` with `offsets` `(B,)`, where each bag begins. Result
    `(B, embedding_dim)`. `per_sample_weights` (with "sum") weigh the rows; rows of `padding_idx` do not count.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: Literal["sum", "mean", "max"] = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: DTypeLike = None,
    ) -> None:
        del sparse
        if mode not in ("sum", "mean", "max"):
            raise ValueError(f"mode must be sum, mean or max, got {mode!r}")
        super().__init__(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq, _weight, False,
            device, dtype,
        )  # fmt: skip
        self.mode: Literal["sum", "mean", "max"] = mode
        self.include_last_offset = include_last_offset

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: Literal["sum", "mean", "max"] = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> EmbeddingBag:
        """A layer around a table that is there already, `(num_embeddings, embedding_dim)`; `freeze`: not trained."""
        rows, width = _table_size(embeddings)
        made = cls(
            rows, width, max_norm, norm_type, scale_grad_by_freq, mode, sparse, embeddings, include_last_offset,
            padding_idx,
        )  # fmt: skip
        made.weight.requires_grad = not freeze
        return made

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        return functional.embedding_bag(
            input,
            self.weight,
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )

    def _usual(self) -> tuple[tuple[str, Any], ...]:
        return (*super()._usual(), ("mode", "mean"), ("include_last_offset", False))


def _row(padding_idx: int | None, num_embeddings: int) -> int | None:
    if padding_idx is None:
        return None
    if not -num_embeddings <= padding_idx < num_embeddings:
        raise TrainerIndexError(f"padding_idx {padding_idx} is outside the {num_embeddings} embeddings")
    return padding_idx % num_embeddings


def _table_size(embeddings: Tensor) -> tuple[int, int]:
    if embeddings.ndim != 2:
        raise ShapeError(f"a table of embeddings has 2 dimensions, not shape {embeddings.shape}")
    rows, width = embeddings.shape
    return rows, width
