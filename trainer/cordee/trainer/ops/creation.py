"""Making tensors: from data, of constants, of numbers in order, at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer import random
from cordee.trainer.array import Array, DTypeLike, array_module, as_array, default_dtype, default_module
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "arange", "as_tensor", "empty", "empty_like", "eye", "from_numpy", "full", "full_like", "linspace", "ones",
    "ones_like", "rand", "rand_like", "randint", "randn", "randn_like", "randperm", "tensor", "zeros", "zeros_like",
]  # fmt: skip


def _finish(array: Any, requires_grad: bool) -> Tensor:
    made = wrap(array)
    if requires_grad:
        made.requires_grad = True
    return made


def _sizes(size: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size


def tensor(data: Any, *, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """A tensor of a copy of the data: nested lists, numbers, an array, or a tensor."""
    if isinstance(data, Tensor):
        data = data.data
    elif isinstance(data, (list, tuple)):
        data = _unwrapped(data)
    array = as_array(data, dtype)
    return _finish(array_module(array).array(array), requires_grad)


def _unwrapped(data: Any) -> Any:
    """Nested lists with the tensors in them as numbers or lists."""
    if isinstance(data, (list, tuple)):
        return [_unwrapped(item) for item in data]
    return data.tolist() if isinstance(data, (Tensor, np.ndarray, np.generic)) else data


def as_tensor(data: Any, dtype: DTypeLike = None) -> Tensor:
    """A tensor of the data, sharing its memory where possible."""
    if isinstance(data, Tensor) and (dtype is None or data.dtype == dtype):
        return data
    return wrap(as_array(data.data if isinstance(data, Tensor) else data, dtype))


def from_numpy(array: Array) -> Tensor:
    """A tensor that shares a NumPy array's memory (on the CPU)."""
    return wrap(as_array(array))


def zeros(*size: Any, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """Zeros."""
    return _finish(default_module().zeros(_sizes(size), dtype or default_dtype()), requires_grad)


def ones(*size: Any, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """Ones."""
    return _finish(default_module().ones(_sizes(size), dtype or default_dtype()), requires_grad)


def empty(*size: Any, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """Memory as it is found."""
    return _finish(default_module().empty(_sizes(size), dtype or default_dtype()), requires_grad)


def full(size: Sequence[int], fill_value: Any, *, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """One value everywhere."""
    if dtype is None:
        dtype = default_dtype() if isinstance(fill_value, float) else np.asarray(fill_value).dtype
    return _finish(default_module().full(tuple(size), fill_value, dtype), requires_grad)


def zeros_like(input: Tensor, *, dtype: DTypeLike = None) -> Tensor:
    """Zeros, in another tensor's shape and dtype."""
    return wrap(array_module(input.data).zeros(input.shape, dtype or input.dtype))


def ones_like(input: Tensor, *, dtype: DTypeLike = None) -> Tensor:
    """Ones, in another tensor's shape and dtype."""
    return wrap(array_module(input.data).ones(input.shape, dtype or input.dtype))


def empty_like(input: Tensor, *, dtype: DTypeLike = None) -> Tensor:
    """Memory as it is found, in another tensor's shape and dtype."""
    return wrap(array_module(input.data).empty(input.shape, dtype or input.dtype))


def full_like(input: Tensor, fill_value: Any, *, dtype: DTypeLike = None) -> Tensor:
    """One value everywhere, in another tensor's shape and dtype."""
    return wrap(array_module(input.data).full(input.shape, fill_value, dtype or input.dtype))


def arange(start: float, end: float | None = None, step: float = 1, *, dtype: DTypeLike = None) -> Tensor:
    """Numbers from start (0 if only one is given) up to, without, end."""
    if end is None:
        start, end = 0, start
    if dtype is None and any(isinstance(n, float) for n in (start, end, step)):
        dtype = default_dtype()
    return wrap(default_module().arange(start, end, step, dtype=dtype))


def linspace(start: float, end: float, steps: int, *, dtype: DTypeLike = None) -> Tensor:
    """Numbers at equal distances from start to end, both included."""
    return wrap(default_module().linspace(start, end, steps, dtype=dtype or default_dtype()))


def eye(n: int, m: int | None = None, *, dtype: DTypeLike = None) -> Tensor:
    """Ones on the diagonal."""
    return wrap(default_module().eye(n, m, dtype=dtype or default_dtype()))


# -- at random ---------------------------------------------------------------------------------------------------------


def _drawn(array: Any, dtype: DTypeLike, requires_grad: bool = False) -> Tensor:
    return _finish(default_module().asarray(array, dtype=dtype), requires_grad)


def _draw_dtype(dtype: np.dtype[Any]) -> Any:
    return np.float64 if dtype == np.float64 else np.float32


def rand(*size: Any, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """Uniform in [0, 1)."""
    wanted = np.dtype(dtype or default_dtype())
    return _drawn(random.generator().random(_sizes(size), dtype=_draw_dtype(wanted)), wanted, requires_grad)


def randn(*size: Any, dtype: DTypeLike = None, requires_grad: bool = False) -> Tensor:
    """Normal, of mean 0 and variance 1."""
    wanted = np.dtype(dtype or default_dtype())
    return _drawn(random.generator().standard_normal(_sizes(size), dtype=_draw_dtype(wanted)), wanted, requires_grad)


def rand_like(input: Tensor) -> Tensor:
    """Uniform in [0, 1), in another tensor's shape and dtype."""
    return rand(input.shape, dtype=input.dtype)


def randn_like(input: Tensor) -> Tensor:
    """Normal, in another tensor's shape and dtype."""
    return randn(input.shape, dtype=input.dtype)


def randint(low: int, high: int | None = None, size: Sequence[int] = (), *, dtype: DTypeLike = np.int64) -> Tensor:
    """Whole numbers, uniform from low (0 if only one bound is given) up to, without, high."""
    if high is None:
        low, high = 0, low
    return _drawn(random.generator().integers(low, high, tuple(size)), dtype)


def randperm(n: int) -> Tensor:
    """The numbers below n in random order."""
    return _drawn(random.generator().permutation(n), np.int64)
