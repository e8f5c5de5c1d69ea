"""Connecting the workers of one world, each with each.

Of two workers the one of higher rank dials; both then know the other by `handshake`. One `poll` loop carries every
handshake of this worker at once, so that it does not matter who comes first, and it watches the connections that stand
already: a peer that dies in the meantime is reported at once, not when a deadline passes.

A connection that claims a later generation than ours is kept for the next call; anything else that does not belong here
is answered (if it is authentic) or dropped (if it is not), and changes nothing for the others.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cordee.trainer.elastic.protocols import PeerLostError
from cordee.worker import handshake
from cordee.worker.abort import Abort
from cordee.worker.activity import MEETING, Activity
from cordee.worker.cuts import block
from cordee.worker.listener import Incoming, Listener, parse_address, tune

__all__ = ["Peer", "join"]

_GONE: Final = select.POLLHUP | select.POLLERR | select.POLLRDHUP
_HOUSEKEEPING_SECONDS: Final = 0.25


@dataclass(frozen=True)
class Peer:
    """A member of the world, as the coordinator announces it."""

    rank: int
    worker: str
    incarnation: str
    address: str

    @property
    def identity(self) -> bytes:
        return handshake.identity(self.worker, self.incarnation)


def join(
    listener: Listener,
    *,
    generation: int,
    rank: int,
    members: Sequence[Peer],
    key: bytes,
    timeout_seconds: float,
    abort: Abort,
    silence_seconds: float | None = None,
    activity: Activity | None = None,
) -> dict[int, socket.socket]:
    """Connects this worker with every other member; the sockets, non-blocking, by rank.

    Raises `PeerLostError` when a peer cannot be reached, is somebody else, breaks off, does not come in time, or
    `abort` is set. Nothing stays open then. With `silence_seconds` the peers that are missing are given up as soon as
    none of them has moved for so long: time that this process itself was kept from running does not count.
    """
    if [member.rank for member in members] != list(range(len(members))):
        raise ValueError(f"members come in rank order, from 0, got ranks {[member.rank for member in members]}")
    if not 0 <= rank < len(members):
        raise ValueError(f"rank {rank} is not in a world of {len(members)}")
    attempt = _Attempt(
        listener,
        generation=generation,
        rank=rank,
        members=members,
        key=key,
        timeout_seconds=timeout_seconds,
        silence_seconds=silence_seconds,
        abort=abort,
    )
    if activity is not None:
        activity.enter(MEETING, waits=attempt.awaited)
    try:
        attempt.run()
    except BaseException:
        attempt.close()
        raise
    return attempt.connected


@dataclass(eq=False)
class _Dial:
    """Our connection to a peer of lower rank, on its way: connecting, then challenged, then answered."""

    peer: Peer
    connection: socket.socket
    connecting: bool
    nonce: bytes = b""
    hello: bytes = b""
    received: bytearray = field(default_factory=bytearray)


class _Attempt:
    def __init__(
        self,
        listener: Listener,
        *,
        generation: int,
        rank: int,
        members: Sequence[Peer],
        key: bytes,
        timeout_seconds: float,
        silence_seconds: float | None,
        abort: Abort,
    ) -> None:
        self.listener = listener
        self.generation = generation
        self.rank = rank
        self.members = members
        self.key = key
        self.timeout_seconds = timeout_seconds
        self.deadline = time.monotonic() + timeout_seconds
        self.silence_seconds = timeout_seconds if silence_seconds is None else silence_seconds
        self.silent = 0.0
        """How long nothing has come from the peers that are missing, as far as this process was awake."""
        self.moved_at = dict.fromkeys((member.rank for member in members if member.rank != rank), time.monotonic())
        """When a peer that is missing last did something."""
        self.abort = abort
        self.dials: list[_Dial] = []
        self.connected: dict[int, socket.socket] = {}

    def run(self) -> None:
        for incoming in list(self.listener.incoming):
            if incoming.claim is not None:
                self._consider(incoming)
        for peer in self.members[: self.rank]:
            self._dial(peer)
        while len(self.connected) < len(self.members) - 1:
            self._wait()
        if self.abort.is_set():
            self._aborted()

    def awaited(self) -> list[tuple[int, float]]:
        """The peers that are missing; from any thread."""
        return list(self.moved_at.items())

    def close(self) -> None:
        for dial in self.dials:
            dial.connection.close()
        for connection in self.connected.values():
            connection.close()

    def _wait(self) -> None:
        if self.abort.is_set():
            self._aborted()
        remaining = self.deadline - time.monotonic()
        if remaining <= 0 or self.silent >= self.silence_seconds:
            missing = sorted(self.moved_at)
            seconds = self.timeout_seconds if remaining <= 0 else self.silence_seconds
            raise PeerLostError(f"{self._names(missing)} did not connect within {seconds:g} s", missing)
        poll = select.poll()
        poll.register(self.abort.fileno(), select.POLLIN)
        poll.register(self.listener, select.POLLIN)
        dials = {dial.connection.fileno(): dial for dial in self.dials}
        for fd, dial in dials.items():
            poll.register(fd, select.POLLOUT if dial.connecting else select.POLLIN)
        # Parked ones have said all they have to say: watching them for input would find nothing but their end.
        silent = {one.connection.fileno(): one for one in self.listener.incoming if one.claim is None}
        for fd in silent:
            poll.register(fd, select.POLLIN)
        standing = {connection.fileno(): rank for rank, connection in self.connected.items()}
        for fd in standing:
            poll.register(fd, select.POLLRDHUP)
        patience = min(remaining, _HOUSEKEEPING_SECONDS, max(self.silence_seconds - self.silent, 0.001))
        begun = time.monotonic()
        found = poll.poll(patience * 1000)
        self.silent += min(time.monotonic() - begun, patience)
        for fd, events in found:
            if fd in standing and events & _GONE:
                lost = standing[fd]
                raise PeerLostError(f"{self._names([lost])} broke off while the world was connecting", [lost])
            if fd in dials:
                self._advance(dials[fd])
            elif fd in silent:
                self._read(silent[fd])
            elif fd == self.listener.fileno():
                for incoming in self.listener.accept():
                    self._read(incoming)
        self.listener.drop_silent()

    # The dialling side

    def _dial(self, peer: Peer) -> None:
        host, port = parse_address(peer.address)
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            connection = socket.socket(family, kind, protocol)
        except OSError as error:
            raise self._unreachable(peer, error.strerror or str(error)) from error
        connection.setblocking(False)
        dial = _Dial(peer, connection, connecting=True)
        self.dials.append(dial)
        tune(connection)
        if self.listener.cut.get(peer.worker, 0.0) > time.monotonic():
            block(connection)
        code = connection.connect_ex(where)
        if code not in (0, errno.EINPROGRESS):
            raise self._unreachable(peer, os.strerror(code))

    def _moved(self, rank: int) -> None:
        self.silent = 0.0
        self.moved_at[rank] = time.monotonic()

    def _stands(self, rank: int, connection: socket.socket) -> None:
        self._moved(rank)
        self.connected[rank] = connection
        del self.moved_at[rank]

    def _advance(self, dial: _Dial) -> None:
        """Takes one dialled connection as far as it goes without waiting."""
        peer, connection = dial.peer, dial.connection
        self._moved(peer.rank)
        if dial.connecting:
            code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise self._unreachable(peer, os.strerror(code))
            dial.connecting = False
        wanted = handshake.ANSWER_BYTES if dial.hello else handshake.CHALLENGE_BYTES
        try:
            data = connection.recv(wanted - len(dial.received))
            if not data:
                raise self._unreachable(peer, "it closed the connection")
            dial.received += data
            if len(dial.received) < wanted:
                return
            message = bytes(dial.received)
            dial.received.clear()
            if dial.hello:
                self._answered(dial, message)
                return
            nonce = handshake.open_challenge(message)
            if nonce is None:
                raise self._unreachable(peer, "what answers there is not a Cordee worker of this version")
            dial.nonce = nonce
            me = self.members[self.rank].identity
            claim = handshake.Hello(
                self.generation, len(self.members), self.rank, peer.rank, me, accepting=peer.identity
            )
            dial.hello = handshake.hello(self.key, nonce, claim)
            connection.send(dial.hello)
        except BlockingIOError:
            return
        except OSError as error:
            raise self._unreachable(peer, error.strerror or str(error)) from error

    def _answered(self, dial: _Dial, message: bytes) -> None:
        status = handshake.check_answer(self.key, dial.nonce, dial.hello, message)
        if status is None:
            raise self._unreachable(dial.peer, "what answers there does not know this job's key")
        if status != handshake.ACCEPTED:
            reason = handshake.REFUSALS.get(status, f"status {status}")
            raise self._unreachable(dial.peer, f"it refused generation {self.generation}: {reason}")
        self.dials.remove(dial)
        self._stands(dial.peer.rank, dial.connection)

    # The accepting side

    def _read(self, incoming: Incoming) -> None:
        if incoming not in self.listener.incoming:
            return  # it was dropped a moment ago, to make room
        if not incoming.read(self.key):
            self.listener.drop(incoming)
        elif incoming.claim is not None:
            self._consider(incoming)

    def _consider(self, incoming: Incoming) -> None:
        """Takes, refuses or keeps a connection whose hello is authentic."""
        claim = incoming.claim
        assert claim is not None
        if claim.generation > self.generation:
            return  # the dialling side learned of the next world before we did: it waits in the listener
        status = self._verdict(claim)
        if not incoming.answer(self.key, status) or status != handshake.ACCEPTED:
            self.listener.drop(incoming)
            return
        self.listener.incoming.remove(incoming)
        self._stands(claim.dialling_rank, incoming.connection)

    def _verdict(self, claim: handshake.Hello) -> int:
        if claim.generation < self.generation:
            return handshake.STALE
        if not self.rank < claim.dialling_rank < len(self.members):
            return handshake.MISMATCH
        dialling, accepting = self.members[claim.dialling_rank], self.members[self.rank]
        told = (claim.size, claim.accepting_rank, claim.dialling, claim.accepting)
        if told != (len(self.members), self.rank, dialling.identity, accepting.identity):
            return handshake.MISMATCH
        return handshake.DUPLICATE if claim.dialling_rank in self.connected else handshake.ACCEPTED

    # What is told

    def _aborted(self) -> None:
        raise PeerLostError(self.abort.reason or "aborted", self.abort.ranks)

    def _unreachable(self, peer: Peer, why: str) -> PeerLostError:
        return PeerLostError(f"cannot reach {self._names([peer.rank])} at {peer.address}: {why}", [peer.rank])

    def _names(self, ranks: Sequence[int]) -> str:
        return " and ".join(f"{self.members[rank].worker} (rank {rank})" for rank in ranks)
