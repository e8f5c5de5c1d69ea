"""Memory on a GPU that stays where it is: pools of its own for steps that are recorded, and workspaces of libraries.

A graph keeps the addresses that its kernels were recorded with. What it allocates must therefore come from a pool that
nobody else takes from, which lives as long as the graph: `PrivatePool`. Workspaces come from one, too, so that a graph
may use them; they only grow, and an outgrown one is kept. It has not yet run on a device.
"""

from __future__ import annotations

import functools
import importlib
import weakref
from types import TracebackType
from typing import Any

__all__ = ["PLACE_BYTES", "PrivatePool", "aligned", "free_all_blocks", "total_bytes", "used_bytes", "workspace"]

_pools: weakref.WeakSet[PrivatePool] = weakref.WeakSet()


class PrivatePool:
    """`with pool:` arrays that this thread makes on the device come from it. They, and it, must outlive their graph."""

    def __init__(self) -> None:
        self._cupy: Any = importlib.import_module("cupy")
        self.pool = self._cupy.cuda.MemoryPool()
        self._entered: list[Any] = []
        _pools.add(self)

    def __enter__(self) -> PrivatePool:
        using = self._cupy.cuda.using_allocator(self.pool.malloc)
        using.__enter__()
        self._entered.append(using)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered.pop().__exit__(kind, error, traceback)


def used_bytes() -> int:
    """What arrays in private pools take."""
    return sum(int(each.pool.used_bytes()) for each in _pools)


def total_bytes() -> int:
    """What private pools have taken from the device."""
    return sum(int(each.pool.total_bytes()) for each in _pools)


def free_all_blocks() -> None:
    """Give back what is in private pools and not in use."""
    for each in _pools:
        each.pool.free_all_blocks()


@functools.cache
def _of_libraries() -> PrivatePool:
    return PrivatePool()


PLACE_BYTES = 16
"""What libraries' kernels read at once. Which of them is chosen depends on whether addresses are multiples of it."""


def aligned(a: Any) -> Any:
    """An array whose memory begins at a multiple of `PLACE_BYTES`: where it does not, a copy with the same strides.

    So the same numbers give the same bits wherever they lie: as the first rows of a batch, or as later ones.
    """
    if a.data.ptr % PLACE_BYTES == 0:
        return a
    cupy: Any = importlib.import_module("cupy")
    if min(a.strides, default=0) < 0:
        return cupy.ascontiguousarray(a).copy()
    extent = sum((size - 1) * stride for size, stride in zip(a.shape, a.strides, strict=True)) // a.itemsize + 1
    moved = cupy.lib.stride_tricks.as_strided(cupy.empty(extent, a.dtype), a.shape, a.strides)
    moved[...] = a
    return moved


_MIN_BYTES = 32 << 20
"""As NVIDIA recommends for cuBLAS on Hopper."""
_workspaces: dict[int, list[Any]] = {}


def workspace(nbytes: int, stream: Any) -> int:
    """The address of so many bytes that what runs on this stream may scribble in, one after another."""
    kept = _workspaces.setdefault(stream.ptr, [])
    if not kept or kept[-1].size < nbytes:
        with _of_libraries():
            kept.append(importlib.import_module("cupy").empty(max(nbytes, _MIN_BYTES), "uint8"))
    return int(kept[-1].data.ptr)
