"""How own kernels are launched on a GPU: a source per family and dtype, compiled when it is first needed; and how
operands lie in memory.

Nothing here waits for the device, and what is launched depends on shapes and layouts alone.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["KINDS", "NOTHING", "blocks", "dense", "function", "inner", "kind_of", "like", "pointer", "single"]

KINDS = {np.dtype(np.float32): "float32", np.dtype(ml_dtypes.bfloat16): "bfloat16", np.dtype(np.float16): "float16"}
"""By dtype, the name of the source that computes with it."""
NOTHING = np.uint64(0)
"""A null pointer."""


@functools.cache
def function(family: str, kind: str, name: str) -> Any:
    """A kernel of the source `<family>_text` for a dtype: `kernel(grid, block, args)`."""
    return _module(family, kind).get_function(name)


@functools.cache
def _module(family: str, kind: str) -> Any:
    text = importlib.import_module(f"{__package__}.{family}_text").source(kind)
    return importlib.import_module("cupy").RawModule(code=text, options=("-std=c++17",))


def blocks(count: int, threads: int) -> tuple[int]:
    """A grid of as many blocks of so many threads as there are things to do."""
    return (-(-count // threads),)


def pointer(a: Any) -> Any:
    """What a kernel gets for an array that may not be there."""
    return NOTHING if a is None else a


def kind_of(*arrays: Any) -> str:
    """The name of the dtype that all of these have; "": they are not taken by own kernels, or there is nothing."""
    first = arrays[0].dtype
    if not arrays[0].size or any(each is not None and each.dtype != first for each in arrays):
        return ""
    return KINDS.get(first, "")


def single(a: Any) -> Any:
    """One number per channel, in single precision and without gaps; None stays."""
    return None if a is None else importlib.import_module("cupy").ascontiguousarray(a, np.float32)


# -- how arrays lie ----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _inner(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> int | None:
    """Elements from one channel (dimension 1) to the next in memory without gaps; None: there are gaps."""
    step, found = itemsize, 1
    for stride, size, dim in sorted(zip(strides, shape, range(len(shape)), strict=True)):
        if size == 1:
            continue
        if stride != step:
            return None
        if dim == 1:
            found = step // itemsize
        step *= size
    if shape[1] > 1:
        return found
    samples_first = shape[0] == 1 or strides[0] * shape[0] == step
    return step // itemsize // (shape[0] if samples_first else 1)


def inner(a: Any) -> int | None:
    """The same, of an array (N, C, …): 1 where channels lie last; None where memory has gaps."""
    return _inner(a.shape, a.strides, a.itemsize)


def dense(a: Any) -> Any:
    """An array (N, C, …) in memory without gaps, in whatever order; as a copy where it has some."""
    return a if inner(a) is not None else importlib.import_module("cupy").ascontiguousarray(a)


def _same_places(a: Any, b: Any) -> bool:
    """Whether two arrays of a shape lie alike."""
    return all(one == other or size == 1 for one, other, size in zip(a.strides, b.strides, a.shape, strict=True))


def like(a: Any, pattern: Any) -> Any:
    """An array laid as `pattern` of its shape lies; as a copy where it lies otherwise."""
    if _same_places(a, pattern):
        return a
    moved = importlib.import_module("cupy").empty_like(pattern, dtype=a.dtype)
    moved[...] = a
    return moved
