"""Compiled loops as NumPy ufuncs: called like NumPy's own, at their cost.

NumPy offers this to C extensions by a table of functions (https://numpy.org/doc/stable/reference/c-api/ufunc.html); the
table's order is fixed by its binary interface, and here it is read from Python.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

from cordee.trainer.array import on_num_threads
from cordee.trainer.kernels import team
from cordee.trainer.kernels.llvm import compiler
from cordee.trainer.kernels.llvm.loops import Loop

__all__ = ["family", "replace_loop"]

_NUMBERS = {"f": 11, "s": 11, "h": 4, "q": 7 if np.dtype(np.int64).char == "l" else 9, "b": 0, "u": 2}
"""NumPy's numbers of the operands' types (ndarraytypes.h); bits of bfloat16 are a uint16."""
_REGISTER, _FROM_SIGNATURE = 2, 31  # PyUFunc_RegisterLoopForType, PyUFunc_FromFuncAndDataAndSignature in the table
_NO_IDENTITY = -1

_TEAM = (ctypes.c_int64 * 4)(1, 0, 0, 0)  # lives as long as the process, like the code that reads it
_keep: list[Any] = []  # what ufuncs refer to
_addresses: dict[int, int] = {}  # of a ufunc's loop, by the ufunc's id


@functools.cache
def _table() -> Any:
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ctypes.cast(pointer(_multiarray_umath._UFUNC_API, None), ctypes.POINTER(ctypes.c_void_p))


@functools.cache
def _maker() -> Any:
    make = ctypes.PYFUNCTYPE(
        ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_int,
        ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p,
    )  # fmt: skip
    return make(_table()[_FROM_SIGNATURE])


def _use_threads(num_threads: int) -> None:
    """Called when the number changes, and with 1 after a fork: a team does not survive one."""
    library = team.library() if num_threads > 1 else None
    if library is not None:
        functions = (library.GOMP_parallel, library.omp_get_thread_num, library.omp_get_num_threads)
        _TEAM[1:] = [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions]
        _TEAM[0] = num_threads
    else:
        _TEAM[0] = 1


on_num_threads(lambda _: _use_threads(team.size()))
_use_threads(team.size())
os.register_at_fork(after_in_child=lambda: _use_threads(team.size()))


def family(name: str, loops: Sequence[Loop], formula: str = "", *, together: bool = False) -> dict[str, Any]:
    """The loops as ufuncs, by name: `ufunc(*inputs, out=…)`, with broadcasting where there is no signature.

    Args:
        formula: what they depend on beside this package's sources, for the cache.
        together: they are all needed; else each is compiled when it is first asked for.
    """
    return _made(name, loops, formula) if together else _Family(name, loops, formula)


class _Family(dict[str, Any]):
    """Ufuncs by name, compiled one by one: a model needs a few of each family, and a loop may take 0.1 s."""

    def __init__(self, name: str, loops: Sequence[Loop], formula: str) -> None:
        self._name = name
        self._loops = {loop.name: loop for loop in loops}
        self._formula = formula

    def __missing__(self, key: str) -> Any:
        self.update(_made(f"{self._name}-{key}", [self._loops[key]], self._formula))
        return self[key]


def _made(name: str, loops: Sequence[Loop], formula: str) -> dict[str, Any]:
    library = compiler.load(name, loops, ctypes.addressof(_TEAM), formula)
    made = {loop.name: _ufunc(library, loop) for loop in loops}
    for loop in loops:
        _addresses[id(made[loop.name])] = library.address(loop.name)
    return made


def replace_loop(ufunc: Any, type_number: int, by: Any) -> None:
    """Let one of NumPy's ufuncs take a loop of ours for operands of a type that a package has registered with NumPy.

    Args:
        type_number: the type's. Truth values stay what they are; all other operands are of this type.
        by: a ufunc that `family` has made, of bits of bfloat16.
    """
    own = [type_number if kind == "H" else _NUMBERS["b"] for kind in by.types[0].replace("->", "")]
    register = ctypes.PYFUNCTYPE(
        ctypes.c_int, ctypes.py_object, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int), ctypes.c_void_p
    )(_table()[_REGISTER])
    register(ufunc, type_number, _addresses[id(by)], (ctypes.c_int * len(own))(*own), None)


def _ufunc(library: compiler.Library, loop: Loop) -> Any:
    inputs, results = loop.operands
    functions = (ctypes.c_void_p * 1)(library.address(loop.name))
    data = (ctypes.c_void_p * 1)(None)
    types = ctypes.create_string_buffer(bytes(_NUMBERS[kind] for kind in inputs + results))
    name = loop.name.encode()
    signature = loop.signature.encode() or None
    _keep.append((library, functions, data, types, name, signature))
    return _maker()(
        ctypes.addressof(functions), ctypes.addressof(data), ctypes.cast(types, ctypes.c_char_p), 1, len(inputs),
        len(results), _NO_IDENTITY, name, b"", 0, signature,
    )  # fmt: skip
