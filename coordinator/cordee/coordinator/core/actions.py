"""What the shell is to do, in this order. All of it is safe to repeat, none of it answers.

`Persist`, when there is one, is the first action of its list, and must be durable before any later one is carried out:
so a world, a result or an end that anybody was told of is never forgotten. Messages go to one incarnation of a worker;
when its stream is gone, the message is dropped (the machine learns of that by `WorkerDetached`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cordee.coordinator.core.model import ExitCause, JobState, LossCause, Member, PostMortem, StopReason, World
from cordee.coordinator.core.record import JobRecord

__all__ = [
    "Action",
    "Persist",
    "RecordAgentExit",
    "RecordDeath",
    "RecordEvent",
    "RecordRecovery",
    "SendAbort",
    "SendChangePending",
    "SendProbe",
    "SendStop",
    "SendWorld",
    "SetState",
    "StartAgent",
    "StopAgent",
]


@dataclass(frozen=True, slots=True)
class Persist:
    """Store this record in place of the job's last one."""

    record: JobRecord


@dataclass(frozen=True, slots=True)
class StartAgent:
    """Idempotent: nothing to do when this worker's agent runs. A failure comes back as `AgentExited(code=None)`."""

    worker: str


@dataclass(frozen=True, slots=True)
class StopAgent:
    """End this worker's agent and its worker process; `AgentExited` follows, or `AgentAbsent` when there was none.

    SIGTERM, and SIGKILL after `grace_seconds`; with 0, SIGKILL to the whole process group at once (the process may be
    stopped or hang).
    """

    worker: str
    grace_seconds: float
    start: int = field(default=0, compare=False)
    """Which of the job's agents is meant, by the number of its start: for `AgentAbsent`."""

    @property
    def kill(self) -> bool:
        return self.grace_seconds == 0.0


@dataclass(frozen=True, slots=True)
class SendWorld:
    worker: str
    incarnation: str
    world: World


@dataclass(frozen=True, slots=True)
class SendChangePending:
    worker: str
    incarnation: str
    generation: int


@dataclass(frozen=True, slots=True)
class SendAbort:
    """Break the exchange of this generation off and come to the rendezvous. `lost` may be empty: a peer has left it."""

    worker: str
    incarnation: str
    generation: int
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SendProbe:
    """Ask a worker that stays out whether it reaches these peers again; it answers with `WorkerReached`."""

    worker: str
    incarnation: str
    peers: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class SendStop:
    """Send Stop and end the stream. To a worker that has said Finished, Stop(FINISHED) is the acknowledgement."""

    worker: str
    incarnation: str
    reason: StopReason
    message: str = ""


@dataclass(frozen=True, slots=True)
class SetState:
    """The job's state or its reason changed (both are in the record too): tell watchers and metrics."""

    state: JobState
    reason: str


@dataclass(frozen=True, slots=True)
class RecordRecovery:
    """A new world was formed because of a loss, `seconds` after it was noticed."""

    cause: LossCause
    seconds: float


@dataclass(frozen=True, slots=True)
class RecordDeath:
    """A worker's process died, unasked, and another one has taken its place."""

    worker: str
    death: PostMortem


@dataclass(frozen=True, slots=True)
class RecordAgentExit:
    """An agent ended, and nobody had asked it to."""

    worker: str
    cause: ExitCause


@dataclass(frozen=True, slots=True)
class RecordEvent:
    """A line for the job's list of events."""

    kind: str
    message: str


Action = (
    Persist
    | StartAgent
    | StopAgent
    | SendWorld
    | SendChangePending
    | SendAbort
    | SendProbe
    | SendStop
    | SetState
    | RecordRecovery
    | RecordDeath
    | RecordAgentExit
    | RecordEvent
)
