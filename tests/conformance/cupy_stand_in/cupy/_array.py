"""The stand-in's array: an object around host memory that refuses to be taken for NumPy's."""

from __future__ import annotations

import inspect
import json
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cupy._memory import watched

__all__ = ["NOTES", "SURFACE", "host", "ndarray", "note", "signature", "wrapped"]

SURFACE: dict[str, Any] = json.loads((Path(__file__).resolve().parents[2] / "cupy_surface.json").read_text())
NOTES: Counter[tuple[str, str, int]] = Counter()
"""(what, file, line) of every wait for the device, every copy to it, and every product by CuPy's own cuBLAS, which
cannot be recorded in a graph, that the engine's code asked for."""

_KINDS = "biufc"


def note(what: str) -> None:
    """Count this, under the line outside this package that asked for it."""
    frame: Any = sys._getframe(1)
    while frame is not None and "cupy_stand_in" in frame.f_code.co_filename:
        frame = frame.f_back
    if frame is not None:
        NOTES[what, frame.f_code.co_filename, frame.f_lineno] += 1


@cache
def signature(arguments: str) -> inspect.Signature:
    """The signature that the list has for a function or method."""
    return inspect.signature(eval(f"lambda {arguments}: 0"))


def wrapped(value: Any, base: Any = None) -> Any:
    """What NumPy returned, as CuPy would: arrays, also without dimensions, in tuples and lists too."""
    if isinstance(value, (np.ndarray, np.generic)):
        held = np.asarray(value)
        if held.dtype.kind not in _KINDS and held.dtype.name != "bfloat16":
            raise ValueError(f"Unsupported dtype {held.dtype}")
        made = object.__new__(ndarray)
        made._held, made.base = held, base
        if base is None and watched:
            watched[-1].take(made)
        return made
    if isinstance(value, tuple):
        parts = [wrapped(part, base) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [wrapped(part, base) for part in value]
    return value


def host(value: Any) -> Any:
    """The memory inside device arrays, also in tuples and lists. Host arrays are refused."""
    if isinstance(value, ndarray):
        return value._held
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, (tuple, list)) and any(isinstance(part, (ndarray, np.ndarray, tuple, list)) for part in value):
        return type(value)([host(part) for part in value])
    return value


class _Pointer:
    """`ndarray.data`."""

    def __init__(self, held: Any) -> None:
        self.ptr = held.__array_interface__["data"][0]


class _Flags:
    """`ndarray.flags`: CuPy's knows three."""

    def __init__(self, held: Any, owns: bool) -> None:
        self.c_contiguous, self.f_contiguous = held.flags.c_contiguous, held.flags.f_contiguous
        self.owndata, self.forc = owns, held.flags.forc


class ndarray:
    """Host memory in a device array's clothes."""

    __slots__ = ("__weakref__", "_held", "base")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]
    _held: Any
    base: Any

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: Any = "C"
    ) -> None:
        if memptr is not None or strides is not None:
            raise NotImplementedError("the stand-in makes no arrays from pointers")
        self._held, self.base = np.empty(shape, dtype, order=order), None

    # -- what it is

    shape = property(lambda self: self._held.shape, lambda self, value: setattr(self._held, "shape", value))
    dtype = property(lambda self: self._held.dtype)
    ndim = property(lambda self: self._held.ndim)
    size = property(lambda self: self._held.size)
    itemsize = property(lambda self: self._held.itemsize)
    nbytes = property(lambda self: self._held.nbytes)
    strides = property(lambda self: self._held.strides)
    data = property(lambda self: _Pointer(self._held))
    flags = property(lambda self: _Flags(self._held, self.base is None))
    device = property(lambda self: sys.modules["cupy"].cuda.Device(0))
    T = property(lambda self: self._view(self._held.T))
    mT = property(lambda self: self._view(self._held.mT))
    real = property(lambda self: self._view(self._held.real), lambda self, v: self._held.real.__setitem__(..., host(v)))
    imag = property(lambda self: self._view(self._held.imag), lambda self, v: self._held.imag.__setitem__(..., host(v)))

    def _view(self, held: Any) -> Any:
        shares = isinstance(held, np.ndarray) and np.may_share_memory(held, self._held)
        return wrapped(held, (self if self.base is None else self.base) if shares else None)

    # -- no host array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array "
            "explicitly."
        )

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        if method == "__call__" and any(isinstance(x, np.generic) for x in inputs) and "out" not in keywords:
            return getattr(sys.modules["cupy"], ufunc.__name__)(*inputs, **keywords)  # NumPy's number beside an array
        raise TypeError(f"numpy.{ufunc.__name__} of a device array, or of one beside a host array")

    def __array_function__(self, function: Any, types: Any, args: Any, keywords: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} of a device array")

    # -- to the host

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        if blocking:
            note("get")
        if out is None:
            return self._held.copy(order)
        out[...] = self._held
        return out

    def set(self, arr: Any, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype or arr.shape != self.shape:
            raise (TypeError if arr.dtype != self.dtype else ValueError)("set() needs the same dtype and shape")
        note("set")
        self._held[...] = arr

    def item(self) -> Any:
        note("item")
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self._held.item()

    def tolist(self) -> Any:
        note("tolist")
        return self._held.tolist()

    def tobytes(self, order: Any = "C") -> bytes:
        note("tobytes")
        return self._held.tobytes(order)  # type: ignore[no-any-return]

    def __bool__(self) -> bool:
        note("bool")
        return bool(self._held)

    def __float__(self) -> float:
        note("float")
        return float(self._held)

    def __int__(self) -> int:
        note("int")
        return int(self._held)

    def __complex__(self) -> complex:
        note("complex")
        return complex(self._held)

    def __repr__(self) -> str:
        note("repr")
        return repr(self._held)

    def __format__(self, spec: str) -> str:
        note("format")
        return format(self._held if self.ndim else self._held.item(), spec)

    __str__ = __repr__

    def __reduce__(self) -> Any:
        note("pickle")
        return sys.modules["cupy"].array, (self._held,)

    def __deepcopy__(self, memo: Any) -> Any:
        return wrapped(self._held.copy())

    __copy__ = __deepcopy__

    # -- places

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Any:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        key = self._key(key)
        found = self._held[key]
        if isinstance(found, np.generic):  # an element, which shares memory here
            found = self._held[(*key, ...) if isinstance(key, tuple) else (key, ...)]
        return self._view(found)

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, np.ndarray):
            if (
                isinstance(key, slice)
                and key == slice(None)
                and value.dtype == self.dtype
                and value.shape == self.shape
            ):
                note("set")
                self._held[...] = value
                return
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        key, value = self._key(key), host(value)
        self._held[key] = value
        parts = key if isinstance(key, tuple) else (key,)
        if any(isinstance(p, (np.ndarray, list)) for p in parts) and np.ndim(value):
            written = self._held[key]
            same = written == value
            if not (same | ((written != written) & (value != value))).all() and self.dtype == np.asarray(value).dtype:
                raise RuntimeError("a place is written twice, with different values: on a device either may win")

    def _key(self, key: Any) -> Any:
        parts = list(key) if isinstance(key, tuple) else [key]
        axis = 0
        named = sum(p is not None and p is not Ellipsis for p in parts)
        named += sum(self._host_index(p).ndim - 1 for p in parts if self._is_mask(p))
        for i, part in enumerate(parts):
            if part is None:
                continue
            if part is Ellipsis:
                axis += self.ndim - named
                continue
            if isinstance(part, (ndarray, np.ndarray, list)):
                if not isinstance(part, ndarray):
                    note("copy of an index to the device")
                index = self._host_index(part)
                if index.dtype == bool:
                    note("mask")
                    axis += index.ndim - 1
                elif axis < self.ndim and self.shape[axis] and index.dtype.kind in "iu":
                    index = index.astype(np.int64) % self.shape[axis]
                elif index.dtype.kind not in "iub":
                    raise IndexError("arrays used as indices must be of integer or boolean type")
                parts[i] = index
            elif isinstance(part, slice) and any(isinstance(v, ndarray) for v in (part.start, part.stop, part.step)):
                raise TypeError("slice indices must be integers")
            axis += 1
        return tuple(parts) if isinstance(key, tuple) else parts[0]

    @staticmethod
    def _host_index(part: Any) -> Any:
        held = part._held if isinstance(part, ndarray) else np.asarray(part)
        return held.astype(np.int64) if isinstance(part, list) and not held.size else held

    @classmethod
    def _is_mask(cls, part: Any) -> bool:
        return isinstance(part, (ndarray, np.ndarray, list)) and cls._host_index(part).dtype == bool


def _method(name: str, arguments: str) -> Any:
    known = signature(arguments)

    def call(self: Any, *args: Any, **keywords: Any) -> Any:
        known.bind(self, *args, **keywords)
        if name in ("nonzero", "dot", "sort", "argsort"):
            note(name)
        if name in ("sort", "argsort") and keywords.get("kind") not in (None, "stable"):
            raise ValueError("kind can only be None or 'stable'")
        if name in ("sort", "argsort"):
            keywords["kind"] = "stable"
        if name in ("take", "put"):
            keywords.setdefault("mode", "wrap")
        if (
            name in ("cumsum", "cumprod")
            and self.dtype.kind in "fcV"
            and (keywords.get("axis", args[:1]) in (None, ()))
        ):
            raise RuntimeError(f"{name} over all elements adds in no fixed order on a device")
        if name == "astype" and isinstance(keywords.get("copy"), ndarray):
            raise TypeError("copy must be a bool")
        if self.dtype.name == "bfloat16" and name in _AS_FLOAT:
            out = getattr(self._held.astype(np.float32), name)(*map(host, args), **_hosts(keywords))
            return wrapped(out.astype(self.dtype) if out.dtype.kind == "f" else out)
        given = keywords.get("out")
        out = getattr(self._held, name)(*map(host, args), **_hosts(keywords))
        return given if given is not None else self._view(out)

    call.__name__ = name
    return call


_AS_FLOAT = frozenset(["sum", "mean", "prod", "max", "min", "var", "std", "argmax", "argmin", "cumsum", "cumprod"])


def _hosts(keywords: dict[str, Any]) -> dict[str, Any]:
    return {name: host(value) for name, value in keywords.items()}


_OPERATORS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "power", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
    "lshift": "left_shift", "rshift": "right_shift", "matmul": "matmul", "divmod": "divmod",
}  # fmt: skip
_COMPARED = {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
}  # fmt: skip
_SINGLE = {"neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert"}


def _operator(name: str, turned: bool = False, inplace: bool = False) -> Any:
    def call(self: Any, *other: Any) -> Any:
        if other and hasattr(type(other[0]), "__array_ufunc__") and other[0].__array_ufunc__ is None:
            return NotImplemented
        if other and not isinstance(other[0], (ndarray, np.generic, int, float, complex)):
            if isinstance(other[0], np.ndarray):
                raise TypeError("Unsupported type <class 'numpy.ndarray'>")
            return NotImplemented
        function = getattr(sys.modules["cupy"], name)
        if inplace:
            return function(self, *other, out=self)
        return function(*other, self) if turned else function(self, *other)

    return call


for _name, _arguments in SURFACE["methods"].items():
    if _arguments is not None and not _name.startswith("_") and not hasattr(ndarray, _name):
        setattr(ndarray, _name, _method(_name, _arguments))
for _name, _function in (_OPERATORS | _COMPARED | _SINGLE).items():
    setattr(ndarray, f"__{_name}__", _operator(_function))
    if _name in _OPERATORS:
        setattr(ndarray, f"__r{_name}__", _operator(_function, turned=True))
        if f"__i{_name}__" in SURFACE["methods"]:
            setattr(ndarray, f"__i{_name}__", _operator(_function, inplace=True))
ndarray.__module__ = "cupy"
