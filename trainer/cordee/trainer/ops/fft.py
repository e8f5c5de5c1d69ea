"""Fourier transforms: of complex numbers, of real ones (half of whose transform is enough), and back.

Zero-padding, trimming and the order of dimensions are ops of their own; `fourier.py` has the transforms' records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cordee.trainer.array import DTypeLike, default_dtype, default_module
from cordee.trainer.autograd.casting import SWITCH, cast_input
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.ops.complex_numbers import complex_dtype, conj
from cordee.trainer.ops.fourier import FFT_C2C, FFT_C2R, FFT_R2C, OTHER
from cordee.trainer.ops.padding import pad
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "fft", "fft2", "fftfreq", "fftn", "fftshift", "hfft", "hfft2", "hfftn", "ifft", "ifft2", "ifftn", "ifftshift",
    "ihfft", "ihfft2", "ihfftn", "irfft", "irfft2", "irfftn", "rfft", "rfft2", "rfftfreq", "rfftn",
]  # fmt: skip


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
