"""Convolution layers and their transposes, in one to three dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

from cordee.trainer.array import DTypeLike
from cordee.trainer.errors import ShapeError
from cordee.trainer.nn import init
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.parameter import Parameter, empty_parameter
from cordee.trainer.ops import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d, pad
from cordee.trainer.ops.windows import numbers
from cordee.trainer.tensors import Tensor

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]

Numbers: TypeAlias = "int | Sequence[int]"
PaddingMode: TypeAlias = Literal["zeros", "reflect", "replicate", "circular"]
_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Convolution(Module):
    """What convolutions and their transposes have in common."""

    ndim: ClassVar[int]
    weight: Parameter
    bias: Parameter | None
    output_padding: tuple[int, ...] = ()

    def _set_up(
        self, in_channels: int, out_channels: int, kernel_size: Numbers, stride: Numbers, padding: Any,
        dilation: Numbers, groups: int, padding_mode: str,
    ) -> None:  # fmt: skip
        name, ndim = type(self).__name__, self.ndim
        for what, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if groups < 1 or channels % groups:
                raise ValueError(f"{what} ({channels}) must be divisible by groups ({groups})")
        if padding_mode not in _PADDING_MODES:
            raise ValueError(f"{name}: padding_mode is one of {', '.join(_PADDING_MODES)}, not {padding_mode!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = numbers(name, "kernel_size", kernel_size, ndim)
        self.stride = numbers(name, "stride", stride, ndim)
        self.padding = padding if isinstance(padding, str) else numbers(name, "padding", padding, ndim)
        self.dilation = numbers(name, "dilation", dilation, ndim)
        self.groups = groups
        self.padding_mode = padding_mode

    def _make_parameters(self, shape: tuple[int, ...], bias: bool, device: Any, dtype: DTypeLike) -> None:
        self.weight = empty_parameter(shape, dtype, device)
        self.bias = empty_parameter((self.out_channels,), dtype, device) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        fan_in = math.prod(self.weight.shape[1:])
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        usual = {
            "padding": (0,) * self.ndim,
            "dilation": (1,) * self.ndim,
            "output_padding": (0,) * len(self.output_padding),
            "groups": 1,
        }
        for name, value in usual.items():
            if getattr(self, name) != value:
                text += f", {name}={getattr(self, name)}"
        if self.bias is None:
            text += ", bias=False"
        return text if self.padding_mode == "zeros" else f"{text}, padding_mode={self.padding_mode}"


# -- convolutions ------------------------------------------------------------------------------------------------------

_CONV: dict[int, Callable[..., Tensor]] = {1: conv1d, 2: conv2d, 3: conv3d}


class _Conv(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: Numbers | Literal["same", "valid"] = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: DTypeLike = None,
    ) -> None:
        self._set_up(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"{type(self).__name__}: padding is a number, 'same' or 'valid', not {padding!r}")
            if padding == "same" and set(self.stride) != {1}:
                raise ValueError(f"{type(self).__name__}: padding='same' needs stride 1, not {self.stride}")
        self._make_parameters((out_channels, in_channels // groups, *self.kernel_size), bias, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros" and padding != "valid":
            input = pad(input, self._border(), self.padding_mode)
            padding = 0
        return _CONV[self.ndim](input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def _border(self) -> tuple[int, ...]:
        """As `pad` wants it: from the last dimension."""
        if self.padding == "same":
            widths = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return tuple(n for width in reversed(widths) for n in (width // 2, width - width // 2))
        return tuple(n for n in reversed(numbers("Conv", "padding", self.padding, self.ndim)) for _ in range(2))


class Conv1d(_Conv):
    """Slides `out_channels` filters over sequences: `(N, C_in, L)` to `(N, C_out, L')`; without N as well.

    See `Conv2d`.
    """

    ndim = 1


class Conv2d(_Conv):
    """Slides `out_channels` filters over images: `(N, C_in, H, W)` to `(N, C_out, H', W')`; without N as well.

    Padding is a number, one for each axis, or "same" (as large as the input) or "valid" (none).
    `H' = (H + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1`, W' likewise. Weight
    `(C_out, C_in / groups, *kernel_size)` and bias start uniform within ±1/√(C_in / groups * kernel area).

    Args:
        groups: so many groups of input channels each have filters of their own.
        padding_mode: what the border holds: "zeros", or the image mirrored ("reflect"), its edge ("replicate"), its
            other side ("circular").
    """

    ndim = 2


class Conv3d(_Conv):
    """Slides `out_channels` filters over volumes: `(N, C_in, D, H, W)` to `(N, C_out, D', H', W')`; without N as well.

    See `Conv2d`.
    """

    ndim = 3


# -- transposes --------------------------------------------------------------------------------------------------------

_TRANSPOSE: dict[int, Callable[..., Tensor]] = {1: conv_transpose1d, 2: conv_transpose2d, 3: conv_transpose3d}


class _ConvTranspose(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: Numbers = 0,
        output_padding: Numbers = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Numbers = 1,
        padding_mode: Literal["zeros"] = "zeros",
        device: Any = None,
        dtype: DTypeLike = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(f"{type(self).__name__}: padding_mode can only be 'zeros', not {padding_mode!r}")
        self._set_up(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        self.output_padding = numbers(type(self).__name__, "output_padding", output_padding, self.ndim)
        self._make_parameters((in_channels, out_channels // groups, *self.kernel_size), bias, device, dtype)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        extra = self.output_padding if output_size is None else self._extra(input, output_size)
        return _TRANSPOSE[self.ndim](
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )

    def _extra(self, input: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        """The output_padding that gives these sizes."""
        wanted = tuple(output_size)[-self.ndim :]
        padding = numbers(type(self).__name__, "padding", self.padding, self.ndim)
        least = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(
                input.shape[-self.ndim :], self.stride, padding, self.dilation, self.kernel_size, strict=True
            )
        ]
        extra = tuple(n - m for n, m in zip(wanted, least, strict=True))
        if any(not 0 <= e < s for e, s in zip(extra, self.stride, strict=True)):
            most = tuple(m + s - 1 for m, s in zip(least, self.stride, strict=True))
            raise ShapeError(
                f"{type(self).__name__}: output_size {wanted} must be between {tuple(least)} and {most} for an input "
                f"of shape {input.shape}"
            )
        return extra


class ConvTranspose1d(_ConvTranspose):
    """The transpose of `Conv1d`: `(N, C_in, L)` to `(N, C_out, L')`; see `ConvTranspose2d`."""

    ndim = 1


class ConvTranspose2d(_ConvTranspose):
    """The transpose of `Conv2d`, which makes images larger: `(N, C_in, H, W)` to `(N, C_out, H', W')`.

    `H' = (H - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + output_padding + 1`, W' likewise. Weight
    `(C_in, C_out / groups, *kernel_size)` and bias start uniform within ±1/√(C_out / groups * kernel area). As several
    sizes come from one through `Conv2d`, `output_padding`, or `output_size` at the call, says which it is to be.
    """

    ndim = 2


class ConvTranspose3d(_ConvTranspose):
    """The transpose of `Conv3d`: `(N, C_in, D, H, W)` to `(N, C_out, D', H', W')`; see `ConvTranspose2d`."""

    ndim = 3
