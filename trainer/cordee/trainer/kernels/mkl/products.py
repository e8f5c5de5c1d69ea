"""Products of matrices, and of batches of them, by MKL: float32 and float64, right where they are wanted.

Which products it takes is decided by their sizes and layouts alone. Small ones are left to NumPy, whose call costs
less.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from cordee.trainer.kernels import team
from cordee.trainer.kernels.mkl.library import bindings, use_threads

__all__ = ["multiply"]

_NAMES = {np.dtype(np.float32): "sgemm", np.dtype(np.float64): "dgemm"}
_LEAST = 1 << 20
"""Multiplications from which on a product is MKL's."""
_LEAST_BESIDE_A_TEAM = 1 << 18
"""The same where there is a team: from there on NumPy's BLAS wakes threads of its own, on these cores."""
_BY_ROWS, _AS_IT_LIES, _TURNED = 101, 111, 112  # CblasRowMajor, CblasNoTrans, CblasTrans
_LONGEST = 2**31 - 1
"""Sizes and strides are 32 bits in these functions."""


def _lying(a: Any) -> tuple[int, int] | None:
    """Whether matrices lie by rows or by columns, and how many elements one is from the next; None: neither."""
    size, (rows, columns), (down, along) = a.itemsize, a.shape[-2:], a.strides[-2:]
    if along == size and down >= columns * size and not down % size:
        return _AS_IT_LIES, down // size
    if down == size and along >= rows * size and not along % size:
        return _TURNED, along // size
    return None


def multiply(a: Any, b: Any, *, out: Any = None, bias: Any = None) -> Any:
    dtype, ndim = a.dtype, a.ndim
    if dtype not in _NAMES or b.dtype is not dtype or ndim < 2 or b.ndim != ndim or a.shape[:-2] != b.shape[:-2]:
        return NotImplemented
    m, (k, n) = a.shape[-2], b.shape[-2:]
    threads = team.size()
    work = math.prod(a.shape) * n
    if work < (_LEAST if threads == 1 else _LEAST_BESIDE_A_TEAM) or a.shape[-1] != k or m == 1 or n == 1:
        return NotImplemented  # a vector's product is bound by memory
    if out is None:
        out = np.empty((*a.shape[:-1], n), dtype)
    if out.shape != (*a.shape[:-1], n) or out.dtype is not dtype:
        return NotImplemented
    if bias is not None and (bias.shape != (n,) or bias.dtype is not dtype):
        return NotImplemented
    left, right, result = _lying(a), _lying(b), _lying(out)
    if left is None or right is None or result is None or result[0] != _AS_IT_LIES:
        return NotImplemented
    if max(m, n, k, left[1], right[1], result[1]) > _LONGEST:
        return NotImplemented
    use_threads(threads)
    product = getattr(bindings(), _NAMES[dtype])
    ways = _BY_ROWS, left[0], right[0], m, n, k, 1.0
    for x, y, z in _places(a, b, out):
        product(*ways, x, left[1], y, right[1], 0.0, z, result[1])
    if bias is not None:
        out += bias
    return out


def _places(*arrays: Any) -> Any:
    """Where the matrices of each product of a batch begin."""
    firsts = [array.__array_interface__["data"][0] for array in arrays]
    shape = arrays[0].shape[:-2]
    if not shape:
        return [firsts]
    return [
        [first + sum(map(int.__mul__, index, array.strides)) for first, array in zip(firsts, arrays, strict=True)]
        for index in itertools.product(*map(range, shape))
    ]
