"""Memory that workers of one host share, so that their gradients need not pass through sockets.

Every worker has an *outbox*, a nameless memory file (memfd) of its own; its peers map it as a *window*. What a worker
has put there is announced over the TCP connection, which stays the only place where anybody waits: so a peer's death is
noticed as ever, and the kernel's socket calls order the memory accesses of both sides. A memfd has no name in any file
system and is gone with the last process that maps it, however they die: nothing can leak.

A peer finds the memfd as `/proc/<pid>/fd/<fd>`. That works between processes of one user and one PID namespace; the
nonce at its beginning, told over the authenticated connection, proves that it is the right one. Where anything of this
fails, that pair of workers goes on over TCP.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import secrets
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np

from cordee.worker.abort import Abort
from cordee.worker.link import Link, drive

__all__ = ["HEAD_BYTES", "Outbox", "Window", "share"]

HEAD_BYTES: Final = 4096
"""The nonce's page; the rest is for gradients."""
_NONCE_BYTES: Final = 32
_NAME: Final = "cordee"
_OFFER: Final = struct.Struct(f"<32sII{_NONCE_BYTES}s")
"""Which host and PID namespace, process, descriptor, nonce."""
_F_GET_SEALS: Final = fcntl.F_ADD_SEALS + 1  # fcntl has it from Python 3.13 on

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Outbox:
    """This worker's memory, which it writes and its peers read."""

    def __init__(self) -> None:
        self.nonce = secrets.token_bytes(_NONCE_BYTES)
        self.fd = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, HEAD_BYTES)
        # It can only grow: memory that vanished under a peer's feet would kill the peer.
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self._memory = _map(self.fd)
        self._memory[:_NONCE_BYTES] = np.frombuffer(self.nonce, np.uint8)

    def memory(self, nbytes: int) -> Bytes:
        """The first `nbytes` of it; it grows when it must, or raises `MemoryError`."""
        if self._memory.size < nbytes:
            try:
                os.posix_fallocate(self.fd, 0, nbytes)  # now, with an error, rather than later, with a signal
            except OSError as error:  # a limit on files or on memory: the machine's fault, as when it has no memory
                raise MemoryError(f"no {nbytes:,} bytes of shared memory to be had: {error.strerror}") from None
            self._memory = _map(self.fd)
        return self._memory[:nbytes]

    def close(self) -> None:
        self._memory = np.empty(0, np.uint8)
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class Window:
    """A peer's outbox, mapped here."""

    def __init__(self, pid: int, fd: int, nonce: bytes) -> None:
        """Raises `OSError` or `ValueError` where it cannot be mapped or is something else."""
        path = Path(f"/proc/{pid}/fd/{fd}")
        # Looked at before it is opened: opening a device or a pipe might do something.
        if not str(path.readlink()).startswith(f"/memfd:{_NAME} "):
            raise ValueError(f"{path} is not an outbox")
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if not fcntl.fcntl(self._fd, _F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                raise ValueError(f"{path} could shrink")
            self._memory = _map(self._fd)
            if self._memory[:_NONCE_BYTES].tobytes() != nonce:
                raise ValueError(f"{path} is not the outbox that was offered")
        except BaseException:
            self.close()
            raise

    def memory(self, nbytes: int) -> Bytes:
        """The first `nbytes` of it, which the peer has made before it announced anything there."""
        if self._memory.size < nbytes:
            self._memory = _map(self._fd)
        return self._memory[:nbytes]

    def close(self) -> None:
        self._memory = np.empty(0, np.uint8)
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def share(links: Iterable[Link], outbox: Outbox | None, abort: Abort, deadline: float) -> dict[int, Window]:
    """Agrees with every peer whether the two share memory; the windows, by rank, of those that do.

    Two messages each way: who offers what, and who could map it. Without an `outbox` this worker declines.
    """
    links = list(links)
    offer = bytes(_OFFER.size) if outbox is None else _OFFER.pack(_host(), os.getpid(), outbox.fd, outbox.nonce)
    offers = {link: bytearray(_OFFER.size) for link in links}
    _exchange(dict.fromkeys(links, offer), offers, abort, deadline)
    windows: dict[int, Window] = {}
    for link, message in offers.items():
        host, pid, fd, nonce = _OFFER.unpack(message)
        if outbox is not None and host == _host():
            try:
                windows[link.rank] = Window(pid, fd, nonce)
            except (OSError, ValueError):
                continue  # another user, a hardened /proc, …: TCP does it
    verdicts = {link: bytearray(1) for link in links}
    try:
        _exchange({link: bytes([link.rank in windows]) for link in links}, verdicts, abort, deadline)
    except BaseException:
        for window in windows.values():
            window.close()
        raise
    for link, verdict in verdicts.items():
        if not verdict[0] and link.rank in windows:
            windows.pop(link.rank).close()
    return windows


def _exchange(sent: dict[Link, bytes], received: dict[Link, bytearray], abort: Abort, deadline: float) -> None:
    for link, message in sent.items():
        link.send(memoryview(message))
        link.fill(memoryview(received[link]))
    drive(sent, abort, deadline=deadline)


def _host() -> bytes:
    """What processes have in common for which the same pid means the same process."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    namespace = Path("/proc/self/ns/pid").stat()
    return hashlib.sha256(boot + struct.pack("<QQ", namespace.st_dev, namespace.st_ino)).digest()


def _map(fd: int) -> Bytes:
    memory = mmap.mmap(fd, os.fstat(fd).st_size)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
