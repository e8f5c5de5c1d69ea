"""One direction-pair of bytes between this worker and one peer, without ever waiting.

A link has a queue of memory to send and a queue of memory to fill; `push` and `pull` move what the socket takes and
gives right now. Waiting is done by `drive`, for all links at once, so that workers that all send and receive at the
same time cannot wait for one another in a circle.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from cordee.trainer.elastic.protocols import PeerLostError
from cordee.worker.abort import Abort

__all__ = ["Link", "drive"]

_MAX_PIECES: Final = 64
"""Pieces of memory per system call."""
_LOOK_SECONDS: Final = 1.0
"""How often, while nothing moves, the kernel is asked whether the peers' machines still answer."""
_TCP_INFO: Final = struct.Struct("=2xBB20xI28xI")
"""Of Linux' `struct tcp_info`: retransmits, probes, unacked, last_ack_recv."""
_UNANSWERED: Final = 3
"""Retransmissions in a row: the third goes out 7 times the round trip's time-out (0.2 s or more) after the first."""
_SILENT_MS: Final = 1500
_PULL_BYTES: Final = 4 << 20
"""At most so many bytes are received from one peer before the others have their turn."""


class Link:
    """The connection to the peer of `rank`; `name` is what errors call it."""

    __slots__ = ("_fill", "_queue", "connection", "fd", "moved_at", "name", "rank", "received")

    def __init__(self, rank: int, connection: socket.socket, name: str) -> None:
        self.rank = rank
        self.connection = connection
        self.fd = connection.fileno()
        self.name = name
        self.received = 0
        """All bytes that `pull` has received so far."""
        self.moved_at = float("-inf")
        """When `drive` last found that a byte had come, or that one could go (by the monotonic clock)."""
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

    def vanished(self) -> bool:
        """Whether the kernel, which has sent again and again, hears nothing at all from the peer's machine.

        It would itself wait for a quarter of an hour. `TCP_USER_TIMEOUT` would be shorter, but it counts the time that
        a peer leaves its window full as well, and a peer that computes for a minute is not lost: its machine answers.
        """
        try:
            info = self.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        except OSError:
            return False  # broken by now: the next call says how
        if len(info) < _TCP_INFO.size:
            return False
        retransmits, probes, unacknowledged, silent_ms = _TCP_INFO.unpack(info)
        unanswered: int = retransmits if unacknowledged else probes
        return unanswered >= _UNANSWERED and int(silent_ms) >= _SILENT_MS

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
        found = poll.poll(0 if busy else _patience(active.values(), deadline))
        if not found:
            if not busy:
                _find_vanished(active.values())
            continue
        now = time.monotonic()
        for fd, events in found:
            if fd not in active:
                raise PeerLostError(abort.reason or "aborted", abort.ranks)
            link = active[fd]
            link.moved_at = now
            if link.receiving and events & ~select.POLLOUT:
                link.pull()
                if progress is not None:
                    progress(link)
            elif events & ~(select.POLLIN | select.POLLOUT):
                raise link.lost("the connection broke")
            if link.sending:
                link.push()


def _patience(links: Iterable[Link], deadline: float | None) -> float:
    """Milliseconds until the deadline, or until it is time to see whether the peers are still there."""
    if deadline is None:
        return _LOOK_SECONDS * 1000
    left = deadline - time.monotonic()
    if left <= 0:
        waiting = [link for link in links if link.receiving or link.sending]
        names = " and ".join(link.name for link in waiting)
        raise PeerLostError(f"{names} did not answer in time", [link.rank for link in waiting])
    return min(left, _LOOK_SECONDS) * 1000 + 1


def _find_vanished(links: Iterable[Link]) -> None:
    """Raises `PeerLostError` for peers whose machine answers no more."""
    lost = [link for link in links if (link.receiving or link.sending) and link.vanished()]
    if lost:
        names = " and ".join(link.name for link in lost)
        raise PeerLostError(f"lost {names}: the network answers no more", [link.rank for link in lost])
