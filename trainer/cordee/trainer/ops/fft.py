"""Fourier transforms: of complex numbers, of real ones (half of whose transform is enough), and back.

Three records, each the others' gradient: a transform is linear, so its gradient is its adjoint, which is the transform
the other way with the other normalisation. Zero-padding, trimming and the order of dimensions are ops of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer.array import DTypeLike, default_dtype, default_module
from cordee.trainer.autograd.casting import SWITCH, cast_input
from cordee.trainer.autograd.record import op
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.ops.complex_numbers import complex_dtype, conj, real_dtype
from cordee.trainer.ops.padding import pad
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "fft", "fft2", "fftfreq", "fftn", "fftshift", "hfft", "hfft2", "hfftn", "ifft", "ifft2", "ifftn", "ifftshift",
    "ihfft", "ihfft2", "ihfftn", "irfft", "irfft2", "irfftn", "rfft", "rfft2", "rfftfreq", "rfftn",
]  # fmt: skip

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
    from cordee.trainer.array import array_module

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


# -- one dimension -----------------------------------------------------------------------------------------------------


def _norm(name: str, norm: str | None) -> str:
    chosen = "backward" if norm is None else norm
    if chosen not in OTHER:
        raise ValueError(f"{name}: norm is 'backward', 'ortho' or 'forward', not {norm!r}")
    return chosen


def _number(name: str, input: Tensor, complex: bool) -> Tensor:
    """The input in a dtype that can be transformed: integers in the default one, real numbers complex if need be."""
    if SWITCH.on:
        input = cast_input("single on cpu", input)
    dtype = input.data.dtype
    if dtype.kind in "iub":
        dtype = default_dtype()
    if dtype.itemsize < 4 or dtype.kind not in "fc":
        raise TypeError(f"{name}: needs float32, float64 or complex numbers, not {dtype.name}: convert it by .float()")
    if complex and dtype.kind != "c":
        dtype = complex_dtype(dtype)
    elif not complex and dtype.kind == "c":
        raise TypeError(f"{name}: needs a real tensor, not {dtype.name}")
    return input.to(dtype)


def _dim(name: str, input: Tensor, dim: int) -> int:
    if not -input.ndim <= dim < input.ndim:
        raise TrainerIndexError(f"{name}: there is no dimension {dim} in shape {input.shape}")
    return dim % input.ndim


def _resized(name: str, input: Tensor, n: int | None, dim: int) -> Tensor:
    """Trimmed, or filled up with zeros, to size n."""
    if n is None:
        n = input.shape[dim]
    if n < 1:
        raise ShapeError(f"{name}: the number of points must be at least 1, not {n} (dimension {dim} of {input.shape})")
    have = input.shape[dim]
    if n < have:
        return input.narrow(dim, 0, n)
    if n > have:
        return pad(input, [0, 0] * (input.ndim - 1 - dim) + [0, n - have])
    return input


def fft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The Fourier transform along a dimension, of n points: the input is trimmed, or filled up with zeros.

    `norm`: "backward" (nothing; the inverse divides by n), "ortho" (both by √n), "forward" (this one by n). Complex; of
    float32, complex64.
    """
    return _c2c("fft", input, (n,), (dim,), norm, False)


def ifft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The inverse Fourier transform along a dimension: see `fft`."""
    return _c2c("ifft", input, (n,), (dim,), norm, True)


def _c2c(
    name: str, input: Tensor, sizes: Sequence[int | None], dims: Sequence[int], norm: str | None, inverse: bool
) -> Tensor:
    input = _number(name, input, True)
    chosen = tuple(_dim(name, input, d) for d in dims)
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"{name}: dimensions {tuple(dims)} name one twice")
    for n, d in zip(sizes, chosen, strict=True):
        input = _resized(name, input, n, d)
    return FFT_C2C.run(input, axes=chosen, inverse=inverse, norm=_norm(name, norm))


def rfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The Fourier transform of real numbers: the n // 2 + 1 frequencies from 0; the others are their conjugates."""
    input = _number("rfft", input, False)
    at = _dim("rfft", input, dim)
    return FFT_R2C.run(_resized("rfft", input, n, at), axis=at, norm=_norm("rfft", norm))


def irfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The inverse of `rfft`: n real numbers (2·(size - 1) unless given) of their frequencies from 0 up to the half."""
    return _c2r("irfft", input, n, dim, _norm("irfft", norm))


def _c2r(name: str, input: Tensor, n: int | None, dim: int, norm: str) -> Tensor:
    input = _number(name, input, True)
    at = _dim(name, input, dim)
    size = 2 * (input.shape[at] - 1) if n is None else n
    if size < 1:
        raise ShapeError(f"{name}: the number of points must be at least 1, not {size} (input of shape {input.shape})")
    return FFT_C2R.run(_resized(name, input, size // 2 + 1, at), axis=at, n=size, norm=norm)


def hfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The transform, real, of a signal that is its own conjugate reversed, given by its first half."""
    return _c2r("hfft", conj(_number("hfft", input, True)), n, dim, OTHER[_norm("hfft", norm)])


def ihfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """The inverse of `hfft`: the first half of the signal whose transform these real numbers are."""
    return conj(rfft(_number("ihfft", input, False), n, dim, OTHER[_norm("ihfft", norm)]))


# -- several dimensions ------------------------------------------------------------------------------------------------


def _places(name: str, input: Tensor, s: Sequence[int] | None, dim: Any) -> tuple[list[int | None], tuple[int, ...]]:
    """Sizes (None, or -1: as it is) and dimensions."""
    if dim is None:
        dims = tuple(range(input.ndim)) if s is None else tuple(range(input.ndim - len(s), input.ndim))
    else:
        dims = (dim,) if isinstance(dim, int) else tuple(dim)
    if s is not None and len(s) != len(dims):
        raise ShapeError(f"{name}: {len(s)} sizes for {len(dims)} dimensions")
    if any(d < 0 for d in dims) and s is not None and dim is None:
        raise ShapeError(f"{name}: {len(s)} sizes for a tensor of {input.ndim} dimensions")
    return [None if n is None or n == -1 else n for n in (s if s is not None else [None] * len(dims))], dims


def fftn(input: Tensor, s: Sequence[int] | None = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """The Fourier transform along several dimensions (all, unless `dim` or `s` say otherwise): see `fft`."""
    return _c2c("fftn", input, *_places("fftn", input, s, dim), norm, False)


def ifftn(input: Tensor, s: Sequence[int] | None = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """The inverse Fourier transform along several dimensions."""
    return _c2c("ifftn", input, *_places("ifftn", input, s, dim), norm, True)


def _last(name: str, input: Tensor, s: Sequence[int] | None, dim: Any) -> tuple[list[int | None], list[int]]:
    sizes, dims = _places(name, input, s, dim)
    if not dims:
        raise ShapeError(f"{name}: needs at least one dimension to transform")
    return sizes, list(dims)


def rfftn(input: Tensor, s: Sequence[int] | None = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """The Fourier transform of real numbers along several dimensions; of the last, only the first half is given."""
    sizes, dims = _last("rfftn", input, s, dim)
    half = rfft(input, sizes[-1], dims[-1], norm)
    return _c2c("rfftn", half, sizes[:-1], dims[:-1], norm, False) if len(dims) > 1 else half


def irfftn(input: Tensor, s: Sequence[int] | None = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """The inverse of `rfftn`; the size of the last dimension is 2·(size - 1) unless given."""
    sizes, dims = _last("irfftn", input, s, dim)
    whole = _c2c("irfftn", input, sizes[:-1], dims[:-1], norm, True) if len(dims) > 1 else input
    return irfft(whole, sizes[-1], dims[-1], norm)


def hfftn(input: Tensor, s: Sequence[int] | None = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """`hfft` along several dimensions: the signal is given by the first half of the last."""
    sizes, dims = _last("hfftn", input, s, dim)
    whole = _c2c("hfftn", input, sizes[:-1], dims[:-1], norm, False) if len(dims) > 1 else input
    return hfft(whole, sizes[-1], dims[-1], norm)


def ihfftn(input: Tensor, s: Sequence[int] | None = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """The inverse of `hfftn`."""
    sizes, dims = _last("ihfftn", input, s, dim)
    half = ihfft(input, sizes[-1], dims[-1], norm)
    return _c2c("ihfftn", half, sizes[:-1], dims[:-1], norm, True) if len(dims) > 1 else half


def fft2(input: Tensor, s: Sequence[int] | None = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """The Fourier transform along two dimensions."""
    return fftn(input, s, dim, norm)


def ifft2(input: Tensor, s: Sequence[int] | None = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """The inverse Fourier transform along two dimensions."""
    return ifftn(input, s, dim, norm)


def rfft2(input: Tensor, s: Sequence[int] | None = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """The Fourier transform of real numbers along two dimensions; of the last, the first half."""
    return rfftn(input, s, dim, norm)


def irfft2(input: Tensor, s: Sequence[int] | None = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """The inverse of `rfft2`."""
    return irfftn(input, s, dim, norm)


def hfft2(input: Tensor, s: Sequence[int] | None = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """`hfft` along two dimensions."""
    return hfftn(input, s, dim, norm)


def ihfft2(input: Tensor, s: Sequence[int] | None = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """The inverse of `hfft2`."""
    return ihfftn(input, s, dim, norm)


# -- helpers -----------------------------------------------------------------------------------------------------------


def fftfreq(n: int, d: float = 1.0, *, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """The frequencies of the n numbers that `fft` returns, in cycles per unit of the sample distance d."""
    return _frequencies(default_module().fft.fftfreq(n, d), dtype, requires_grad)


def rfftfreq(n: int, d: float = 1.0, *, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """The frequencies of the n // 2 + 1 numbers that `rfft` returns."""
    return _frequencies(default_module().fft.rfftfreq(n, d), dtype, requires_grad)


def _frequencies(values: Any, dtype: DTypeLike, requires_grad: bool) -> Tensor:
    made = wrap(values.astype(default_dtype() if dtype is None else dtype))
    if requires_grad:
        made.requires_grad = True
    return made


def _shifted(input: Tensor, dim: Any, sign: int) -> Tensor:
    from cordee.trainer.ops.company import cat

    dims = range(input.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    for d in dims:
        at = _dim("fftshift", input, d)
        size = input.shape[at]
        cut = (size + 1) // 2 if sign > 0 else size // 2
        if 0 < cut < size:
            input = cat([input.narrow(at, cut, size - cut), input.narrow(at, 0, cut)], at)
    return input


def fftshift(input: Tensor, dim: Any = None) -> Tensor:
    """The frequencies in ascending order: zero comes to the middle of each dimension."""
    return _shifted(input, dim, 1)


def ifftshift(input: Tensor, dim: Any = None) -> Tensor:
    """The order that `fftshift` undid."""
    return _shifted(input, dim, -1)
