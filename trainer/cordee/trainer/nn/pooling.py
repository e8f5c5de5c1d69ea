"""Pooling layers: what is left of windows, or of nearly equal parts, of sequences, images and volumes.

All take `(N, C, sizes)`, or `(C, sizes)` without the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

from cordee.trainer import ops
from cordee.trainer.nn.module import Module
from cordee.trainer.ops.windows import numbers
from cordee.trainer.tensors import Tensor

__all__ = [
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d", "FractionalMaxPool2d", "FractionalMaxPool3d",
    "LPPool1d", "LPPool2d", "LPPool3d", "MaxPool1d", "MaxPool2d", "MaxPool3d", "MaxUnpool1d", "MaxUnpool2d",
    "MaxUnpool3d",
]  # fmt: skip

Numbers: TypeAlias = "int | Sequence[int]"


class _Pool(Module):
    """Modules whose fields are the arguments, by name, of one function."""

    ndim: ClassVar[int]
    function: ClassVar[Callable[..., Any]]
    fields: ClassVar[tuple[str, ...]]

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.fields}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self._options().items())

    def _windows(self, kernel_size: Numbers, stride: Numbers | None, padding: Numbers) -> None:
        name = type(self).__name__
        self.kernel_size = numbers(name, "kernel_size", kernel_size, self.ndim)
        self.stride = self.kernel_size if stride is None else numbers(name, "stride", stride, self.ndim)
        self.padding = numbers(name, "padding", padding, self.ndim)


class _PoolOfOne(_Pool):
    """Those that are called with a tensor and nothing else."""

    def forward(self, input: Tensor) -> Any:
        return type(self).function(input, **self._options())


# -- the largest -------------------------------------------------------------------------------------------------------


class _MaxPool(_PoolOfOne):
    fields = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")

    def __init__(
        self,
        kernel_size: Numbers,
        stride: Numbers | None = None,
        padding: Numbers = 0,
        dilation: Numbers = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        self._windows(kernel_size, stride, padding)
        self.dilation = numbers(type(self).__name__, "dilation", dilation, self.ndim)
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode


class MaxPool1d(_MaxPool):
    """The largest value of every window: `(N, C, L)` to `(N, C, L')`; see `MaxPool2d`."""

    ndim, function = 1, staticmethod(ops.max_pool1d)


class MaxPool2d(_MaxPool):
    """The largest value of every window: `(N, C, H, W)` to `(N, C, H', W')`. By default windows do not overlap.

    With `return_indices` also where each was found, for `MaxUnpool2d`. `ceil_mode` lets a last window hang over the
    end.
    """

    ndim, function = 2, staticmethod(ops.max_pool2d)


class MaxPool3d(_MaxPool):
    """The largest value of every window: `(N, C, D, H, W)` to `(N, C, D', H', W')`; see `MaxPool2d`."""

    ndim, function = 3, staticmethod(ops.max_pool3d)


class _MaxUnpool(_Pool):
    fields = ("kernel_size", "stride", "padding")

    def __init__(self, kernel_size: Numbers, stride: Numbers | None = None, padding: Numbers = 0) -> None:
        self._windows(kernel_size, stride, padding)

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return type(self).function(input, indices, **self._options(), output_size=output_size)  # type: ignore[no-any-return]


class MaxUnpool1d(_MaxUnpool):
    """Zeros, and the values where `MaxPool1d` found them: `(N, C, L')` to `(N, C, L)`."""

    ndim, function = 1, staticmethod(ops.max_unpool1d)


class MaxUnpool2d(_MaxUnpool):
    """Zeros, and the values where `MaxPool2d(…, return_indices=True)` found them: `(N, C, H', W')` to `(N, C, H, W)`.

    As several sizes pool to one, `output_size` at the call may say which it was.
    """

    ndim, function = 2, staticmethod(ops.max_unpool2d)


class MaxUnpool3d(_MaxUnpool):
    """Zeros, and the values where `MaxPool3d` found them: `(N, C, D', H', W')` to `(N, C, D, H, W)`."""

    ndim, function = 3, staticmethod(ops.max_unpool3d)


class _FractionalMaxPool(_Pool):
    fields = ("kernel_size", "output_size", "output_ratio", "return_indices")
    _random_samples: Tensor | None

    def __init__(
        self,
        kernel_size: Numbers,
        output_size: Numbers | None = None,
        output_ratio: float | Sequence[float] | None = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
    ) -> None:
        if (output_size is None) == (output_ratio is None):
            raise ValueError(f"{type(self).__name__}: give either output_size or output_ratio")
        name = type(self).__name__
        self.kernel_size = numbers(name, "kernel_size", kernel_size, self.ndim)
        self.output_size = None if output_size is None else numbers(name, "output_size", output_size, self.ndim)
        self.output_ratio = output_ratio
        self.return_indices = return_indices
        self.register_buffer("_random_samples", _random_samples, persistent=_random_samples is not None)

    def forward(self, input: Tensor) -> Any:
        return type(self).function(input, **self._options(), _random_samples=self._random_samples)


class FractionalMaxPool2d(_FractionalMaxPool):
    """The largest of windows at pseudo-random distances: so many, or that share of H and W (Graham, 2014)."""

    ndim, function = 2, staticmethod(ops.fractional_max_pool2d)


class FractionalMaxPool3d(_FractionalMaxPool):
    """The largest of windows at pseudo-random distances: so many, or that share of D, H and W."""

    ndim, function = 3, staticmethod(ops.fractional_max_pool3d)


# -- means and norms ---------------------------------------------------------------------------------------------------


class AvgPool1d(_PoolOfOne):
    """The mean of every window: `(N, C, L)` to `(N, C, L')`; see `AvgPool2d`."""

    ndim, function = 1, staticmethod(ops.avg_pool1d)
    fields = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

    def __init__(
        self,
        kernel_size: Numbers,
        stride: Numbers | None = None,
        padding: Numbers = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self._windows(kernel_size, stride, padding)
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad


class _AvgPool(_PoolOfOne):
    fields = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")

    def __init__(
        self,
        kernel_size: Numbers,
        stride: Numbers | None = None,
        padding: Numbers = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        self._windows(kernel_size, stride, padding)
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override


class AvgPool2d(_AvgPool):
    """The mean of every window: `(N, C, H, W)` to `(N, C, H', W')`. By default windows do not overlap.

    The border counts as zeros, or with `count_include_pad=False` not at all; `divisor_override` is divided by instead
    of the number of elements. `ceil_mode` lets a last window hang over the end.
    """

    ndim, function = 2, staticmethod(ops.avg_pool2d)


class AvgPool3d(_AvgPool):
    """The mean of every window: `(N, C, D, H, W)` to `(N, C, D', H', W')`; see `AvgPool2d`."""

    ndim, function = 3, staticmethod(ops.avg_pool3d)


class _LPPool(_PoolOfOne):
    fields = ("norm_type", "kernel_size", "stride", "ceil_mode")

    def __init__(
        self, norm_type: float, kernel_size: Numbers, stride: Numbers | None = None, ceil_mode: bool = False
    ) -> None:
        self._windows(kernel_size, stride, 0)
        self.norm_type = norm_type
        self.ceil_mode = ceil_mode


class LPPool1d(_LPPool):
    """The p-norm of every window of `(N, C, L)`, p being `norm_type`."""

    ndim, function = 1, staticmethod(ops.lp_pool1d)


class LPPool2d(_LPPool):
    """The p-norm of every window of `(N, C, H, W)`, p being `norm_type`."""

    ndim, function = 2, staticmethod(ops.lp_pool2d)


class LPPool3d(_LPPool):
    """The p-norm of every window of `(N, C, D, H, W)`, p being `norm_type`."""

    ndim, function = 3, staticmethod(ops.lp_pool3d)


# -- nearly equal parts ------------------------------------------------------------------------------------------------


class _AdaptiveAvgPool(_PoolOfOne):
    fields = ("output_size",)

    def __init__(self, output_size: int | Sequence[int | None] | None) -> None:
        self.output_size = output_size


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """The means of `output_size` nearly equal parts of `(N, C, L)`."""

    ndim, function = 1, staticmethod(ops.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """The means of nearly equal parts of `(N, C, H, W)`: as many as `output_size` says; None: as many as there are."""

    ndim, function = 2, staticmethod(ops.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """The means of nearly equal parts of `(N, C, D, H, W)`; see `AdaptiveAvgPool2d`."""

    ndim, function = 3, staticmethod(ops.adaptive_avg_pool3d)


class _AdaptiveMaxPool(_PoolOfOne):
    fields = ("output_size", "return_indices")

    def __init__(self, output_size: int | Sequence[int | None] | None, return_indices: bool = False) -> None:
        self.output_size = output_size
        self.return_indices = return_indices


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """The largest of `output_size` nearly equal parts of `(N, C, L)`."""

    ndim, function = 1, staticmethod(ops.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """The largest of nearly equal parts of `(N, C, H, W)`: as many as `output_size` says; None: all there are."""

    ndim, function = 2, staticmethod(ops.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """The largest of nearly equal parts of `(N, C, D, H, W)`; see `AdaptiveMaxPool2d`."""

    ndim, function = 3, staticmethod(ops.adaptive_max_pool3d)
