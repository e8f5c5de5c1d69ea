"""Layers that put a border around sequences, images and volumes; negative widths cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypeAlias

from cordee.trainer.nn.module import Module
from cordee.trainer.ops import pad
from cordee.trainer.tensors import Tensor

__all__ = [
    "CircularPad1d", "CircularPad2d", "CircularPad3d", "ConstantPad1d", "ConstantPad2d", "ConstantPad3d",
    "ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d", "ReplicationPad1d", "ReplicationPad2d", "ReplicationPad3d",
    "ZeroPad1d", "ZeroPad2d", "ZeroPad3d",
]  # fmt: skip

Widths: TypeAlias = "int | Sequence[int]"


class _Pad(Module):
    ndim: ClassVar[int]
    mode: ClassVar[str]

    def __init__(self, padding: Widths) -> None:
        """`padding`: one width for all sides, or `(left, right)`, `(left, right, top, bottom)`, … and so on."""
        self.padding = (padding,) * (2 * self.ndim) if isinstance(padding, int) else tuple(padding)
        if len(self.padding) != 2 * self.ndim:
            raise ValueError(f"{type(self).__name__}: padding is a number or {2 * self.ndim} numbers, not {padding!r}")

    def forward(self, input: Tensor) -> Tensor:
        return pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(_Pad):
    def __init__(self, padding: Widths, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPad):
    """A border of `value` around the last dimension."""

    ndim = 1


class ConstantPad2d(_ConstantPad):
    """A border of `value` around the last two dimensions."""

    ndim = 2


class ConstantPad3d(_ConstantPad):
    """A border of `value` around the last three dimensions."""

    ndim = 3


class _ZeroPad(_ConstantPad):
    def __init__(self, padding: Widths) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ZeroPad1d(_ZeroPad):
    """A border of zeros around the last dimension."""

    ndim = 1


class ZeroPad2d(_ZeroPad):
    """A border of zeros around the last two dimensions."""

    ndim = 2


class ZeroPad3d(_ZeroPad):
    """A border of zeros around the last three dimensions."""

    ndim = 3


class ReflectionPad1d(_Pad):
    """The last dimension mirrored at its edge elements, which are not repeated."""

    ndim, mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """The last two dimensions mirrored at their edge elements."""

    ndim, mode = 2, "reflect"


class ReflectionPad3d(_Pad):
    """The last three dimensions mirrored at their edge elements."""

    ndim, mode = 3, "reflect"


class ReplicationPad1d(_Pad):
    """The edge elements of the last dimension again and again."""

    ndim, mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """The edge elements of the last two dimensions again and again."""

    ndim, mode = 2, "replicate"


class ReplicationPad3d(_Pad):
    """The edge elements of the last three dimensions again and again."""

    ndim, mode = 3, "replicate"


class CircularPad1d(_Pad):
    """The last dimension continued from its other end."""

    ndim, mode = 1, "circular"


class CircularPad2d(_Pad):
    """The last two dimensions continued from their other ends."""

    ndim, mode = 2, "circular"


class CircularPad3d(_Pad):
    """The last three dimensions continued from their other ends."""

    ndim, mode = 3, "circular"
