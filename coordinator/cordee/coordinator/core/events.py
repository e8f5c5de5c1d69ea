"""What happens to a job, as the shell reports it. Frozen and printable: a list of (now, event) replays a history.

Events of a worker carry its incarnation. The shell reports them in the order of the worker's stream, `WorkerAttached`
first, and `WorkerDetached` last. When a worker opens a second stream before the shell has seen the first one break, the
shell drops the first without a word: `WorkerDetached` is reported only for a stream that is still the newest of its
incarnation.
"""

from __future__ import annotations

from dataclasses import dataclass

from cordee.coordinator.core.activity import Activity
from cordee.coordinator.core.model import ArrivalReason, ExitCause, Outlook, PostMortem, Result

__all__ = [
    "AgentAbsent",
    "AgentExited",
    "AgentNoted",
    "CancelRequested",
    "Event",
    "JobRefused",
    "Recovered",
    "ScaleRequested",
    "Scheduled",
    "ScriptFailed",
    "Tick",
    "WorkerArrived",
    "WorkerAttached",
    "WorkerCheckpointed",
    "WorkerDetached",
    "WorkerFinished",
    "WorkerHeard",
    "WorkerLeaving",
    "WorkerReached",
]


@dataclass(frozen=True, slots=True)
class WorkerAttached:
    """A worker's Hello. The shell answers Welcome itself (with `JobMachine.generation`), before it gives this event.

    `step` is None when the worker holds no state (Hello.has_state is false), else its last committed step.
    """

    worker: str
    incarnation: str
    address: str = ""
    generation: int = 0
    step: int | None = None
    pid: int = 0
    waiting: bool = False
    previous: PostMortem | None = None
    """How the worker's last process ended; None: it is not known, or this is the first."""


@dataclass(frozen=True, slots=True)
class WorkerDetached:
    """The worker's stream has ended, by whatever end."""

    worker: str
    incarnation: str


@dataclass(frozen=True, slots=True)
class WorkerHeard:
    """A Heartbeat, or any other message that is no event of its own (Progress, Note). Cheap to handle."""

    worker: str
    incarnation: str
    step: int | None = None
    """The step the message told of; None: it told of none, and the last known one stays."""
    activity: Activity | None = None
    """What its training thread does; None: the message did not tell, and the last word stays."""
    paces: tuple[tuple[str, float], ...] = ()
    """Seconds per shard of the members, the mean since this was told last."""


@dataclass(frozen=True, slots=True)
class WorkerArrived:
    """The worker waits at a step boundary. `step` is None when it holds no state."""

    worker: str
    incarnation: str
    generation: int
    step: int | None
    reason: ArrivalReason
    suspects: tuple[str, ...] = ()
    computes_with: tuple[str, ...] = ()
    """What decides the bits of its numbers beside the script, and how it talks to its peers, part by part; empty: it
    does not say."""


@dataclass(frozen=True, slots=True)
class WorkerLeaving:
    """Its process was asked to go. Said again after attaching again: a coordinator that dies forgets it."""

    worker: str
    incarnation: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WorkerReached:
    """A worker that stays out has tried to reach the peers it is cut off from."""

    worker: str
    incarnation: str
    reached: tuple[str, ...]
    """The incarnations of those that it does reach."""


@dataclass(frozen=True, slots=True)
class WorkerCheckpointed:
    """A worker has committed a checkpoint of this step."""

    worker: str
    incarnation: str
    step: int


@dataclass(frozen=True, slots=True)
class WorkerFinished:
    worker: str
    incarnation: str
    result: Result


@dataclass(frozen=True, slots=True)
class ScriptFailed:
    worker: str
    incarnation: str
    exception: str
    traceback: str = ""
    step: int = 0


@dataclass(frozen=True, slots=True)
class AgentExited:
    """An agent has exited, or could not be started.

    `code` is its exit code, negative for a signal, None when it could not be started or is gone for reasons that the
    launcher does not know; `message` then says why.
    """

    worker: str
    code: int | None
    message: str = ""
    taken: bool = False
    """The substrate took it (evicted, preempted, its machine lost): it is nobody's fault, counts for nothing, and
    `message` is a whole sentence."""
    cause: ExitCause | None = None
    """What the substrate says of why; None: the code says it."""


@dataclass(frozen=True, slots=True)
class AgentNoted:
    """What the launcher knows of an agent that has not ended: why it does not run yet, or what happens to it.

    `message` is a whole sentence; empty: it runs now.
    """

    worker: str
    kind: str
    """A word for the history; empty: it is worth no line there."""
    message: str = ""
    outlook: Outlook | None = None
    """It does not run yet, and what is to be expected; None: it runs."""


@dataclass(frozen=True, slots=True)
class AgentAbsent:
    """A `StopAgent` found no agent. It speaks of the moment of the stop: one that was started since is not meant."""

    worker: str
    start: int = 0
    """`StopAgent.start`."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The scheduler's grant: how many workers the job may have from now on. Ignored when it is below the minimum."""

    count: int


@dataclass(frozen=True, slots=True)
class ScaleRequested:
    """A user's new limits. A grant above the new maximum shrinks to it at once; growing is the scheduler's to grant."""

    minimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise ValueError(
                f"workers: the minimum must be at least 1 and at most the maximum, got {self.minimum}:{self.maximum}"
            )


@dataclass(frozen=True, slots=True)
class CancelRequested:
    reason: str = "cancelled by the user"


@dataclass(frozen=True, slots=True)
class JobRefused:
    """The shell found that the job can never run (its source is gone, its launcher unknown): it fails, saying this."""

    message: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """First event of a machine made from a stored record after the coordinator's restart.

    `agents` are the ids of this job's workers whose agents the launcher says are alive.
    """

    agents: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Tick:
    """The time of `JobMachine.next_deadline()` has come."""


Event = (
    WorkerAttached
    | WorkerCheckpointed
    | WorkerDetached
    | WorkerHeard
    | WorkerArrived
    | WorkerLeaving
    | WorkerReached
    | WorkerFinished
    | ScriptFailed
    | AgentExited
    | AgentNoted
    | AgentAbsent
    | Scheduled
    | ScaleRequested
    | CancelRequested
    | JobRefused
    | Recovered
    | Tick
)
