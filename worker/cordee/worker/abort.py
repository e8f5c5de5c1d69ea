"""A handle by which one thread makes another stop waiting on sockets, at once.

The training thread blocks in `poll`; the session thread learns from the coordinator that a peer is lost. An event that
only sets a flag would be seen when the next byte arrives, which from a lost peer is never. So the handle is also a file
descriptor that the blocked `poll` watches.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

__all__ = ["Abort"]


class Abort:
    """Set once, by any thread; made for one world: `mesh.join` takes it and its communicator keeps it."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self.reason: str | None = None
        """Why; None: not set."""
        self.ranks: tuple[int, ...] = ()
        """The peers said to be lost, if that is the reason and they are known."""

    def set(self, reason: str, ranks: Sequence[int] = ()) -> None:
        """Wakes whoever waits with this handle. The first reason stays; after `close` nothing happens."""
        with self._lock:
            if self.reason is None and self._fd >= 0:
                self.ranks = tuple(ranks)
                self.reason = reason
                os.eventfd_write(self._fd, 1)

    def is_set(self) -> bool:
        return self.reason is not None

    def fileno(self) -> int:
        """Readable from the moment it is set."""
        return self._fd

    def close(self) -> None:
        """By the waiting thread, when it will not wait again."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)
