"""Batch and instance normalisation: statistics of channels, which may be remembered for later.

What the statistics are computed over: one call's input. In an elastic run a call sees one shard of the global batch, so
the normalisation, and with it every gradient, is the same for any number of workers. The *running* statistics are
kept the same by the run: a step moves them once, by the mean of what its shards make of them (`elastic.buffers`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from cordee.trainer.array import DTypeLike, as_array, default_dtype
from cordee.trainer.errors import ShapeError
from cordee.trainer.nn import init
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.parameter import Parameter, empty_parameter
from cordee.trainer.ops import batch_norm, instance_norm
from cordee.trainer.tensors import Tensor

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"]


class _Norm(Module):
    """Weight, bias and running statistics, one number per channel each, under PyTorch's names."""

    num_dimensions: ClassVar[tuple[int, ...]]
    """How many dimensions the input may have."""

    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def _set_up(
        self, num_features: int, eps: float, momentum: float | None, affine: bool, track_running_stats: bool,
        device: Any, dtype: DTypeLike,
    ) -> None:  # fmt: skip
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.weight = empty_parameter((num_features,), dtype, device) if affine else None
        self.bias = empty_parameter((num_features,), dtype, device) if affine else None
        kind = default_dtype() if dtype is None else np.dtype(dtype)
        tracked: dict[str, Any] = {
            "running_mean": np.zeros(num_features, kind),
            "running_var": np.ones(num_features, kind),
            "num_batches_tracked": np.zeros((), np.int64),
        }
        for name, value in tracked.items():
            self.register_buffer(name, Tensor(as_array(value)) if track_running_stats else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget what was seen: mean 0, variance 1, no batches."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        self.reset_running_stats()
        if self.weight is not None and self.bias is not None:
            init.ones_(self.weight)
            init.zeros_(self.bias)

    def _check(self, input: Tensor, channels: int) -> None:
        if input.ndim not in self.num_dimensions:
            expected = " or ".join(map(str, self.num_dimensions))
            raise ShapeError(
                f"{type(self).__name__} takes {expected} dimensions, not {input.ndim} (input has shape {input.shape})"
            )
        if channels != self.num_features:
            raise ShapeError(
                f"{type(self).__name__} was made for {self.num_features} channels, not {channels} "
                f"(input has shape {input.shape})"
            )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_Norm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: DTypeLike = None,
    ) -> None:
        self._set_up(num_features, eps, momentum, affine, track_running_stats, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        self._check(input, input.shape[1] if input.ndim > 1 else 0)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            count = self.num_batches_tracked
            count.copy_(count.data + 1)
            if self.momentum is None:  # the mean over all batches so far
                momentum = 1.0 / int(count.data)
        tracked = not self.training or self.track_running_stats
        mean, var = (self.running_mean, self.running_var) if tracked else (None, None)
        by_batch = self.training or (self.running_mean is None and self.running_var is None)
        return batch_norm(input, mean, var, self.weight, self.bias, by_batch, momentum, self.eps)


class BatchNorm1d(_BatchNorm):
    """`BatchNorm2d` for `(N, C)` or `(N, C, L)`."""

    num_dimensions = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Brings each channel of `(N, C, H, W)` to mean 0 and variance 1, then scales and shifts it.

    In training the statistics are the input's own, and running ones follow them; in evaluation the running ones are
    used. (Ioffe and Szegedy, 2015.) See the head of this file for what they are in an elastic run.

    Args:
        num_features: C.
        eps: keeps the quotient finite; added to the variance.
        momentum: how far the running statistics move towards a batch's; None: they are the mean over all batches.
        affine: whether there are a weight (ones at first) and a bias (zeros).
        track_running_stats: whether there are running statistics; without, each batch's own are always used.
    """

    num_dimensions = (4,)


class BatchNorm3d(_BatchNorm):
    """`BatchNorm2d` for `(N, C, D, H, W)`."""

    num_dimensions = (5,)


class _InstanceNorm(_Norm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: DTypeLike = None,
    ) -> None:
        self._set_up(num_features, eps, momentum, affine, track_running_stats, device, dtype)

    def _check(self, input: Tensor, channels: int) -> None:
        if not self.affine and not self.track_running_stats:  # it has nothing that is as long as the channels
            channels = self.num_features
        super()._check(input, channels)

    def forward(self, input: Tensor) -> Tensor:
        unbatched = input.ndim == self.num_dimensions[0]
        self._check(input, input.shape[0 if unbatched else 1] if input.ndim else 0)
        batch = input.reshape(1, *input.shape) if unbatched else input
        own = self.training or not self.track_running_stats
        momentum = 0.0 if self.momentum is None else self.momentum
        out = instance_norm(batch, self.running_mean, self.running_var, self.weight, self.bias, own, momentum, self.eps)
        return out.squeeze(0) if unbatched else out


class InstanceNorm1d(_InstanceNorm):
    """`InstanceNorm2d` for `(N, C, L)` or `(C, L)`."""

    num_dimensions = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Brings each channel of each sample of `(N, C, H, W)` or `(C, H, W)` to mean 0 and variance 1.

    (Ulyanov, Vedaldi and Lempitsky, 2016.) Without weight and bias, and without running statistics, unless asked for;
    the arguments are those of `BatchNorm2d`.
    """

    num_dimensions = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """`InstanceNorm2d` for `(N, C, D, H, W)` or `(C, D, H, W)`."""

    num_dimensions = (4, 5)
