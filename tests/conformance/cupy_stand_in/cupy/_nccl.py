"""`cupy.cuda.nccl` of the stand-in: its ranks are threads of one process.

As with NCCL, nobody is told that a rank is gone: who waits for it waits until `abort`. Everything happens in
`groupEnd`; between two ranks, the k-th message sent is the k-th received.
"""

from __future__ import annotations

import ctypes
import queue
import secrets
import threading
from typing import Any

__all__ = [
    "NCCL_UINT8",
    "NcclCommunicator",
    "NcclError",
    "available",
    "get_unique_id",
    "get_version",
    "groupEnd",
    "groupStart",
]

NCCL_UINT8 = 1
available = True
_worlds: dict[bytes, _World] = {}
_lock = threading.Lock()
_group = threading.local()


class NcclError(RuntimeError):
    """What NCCL says is wrong."""


class _World:
    def __init__(self, size: int) -> None:
        self.size = size
        self.come = threading.Barrier(size)
        self.ways: dict[tuple[int, int], queue.Queue[bytes]] = {
            (a, b): queue.Queue() for a in range(size) for b in range(size)
        }


def get_version() -> int:
    return 23203


def get_unique_id() -> bytes:
    return secrets.token_bytes(128)


class NcclCommunicator:
    """Returns from its initialiser when all ranks have come."""

    def __init__(self, ndev: int, commId: bytes, rank: int, config: Any = None) -> None:
        if len(commId) != 128:
            raise NcclError("an identity has 128 bytes")
        with _lock:
            self._world = _worlds.setdefault(commId, _World(ndev))
        self._rank = rank
        self._aborted = threading.Event()
        self._world.come.wait()

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        _group.calls.append((self, "send", sendbuf, count, peer))

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        _group.calls.append((self, "recv", recvbuf, count, peer))

    def _run(self, what: str, address: int, count: int, peer: int) -> None:
        if what == "send":
            self._world.ways[self._rank, peer].put(ctypes.string_at(address, count))
            return
        while not self._aborted.is_set():
            try:
                message = self._world.ways[peer, self._rank].get(timeout=0.01)
            except queue.Empty:
                continue
            if len(message) != count:
                raise NcclError(f"{len(message)} bytes were sent, {count} are received")
            ctypes.memmove(address, message, count)
            return

    def check_async_error(self) -> None:
        pass

    def abort(self) -> None:
        self._aborted.set()


def groupStart() -> None:
    _group.calls = []


def groupEnd() -> None:
    calls, _group.calls = _group.calls, []
    for communicator, what, *rest in sorted(calls, key=lambda call: call[1] != "send"):
        communicator._run(what, *rest)
