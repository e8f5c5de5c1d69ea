"""The port on which a worker process meets its peers, open for the life of the process.

It outlives worlds: its address goes to the coordinator once, and a peer that learns of the next world before this
worker does finds the port open and waits there (in the kernel's backlog, or parked here once its hello has been read).
Nothing is read between rendezvous, so nobody who connects can disturb a world that is training.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

from cordee.worker import handshake
from cordee.worker.forks import close_in_children

__all__ = ["Incoming", "Listener", "parse_address", "tune"]

_BACKLOG: Final = 256
_MAX_INCOMING: Final = 128
"""More connections than this at once wait in the kernel; strangers who say nothing are dropped first."""
_PATIENCE_SECONDS: Final = 5.0
"""How long a connection may be open without having said who it is."""


@dataclass(eq=False)
class Incoming:
    """A connection that someone has made to us, before it is known to be a peer of this world."""

    connection: socket.socket
    nonce: bytes
    since: float
    received: bytearray = field(default_factory=bytearray)
    claim: handshake.Hello | None = None
    """Set once its hello has been read and is authentic."""

    def read(self, key: bytes) -> bool:
        """Reads what is there without waiting. False: it is no peer, or gone; drop it."""
        try:
            while len(self.received) < handshake.HELLO_BYTES:
                data = self.connection.recv(handshake.HELLO_BYTES - len(self.received))
                if not data:
                    return False
                self.received += data
        except BlockingIOError:
            return True
        except OSError:
            return False
        if self.claim is None:
            self.claim = handshake.open_hello(key, self.nonce, bytes(self.received))
        return self.claim is not None

    def answer(self, key: bytes, status: int) -> bool:
        """Sends the verdict; False: it is gone."""
        message = handshake.answer(key, self.nonce, bytes(self.received), status)
        try:
            return self.connection.send(message) == len(message)
        except OSError:
            return False


class Listener:
    """Listens on `host` at a free port. `address` is what peers dial: `host:port`, IPv6 in brackets."""

    def __init__(self, host: str) -> None:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )[0]
        self._socket = socket.socket(family, kind, protocol)
        close_in_children(self._socket)
        try:
            self._socket.bind(where)
            self._socket.listen(_BACKLOG)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise
        port = self._socket.getsockname()[1]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.incoming: list[Incoming] = []
        """Connections that no world has taken yet, oldest first."""
        self.cut: dict[str, float] = {}
        """Workers that cannot be reached, and until when: a fault that was injected (`cordee.worker.faults`)."""

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self) -> list[Incoming]:
        """Takes the connections that wait, and challenges them. Never blocks."""
        fresh: list[Incoming] = []
        while len(self.incoming) < _MAX_INCOMING or self._stranger() is not None:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # none waits, or one was gone before it was taken
                break
            if len(self.incoming) >= _MAX_INCOMING and (stranger := self._stranger()) is not None:
                self.drop(stranger)
            message, nonce = handshake.challenge()
            incoming = Incoming(connection, nonce, time.monotonic())
            try:
                connection.setblocking(False)
                tune(connection)
                connection.send(message)
            except OSError:  # reset while it waited, as probes are (`cordee.worker.prober`)
                connection.close()
                continue
            self.incoming.append(incoming)
            fresh.append(incoming)
        return fresh

    def drop(self, incoming: Incoming) -> None:
        self.incoming.remove(incoming)
        incoming.connection.close()

    def drop_silent(self) -> None:
        """Closes connections that have had time enough to say who they are and have not."""
        now = time.monotonic()
        for incoming in [one for one in self.incoming if one.claim is None and now - one.since > _PATIENCE_SECONDS]:
            self.drop(incoming)

    def _stranger(self) -> Incoming | None:
        """The one that has been silent for longest about who it is."""
        return next((incoming for incoming in self.incoming if incoming.claim is None), None)

    def close(self) -> None:
        self._socket.close()
        for incoming in list(self.incoming):
            self.drop(incoming)

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def parse_address(address: str) -> tuple[str, int]:
    """`host:port` or `[IPv6]:port`, taken apart."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit():
        raise ValueError(f"a worker's address is host:port, got {address!r}")
    return host, int(port)


def tune(connection: socket.socket) -> None:
    """Options of a connection between workers.

    Frames are small and waited for, so no Nagle. A machine that vanishes without a word is found even when the
    coordinator is down: in 2 to 3 s where something was sent to it (`Link.vanished`), by keep-alives in 4 s where
    nothing was; three in a row must be lost, since a lossy network loses one now and then. No `TCP_USER_TIMEOUT`: it
    would take a peer that computes for a minute, with a full window, for lost. Buffer sizes are left to the kernel:
    setting them switches its autotuning off.
    """
    options = (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    )
    close_in_children(connection)
    for level, option, value in options:
        connection.setsockopt(level, option, value)
