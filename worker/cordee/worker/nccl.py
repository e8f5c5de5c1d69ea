"""NVIDIA's NCCL between the GPUs of one world: grouped sends and receives on a stream of its own.

NCCL cannot tell that a peer is gone: it waits. So its calls are made by a thread of their own, while the training
thread watches the mesh of TCP connections, where every loss is seen; then it aborts the communicator, and the calls
return. A communicator lives as long as its world. The sums are not NCCL's (their order depends on the world): it moves
bytes only. It has not yet run on a device.
"""

from __future__ import annotations

import importlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from cordee.trainer.elastic.protocols import Buffer

__all__ = ["OFFER_BYTES", "Call", "Nccl", "agree", "offer"]

_OFFER: Final = struct.Struct("<I64s128s")
"""NCCL's version (0: there is none here), which GPU, and the place where the world meets (rank 0's counts)."""
OFFER_BYTES: Final = _OFFER.size


def offer(rank: int) -> bytes:
    """What this worker tells the others before the first exchange."""
    cupy: Any = importlib.import_module("cupy")
    nccl: Any = importlib.import_module("cupy.cuda.nccl")
    if not nccl.available:
        return _OFFER.pack(0, b"", b"")
    place = nccl.get_unique_id() if rank == 0 else b""
    gpu = f"{cupy.cuda.Device().pci_bus_id}@{socket.gethostname()}".encode()
    return _OFFER.pack(nccl.get_version(), gpu[:64], place)


def agree(offers: Sequence[bytes]) -> bytes | None:
    """From all workers' offers, the same on each: where to meet; None: somebody has no NCCL or another one, or two
    workers share a GPU, which NCCL refuses."""
    told = [_OFFER.unpack(each) for each in offers]
    versions, devices = {version for version, _, _ in told}, {device for _, device, _ in told}
    if len(versions) != 1 or 0 in versions or len(devices) != len(told):
        return None
    place: bytes = told[0][2]
    return place


class Call:
    """A call in a thread of its own; its descriptor is readable when it has returned."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._done = os.eventfd(0, os.EFD_CLOEXEC)
        self._function = function
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="nccl", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        return self._done

    def result(self) -> Any:
        """What it returned, or raises what it raised; waits for it."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error
        os.eventfd_write(self._done, 1)

    def __del__(self) -> None:
        os.close(self._done)


class Nccl:
    """This worker's end of a world's communicator: `device_reduction.Lines`."""

    def __init__(self, size: int, rank: int, place: bytes, device: int) -> None:
        """Returns when all workers have come; so it is called as `Call`."""
        self._cupy: Any = importlib.import_module("cupy")
        self._nccl: Any = importlib.import_module("cupy.cuda.nccl")
        self._cupy.cuda.Device(device).use()
        self._communicator = self._nccl.NcclCommunicator(size, place, rank)
        self._device = device
        self._aborting = threading.Lock()
        self._aborted = False
        self.stream = self._cupy.cuda.Stream(non_blocking=True)

    def run(self, work: Callable[[Any], None], ready: Any) -> None:
        """`work(cupy)` on our stream, after the event `ready`; returns when it has happened. Called as `Call`.

        Raises:
            RuntimeError: it was broken off.
        """
        self._cupy.cuda.Device(self._device).use()
        with self.stream:
            self.stream.wait_event(ready)
            work(self._cupy)
            self.stream.synchronize()
        self._communicator.check_async_error()
        if self._aborted:
            raise RuntimeError("NCCL's exchange was broken off")

    def exchange(self, sent: Sequence[tuple[int, Buffer]], received: Sequence[tuple[int, Buffer]]) -> None:
        if not sent and not received:
            return
        kind, stream = self._nccl.NCCL_UINT8, self.stream.ptr
        self._nccl.groupStart()
        try:
            for peer, buffer in sent:
                self._communicator.send(buffer.data.ptr, buffer.nbytes, kind, peer, stream)
            for peer, buffer in received:
                self._communicator.recv(buffer.data.ptr, buffer.nbytes, kind, peer, stream)
        finally:
            self._nccl.groupEnd()

    def abort(self) -> None:
        """Makes what waits in it return; from any thread, at any time."""
        with self._aborting:
            if not self._aborted:
                self._aborted = True
                self._communicator.abort()
