"""The records of Fourier transforms; `fft.py` has what users call.

Three, each the others' gradient: a transform is linear, so its gradient is its adjoint, which is the transform the
other way with the other normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.record import op
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.ops.complex_numbers import complex_dtype, real_dtype
from cordee.trainer.tensors import Tensor

__all__ = ["FFT_C2C", "FFT_C2R", "FFT_R2C", "OTHER"]

OTHER = {"backward": "forward", "ortho": "ortho", "forward": "backward"}
"""The normalisation of the inverse transform that makes it the adjoint."""


def _check_axes(a: Any, axes: Sequence[int]) -> None:
    for axis in axes:
        if not -len(a) <= axis < len(a):
            raise TrainerIndexError(f"there is no dimension {axis} in a tensor of {len(a)} dimensions")
        if a[axis] == 0:
            raise ShapeError(f"dimension {axis} has size 0: there is nothing to transform")


# -- complex to complex ------------------------------------------------------------------------------------------------


def _fft_c2c(xp: Any, a: Any, *, axes: tuple[int, ...], inverse: bool, norm: str) -> Any:
    one = xp.fft.ifft if inverse else xp.fft.fft
    for axis in axes:
        a = one(a, axis=axis, norm=norm)
    return a


def _c2c_shape(a: Any, *, axes: tuple[int, ...], **_: Any) -> Any:
    _check_axes(a, axes)
    return a


def _dft(a: Any, axis: int, inverse: bool, norm: str) -> Any:
    """The definition: a product with the matrix of the transform."""
    n = a.shape[axis]
    angles = 2 * np.pi * np.outer(np.arange(n), np.arange(n)) / n
    scale = {"ortho": n**-0.5, "backward": 1 / n if inverse else 1.0, "forward": 1.0 if inverse else 1 / n}[norm]
    return np.moveaxis(np.moveaxis(a, axis, -1) @ np.exp(angles * (1j if inverse else -1j)), -1, axis) * scale


def _c2c_reference(a: Any, *, axes: tuple[int, ...], inverse: bool, norm: str) -> Any:
    for axis in axes:
        a = _dft(a, axis, inverse, norm)
    return a


FFT_C2C = op(
    "fft_c2c", "the Fourier transform, or its inverse, along dimensions",
    autocast="single on cpu",
    forward=_fft_c2c,
    vjps=(
        lambda F, g, out, a, *, axes, inverse, norm: F.fft_c2c(g, axes=axes, inverse=not inverse, norm=OTHER[norm]),
    ),
    saves=("",), shape=_c2c_shape, dtype=complex_dtype, holomorphic=False, reference=_c2c_reference,
    samples=lambda s: [
        s.case(s.normal(2, 3) + 1j * s.normal(2, 3), axes=(1,), inverse=False, norm="backward"),
        s.case(s.normal(2, 3) + 1j * s.normal(2, 3), axes=(0, -1), inverse=True, norm="backward"),
        s.case(s.normal(4) + 1j * s.normal(4), axes=(0,), inverse=False, norm="ortho"),
        s.case(s.normal(1, 2) + 1j * s.normal(1, 2), axes=(0, 1), inverse=True, norm="forward"),
    ],
    errors=lambda s: [
        s.case(s.normal(2) + 0j, axes=(1,), inverse=False, norm="backward"),
        s.case(s.normal(0) + 0j, axes=(0,), inverse=False, norm="backward"),
    ],
)  # fmt: skip


# -- real to complex and back ------------------------------------------------------------------------------------------


def _weights(like: Any, n: int, axis: int, inner: float) -> Any:
    """1 for the frequencies that occur once in a real transform of length n, `inner` for those that occur as pairs."""
    array = like.data if isinstance(like, Tensor) else like
    xp = array_module(array)
    values = xp.full(n // 2 + 1, inner, real_dtype(array.dtype))
    values[0] = 1.0
    if n % 2 == 0:
        values[-1] = 1.0
    shape = [1] * array.ndim
    shape[axis] = n // 2 + 1
    return values.reshape(shape)


def _r2c_shape(a: Any, *, axis: int, **_: Any) -> Any:
    _check_axes(a, (axis,))
    sizes = list(a)
    sizes[axis] = sizes[axis] // 2 + 1
    return tuple(sizes)


def _c2r_shape(a: Any, *, axis: int, n: int, **_: Any) -> Any:
    _check_axes(a, (axis,))
    if n < 1 or a[axis] != n // 2 + 1:
        raise ShapeError(f"dimension {axis} has size {a[axis]}, but {n} real numbers have {n // 2 + 1} frequencies")
    sizes = list(a)
    sizes[axis] = n
    return tuple(sizes)


def _fft_r2c_vjp(F: Any, g: Any, out: Any, a: Any, *, axis: int, norm: str) -> Any:
    n = a[axis]
    return F.fft_c2r(g * _weights(g, n, axis, 0.5), axis=axis, n=n, norm=OTHER[norm])


def _fft_c2r_vjp(F: Any, g: Any, out: Any, a: Any, *, axis: int, n: int, norm: str) -> Any:
    wide = F.fft_r2c(g, axis=axis, norm=OTHER[norm])
    return wide * _weights(wide, n, axis, 2.0)


def _c2r_reference(a: Any, *, axis: int, n: int, norm: str) -> Any:
    a = np.moveaxis(a, axis, -1)
    mirrored = np.concatenate((a.real[..., :1], a[..., 1:], a[..., 1 : (n + 1) // 2][..., ::-1].conj()), -1)
    return np.moveaxis(_dft(mirrored, -1, True, norm).real, -1, axis)


def _fft_c2r(xp: Any, a: Any, *, axis: int, n: int, norm: str) -> Any:
    if a.shape[axis] != n // 2 + 1:
        raise ValueError("not the frequencies of so many numbers")
    return xp.fft.irfft(a, n=n, axis=axis, norm=norm)


FFT_R2C = op(
    "fft_r2c", "the Fourier transform of real numbers along a dimension: the frequencies from 0 up to the half",
    autocast="single on cpu",
    forward=lambda xp, a, *, axis, norm: xp.fft.rfft(a, axis=axis, norm=norm), vjps=(_fft_r2c_vjp,), saves=("",),
    shape=_r2c_shape, dtype=complex_dtype, holomorphic=False,
    reference=lambda a, axis, norm: np.take(_dft(a, axis, False, norm), range(a.shape[axis] // 2 + 1), axis),
    samples=lambda s: [
        s.case(s.normal(2, 4), axis=1, norm="backward"), s.case(s.normal(5, 2), axis=0, norm="ortho"),
        s.case(s.normal(1), axis=-1, norm="forward"),
    ],
    errors=lambda s: [s.case(s.normal(2), axis=1, norm="backward"), s.case(s.normal(0), axis=0, norm="backward")],
)  # fmt: skip

FFT_C2R = op(
    "fft_c2r", "n real numbers along a dimension, of their frequencies from 0 up to the half",
    autocast="single on cpu",
    forward=_fft_c2r, vjps=(_fft_c2r_vjp,), saves=("",), shape=_c2r_shape, dtype=real_dtype, holomorphic=False,
    reference=_c2r_reference,
    samples=lambda s: [
        s.case(s.normal(2, 3) + 1j * s.normal(2, 3), axis=1, n=4, norm="backward"),
        s.case(s.normal(3, 2) + 1j * s.normal(3, 2), axis=0, n=5, norm="ortho"),
        s.case(s.normal(1) + 1j * s.normal(1), axis=-1, n=1, norm="forward"),
    ],
    errors=lambda s: [
        s.case(s.normal(2) + 0j, axis=1, n=2, norm="backward"), s.case(s.normal(0) + 0j, axis=0, n=2, norm="ortho"),
    ],
)  # fmt: skip
