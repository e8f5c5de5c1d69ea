"""Products of float32 matrices by oneDNN, right where the result is wanted.

Which products it takes is decided by their sizes alone. Small ones are left to NumPy, whose call costs less.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.kernels import team
from cordee.trainer.kernels.onednn.library import calls, check, use_threads
from cordee.trainer.kernels.onednn.primitives import address

__all__ = ["multiply"]

LEAST = 1 << 20
"""Multiplications from which on a product is oneDNN's."""
SHARED = 1 << 22
"""Multiplications from which on threads share it: waking one takes what so many take."""

_float32 = np.dtype(np.float32)
_sgemm: Any = None


def _lies(a: Any) -> tuple[bytes, int] | None:
    """Whether a matrix is read by rows (`N`) or by columns (`T`), and the distance between these; None: neither."""
    (rows, columns), (down, along) = a.shape, a.strides
    if along == 4 and down >= 4 * columns:
        return b"N", down >> 2
    if down == 4 and along >= 4 * rows:
        return b"T", along >> 2
    return None


def multiply(a: Any, b: Any, *, out: Any = None) -> Any:
    global _sgemm
    if a.dtype is not _float32 or b.dtype is not _float32 or a.ndim != 2 or b.ndim != 2:
        return NotImplemented
    (m, k), n = a.shape, b.shape[1]
    work = m * n * k
    if work < LEAST or b.shape[0] != k or m == 1 or n == 1:  # a vector's product is bound by memory
        return NotImplemented
    left, right = _lies(a), _lies(b)
    if left is None or right is None:
        return NotImplemented
    if out is None:
        out = np.empty((m, n), np.float32)
        apart = n
    else:
        if out.shape != (m, n) or out.dtype is not _float32 or out.strides[1] != 4 or out.strides[0] < 4 * n:
            return NotImplemented
        apart = out.strides[0] >> 2
    if _sgemm is None:
        _sgemm = calls().sgemm
    use_threads(1 if work < SHARED else team.size())
    status = _sgemm(
        left[0], right[0], m, n, k, 1.0, address(a), left[1], address(b), right[1], 0.0, address(out), apart
    )
    if status:
        check(status)
    return out
