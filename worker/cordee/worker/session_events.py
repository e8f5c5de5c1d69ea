"""What happens to a worker's session, and what there is to do about it: the words between `session` and its decisions.

Frozen and printable: a list of (now, event) replays a session.
"""

from __future__ import annotations

from dataclasses import dataclass

from cordee.rpc.v1 import worker_pb2 as pb

__all__ = [
    "AbortMesh",
    "CarryOut",
    "CloseStream",
    "DeliverWorld",
    "End",
    "Event",
    "Instruction",
    "OpenStream",
    "Post",
    "ProbePeers",
    "Received",
    "Say",
    "Send",
    "StreamEnded",
    "Tick",
    "WorkerIdentity",
]


@dataclass(frozen=True)
class WorkerIdentity:
    """What is said about this process in every Hello."""

    job: str
    worker: str
    incarnation: str
    address: str
    pid: int
    previous: pb.PostMortem | None = None
    """How this worker's last process ended."""


# --- what happens -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tick:
    """Time has passed (or the session begins)."""


@dataclass(frozen=True)
class StreamEnded:
    """The stream is over; `error` is empty when the coordinator ended it in good order."""

    error: str


@dataclass(frozen=True)
class Received:
    message: pb.CoordinatorMessage


@dataclass(frozen=True)
class Post:
    """The training thread (or a signal) has something to say."""

    message: pb.WorkerMessage


Event = Tick | StreamEnded | Received | Post


# --- what to do ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenStream:
    """Open a new stream; what is to be sent on it follows."""


@dataclass(frozen=True)
class Send:
    message: pb.WorkerMessage


@dataclass(frozen=True)
class CloseStream:
    """Half-close: nothing more will be said. The coordinator ends the stream when it has read everything."""


@dataclass(frozen=True)
class DeliverWorld:
    world: pb.World


@dataclass(frozen=True)
class AbortMesh:
    generation: int
    lost: tuple[str, ...]


@dataclass(frozen=True)
class CarryOut:
    """A fault to inject into this process."""

    fault: pb.Fault


@dataclass(frozen=True)
class ProbePeers:
    """Find out who of them can be reached, and post the answer."""

    probe: pb.Probe


@dataclass(frozen=True)
class End:
    """The session is over, and with it the process."""

    code: int
    message: str


@dataclass(frozen=True)
class Say:
    """A line for the worker's log."""

    text: str


Instruction = OpenStream | Send | CloseStream | DeliverWorld | AbortMesh | CarryOut | ProbePeers | End | Say
