"""Whether this worker reaches peers that it could not reach, found without disturbing them.

A TCP connection that comes about proves both directions: this side's first packet has arrived there, and the answer
here. The peer's kernel makes it, while its process trains and accepts nobody; so the probe is reset as soon as it
stands, and the peer's listener, which finds a dead connection at its next rendezvous, closes it unread. Until then it
has a place in that listener's queue: therefore those that could not be reached the last time are tried first, and the
others only when all of those are, so that nobody's queue fills while another one is still away.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cordee.rpc.v1 import worker_pb2 as pb
from cordee.worker.cuts import block
from cordee.worker.listener import parse_address

__all__ = ["Prober", "reach"]

_PATIENCE_SECONDS: Final = 0.4
_RESET: Final = struct.pack("ii", 1, 0)
"""`SO_LINGER` for nothing: closed by a reset. An orderly end would be answered, and leave a trace on this side."""


def reach(
    peers: Sequence[pb.Member], cut: Mapping[str, float], patience_seconds: float = _PATIENCE_SECONDS
) -> frozenset[str]:
    """The incarnations of those that can be connected to within the time. `cut`: links that a fault has cut, until when
    (`cordee.worker.faults`)."""
    reached: set[str] = set()
    dials: dict[int, tuple[str, socket.socket]] = {}
    poll = select.poll()
    waiting = 0
    try:
        for peer in peers:
            try:
                host, port = parse_address(peer.address)
                family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
                connection = socket.socket(family, kind, protocol)
            except (OSError, ValueError):
                continue
            dials[connection.fileno()] = peer.incarnation, connection
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            if cut.get(peer.worker, 0.0) > time.monotonic():
                block(connection)
            if connection.connect_ex(where) in (0, errno.EINPROGRESS):
                poll.register(connection, select.POLLOUT)
                waiting += 1
        deadline = time.monotonic() + patience_seconds
        while waiting:
            left = deadline - time.monotonic()
            # Looked at once more when the time is over: this thread may not have run meanwhile.
            for fd, _ in poll.poll(max(0.0, left) * 1000.0):
                incarnation, connection = dials[fd]
                if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    reached.add(incarnation)
                poll.unregister(fd)
                waiting -= 1
            if left <= 0.0:
                break
    finally:
        for _, connection in dials.values():
            connection.close()
    return frozenset(reached)


class Prober:
    """Carries probes out, one at a time, each in a thread of its own."""

    def __init__(self, cut: Mapping[str, float], post: Callable[[pb.WorkerMessage], None]) -> None:
        self._cut = cut
        self._post = post
        self._busy = threading.Lock()
        self._missed: frozenset[str] = frozenset()
        """Who was not reached the last time."""

    def start(self, probe: pb.Probe) -> None:
        """Answers with `Reached`. Returns at once; does nothing while the last probe goes on."""
        if self._busy.acquire(blocking=False):
            threading.Thread(target=self._run, args=(probe,), name="cordee-probe", daemon=True).start()

    def _run(self, probe: pb.Probe) -> None:
        try:
            peers = list(probe.peers)
            doubtful = [peer for peer in peers if peer.incarnation in self._missed]
            rest = [peer for peer in peers if peer not in doubtful]
            reached: frozenset[str] = frozenset()
            for group in (doubtful, rest):
                reached |= reach(group, self._cut)
                self._missed = frozenset(peer.incarnation for peer in group) - reached
                if self._missed:
                    break
        finally:
            self._busy.release()
        self._post(pb.WorkerMessage(reached=pb.Reached(incarnations=sorted(reached))))
