"""Arithmetic of bfloat16, sixteen numbers at a time.

`ml_dtypes` gives NumPy this type, and computes number by number. Here NumPy is given other loops for the same
operations: those whose result is rounded correctly, so that the bits are the same, whoever computes them. NumPy looks
loops up by type, so every `a + b` of such arrays in this process takes them, and nothing else is touched.
"""

from __future__ import annotations

import functools
from typing import Any

import ml_dtypes
import numpy as np

from cordee.trainer.kernels.llvm.elements import loop
from cordee.trainer.kernels.llvm.ufuncs import family, replace_loop
from cordee.trainer.kernels.terms import Term

__all__ = ["cast", "install"]

_A, _B = Term("a"), Term("b")
_float32, _bfloat16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)

_FORMULAS: dict[str, tuple[str, Any]] = {
    "add": ("hh->h", Term("+", _A, _B)),
    "subtract": ("hh->h", Term("-", _A, _B)),
    "multiply": ("hh->h", Term("*", _A, _B)),
    "divide": ("hh->h", Term("/", _A, _B)),
    "maximum": ("hh->h", Term("max", _A, _B)),
    "minimum": ("hh->h", Term("min", _A, _B)),
    "negative": ("h->h", Term("neg", _A)),
    "absolute": ("h->h", Term("abs", _A)),
    "sqrt": ("h->h", Term("sqrt", _A)),
    "square": ("h->h", Term("*", _A, _A)),
    "less": ("hh->b", Term("<", _A, _B)),
    "less_equal": ("hh->b", Term("<=", _A, _B)),
    "greater": ("hh->b", Term(">", _A, _B)),
    "greater_equal": ("hh->b", Term(">=", _A, _B)),
    "equal": ("hh->b", Term("==", _A, _B)),
    "not_equal": ("hh->b", Term("!=", _A, _B)),
}
"""By the names of NumPy's functions."""


@functools.cache
def install() -> None:
    """Let NumPy take these loops, from now on in this process."""
    loops = [loop(name, kinds, ("a", "b")[: kinds.index("-")], [term]) for name, (kinds, term) in _FORMULAS.items()]
    for name, ufunc in family("bfloat16", loops, together=True).items():
        replace_loop(getattr(np, name), _bfloat16.num, ufunc)


@functools.cache
def _casts() -> dict[str, Any]:
    return family("casts", [loop("narrow", "f->h", ("a",), [_A])])


def cast(a: Any, *, dtype: Any) -> Any:
    """float32 as bfloat16, rounded to the nearest. Who casts will compute: the loops are installed."""
    if a.dtype is not _float32 or dtype != _bfloat16:
        return NotImplemented
    install()
    return _casts()["narrow"](a).view(_bfloat16)
