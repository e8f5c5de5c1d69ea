"""This worker's part in its job, as the elastic step sees it: a `Membership` over the session and the mesh.

A rendezvous is over only when the mesh stands. If a peer dies, or the coordinator breaks the generation off, while the
connections are being made, this worker arrives again, from the generation it could not join, and waits for the next.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from cordee.rpc.v1 import worker_pb2 as pb
from cordee.trainer.elastic.computes import computes_with
from cordee.trainer.elastic.header import EXCHANGE_VERSION
from cordee.trainer.elastic.protocols import (
    CheckpointPolicy,
    PeerLostError,
    ProgressReport,
    RunResult,
    World,
)
from cordee.worker.abort import Abort
from cordee.worker.activity import COMPUTING, MEETING, OUTSIDE, PREPARING
from cordee.worker.communicator import TcpCommunicator, connect
from cordee.worker.forwarder import ledger_arrived
from cordee.worker.handshake import mesh_key
from cordee.worker.listener import Listener
from cordee.worker.mesh import Peer
from cordee.worker.progress import ProgressMeter
from cordee.worker.resumption import Resumption
from cordee.worker.session import Session
from cordee.worker.settings import WorkerSettings
from cordee.worker.wire import fit

__all__ = ["WorkerMembership"]

_EXCHANGE = f"exchange {EXCHANGE_VERSION}"
"""Who speaks another one would not be understood, whatever it computes."""
CONNECT_SECONDS = 15.0
"""For all connections of a new world, whatever happens."""
SILENCE_SECONDS = 1.5
"""How long the peers that are missing may all be silent: they have been told of the same world at the same time. More
than TCP's first wait for an answer (1 s), so that one lost packet is no lost peer; a false alarm costs a rendezvous."""

REASONS = {
    "join": pb.ARRIVAL_REASON_JOIN,
    "change": pb.ARRIVAL_REASON_CHANGE,
    "lost": pb.ARRIVAL_REASON_PEER_LOST,
}


class WorkerMembership:
    """A `cordee.trainer.elastic.protocols.Membership`; `on_connected` is called once for every world joined,
    `on_committed` for every step."""

    def __init__(
        self,
        session: Session,
        listener: Listener,
        settings: WorkerSettings,
        *,
        on_connected: Callable[[], None] = lambda: None,
        on_committed: Callable[[int], None] = lambda _step: None,
    ) -> None:
        self.step = 0
        """The last committed step."""
        self._result: RunResult | None = None
        self._on_connected = on_connected
        self._on_committed = on_committed
        self._session = session
        self._activity = session.activity
        self._listener = listener
        self._settings = settings
        self._meter = ProgressMeter()
        self._resumption = Resumption()
        self._members: tuple[str, ...] = ()
        self._rank = 0
        self._mesh: tuple[tuple[str, ...], TcpCommunicator] | None = None
        self._lock = threading.Lock()
        self._abort: tuple[int, Abort] | None = None
        session.on_abort = self._aborted
        session.progress_source = self._held_back_progress

    def rendezvous(
        self, *, step: int | None, reason: Literal["join", "change", "lost"], suspects: Sequence[int] = ()
    ) -> World:
        self._flush_progress()
        self._meter.pause()
        self._resumption.meets()
        self.step = step or 0
        self._session.advance(step)
        while True:
            self._activity.enter(MEETING, self.step + 1)
            self._session.post(
                pb.WorkerMessage(
                    arrived=pb.Arrived(
                        generation=self._session.generation,
                        step=step or 0,
                        has_state=step is not None,
                        reason=REASONS[reason],
                        suspects=[self._members[rank] for rank in suspects if rank < len(self._members)],
                        computes_with=[fit(part, 256) for part in (*computes_with(), _EXCHANGE)],
                    )
                )
            )
            world = self._session.wait_world()
            self._resumption.has_world(world.generation, world.cause)
            self._members = tuple(member.worker for member in world.members)
            self._activity.members = self._members
            self._rank = self._members.index(self._settings.worker)
            try:
                communicator = self._connect(world)
            except PeerLostError as error:
                reason, suspects = "lost", error.ranks
                continue
            self._activity.enter(COMPUTING, world.step + 1)
            self._resumption.connected()
            self._mesh = (self._members, communicator)
            self._meter.members = self._members if self._rank == 0 else ()
            self._on_connected()
            return World(
                generation=world.generation,
                rank=self._rank,
                size=len(world.members),
                step=world.step,
                member_steps=tuple(member.step if member.has_state else None for member in world.members),
                communicator=communicator,
                members=tuple(f"{member.worker}/{member.incarnation}" for member in world.members),
            )

    def change_pending(self) -> bool:
        return self._session.change_pending

    def leaving(self) -> bool:
        return self._session.leaving

    def begun(self) -> None:
        if self._activity.phase == OUTSIDE:  # another loop: from here on the others wait for this worker's steps again
            self._activity.enter(COMPUTING)

    def outside(self) -> None:
        self._activity.enter(OUTSIDE)

    def at_storage(self) -> None:
        self._activity.enter(PREPARING)

    def report(self, progress: ProgressReport) -> None:
        self.step = progress.step
        self._activity.enter(COMPUTING, progress.step + 1)
        self._session.advance(progress.step)
        self._on_committed(progress.step)
        resumed = self._resumption.committed(progress.step, progress.seconds)
        if resumed is not None and self._rank == 0:
            self.note("resumed", *resumed)
        if self._meter.add(progress) and self._rank == 0:
            self._flush_progress()

    def checkpointed(self, step: int, where: str, size_bytes: int, seconds: float) -> None:
        self._session.post(
            pb.WorkerMessage(
                checkpointed=pb.Checkpointed(step=step, path=fit(where), size_bytes=size_bytes, seconds=seconds)
            )
        )

    def note(self, kind: str, message: str, seconds: float = 0.0) -> None:
        self._session.post(pb.WorkerMessage(note=pb.Note(kind=kind, message=fit(message), seconds=seconds)))

    def finished(self, result: RunResult) -> None:
        self._activity.enter(OUTSIDE)
        self._flush_progress()
        self._result = result

    def last_word(self, where: Callable[[Path], str] = str) -> pb.Finished:
        """What is to be said once the script has ended: the result of its run, or that it made none. `where` tells
        where a file is for who is told."""
        result = self._result
        if result is None:
            return pb.Finished()
        return pb.Finished(
            step=result.step,
            samples=result.samples,
            weights_sha256=result.weights_sha256,
            metrics=dict(result.metrics),
            weights_path="" if result.weights_path is None else fit(where(result.weights_path)),
        )

    def connections(self) -> dict[str, socket.socket]:
        """The connections to the peers of the world at hand, by worker id: for faults to be injected. From any
        thread; they may be closed by now."""
        if self._mesh is None:
            return {}
        members, communicator = self._mesh
        return {members[rank]: connection for rank, connection in communicator.connections().items()}

    def break_off(self, reason: str) -> None:
        """Makes a blocked exchange fail at once: this process is to go. From any thread."""
        with self._lock:
            current = self._abort
        if current is not None:
            current[1].set(reason)

    @property
    def checkpoint_policy(self) -> CheckpointPolicy | None:
        settings = self._settings
        return CheckpointPolicy(
            settings.checkpoints,
            interval_seconds=settings.checkpoint_seconds,
            interval_steps=settings.checkpoint_steps,
            keep=settings.checkpoint_keep,
            keep_seconds=settings.checkpoint_keep_seconds,
            warm_start=settings.warm_start,
        )

    @property
    def grace_seconds(self) -> float:
        return self._settings.grace_seconds

    @property
    def ledger_path(self) -> Path | None:
        return self._settings.ledger_path if self._settings.ledger else None

    def ledger_arrived(self) -> int | None:
        return ledger_arrived(self._settings.workdir) if self._settings.uploads else None

    @property
    def result_directory(self) -> Path | None:
        return self._settings.result

    # --- connecting, and breaking it off ---

    def _connect(self, world: pb.World) -> TcpCommunicator:
        abort = Abort()
        with self._lock:
            self._abort = (world.generation, abort)
        lost = self._session.aborted(world.generation)
        if lost is not None:  # it was broken off before there was a handle to break
            self._aborted(world.generation, lost)
        return connect(
            self._listener,
            generation=world.generation,
            rank=self._rank,
            members=[Peer(member.rank, member.worker, member.incarnation, member.address) for member in world.members],
            key=mesh_key(self._session.secret or self._settings.token),
            timeout_seconds=CONNECT_SECONDS,
            silence_seconds=SILENCE_SECONDS,
            abort=abort,
            activity=self._activity,
        )

    def _aborted(self, generation: int, lost: tuple[str, ...]) -> None:
        """On the session's thread, mostly."""
        with self._lock:
            current = self._abort
        if current is not None and current[0] == generation:
            members = self._members
            ranks = [members.index(worker) for worker in lost if worker in members]
            current[1].set(f"the coordinator says that {' and '.join(lost) or 'a peer'} is lost", ranks)

    # --- progress ---

    def _flush_progress(self) -> None:
        progress = self._held_back_progress()
        if progress is not None:
            self._session.post(pb.WorkerMessage(progress=progress))

    def _held_back_progress(self) -> pb.Progress | None:
        return self._meter.take(self._session.generation) if self._rank == 0 else None
