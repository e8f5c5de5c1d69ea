"""Fourier transforms, by the array API's names (the extension `fft`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cordee.trainer as ct
from cordee.trainer.array_api.dtypes import check_device
from cordee.trainer.tensors import Tensor

__all__ = [
    "fft", "fftfreq", "fftn", "fftshift", "hfft", "ifft", "ifftn", "ifftshift", "ihfft", "irfft", "irfftn", "rfft",
    "rfftfreq", "rfftn",
]  # fmt: skip


def _single(name: str) -> Callable[..., Any]:
    function = getattr(ct.fft, name)

    def call(x: Tensor, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Tensor:
        return function(x, n, axis, norm)  # type: ignore[no-any-return]

    return _named(call, name, function)


def _several(name: str) -> Callable[..., Any]:
    function = getattr(ct.fft, name)

    def call(
        x: Tensor, /, *, s: Sequence[int] | None = None, axes: Sequence[int] | None = None, norm: str = "backward"
    ) -> Tensor:
        return function(x, s, axes, norm)  # type: ignore[no-any-return]

    return _named(call, name, function)


def _named(call: Callable[..., Any], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    call.__name__ = call.__qualname__ = name
    call.__doc__ = function.__doc__
    return call


fft = _single("fft")
ifft = _single("ifft")
rfft = _single("rfft")
irfft = _single("irfft")
hfft = _single("hfft")
ihfft = _single("ihfft")
fftn = _several("fftn")
ifftn = _several("ifftn")
rfftn = _several("rfftn")
irfftn = _several("irfftn")


def fftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Tensor:
    """The frequencies of a transform of n samples at distance d."""
    check_device(device)
    return ct.fft.fftfreq(n, d, dtype=dtype)


def rfftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Tensor:
    """The frequencies of a transform of n real samples at distance d."""
    check_device(device)
    return ct.fft.rfftfreq(n, d, dtype=dtype)


def fftshift(x: Tensor, /, *, axes: Any = None) -> Tensor:
    """The frequency 0 in the middle."""
    return ct.fft.fftshift(x, axes)


def ifftshift(x: Tensor, /, *, axes: Any = None) -> Tensor:
    """The frequency 0 at the start again."""
    return ct.fft.ifftshift(x, axes)
