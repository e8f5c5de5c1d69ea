"""`cupy.cuda` of the stand-in: one device, whose memory is the host's."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

__all__ = ["Stream", "alloc", "alloc_pinned_memory", "get_current_stream", "runtime"]


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

    def record(self) -> object:
        return object()

    def wait_event(self, event: object) -> None:
        pass

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass


Stream.null = Stream()


def get_current_stream() -> Stream:
    return Stream.null  # type: ignore[no-any-return]


class MemoryPointer:
    """An address, and what keeps it."""

    def __init__(self, size: int) -> None:
        self._held = np.empty(size + 256, np.uint8)
        self.ptr = -(-self._held.__array_interface__["data"][0] // 256) * 256


def alloc(size: int) -> MemoryPointer:
    return MemoryPointer(size)


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
