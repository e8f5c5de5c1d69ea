"""The words of the coordinator's core: job states, worlds, results, and the times it works by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = [
    "TERMINAL_STATES",
    "ArrivalReason",
    "Cause",
    "ExitCause",
    "JobError",
    "JobState",
    "LossCause",
    "Member",
    "Outlook",
    "Policy",
    "PostMortem",
    "Result",
    "StopReason",
    "StragglerPolicy",
    "World",
    "worker_id",
    "worker_index",
]


class JobState(StrEnum):
    PENDING = "pending"
    """Waits for the scheduler to give it its minimum."""
    STARTING = "starting"
    """Its agents are started; no world has been formed yet."""
    RUNNING = "running"
    RECOVERING = "recovering"
    """Its world broke, or fewer workers than its minimum are left."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class Cause(StrEnum):
    """Why a world was formed."""

    START = "start"
    JOIN = "join"
    LOSS = "loss"
    SCALE = "scale"
    DRAIN = "drain"


class LossCause(StrEnum):
    """How a loss was first noticed; the `cause` label of the recoveries' metrics."""

    DISCONNECTED = "disconnected"
    """The worker's stream broke: its process died."""
    HEARTBEAT = "heartbeat"
    """The stream is up, but nothing was heard for too long: the process is stopped or hangs."""
    MESH = "mesh"
    """A peer said that its connection broke, before anything was noticed here."""
    REPLACED = "replaced"
    """A newer process of the same worker has attached."""
    STUCK = "stuck"
    """It is alive, but held its peers up for too long."""
    LINK = "link"
    """Two members that live cannot reach each other."""


class ExitCause(StrEnum):
    """Why an agent ended, in a word; the `cause` label of the agents' metrics."""

    CRASHED = "crashed"
    LEFT = "left"
    """In good order."""
    SCRIPT_FAILED = "script_failed"
    EXHAUSTED = "exhausted"
    """Its worker crashed too often."""
    NOT_STARTED = "not_started"
    """It could not be run, or is gone for reasons that the launcher does not know."""
    OUT_OF_MEMORY = "out_of_memory"
    """The substrate killed it for that."""
    # The substrate took it.
    PREEMPTED = "preempted"
    EVICTED = "evicted"
    TAINTED = "tainted"
    PRESSURE = "pressure"
    """By its machine, which was short of something."""
    NODE_LOST = "node_lost"
    UNREACHABLE = "unreachable"
    DELETED = "deleted"


class ArrivalReason(StrEnum):
    JOIN = "join"
    CHANGE = "change"
    PEER_LOST = "peer_lost"


class StopReason(StrEnum):
    DRAINED = "drained"
    CANCELLED = "cancelled"
    FINISHED = "finished"
    FAILED = "failed"
    FENCED = "fenced"
    STUCK = "stuck"


class Outlook(StrEnum):
    """What is to be expected of an agent that does not run yet."""

    PASSING = "passing"
    """It waits for room, or for the substrate: for as long as it takes."""
    DOUBTFUL = "doubtful"
    """Something is missing that may come (an image, a secret), or never."""
    HOPELESS = "hopeless"
    """It can never run as it is."""


class StragglerPolicy(StrEnum):
    """What is done about a worker that is much slower than the others."""

    FLAG = "flag"
    """It is said."""
    REPLACE = "replace"
    """It is said, and the worker leaves at a step boundary; another process takes its place."""
    OFF = "off"


@dataclass(frozen=True, slots=True)
class PostMortem:
    """How a worker's last process ended, as its agent saw it."""

    incarnation: str
    code: int
    """Negative: a signal's number."""
    words: str
    stack: str = ""
    step: int = 0
    """The last step it committed, as far as its agent heard."""
    asked: bool = False
    """Its end was asked for."""
    silent: bool = False
    """Its agent killed it because it gave no sign of life."""
    patience: int = 1
    """How many times longer than usual the next one may be silent, as its agent decided."""
    out_of_memory: bool = False
    """The kernel killed it for want of memory."""


@dataclass(frozen=True, slots=True)
class Member:
    """One worker of a world. Its rank is its position in `World.members`."""

    worker: str
    incarnation: str
    address: str
    step: int | None
    """The last committed step it arrived with; None: it holds no state and is healed by a peer."""


@dataclass(frozen=True, slots=True)
class World:
    generation: int
    members: tuple[Member, ...]
    step: int
    """The furthest committed step among the members; 0 when none of them holds state."""
    cause: Cause

    def rank(self, worker: str) -> int | None:
        for rank, member in enumerate(self.members):
            if member.worker == worker:
                return rank
        return None


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished worker says it ended with."""

    step: int
    samples: int
    weights_sha256: str = ""
    """Empty: the script made no elastic run."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    weights_path: str = ""
    """Empty: this worker did not write the weights."""


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed, in the words of whoever failed it."""

    exception: str
    traceback: str = ""
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """The times and budgets a job is run by, in seconds. One place, so that tests and operators see them together."""

    heartbeat_seconds: float = 0.5
    """Workers are asked to be heard at least this often."""
    heartbeat_timeout_seconds: float = 3.0
    """A worker of a world, or one waiting for a world, that is silent for so long is lost; while its world advances, it
    is not."""
    joining_timeout_seconds: float = 30.0
    """A worker that still imports and builds its model may be silent for so long: nobody waits for it."""
    settle_seconds: float = 1.0
    """With the minimum present and nobody holding state, how long to wait for the rest after the latest arrival."""
    reattach_seconds: float = 10.0
    """How long members may take to attach again after the coordinator's restart, or when none of them is heard. They
    train on meanwhile."""
    finish_seconds: float = 5.0
    """Once the first rank has finished, how long the others may take."""
    parting_seconds: float = 3.0
    """How long a worker that was told to stop has to end by itself, before its agent is told as well."""
    stop_seconds: float = 5.0
    """How long an agent that was told to stop (SIGTERM) has before it is killed."""
    replacement_seconds: float = 5.0
    """How long the agent of a worker that hangs has to replace it by another process, before it is killed."""
    starting_timeout_seconds: float = 600.0
    """How long an agent may run, or be about to, until its worker attaches for the first time, before it is replaced:
    an image may have to be pulled, but a machine that was lost over it must not hold a job up for ever."""
    absence_timeout_seconds: float = 30.0
    """How long a running agent may be without a worker that attaches, once one had, before it is replaced."""
    doubt_seconds: float = 600.0
    """How long a job waits for what may never come (an image that cannot be pulled, a Secret that is not there) before
    it fails, where none of its workers has ever come."""
    last_words_seconds: float = 1.0
    """How long to wait for the traceback of a script whose agent has already said that it raised."""
    tick_seconds: float = 1.0
    """While workers are watched, the machine asks for a `Tick` at least this often: see `JobMachine`."""
    stuck_seconds: float = 30.0
    """How long a worker that is alive may hold its peers up; ten times what a step takes usually, if that is more."""
    stuck_alone: bool = False
    """Whether a world of one that does not advance has its worker replaced; otherwise it is only said."""
    link_idle_seconds: float = 0.75
    """Two members that wait for each other for so long, without a byte, have no link."""
    standstill_seconds: float = 10.0
    """A world in which all wait, and nobody is known to be the reason, is broken off after so long."""
    gather_seconds: float = 0.15
    """With more joiners on the way, how long to wait for them after the latest arrival, before a world is stopped."""
    gather_max_seconds: float = 0.5
    """How long the first of them waits at most."""
    minimum_timeout_seconds: float = 0.0
    """How long the job may be below its minimum of workers before it fails; 0: for ever."""
    stragglers: StragglerPolicy = StragglerPolicy.FLAG
    restart_budget: int = 20
    """How often one worker's agent is started again within the window before the worker is given up."""
    restart_window_seconds: float = 600.0
    restart_backoff_seconds: float = 0.2
    """The first restart is at once, the n-th after this times 2 to the n."""
    restart_backoff_max_seconds: float = 10.0


def worker_id(job: str, index: int) -> str:
    return f"{job}-w{index}"


def worker_index(worker: str) -> int:
    """The slot number in a worker id. Raises ValueError when it is none."""
    return int(worker.rpartition("-w")[2])
