"""Windows, as in `torch.signal.windows`: of M points, symmetric unless `sym=False`, which is for Fourier transforms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer.array import DTypeLike
from cordee.trainer.ops.short_time import BLACKMAN, cosines, make_window, triangle
from cordee.trainer.ops.short_time import kaiser as _kaiser
from cordee.trainer.tensors import Tensor

__all__ = [
    "bartlett", "blackman", "cosine", "exponential", "gaussian", "general_cosine", "general_hamming", "hamming", "hann",
    "kaiser", "nuttall",
]  # fmt: skip


def _make(name: str, M: int, sym: bool, shape: Any, dtype: DTypeLike, requires_grad: bool) -> Tensor:
    return make_window(f"windows.{name}", M, not sym, shape, dtype, requires_grad)


def bartlett(M: int, *, sym: bool = True, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """A triangle from 0 to 1 and back."""
    return _make("bartlett", M, sym, triangle, dtype, requires_grad)


def blackman(M: int, *, sym: bool = True, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """0.42 - ½ cos(2πn / N) + 0.08 cos(4πn / N)."""
    return _make("blackman", M, sym, cosines(BLACKMAN), dtype, requires_grad)


def cosine(M: int, *, sym: bool = True, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """Half a wave of the sine, seen at the middles of its M parts."""
    return _make("cosine", M, sym, lambda n, last: np.sin(math.pi * (n + 0.5) / (last + 1.0)), dtype, requires_grad)


def exponential(
    M: int, *, center: float | None = None, tau: float = 1.0, sym: bool = True, dtype: DTypeLike = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """exp(-|n - center| / τ); the centre is the middle unless given, which a symmetric window does not allow."""
    if tau <= 0:
        raise ValueError(f"windows.exponential: tau must be positive, not {tau}")
    if sym and center is not None:
        raise ValueError("windows.exponential: a symmetric window has its centre in the middle: leave center out")

    def shape(n: Any, last: float) -> Any:
        return np.exp(-np.abs(n - (last / 2.0 if center is None else center)) / tau)

    return _make("exponential", M, sym, shape, dtype, requires_grad)


def gaussian(
    M: int, *, std: float = 1.0, sym: bool = True, dtype: DTypeLike = None, requires_grad: bool = False
) -> Tensor:
    """exp(-½ ((n - middle) / std)²)."""
    if std <= 0:
        raise ValueError(f"windows.gaussian: std must be positive, not {std}")
    return _make("gaussian", M, sym, lambda n, last: np.exp(-0.5 * ((n - last / 2.0) / std) ** 2), dtype, requires_grad)


def general_cosine(
    M: int, *, a: Sequence[float], sym: bool = True, dtype: DTypeLike = None, requires_grad: bool = False
) -> Tensor:
    """Σ (-1)ᵏ aₖ cos(2πkn / N)."""
    if not a:
        raise ValueError("windows.general_cosine: needs at least one coefficient")
    return _make("general_cosine", M, sym, cosines(a), dtype, requires_grad)


def general_hamming(
    M: int, *, alpha: float = 0.54, sym: bool = True, dtype: DTypeLike = None, requires_grad: bool = False
) -> Tensor:
    """α - (1 - α) cos(2πn / N)."""
    return _make("general_hamming", M, sym, cosines((alpha, 1.0 - alpha)), dtype, requires_grad)


def hamming(M: int, *, sym: bool = True, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """0.54 - 0.46 cos(2πn / N)."""
    return _make("hamming", M, sym, cosines((0.54, 0.46)), dtype, requires_grad)


def hann(M: int, *, sym: bool = True, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """½ - ½ cos(2πn / N)."""
    return _make("hann", M, sym, cosines((0.5, 0.5)), dtype, requires_grad)


def kaiser(
    M: int, *, beta: float = 12.0, sym: bool = True, dtype: DTypeLike = None, requires_grad: bool = False
) -> Tensor:
    """I₀(β √(1 - (2n/N - 1)²)) / I₀(β), I₀ being the modified Bessel function."""
    if beta < 0:
        raise ValueError(f"windows.kaiser: beta must not be negative, as {beta} is")
    return _make("kaiser", M, sym, _kaiser(beta), dtype, requires_grad)


def nuttall(M: int, *, sym: bool = True, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """The sum of four cosines whose side lobes are lowest (A. H. Nuttall, 1981)."""
    return _make("nuttall", M, sym, cosines((0.3635819, 0.4891775, 0.1365995, 0.0106411)), dtype, requires_grad)
