"""One direction-pair of bytes between this worker and one peer, without ever waiting.

A link has a queue of memory to send and a queue of memory to fill; `push` and `pull` move what the socket takes and
gives right now. Waiting is done by `drive`, for all links at once, so that workers that all send and receive at the
same time cannot wait for one another in a circle.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from cordee.trainer.elastic.protocols import PeerLostError
from cordee.worker.abort import Abort

__all__ = ["Link", "drive"]

_MAX_PIECES: Final = 64
"""Pieces of memory per system call."""
_PULL_BYTES: Final = 4 << 20
"""At most so many bytes are received from one peer before the others have their turn."""


class Link:
    """The connection to the peer of `rank`; `name` is what errors call it."""

    __slots__ = ("_fill", "_queue", "connection", "fd", "name", "rank", "received")

    def __init__(self, rank: int, connection: socket.socket, name: str) -> None:
        self.rank = rank
        self.connection = connection
        self.fd = connection.fileno()
        self.name = name
        self.received = 0
        """All bytes that `pull` has received so far."""
        self._queue: deque[memoryview] = deque()
        self._fill: deque[memoryview] = deque()

    @property
    def sending(self) -> bool:
        return bool(self._queue)

    @property
    def receiving(self) -> bool:
        return bool(self._fill)

    @property
    def expected(self) -> int:
        """How many bytes are still to be filled."""
        return sum(piece.nbytes for piece in self._fill)

    def send(self, piece: memoryview) -> None:
        """Queues bytes (format `B`), which must stay as they are until sent."""
        if piece.nbytes:
            self._queue.append(piece)

    def fill(self, piece: memoryview) -> None:
        """Queues writable bytes (format `B`) to be filled with what the peer sends."""
        if piece.nbytes:
            self._fill.append(piece)

    def push(self) -> None:
        """Sends what the socket takes now."""
        queue = self._queue
        try:
            while queue:
                if len(queue) == 1:
                    sent = self.connection.send(queue[0])
                else:
                    sent = self.connection.sendmsg([queue[i] for i in range(min(len(queue), _MAX_PIECES))])
                while queue and sent >= queue[0].nbytes:
                    sent -= queue.popleft().nbytes
                if sent:
                    queue[0] = queue[0][sent:]
        except BlockingIOError:
            return
        except OSError as error:
            raise self.lost(error.strerror or str(error)) from error

    def pull(self) -> None:
        """Receives what is there now, up to a few megabytes, into the memory queued by `fill`."""
        fill = self._fill
        enough = self.received + _PULL_BYTES
        try:
            while fill and self.received < enough:
                want = min(fill[0].nbytes, _PULL_BYTES)
                got = self.connection.recv_into(fill[0], want)
                if not got:
                    raise self.lost("it closed the connection")
                self.received += got
                if got == fill[0].nbytes:
                    fill.popleft()
                else:
                    fill[0] = fill[0][got:]
                    if got < want:
                        break  # the socket is empty
        except BlockingIOError:
            return
        except OSError as error:
            raise self.lost(error.strerror or str(error)) from error

    def lost(self, why: str) -> PeerLostError:
        return PeerLostError(f"lost {self.name}: {why}", [self.rank])


def drive(
    links: Iterable[Link],
    abort: Abort,
    progress: Callable[[Link], object] | None = None,
    work: Callable[[], bool] | None = None,
    *,
    deadline: float | None = None,
) -> None:
    """Moves bytes until none of `links` has anything queued, either way, and there is no more `work`.

    `progress` is called when bytes may have come in from a link; `work` does a little of what needs no waiting and
    tells whether there was any. Both may queue more. Raises `PeerLostError` when a connection breaks that still has
    something to do, when `abort` is set, or when the `deadline` (of the monotonic clock) has passed.
    """
    active = {link.fd: link for link in links}
    masks = dict.fromkeys(active, 0)
    poll = select.poll()
    poll.register(abort.fileno(), select.POLLIN)
    for link in active.values():
        link.push()
    while True:
        busy = work is not None and work()
        for fd, link in active.items():
            mask = (select.POLLIN if link.receiving else 0) | (select.POLLOUT if link.sending else 0)
            if masks[fd] == mask:
                continue
            # A link that has done its part is not watched: a peer that has finished may have closed it already.
            if mask:
                poll.register(fd, mask)
            else:
                poll.unregister(fd)
            masks[fd] = mask
        if not busy and not any(masks.values()):
            return
        for fd, events in poll.poll(0 if busy else _patience(active.values(), deadline)):
            if fd not in active:
                raise PeerLostError(abort.reason or "aborted", abort.ranks)
            link = active[fd]
            if link.receiving and events & ~select.POLLOUT:
                link.pull()
                if progress is not None:
                    progress(link)
            elif events & ~(select.POLLIN | select.POLLOUT):
                raise link.lost("the connection broke")
            if link.sending:
                link.push()


def _patience(links: Iterable[Link], deadline: float | None) -> float | None:
    """Milliseconds until the deadline; None: for ever."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        waiting = [link for link in links if link.receiving or link.sending]
        names = " and ".join(link.name for link in waiting)
        raise PeerLostError(f"{names} did not answer in time", [link.rank for link in waiting])
    return left * 1000 + 1
