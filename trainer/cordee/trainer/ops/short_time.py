"""The Fourier transform of short stretches of a signal and back (`stft`, `istft`), and the windows for it.

All of it is made of other ops: windows slide along the signal (`slide`), are weighted and transformed; the way back
transforms, weights and adds up what overlaps (`unslide`), divided by what the windows add up to
(D. W. Griffin and J. S. Lim, 'Signal estimation from modified short-time Fourier transform', 1984).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cordee.trainer.array import DTypeLike, array_module, as_array, default_dtype
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.complex_numbers import real_dtype, view_as_complex, view_as_real
from cordee.trainer.ops.fft import fft, ifft, irfft, rfft
from cordee.trainer.ops.padding import pad
from cordee.trainer.ops.strided import UNSLIDE, unfold
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "bartlett_window", "blackman_window", "hamming_window", "hann_window", "istft", "kaiser_window", "stft",
]  # fmt: skip

METHODS = "istft stft"


# -- windows -----------------------------------------------------------------------------------------------------------


def make_window(
    name: str, length: int, periodic: bool, shape: Callable[[Any, float], Any], dtype: DTypeLike, requires_grad: bool
) -> Tensor:
    """A window of values `shape(places, last place)`; a periodic one is the beginning of one that is longer by one."""
    if length < 0:
        raise ValueError(f"{name}: a window has no negative length ({length})")
    whole = length + 1 if periodic and length > 1 else length
    places = np.arange(whole, dtype=np.float64)
    values = np.ones(whole) if whole < 2 else shape(places, whole - 1.0)
    made = wrap(as_array(values[:length], default_dtype() if dtype is None else dtype))
    if requires_grad:
        made.requires_grad = True
    return made


def cosines(weights: Sequence[float]) -> Callable[[Any, float], Any]:
    """Sums of cosines with alternating signs: hann, hamming, blackman, nuttall."""

    def shape(n: Any, last: float) -> Any:
        return sum((-1) ** k * a * np.cos(2 * math.pi * k * n / last) for k, a in enumerate(weights))

    return shape


def triangle(n: Any, last: float) -> Any:
    return 1.0 - np.abs(2.0 * n / last - 1.0)


def kaiser(beta: float) -> Callable[[Any, float], Any]:
    def shape(n: Any, last: float) -> Any:
        return np.i0(beta * np.sqrt(np.maximum(1.0 - (2.0 * n / last - 1.0) ** 2, 0.0))) / np.i0(beta)

    return shape


BLACKMAN = (0.42, 0.5, 0.08)


def hann_window(
    window_length: int, periodic: bool = True, *, dtype: DTypeLike = None, requires_grad: bool = False
) -> Tensor:
    """½ - ½ cos(2πn / N)."""
    return make_window("hann_window", window_length, periodic, cosines((0.5, 0.5)), dtype, requires_grad)


def hamming_window(
    window_length: int, periodic: bool = True, alpha: float = 0.54, beta: float = 0.46, *, dtype: DTypeLike = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """α - β cos(2πn / N)."""
    return make_window("hamming_window", window_length, periodic, cosines((alpha, beta)), dtype, requires_grad)


def blackman_window(
    window_length: int, periodic: bool = True, *, dtype: DTypeLike = None, requires_grad: bool = False
) -> Tensor:
    """0.42 - ½ cos(2πn / N) + 0.08 cos(4πn / N)."""
    return make_window("blackman_window", window_length, periodic, cosines(BLACKMAN), dtype, requires_grad)


def bartlett_window(
    window_length: int, periodic: bool = True, *, dtype: DTypeLike = None, requires_grad: bool = False
) -> Tensor:
    """A triangle from 0 to 1 and back."""
    return make_window("bartlett_window", window_length, periodic, triangle, dtype, requires_grad)


def kaiser_window(
    window_length: int, periodic: bool = True, beta: float = 12.0, *, dtype: DTypeLike = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """I₀(β √(1 - (2n/N - 1)²)) / I₀(β), I₀ being the modified Bessel function."""
    return make_window("kaiser_window", window_length, periodic, kaiser(beta), dtype, requires_grad)


# -- stft and istft ----------------------------------------------------------------------------------------------------


def _window(name: str, window: Tensor | None, win_length: int, n_fft: int, like: Any) -> Tensor:
    """The window, or a rectangle, in the middle of n_fft places."""
    if not 0 < win_length <= n_fft:
        raise ShapeError(f"{name}: win_length must be from 1 to n_fft ({n_fft}), not {win_length}")
    if window is None:
        window = wrap(array_module(like.data).ones(win_length, real_dtype(like.dtype)))
    elif window.shape != (win_length,):
        raise ShapeError(f"{name}: the window must have shape ({win_length},), win_length, not {window.shape}")
    left = (n_fft - win_length) // 2
    return pad(window, [left, n_fft - win_length - left]) if win_length < n_fft else window


_BORDERS: dict[str, Callable[[Any, int], Any]] = {
    "reflect": lambda places, n: np.abs(n - 1 - np.abs(n - 1 - places)),
    "replicate": lambda places, n: np.clip(places, 0, n - 1),
    "circular": lambda places, n: places % n,
}


def _extended(input: Tensor, width: int, mode: str) -> Tensor:
    """`(B, L)` with a border on both sides."""
    if mode == "constant":
        return pad(input, [width, width])
    n = input.shape[-1]
    if mode == "reflect" and n <= width:
        raise ShapeError(
            f"stft: to reflect {width} samples at the borders, the signal must be longer than that, not {n}"
        )
    places = np.arange(-width, n + width)
    if mode not in _BORDERS:
        raise ValueError(f"stft: pad_mode is 'reflect', 'replicate', 'circular' or 'constant', not {mode!r}")
    return input[:, as_array(_BORDERS[mode](places, n))]


@autocasts("single on cpu")
def stft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
) -> Tensor:
    """The Fourier transforms of stretches of n_fft samples, every hop_length: `(…, L)` to `(…, freqs, frames)`.

    `center` extends the signal so that frame t is centred at sample `t · hop_length`. For real signals the frequencies
    are the `n_fft // 2 + 1` from 0 (`onesided`). `return_complex=False` gives pairs in a last dimension; for a real
    signal PyTorch wants it said.
    """
    complex_out = input.is_complex() or (window is not None and window.is_complex())
    if return_complex is None:
        if not complex_out:
            raise ValueError("stft: say return_complex=True (or False, for pairs of real numbers)")
        return_complex = True
    if input.ndim not in (1, 2):
        raise ShapeError(f"stft: the signal is (L,) or (B, L), not of shape {input.shape}")
    hop = n_fft // 4 if hop_length is None else hop_length
    if hop < 1:
        raise ValueError(f"stft: hop_length must be positive, not {hop}")
    signal = input if input.ndim == 2 else input.unsqueeze(0)
    if center:
        signal = _extended(signal, n_fft // 2, pad_mode)
    if not 0 < n_fft <= signal.shape[-1]:
        raise ShapeError(f"stft: n_fft must be from 1 to the number of samples ({signal.shape[-1]}), not {n_fft}")
    weights = _window("stft", window, n_fft if win_length is None else win_length, n_fft, input)
    frames = unfold(signal, 1, n_fft, hop) * weights
    half = not complex_out if onesided is None else onesided
    if half and complex_out:
        raise ValueError("stft: onesided=True needs a real signal and a real window")
    norm = "ortho" if normalized else "backward"
    found = (rfft(frames, norm=norm) if half else fft(frames, norm=norm)).transpose(-1, -2)
    found = found if input.ndim == 2 else found.squeeze(0)
    return found if return_complex else view_as_real(found)


def istft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Tensor:
    """The signal `(…, L)` of short-time transforms `(…, freqs, frames)`: what `stft` with the same options undoes.

    Raises:
        ValueError: the windows leave some sample out (they must add up to more than 1e-11 everywhere).
    """
    if not input.is_complex():
        if input.shape[-1:] != (2,):
            raise TypeError("istft: needs a complex tensor, as stft(…, return_complex=True) gives it")
        input = view_as_complex(input)
    if input.ndim not in (2, 3):
        raise ShapeError(f"istft: the transforms are (freqs, frames) or (B, freqs, frames), not of shape {input.shape}")
    whole = input if input.ndim == 3 else input.unsqueeze(0)
    hop = n_fft // 4 if hop_length is None else hop_length
    win = n_fft if win_length is None else win_length
    if not 0 < hop <= win:
        raise ValueError(f"istft: hop_length must be from 1 to win_length ({win}), not {hop}")
    half = whole.shape[1] != n_fft if onesided is None else onesided
    if whole.shape[1] != (n_fft // 2 + 1 if half else n_fft):
        raise ShapeError(f"istft: {whole.shape[1]} frequencies are not those of n_fft={n_fft} (onesided={half})")
    weights = _window("istft", window, win, n_fft, input)
    norm = "ortho" if normalized else "backward"
    columns = whole.transpose(1, 2)
    if return_complex:
        frames = ifft(columns, norm=norm)
    else:
        frames = irfft(columns[..., : n_fft // 2 + 1], n_fft, norm=norm)
    num_frames = frames.shape[1]
    size = n_fft + hop * (num_frames - 1)
    signal = UNSLIDE.run(frames * weights, axis=1, step=hop, shape=(frames.shape[0], size))
    squares = (weights * weights).expand(num_frames, n_fft)
    envelope = UNSLIDE.run(squares, axis=0, step=hop, shape=(size,))
    start = n_fft // 2 if center else 0
    stop = start + length if length is not None else size - start if center else size
    kept = min(stop, size)
    envelope, signal = envelope[start:kept], signal[:, start:kept]
    if envelope.shape[0] and float(envelope.data.min()) < 1e-11:
        raise ValueError("istft: the windows add up to zero somewhere: choose a smaller hop_length, or another window")
    signal = signal / envelope
    if stop > kept:
        signal = pad(signal, [0, stop - kept])
    return signal if input.ndim == 3 else signal.squeeze(0)
