"""Making tensors, by the array API's names and dtype rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import cordee.trainer as ct
from cordee.trainer import interop
from cordee.trainer.array import default_dtype, default_module
from cordee.trainer.array_api.dtypes import check_device, default_complex
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "arange", "asarray", "empty", "empty_like", "eye", "from_dlpack", "full", "full_like", "linspace", "meshgrid",
    "ones", "ones_like", "tril", "triu", "zeros", "zeros_like",
]  # fmt: skip

Shape = int | tuple[int, ...]


def _dtype_of(value: Any) -> Any:
    """The dtype that a Python number becomes, None for integers and truth values: NumPy knows those."""
    return {float: default_dtype(), complex: default_complex()}.get(type(value))


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor of numbers, nested sequences, arrays or a tensor. `copy`: True always, False never, None if needed."""
    check_device(device)
    if isinstance(obj, Tensor):
        made = obj if dtype is None or np.dtype(dtype) == obj.dtype else obj.to(dtype)
        if copy and made is obj:
            return obj.clone()
        if copy is False and made is not obj:
            raise ValueError(f"asarray: {np.dtype(dtype).name} from {obj.dtype.name} needs a copy, and copy is False")
        return made
    xp = default_module()
    if isinstance(obj, xp.ndarray):
        if copy is False and dtype is not None and np.dtype(dtype) != obj.dtype:
            raise ValueError(f"asarray: {np.dtype(dtype).name} from {obj.dtype.name} needs a copy, and copy is False")
        return wrap(xp.array(obj, dtype=dtype, copy=True) if copy else xp.asarray(obj, dtype=dtype))
    if copy is False:
        raise ValueError(f"asarray: a {type(obj).__name__} has to be copied, and copy is False")
    made = ct.tensor(obj, dtype=dtype)
    return made.to(default_complex()) if dtype is None and made.dtype == np.complex128 else made  # type: ignore[no-any-return]


def arange(
    start: float, /, stop: float | None = None, step: float = 1, *, dtype: Any = None, device: Any = None
) -> Tensor:
    """Numbers from start (0 if only one is given) up to, without, stop."""
    check_device(device)
    first, last = (0, start) if stop is None else (start, stop)
    if dtype is None:
        dtype = default_dtype() if any(isinstance(n, float) for n in (first, last, step)) else np.int64
    return wrap(default_module().arange(first, last, step, dtype=dtype))


def linspace(
    start: Any, stop: Any, /, num: int, *, dtype: Any = None, device: Any = None, endpoint: bool = True
) -> Tensor:
    """`num` numbers at equal distances, the last one included if `endpoint`."""
    check_device(device)
    if dtype is None:
        dtype = default_complex() if isinstance(start, complex) or isinstance(stop, complex) else default_dtype()
    return wrap(default_module().linspace(start, stop, num, endpoint=endpoint, dtype=dtype))


def eye(n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None) -> Tensor:
    """Ones on the k-th diagonal."""
    check_device(device)
    return wrap(default_module().eye(n_rows, n_cols, k=k, dtype=dtype or default_dtype()))


def empty(shape: Shape, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Memory as it is found."""
    check_device(device)
    return wrap(default_module().empty(shape, dtype or default_dtype()))


def zeros(shape: Shape, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Zeros."""
    check_device(device)
    return wrap(default_module().zeros(shape, dtype or default_dtype()))


def ones(shape: Shape, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Ones."""
    check_device(device)
    return wrap(default_module().ones(shape, dtype or default_dtype()))


def full(shape: Shape, fill_value: complex, *, dtype: Any = None, device: Any = None) -> Tensor:
    """One value everywhere."""
    check_device(device)
    return wrap(default_module().full(shape, fill_value, dtype or _dtype_of(fill_value)))


def empty_like(x: Tensor, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Memory as it is found, in another tensor's shape and dtype."""
    return empty(x.shape, dtype=dtype or x.dtype, device=device)


def zeros_like(x: Tensor, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Zeros, in another tensor's shape and dtype."""
    return zeros(x.shape, dtype=dtype or x.dtype, device=device)


def ones_like(x: Tensor, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Ones, in another tensor's shape and dtype."""
    return ones(x.shape, dtype=dtype or x.dtype, device=device)


def full_like(x: Tensor, /, fill_value: complex, *, dtype: Any = None, device: Any = None) -> Tensor:
    """One value everywhere, in another tensor's shape and dtype."""
    return full(x.shape, fill_value, dtype=dtype or x.dtype, device=device)


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor on the memory of an object that speaks DLPack."""
    check_device(device)
    return interop.from_dlpack(x, copy=copy)


def meshgrid(*arrays: Tensor, indexing: str = "xy") -> list[Tensor]:
    """Coordinate matrices of coordinate vectors; "xy": the first two dimensions change places."""
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing must be 'xy' or 'ij', not {indexing!r}")
    if len({array.dtype for array in arrays}) > 1:
        raise ValueError("meshgrid: all vectors must have the same dtype")
    order: Sequence[int] = range(len(arrays))
    if indexing == "xy" and len(arrays) > 1:
        order = (1, 0, *order[2:])
    shape = tuple(arrays[number].numel() for number in order)
    lengths = [tuple(-1 if place == number else 1 for place in order) for number in range(len(arrays))]
    return [array.reshape(*own).broadcast_to(shape) for array, own in zip(arrays, lengths, strict=True)]


def tril(x: Tensor, /, *, k: int = 0) -> Tensor:
    """The part on and below the k-th diagonal."""
    return ct.tril(x, k)  # type: ignore[no-any-return]


def triu(x: Tensor, /, *, k: int = 0) -> Tensor:
    """The part on and above the k-th diagonal."""
    return ct.triu(x, k)  # type: ignore[no-any-return]
