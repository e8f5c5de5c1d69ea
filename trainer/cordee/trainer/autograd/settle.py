"""What goes into an op, and what comes out of NumPy, made what the tape promises: arrays, of the right dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.array import array_module, as_array, bfloat16, default_dtype, default_module, float16
from cordee.trainer.autograd.explain import TENSOR_IN_DATA
from cordee.trainer.autograd.record import Op
from cordee.trainer.tensors import Tensor

__all__ = ["NARROWING", "TO_SETTLE", "constant", "has_halves", "settle", "settle_like"]

_PLAIN = frozenset((float, int, bool, type(None)))


def constant(value: Any, beside: Any = None) -> Any:
    """An operand that is no tensor. NumPy's scalars become Python's, which do not widen a float32 array; numbers beside
    a bfloat16 tensor become bfloat16, whose package knows no weak numbers."""
    if type(value) not in _PLAIN:
        if isinstance(value, np.generic):
            value = value.item()
        elif isinstance(value, np.ndarray):
            return value if default_module() is np else as_array(value)
        else:
            return as_array(value) if isinstance(value, (list, tuple)) else value
    if isinstance(beside, Tensor) and beside.data.dtype is bfloat16 and isinstance(value, (float, int)):
        return bfloat16.type(value)
    return value


def settle_like(op: Op, out: Any, arrays: list[Any]) -> Any:
    """`settle`; NumPy's functions of small integers, which return float16, are asked again in the default dtype."""
    if (
        op.elementwise
        and not op.params
        and getattr(out, "dtype", float16) is float16
        and all(getattr(x, "dtype", float16).kind in "iub" for x in arrays)
    ):
        wide = [x.astype(default_dtype()) if hasattr(x, "dtype") else x for x in arrays]
        out = op.forward(array_module(*wide), *wide)
    return settle(op, out, arrays)


def settle(op: Op, out: Any, arrays: list[Any]) -> Any:
    """What NumPy returns, made what a tensor holds: an array (not a scalar), and of the dtype that is promised.

    NumPy computes integers with float32 in float64, and bfloat16 with numbers in float32. An input without dimensions
    does not widen those of its kind that have some.
    """
    if isinstance(out, np.generic):
        out = np.asarray(out)
    elif isinstance(out, Tensor):
        raise TypeError(f"{op.name}: {TENSOR_IN_DATA}")
    kind = out.dtype.kind
    if kind in "bc" or op.dtype not in NARROWING:
        return out
    dtype = out.dtype
    if any(getattr(x, "dtype", dtype) is not dtype for x in arrays):
        wanted = op.result_dtype(*_deciding(arrays))
        if wanted.kind in "iub" and kind not in "iu":  # what is floating of integers has the default dtype
            wanted = default_dtype()
        if wanted is not out.dtype and wanted.kind not in "bc":
            return out.astype(wanted)
    return out


NARROWING = frozenset(("promote", "float"))
"""The dtype rules of results that are as wide as the widest input."""
TO_SETTLE = frozenset(map(np.dtype, ("float16", "float64", "complex64", "complex128")))


def has_halves(arrays: list[Any], all_of_them: bool) -> bool:
    """Whether the first array, or any that is broadcast with it, is of 16 bits: NumPy's result may be float32 then."""
    dtype = getattr(arrays[0], "dtype", None)
    if dtype is bfloat16 or dtype is float16:
        return True
    if not all_of_them or len(arrays) == 1:
        return False
    dtypes = [getattr(x, "dtype", None) for x in arrays]
    return any(dtype is bfloat16 or dtype is float16 for dtype in dtypes)


def _deciding(arrays: list[Any]) -> list[Any]:
    """The dtypes that decide: those of arrays with dimensions, unless one without has a number of a higher kind."""
    dtypes = [(x.dtype if hasattr(x, "dtype") else type(x), getattr(x, "ndim", 0)) for x in arrays if x is not None]
    dimensioned = [dtype for dtype, ndim in dtypes if ndim]
    floating = [dtype for dtype in dimensioned if isinstance(dtype, np.dtype) and dtype.kind not in "iub"]
    if floating:
        return floating
    whole = [dtype for dtype in dimensioned if dtype.kind in "iu"]
    if whole and all(dtype is int or dtype is bool or getattr(dtype, "kind", "f") in "iub" for dtype, _ in dtypes):
        return whole
    return [dtype for dtype, _ in dtypes]
