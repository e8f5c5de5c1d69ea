"""Products of matrices, and of batches of them, by oneDNN: with a bias added on the way, right where they are wanted.

float32; and bfloat16, added up in float32 and rounded once, or not at all where float32 is wanted of it. Which
products it takes is decided by their sizes alone. Small ones are left to NumPy, whose call costs less.

oneDNN has two ways: primitives, and a function like BLAS'. The function is ahead where the left matrix lies by columns,
as in the gradient by a weight, and where there are few rows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.array import bfloat16
from cordee.trainer.kernels import team
from cordee.trainer.kernels.onednn.library import BFLOAT16, FLOAT32, calls, check, has_bfloat16, use_threads
from cordee.trainer.kernels.onednn.primitives import (
    SHARED_PRODUCT,
    Description,
    Layout,
    Operand,
    Primitive,
    address,
    attributes,
    cached,
    fast,
    share,
)

__all__ = ["LEAST", "TYPES", "multiply", "strides_in_elements"]

LEAST = {np.dtype(np.float32): 1 << 20, np.dtype(bfloat16): 1 << 13}
"""Multiplications from which on a product is oneDNN's, by dtype: NumPy has to widen bfloat16 first."""
LEAST_BESIDE_A_TEAM = 1 << 18
"""The same for float32 where there is a team: from there on NumPy's BLAS wakes threads of its own, on these cores."""
FEW_ROWS = 16

_SRC, _WEIGHTS, _BIAS, _DST = 1, 33, 41, 17  # DNNL_ARG_…
TYPES = {np.dtype(np.float32): FLOAT32, np.dtype(bfloat16): BFLOAT16}
_float32 = np.dtype(np.float32)


def strides_in_elements(a: Any) -> tuple[int, ...] | None:
    """The strides, as oneDNN has them; None where its loops do not go: backwards, over gaps both ways, in place."""
    size = a.itemsize
    steps = []
    for length, stride in zip(a.shape, a.strides, strict=True):
        if length > 1 and (stride <= 0 or stride % size):
            return None
        steps.append(stride // size)
    (rows, columns), (down, along) = a.shape[-2:], steps[-2:]
    # A dimension of one element has whatever stride NumPy left it: here that of an array without gaps.
    if along == 1 or columns == 1:
        far, length, count = -2, columns, rows
        steps[-1] = 1
    elif down == 1 or rows == 1:
        far, length, count = -1, rows, columns
        steps[-2] = 1
    else:
        return None
    if count == 1:
        steps[far] = max(steps[far], length)
    return tuple(steps) if steps[far] >= length else None  # rows that overlap, as windows do, are not for its loops


def _made(*described: Any) -> Primitive | None:
    operands = [None if each is None else Layout(*each) for each in described]
    a, b, bias, out = operands
    handle = None if bias is None else bias.handle
    found = fast(Description("dnnl_matmul_primitive_desc_create", calls().engine, a, b, handle, out, attributes()))
    given = [Operand(number, each) for number, each in zip((_SRC, _WEIGHTS, _BIAS), operands, strict=False) if each]
    assert out is not None
    return Primitive(found, [*given, Operand(_DST, out, True)])


def multiply(a: Any, b: Any, *, out: Any = None, bias: Any = None) -> Any:
    dtype, ndim = a.dtype, a.ndim
    least = LEAST.get(dtype)
    if least is None or b.dtype is not dtype or ndim < 2 or b.ndim != ndim or a.shape[:-2] != b.shape[:-2]:
        return NotImplemented
    m, (k, n) = a.shape[-2], b.shape[-2:]
    work = math.prod(a.shape) * n
    threads = team.size()
    if threads > 1 and dtype is _float32:
        least = LEAST_BESIDE_A_TEAM
    # A vector's product is bound by memory.
    if work < least or a.shape[-1] != k or m == 1 or n == 1 or (dtype is not _float32 and not has_bfloat16()):
        return NotImplemented
    if out is None:
        out = np.empty((*a.shape[:-1], n), dtype)
    kind = out.dtype
    if out.shape != (*a.shape[:-1], n) or (kind is not dtype and kind is not _float32):
        return NotImplemented
    if bias is not None and (bias.shape != (n,) or bias.dtype is not dtype or bias.strides[0] != bias.itemsize):
        return NotImplemented
    key = ("multiply", a.shape, a.strides, b.strides, n, dtype, out.strides, kind, bias is not None, threads)
    run = cached(key, _describe, a, b, out, bias, work)
    if run is None:
        return NotImplemented
    operands = [address(a), address(b), address(out)]
    if bias is not None:
        operands.insert(2, address(bias))
    run(*operands)
    return out


def _describe(a: Any, b: Any, out: Any, bias: Any, work: int) -> Primitive | _Function | None:
    described: list[Any] = []
    for each in (a, b, out):
        steps = strides_in_elements(each)
        if steps is None:
            return None
        described.append((each.shape, TYPES[each.dtype], steps))
    added = None
    if bias is not None:
        ones = (1,) * (a.ndim - 1)
        added = ((*ones, bias.size), TYPES[bias.dtype], (*(bias.size,) * len(ones), 1))
    left, right, result = described
    threads = share(work, SHARED_PRODUCT)
    by_columns, few = left[2][1] != 1, a.shape[0] <= FEW_ROWS
    if a.ndim == 2 and a.dtype is _float32 and bias is None and result[2][1] == 1 and (by_columns or few):
        return _Function(threads, a.shape[0], *b.shape, *[each[2] for each in described])
    return _made(left, right, added, result)


class _Function:
    """A product of float32 matrices by oneDNN's function like BLAS'; it is called as a primitive is."""

    def __init__(self, threads: int, m: int, k: int, n: int, a: Any, b: Any, out: Any) -> None:
        ways = [b"N" if steps[1] == 1 else b"T" for steps in (a, b)]
        self._threads, self._call, self._first = threads, calls().sgemm, (*ways, m, n, k, 1.0)
        self._apart = tuple([max(steps) for steps in (a, b, out)])

    def __call__(self, *addresses: int) -> None:
        use_threads(self._threads)
        (a, b, out), (left, right, result) = addresses, self._apart
        status = self._call(*self._first, a, left, b, right, 0.0, out, result)
        if status:
            check(status)
