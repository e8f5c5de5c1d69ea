"""Softmax over very many classes: the frequent ones at full width, the rare ones in clusters of less and less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from cordee.trainer.array import DTypeLike, array_module
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.nn import functional
from cordee.trainer.nn.container import ModuleList, Sequential
from cordee.trainer.nn.linear import Linear
from cordee.trainer.nn.module import Module
from cordee.trainer.ops import cat, gather
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["AdaptiveLogSoftmaxWithLoss"]


class _Result(NamedTuple):
    output: Tensor
    loss: Tensor


class AdaptiveLogSoftmaxWithLoss(Module):
    """Log-probabilities of targets among `n_classes`, sorted by frequency (Grave et al., arXiv:1609.04309).

    `layer(input, target)`, `(N, in_features)` and `(N,)` (or without N), gives the targets' log-probabilities `(N,)`
    and minus their mean.

    Args:
        cutoffs: where the clusters begin, growing: classes below the first are the head.
        div_value: each cluster has so many times fewer features than the one before.
        head_bias: whether the head has a bias.
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Any = None,
        dtype: DTypeLike = None,
    ) -> None:
        ends = list(cutoffs)
        if not ends or ends != sorted(set(ends)) or ends[0] <= 0 or ends[-1] > n_classes - 1:
            raise ValueError(
                f"cutoffs must grow, each once, from 1 to n_classes - 1 ({n_classes - 1}) at most; got {ends}"
            )
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = [*ends, n_classes]
        self.div_value = div_value
        self.head_bias = head_bias
        self.shortlist_size = ends[0]
        self.n_clusters = len(ends)
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, bias=head_bias, device=device, dtype=dtype)
        self.tail = ModuleList()
        for i in range(self.n_clusters):
            width = int(in_features // div_value ** (i + 1))
            size = self.cutoffs[i + 1] - self.cutoffs[i]
            self.tail.append(
                Sequential(
                    Linear(in_features, width, bias=False, device=device, dtype=dtype),
                    Linear(width, size, bias=False, device=device, dtype=dtype),
                )
            )

    def reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, Linear):
                module.reset_parameters()

    def forward(self, input: Tensor, target: Tensor) -> _Result:
        batched = input.ndim == 2
        if input.ndim not in (1, 2) or target.shape != input.shape[:-1]:
            raise ShapeError(
                f"AdaptiveLogSoftmaxWithLoss: input has shape {input.shape}, which must be (N, {self.in_features}) or "
                f"({self.in_features},), and target then {input.shape[:-1]}; it has shape {target.shape}"
            )
        rows, classes = (input if batched else input.unsqueeze(0)), target.data.reshape(-1)
        xp = array_module(classes)
        if classes.size and not 0 <= int(classes.min()) <= int(classes.max()) < self.n_classes:
            worst = int(classes.min()) if int(classes.min()) < 0 else int(classes.max())
            raise TrainerIndexError(
                f"AdaptiveLogSoftmaxWithLoss: target holds class number {worst}, outside the {self.n_classes} classes, "
                f"0 to {self.n_classes - 1}"
            )
        # In the head a class of the tail is its cluster.
        cluster = sum((classes >= cutoff).astype(classes.dtype) for cutoff in self.cutoffs[:-1])
        in_head = xp.where(cluster == 0, classes, self.shortlist_size + cluster - 1)
        output = self._picked(self.head(rows), in_head)
        parts, places = [], []
        for i, tail in enumerate(self.tail):
            members = xp.nonzero(cluster == i + 1)[0]
            if members.size:
                parts.append(self._picked(tail(rows[members]), classes[members] - self.cutoffs[i]))
                places.append(members)
        if parts:
            zero = wrap(xp.zeros(1, output.dtype))
            index = xp.zeros(classes.size, classes.dtype)
            order = xp.concatenate(places)
            index[order] = xp.arange(1, order.size + 1)
            output = output + cat([zero, *parts], 0)[index]
        output = output if batched else output.reshape(())
        return _Result(output, -output.mean())

    def _picked(self, logits: Tensor, classes: Any) -> Tensor:
        return gather(functional.log_softmax(logits, 1), 1, wrap(classes.reshape(-1, 1))).reshape(-1)

    def log_prob(self, input: Tensor) -> Tensor:
        """The log-probabilities of all classes, `(N, n_classes)`."""
        head = functional.log_softmax(self.head(input), 1)
        parts = [head[:, : self.shortlist_size]]
        for i, tail in enumerate(self.tail):
            within = functional.log_softmax(tail(input), 1)
            parts.append(within + head[:, self.shortlist_size + i : self.shortlist_size + i + 1])
        return cat(parts, 1)

    def predict(self, input: Tensor) -> Tensor:
        """The likeliest class of every row, `(N,)`."""
        return self.log_prob(input).argmax(1)
