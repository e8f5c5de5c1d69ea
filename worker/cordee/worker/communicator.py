"""One world's exchange over TCP: the exact all-reduce, and training state from peer to peer.

The law of this file: the bits of a sum depend on the shards' gradients alone. `plan` says who adds what in which order;
here bytes are moved, and summed as they come. A worker that sees a connection break, or is told to stop, shuts all of
its own: so within moments every member knows that this world is over, whatever it was waiting for.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NoReturn

import numpy as np

from cordee.trainer.elastic.protocols import Buffer, PeerLostError
from cordee.trainer.elastic.tree import Span
from cordee.worker.abort import Abort
from cordee.worker.activity import COMPUTING, EXCHANGING, MEETING, Activity
from cordee.worker.beside import Beside
from cordee.worker.buffers import check_buffers, on_host
from cordee.worker.gpus import Gpus, GpusApartError
from cordee.worker.link import Link, drive
from cordee.worker.listener import Listener
from cordee.worker.losses import broken, watch
from cordee.worker.mesh import Peer, join
from cordee.worker.nccl import Call
from cordee.worker.plan import make_plan
from cordee.worker.reduction import Reduction
from cordee.worker.shared import HEAD_BYTES, Outbox, Window, share
from cordee.worker.states import StateReceipt, state_frame
from cordee.worker.streams import Array, SharedStream, Stream, Task, TcpStream, bytes_of

__all__ = ["TcpCommunicator", "connect"]

SEGMENT_BYTES: Final = 64 << 20
"""Larger vectors are reduced in segments of this size, in turn: it bounds the memory for what is under way."""


def connect(
    listener: Listener,
    *,
    generation: int,
    rank: int,
    members: Sequence[Peer],
    key: bytes,
    timeout_seconds: float = 30.0,
    silence_seconds: float | None = None,
    abort: Abort | None = None,
    activity: Activity | None = None,
    shared_memory: bool = True,
) -> TcpCommunicator:
    """Connects the workers of one world and returns its communicator.

    Raises `PeerLostError` as `mesh.join` does. `abort` may be set by another thread, during this call and for as
    long as the communicator lives; it is closed with it. `activity` is kept up to date all the while.
    """
    abort = abort or Abort()
    activity = activity or Activity()
    deadline = time.monotonic() + timeout_seconds
    try:
        sockets = join(
            listener,
            generation=generation,
            rank=rank,
            members=members,
            key=key,
            timeout_seconds=timeout_seconds,
            silence_seconds=silence_seconds,
            abort=abort,
            activity=activity,
        )
    except BaseException:
        abort.close()
        raise
    names = {member.rank: f"{member.worker} (rank {member.rank})" for member in members}
    communicator = TcpCommunicator(rank, len(members), sockets, names, abort, activity)
    if silence_seconds is not None:
        # A peer that waits for a silent one says nothing to us either: it is the one to say who is silent.
        deadline = min(deadline, time.monotonic() + 2.0 * silence_seconds + 1.0)
    try:
        communicator.share_memory(deadline, offer=shared_memory)
    except BaseException:
        communicator.close()
        raise
    return communicator


class TcpCommunicator:
    """`cordee.trainer.elastic.protocols.Communicator` over one TCP connection per peer."""

    def __init__(
        self,
        rank: int,
        size: int,
        sockets: Mapping[int, socket.socket],
        names: Mapping[int, str],
        abort: Abort,
        activity: Activity | None = None,
    ) -> None:
        self._rank = rank
        self._size = size
        self._links = {peer: Link(peer, sockets[peer], names[peer]) for peer in sorted(sockets)}
        self._abort = abort
        self.activity = activity or Activity()
        self._failure: tuple[str, tuple[int, ...]] | None = None
        self._closed = False
        self._operation = 0
        self._reducing: Reduction | None = None
        self._scratch = np.empty(0, np.uint8)
        self._outbox: Outbox | None = None
        self._windows: dict[int, Window] = {}
        self._gpus: Gpus | None = None
        self._unseen_since = 0.0
        """Since when a call is under way that waits for peers elsewhere than at our links; 0: none is."""
        self._beside = Beside()

    def share_memory(self, deadline: float, *, offer: bool = True) -> None:
        """Agrees with the peers of this host to exchange gradients through shared memory, if this worker offers it.

        Every worker calls it once, before anything else.
        """
        self._check_alive()
        self.activity.enter(MEETING, waits=self._awaited)
        try:
            if offer and self._links:
                try:
                    self._outbox = Outbox()
                except OSError:
                    pass  # a sandbox without memfd: TCP does it
            self._windows = share(self._links.values(), self._outbox, self._abort, deadline)
        except BaseException as error:
            self._break(error)

    @property
    def shared_with(self) -> tuple[int, ...]:
        """The peers with which gradients go through shared memory."""
        return tuple(sorted(self._windows))

    def connections(self) -> dict[int, socket.socket]:
        """By rank: what connects this worker with its peers. For faults to be injected, and for tests."""
        return {rank: link.connection for rank, link in self._links.items()}

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def size(self) -> int:
        return self._size

    def all_reduce(
        self,
        partials: Mapping[Span, Buffer],
        out: Buffer,
        *,
        num_shards: int,
        header: bytes = b"",
        keep: bool = False,
    ) -> list[bytes]:
        """See `protocols.Communicator.all_reduce`."""
        self.activity.enter(EXCHANGING, waits=self._awaited)
        try:
            self._beside.wait()
            self._check_alive()
            if not isinstance(out, np.ndarray):
                partials = {span: buffer.copy() for span, buffer in partials.items()} if keep else partials
                return self._all_reduce_on_device(partials, out, num_shards, header)
            return self._all_reduce(partials, out, num_shards, header, keep)
        finally:
            self.activity.enter(COMPUTING)

    @property
    def beside(self) -> bool:
        """See `protocols.Communicator.beside`. Copying to and from shared memory takes a processor all the time."""
        return len(self._windows) < len(self._links)

    def begin(self, partials: Mapping[Span, Buffer], out: Buffer, *, num_shards: int) -> None:
        """See `protocols.Communicator.begin`."""
        check_buffers(partials, out, make_plan(num_shards, self._size, out.size, out.itemsize).covers[self._rank])
        self._beside.put(lambda: self._all_reduce(partials, out, num_shards, b"", True))

    def finish(self) -> None:
        """See `protocols.Communicator.finish`."""
        self.activity.enter(EXCHANGING, waits=self._awaited)
        try:
            self._beside.wait()
        finally:
            self.activity.enter(COMPUTING)

    def send_states(self, ranks: Sequence[int], meta: bytes, buffers: Sequence[Buffer]) -> None:
        """See `protocols.Communicator.send_states`."""
        links = [self._peer(rank) for rank in ranks]
        pieces = [bytes_of(on_host(buffer)) for buffer in buffers]
        frame = state_frame(meta, [piece.nbytes for piece in pieces])
        self.activity.enter(MEETING, waits=self._awaited)
        try:
            for link in links:
                link.send(frame)
                for piece in pieces:
                    link.send(piece)
            drive(links, self._abort)
        except BaseException as error:
            self._break(error)
        finally:
            self.activity.enter(COMPUTING)

    def recv_states(self, ranks: Sequence[int]) -> list[tuple[bytes, list[memoryview]]]:
        """See `protocols.Communicator.recv_states`."""
        receipts = {rank: StateReceipt(self._peer(rank)) for rank in ranks}
        self.activity.enter(MEETING, waits=self._awaited)
        try:
            drive(
                [receipt.link for receipt in receipts.values()],
                self._abort,
                progress=lambda link: receipts[link.rank].advance(),
            )
        except BaseException as error:
            self._break(error)
        finally:
            self.activity.enter(COMPUTING)
        return [receipts[rank].received() for rank in ranks]

    def abort(self, reason: str) -> None:
        """Makes a blocked call, and every later one, raise `PeerLostError`. From any thread, at any time."""
        self._abort.set(reason)

    def close(self) -> None:
        """Closes the connections. What has been sent still arrives."""
        if not self._beside.idle:
            self._abort.set("this communicator is closed")
        self._beside.close()
        self._failure = self._failure or ("this communicator is closed", ())
        self._closed = True
        for link in self._links.values():
            link.connection.close()
        for window in self._windows.values():
            window.close()
        self._windows.clear()
        if self._gpus is not None:
            self._gpus.close()
        if self._outbox is not None:
            self._outbox.close()
        self._abort.close()

    def __enter__(self) -> TcpCommunicator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Private

    def _all_reduce(
        self, partials: Mapping[Span, Array], out: Array, num_shards: int, header: bytes, keep: bool
    ) -> list[bytes]:
        """By the one thread whose turn it is."""
        self._check_alive()
        plan = make_plan(num_shards, self._size, out.size, out.itemsize)
        check_buffers(partials, out, plan.covers[self._rank])
        headers: list[bytes] = []
        step = SEGMENT_BYTES // out.itemsize
        for start in range(0, max(out.size, 1), step):
            segment = {span: buffer[start : start + step] for span, buffer in partials.items()}
            heard = self._reduce(segment, out[start : start + step], num_shards, b"" if headers else header, keep)
            headers = headers or heard
        return headers

    def _awaited(self) -> list[tuple[int, float]]:
        """Which peers are waited for at the moment, and when a byte last moved on their links. From any thread."""
        reducing, unseen_since = self._reducing, self._unseen_since
        if reducing is not None:
            return reducing.awaited()
        if unseen_since:
            return [(rank, unseen_since) for rank in self._links]
        return [(link.rank, link.moved_at) for link in self._links.values() if link.receiving or link.sending]

    def _reduce(
        self, partials: Mapping[Span, Array], out: Array, num_shards: int, header: bytes, keep: bool
    ) -> list[bytes]:
        self._operation += 1
        plan = make_plan(num_shards, self._size, out.size, out.itemsize)
        try:
            self._reducing = self._reduction(Task(plan, self._rank, partials, out, keep))
            return self._reducing.run(self._operation, num_shards, header, self._abort)
        except BaseException as error:
            self._break(error)
        finally:
            self._reducing = None

    def _reduction(self, task: Task) -> Reduction:
        plan, rank = task.plan, task.rank
        shared = self._windows if plan.shared else {}
        sizes = {peer: plan.partials_bytes(peer, rank) for peer in self._links if peer not in shared}
        # Reused: fresh pages would cost as much as the bytes that come into them.
        if self._scratch.size < sum(sizes.values()):
            self._scratch = np.empty(sum(sizes.values()), np.uint8)
        scratch, at = self._scratch.data, 0
        streams: dict[int, Stream] = {}
        for peer, nbytes in sizes.items():
            streams[peer] = TcpStream(task, self._links[peer], scratch[at : at + nbytes])
            at += nbytes
        result = None
        if shared:
            assert self._outbox is not None
            layout = plan.layout(rank, HEAD_BYTES)
            result = self._outbox.memory(layout.stop)[layout.result :].view(task.out.dtype)
            for peer, window in shared.items():
                streams[peer] = SharedStream(task, self._links[peer], self._outbox, window)
        return Reduction(task, streams, result)

    def _peer(self, rank: int) -> Link:
        self._check_alive()
        if rank not in self._links:
            raise ValueError(f"rank {rank} is no peer of rank {self._rank} in a world of {self._size}")
        return self._links[rank]

    def _check_alive(self) -> None:
        if self._failure is None and self._abort.is_set():
            self._shut(self._abort.reason or "aborted", self._abort.ranks)
        if self._failure is not None:
            raise PeerLostError(*self._failure)

    def _break(self, error: BaseException) -> NoReturn:
        """Ends this world for all its members, and raises `error`."""
        if isinstance(error, PeerLostError):
            ranks = tuple(sorted({*error.ranks, *broken(self._links.values())}))
            self._shut(str(error), ranks)
            raise PeerLostError(str(error), ranks) from error
        self._shut(f"an exchange was left half done: {error!r}", ())
        raise error

    def _shut(self, reason: str, ranks: tuple[int, ...]) -> None:
        self._failure = (reason, ranks)
        for link in self._links.values():
            try:
                link.connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is broken already

    def _all_reduce_on_device(
        self, partials: Mapping[Span, Buffer], out: Buffer, num_shards: int, header: bytes
    ) -> list[bytes]:
        """By what joins the GPUs, or else through pinned host memory, since TCP reads no device's. Written with care,
        not yet run on a device."""
        if self._gpus is None:
            self._gpus = Gpus(self._rank, self._size)
        if not self._gpus.apart:
            check_buffers(partials, out, make_plan(num_shards, self._size, out.size, out.itemsize).covers[self._rank])
            self.activity.enter(EXCHANGING, waits=self._awaited)
            try:
                return self._gpus.all_reduce(
                    partials, out, num_shards, header, lambda told: self._tell(told, num_shards), self._watch
                )
            except GpusApartError as apart:
                headers = apart.headers
            except BaseException as error:
                self._break(error)
            finally:
                self.activity.enter(COMPUTING)
            self._through_host(partials, out, num_shards, b"")
            return headers
        return self._through_host(partials, out, num_shards, header)

    def _through_host(
        self, partials: Mapping[Span, Buffer], out: Buffer, num_shards: int, header: bytes
    ) -> list[bytes]:
        self.activity.enter(EXCHANGING, waits=self._awaited)
        staged = {span: on_host(buffer) for span, buffer in partials.items()}
        result = next(iter(staged.values())) if staged else np.empty(out.shape, out.dtype)
        headers = self._all_reduce(staged, result, num_shards, header, keep=False)
        out.set(result)
        return headers

    def _tell(self, told: bytes, num_shards: int) -> list[bytes]:
        """What every worker tells, by rank: an exchange of headers alone."""
        plan = make_plan(num_shards, self._size, 1, 4)
        nothing = {span: np.zeros(1, np.float32) for span in plan.covers[self._rank]}
        return self._reduce(nothing, np.zeros(1, np.float32), num_shards, told, keep=False)

    def _watch(self, call: Call, break_off: Callable[[], None]) -> Any:
        """What a call returns that waits for peers unseen."""
        self._unseen_since = time.monotonic()
        try:
            return watch(call, self._abort, self._links.values(), break_off)
        finally:
            self._unseen_since = 0.0
