"""A strict stand-in for CuPy on the host: NumPy inside, CuPy's rules outside. For tests where there is no GPU.

Its arrays are none of NumPy's: nothing converts them but `get()` and `asnumpy()`, NumPy's functions refuse them, and
CuPy's functions refuse host arrays, except those that copy to the device. There are the functions, methods, keywords
and ufunc loops that `cupy_surface.json` lists, and no others. As in CuPy, reductions and elements are arrays without
dimensions, and integer arrays that point outside wrap around. Stricter than CuPy: what would add in no fixed order
there (`add.at`, weighted `bincount`, float `cumsum` over all elements, places written twice with unlike values)
raises, and so do NumPy's functions of device arrays, which CuPy would answer with device arrays.

It says nothing of speed, of rounding, or of what CuPy's own kernels compute. `pytest --device stand-in` uses it.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from cupy import _memory as cuda
from cupy import _nccl, fft, lib, linalg
from cupy._array import NOTES, SURFACE, ndarray
from cupy._calls import function, ufunc
from cupy._kernels import ElementwiseKernel
from cupy._threads import RawKernel, RawModule

cuda.nccl = sys.modules["cupy.cuda.nccl"] = _nccl  # type: ignore[attr-defined]
__version__ = SURFACE["version"]
__all__ = ["NOTES", "ElementwiseKernel", "RawKernel", "RawModule", "cuda", "fft", "lib", "linalg", "ndarray", "ufunc"]

_OF_NUMPY = frozenset((
    "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "intp", "uintp", "float16",
    "float32", "float64", "complex64", "complex128", "integer", "floating", "complexfloating", "inexact", "number",
    "generic", "dtype", "finfo", "iinfo", "newaxis", "inf", "nan", "pi", "e",
))  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _OF_NUMPY:
        return getattr(np, name)
    if name in SURFACE["ufuncs"]:
        made: Any = ufunc(name)
    elif name in SURFACE["functions"]:
        made = function(name)
    else:
        raise AttributeError(f"module 'cupy' has no attribute {name!r}")
    globals()[name] = made
    return made


class _Pool:
    """The host has no pool of memory."""

    def free_all_blocks(self) -> None:
        pass

    def used_bytes(self) -> int:
        return 0

    total_bytes = used_bytes


def get_default_memory_pool() -> _Pool:
    return _Pool()
