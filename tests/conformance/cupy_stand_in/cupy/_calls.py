"""The stand-in's functions and ufuncs: NumPy's, behind the argument lists and loops of CuPy's."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from cupy._array import SURFACE, host, ndarray, note, signature, wrapped
from cupy._memory import allocated

__all__ = ["function", "ufunc"]

COPYING = frozenset(("ascontiguousarray", "asfortranarray", "from_dlpack", "can_cast", "result_type", "isscalar"))
WAITING = frozenset((
    "nonzero", "flatnonzero", "argwhere", "unique", "extract", "compress", "array_equal", "isin",
    "sort", "argsort", "lexsort",  # Thrust's, which waits for the end
))  # fmt: skip
BY_CUBLAS = frozenset(("dot", "einsum", "inner", "outer", "tensordot", "vdot", "matmul"))
"""Refused while a step is recorded as a graph."""
CONSTANTS = frozenset(("ogrid", "mgrid", "r_", "c_", "s_", "index_exp"))


@cache
def function(path: str) -> Any:
    """CuPy's function of this name."""
    arguments = SURFACE["functions"].get(path)
    if arguments is None:
        raise AttributeError(f"cupy has no {path}")
    if path == "asnumpy":
        return lambda a, *_, **__: a.get() if isinstance(a, ndarray) else np.asarray(a)
    if path in CONSTANTS:
        return _Made(getattr(np, path))
    known = signature(arguments)
    if path in _SPECIAL:
        return _SPECIAL[path]
    module, _, name = path.rpartition(".")
    compute = getattr(importlib.import_module(f"numpy.{module}".rstrip(".")), name)

    def call(*args: Any, **keywords: Any) -> Any:
        known.bind(*args, **keywords)
        if name in WAITING or name in BY_CUBLAS:
            note(name)
        if name in ("sort", "argsort"):
            if keywords.get("kind") not in (None, "stable"):
                raise ValueError("kind can only be None or 'stable'")
            keywords["kind"] = "stable"
        if name == "bincount" and (len(args) > 1 or "weights" in keywords):
            raise RuntimeError("a weighted bincount adds in no fixed order on a device")
        if name in ("cumsum", "cumprod") and args[0].dtype.kind in "fcV" and len(args) == 1 and "axis" not in keywords:
            raise RuntimeError(f"{name} over all elements adds in no fixed order on a device")
        if name == "take" and "mode" not in keywords:
            keywords["mode"] = "wrap"
        if name in ("take_along_axis", "put_along_axis"):
            args = (args[0], args[1] % max(args[0].shape[_axis(args, keywords, name)], 1), *args[2:])
        given = keywords.get("out")
        if name in COPYING:
            return wrapped(compute(*[_moved(a) for a in args], **{k: _moved(v) for k, v in keywords.items()}))
        if module == "linalg" and not importlib.import_module("cupyx").RAISING[0]:
            try:
                out = compute(*map(host, args), **{k: host(v) for k, v in keywords.items()})
            except np.linalg.LinAlgError as error:
                if "ingular" not in str(error) and "positive" not in str(error):
                    raise
                raise RuntimeError(f"{path}: CuPy would return NaN or rubbish here, in silence") from error
        else:
            out = compute(*map(host, args), **{k: host(v) for k, v in keywords.items()})
        if given is not None:
            return given
        if name in ("empty", "full", "ones", "zeros"):
            allocated(out.nbytes)
        return wrapped(out, next((a if a.base is None else a.base for a in args if _shared(out, a)), None))

    call.__name__ = name
    return call


def _axis(args: Any, keywords: Any, name: str) -> int:
    if "axis" in keywords:
        return int(keywords["axis"])
    return int(args[2 if name == "take_along_axis" else 3])


def _shared(out: Any, a: Any) -> bool:
    return isinstance(a, ndarray) and isinstance(out, np.ndarray) and np.may_share_memory(out, a._held)


def _moved(value: Any) -> Any:
    """The argument of a function that copies host arrays to the device."""
    if isinstance(value, ndarray):
        return value._held
    if isinstance(value, (tuple, list)) and any(isinstance(part, ndarray) for part in value):
        return [_moved(part) for part in value]
    if isinstance(value, (np.ndarray, list, tuple)):
        note("copy to the device")
    return value


class _Made:
    """`ogrid` and the like."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getitem__(self, key: Any) -> Any:
        return wrapped(self.inner[host(key)])


def _copyto(dst: Any, src: Any, casting: str = "same_kind", where: Any = None) -> None:
    if not isinstance(src, ndarray) and not np.isscalar(src):
        raise TypeError("Cannot copy from this type")
    np.copyto(dst._held, host(src), casting=casting, where=True if where is None else host(where))  # type: ignore[arg-type]


def _shares(a: Any, b: Any, max_work: Any = None) -> bool:
    return np.shares_memory(a._held, b._held)


def _array_module(*_: Any) -> Any:
    return sys.modules["cupy"]


def _asarray(data: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> Any:
    if isinstance(data, ndarray) and not copy and (dtype is None or data.dtype == np.dtype(dtype)):
        return data
    held = np.array(_moved(data), dtype, order=order or "K")
    if held.dtype == object:
        raise ValueError("Unsupported dtype object")
    return wrapped(held)


def _array(
    obj: Any,
    dtype: Any = None,
    copy: Any = True,
    order: Any = "K",
    subok: Any = False,
    ndmin: int = 0,
    *,
    blocking: Any = 0,
) -> Any:
    return _asarray(np.array(_moved(obj), dtype, ndmin=ndmin), copy=True)


def _aligned(shape: Any, dtype: Any = float, order: Any = "C") -> Any:
    """CuPy's allocator aligns memory to 512 bytes."""
    kind = np.dtype(dtype)
    sizes = (int(shape),) if np.ndim(shape) == 0 else tuple(int(n) for n in shape)
    size = int(np.prod(sizes, dtype=int)) * kind.itemsize
    raw = np.zeros(size + 512, np.uint8)
    start = -raw.__array_interface__["data"][0] % 512
    return wrapped(raw[start : start + size].view(kind).reshape(sizes, order=order))


_SPECIAL: dict[str, Any] = {
    "zeros": _aligned,
    "copyto": _copyto, "shares_memory": _shares, "may_share_memory": _shares, "get_array_module": _array_module,
    "asarray": _asarray, "array": _array,
}  # fmt: skip


# -- ufuncs ------------------------------------------------------------------------------------------------------------

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_BY_NUMBER = {bool: "biufc?", int: "iufc", float: "fc", complex: "c"}


def _dtype(code: str) -> np.dtype[Any]:
    return BFLOAT16 if code == "E" else np.dtype(code)


class ufunc:
    """CuPy's: its loops, three keywords, and no `where`."""

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self.compute: Any = getattr(np, name)
        self.loops = [tuple(map(_dtypes, loop.split("->"))) for loop in SURFACE["ufuncs"][name].split()]
        self.nin, self.nout = len(self.loops[0][0]), len(self.loops[0][1])

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind") -> Any:
        if self.__name__ in BY_CUBLAS:
            note(self.__name__)
        inputs, given = args[: self.nin], args[self.nin :]
        if given:
            out = given[0] if self.nout == 1 else given
        for x in inputs:
            if not isinstance(x, (ndarray, np.generic, bool, int, float, complex)):
                raise TypeError(f"Unsupported type {type(x)}")
        ins, outs = self._loop([*inputs], dtype)
        cast = [np.asarray(host(x)).astype(t, copy=False) for x, t in zip(inputs, ins, strict=True)]
        result = self._computed(cast, outs)
        if out is None:
            return wrapped(result)
        targets = out if isinstance(out, tuple) else (out,)
        for target, value in zip(targets, result if self.nout > 1 else (result,), strict=True):
            if not isinstance(target, ndarray):
                raise TypeError(f"return arrays must be of cupy.ndarray, not {type(target)}")
            if np.broadcast_shapes(target.shape, value.shape) != target.shape:
                raise ValueError("non-broadcastable output operand")
            np.copyto(target._held, value, casting=casting)  # type: ignore[arg-type]
        return out

    def _computed(self, cast: list[Any], outs: tuple[Any, ...]) -> Any:
        if self.__name__ in ("true_divide", "divide") and cast[0].dtype.kind in "iub":
            cast = [x.astype(np.float64) for x in cast]
        result = self.compute(*cast)
        if self.nout > 1:
            return tuple(np.asarray(r).astype(t, copy=False) for r, t in zip(result, outs, strict=True))
        return np.asarray(result).astype(outs[0], copy=False)

    def _loop(self, inputs: list[Any], dtype: Any) -> Any:
        if dtype is not None:
            for ins, outs in self.loops:
                if outs[0] == np.dtype(dtype):
                    return ins, outs
            raise TypeError(f"no loop of {self.__name__} for dtype {dtype}")
        strong = any(isinstance(x, (ndarray, np.generic)) for x in inputs)
        for ins, outs in self.loops:
            if all(_fits(x, t, strong) for x, t in zip(inputs, ins, strict=True)):
                return ins, outs
        kinds = [getattr(x, "dtype", type(x)) for x in inputs]
        raise TypeError(f"Wrong type ({kinds}) of arguments for cupy_{self.__name__}")

    def reduce(self, array: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        if self.__name__ not in ("add", "multiply"):
            raise NotImplementedError(f"`cupy_{self.__name__}.reduce` is not supported yet")
        return (array.sum if self.__name__ == "add" else array.prod)(axis, dtype, out, keepdims)

    def accumulate(self, array: Any, axis: Any = 0, dtype: Any = None, out: Any = None) -> Any:
        if self.__name__ not in ("add", "multiply"):
            raise NotImplementedError(f"`cupy_{self.__name__}.accumulate` is not supported yet")
        return (array.cumsum if self.__name__ == "add" else array.cumprod)(axis, dtype, out)

    def outer(self, a: Any, b: Any, **keywords: Any) -> Any:
        return self(a.reshape(a.shape + (1,) * b.ndim), b, **keywords)

    def at(self, *_: Any) -> Any:
        raise RuntimeError(f"{self.__name__}.at writes in no fixed order on a device")

    def reduceat(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"`cupy_{self.__name__}.reduceat` is not supported yet")


def _dtypes(codes: str) -> tuple[np.dtype[Any], ...]:
    return tuple(_dtype(code) for code in codes)


def _fits(x: Any, wanted: np.dtype[Any], strong: bool) -> bool:
    """Whether an input may be cast to this dtype of a loop. Python's numbers are weak beside arrays."""
    if isinstance(x, (ndarray, np.generic)):
        return bool(np.can_cast(x.dtype, wanted))
    if not strong:
        return bool(np.can_cast(np.result_type(type(x)), wanted))
    if wanted == BFLOAT16:
        return type(x) is not complex
    if isinstance(x, bool):
        return True
    return wanted.kind in _BY_NUMBER[int if isinstance(x, int) else float if isinstance(x, float) else complex]
