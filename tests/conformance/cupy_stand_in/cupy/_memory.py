"""`cupy.cuda` of the stand-in: one device, whose memory is the host's."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["MemoryPool", "Stream", "alloc_pinned_memory", "get_current_stream", "runtime", "using_allocator"]


class Event:
    """Has happened."""

    done = True

    def synchronize(self) -> None:
        pass


class Stream:
    """Everything has happened by the time a call returns."""

    ptr = 0
    null: Any

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None
    ) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def record(self, event: Any = None) -> Event:
        return event or Event()

    def wait_event(self, event: object) -> None:
        pass

    def is_capturing(self) -> bool:
        return False

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass


Stream.null = Stream()


def get_current_stream() -> Stream:
    return Stream.null  # type: ignore[no-any-return]


class MemoryPool:
    """Counts what it is asked for."""

    def __init__(self, allocator: Any = None) -> None:
        self.used = 0

    def malloc(self, size: int) -> int:
        self.used += size
        return size

    def free_all_blocks(self, stream: Any = None) -> None:
        pass

    def used_bytes(self) -> int:
        return self.used

    total_bytes = used_bytes


class Blocks:
    """A pool as CuPy's: a block is the device's once, then arrays', one after another, of up to its 512 bytes' size."""

    def __init__(self) -> None:
        self.taken: Counter[int] = Counter()
        """From the device (`cudaMalloc`), by size."""
        self._free: Counter[int] = Counter()

    def take(self, array: Any) -> None:
        size = -(-array.nbytes // 512)
        if self._free[size]:
            self._free[size] -= 1
        else:
            self.taken[size] += 1
        weakref.finalize(array, self._free.update, {size: 1})


watched: list[Blocks] = []
"""While a test has one in here, new arrays are told to it."""

_allocators: list[Any] = []


@contextmanager
def using_allocator(allocator: Any = None) -> Iterator[None]:
    """What is made in here is told to it."""
    _allocators.append(allocator)
    try:
        yield
    finally:
        _allocators.pop()


def allocated(nbytes: int) -> None:
    """An array has been made."""
    if _allocators:
        _allocators[-1](nbytes)


def alloc_pinned_memory(size: int) -> bytearray:
    return bytearray(size)


class Device:
    """The only one."""

    pci_bus_id = property(lambda self: f"0000:{threading.get_ident():x}:00.0")  # NCCL's ranks are threads here

    def __init__(self, id: int = 0) -> None:
        self.id = id

    def use(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class CUDARuntimeError(RuntimeError):
    """Never raised here."""


class runtime:
    """`cupy.cuda.runtime`."""

    CUDARuntimeError = CUDARuntimeError

    @staticmethod
    def getDeviceCount() -> int:
        return 1

    @staticmethod
    def deviceSynchronize() -> None:
        pass
