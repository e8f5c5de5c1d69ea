"""What a coordinator answers, as plain typed dictionaries: what it sends is what `-o json` prints.

The server declares the same shapes as pydantic models (`service/rest/models.py`); a test holds the two together. They
are not shared because a client must not import a web framework to read JSON.
"""

from typing import Final, TypedDict

__all__ = [
    "INTERRUPTED",
    "OUTPUT_STREAMS",
    "TERMINAL_STATES",
    "Event",
    "InjectedFault",
    "JobFailure",
    "JobView",
    "KeptFile",
    "LogLine",
    "Member",
    "NumberedEvent",
    "Placement",
    "Plan",
    "WorkerCounts",
]

TERMINAL_STATES: Final = frozenset({"succeeded", "failed", "cancelled"})
INTERRUPTED: Final = "interrupted"  # never a coordinator's word: what a job without one is called (see `past`)
OUTPUT_STREAMS: Final = frozenset({"stdout", "stderr"})  # the script's; the rest of a log is what agents say


class WorkerCounts(TypedDict):
    """How many workers a job may have, should have, and has."""

    min: int
    max: int
    wanted: int
    now: int


class Member(TypedDict):
    """A worker of a job."""

    worker: str
    rank: int | None
    state: str
    step: int
    restarts: int
    pid: int | None
    shard_seconds: float | None
    slow: bool


class Event(TypedDict):
    """A sentence in a job's history."""

    time: float
    kind: str
    message: str


class KeptFile(TypedDict):
    """A file that a job keeps."""

    path: str
    size: int
    modified_at: float


class NumberedEvent(Event):
    """An event of a job's whole history, and its number there."""

    id: int


class JobFailure(TypedDict):
    """What a script raised."""

    exception: str
    traceback: str
    worker: str | None


class JobView(TypedDict):
    """Everything about a job, as the coordinator serves it."""

    id: str
    name: str
    state: str
    reason: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    seconds: float
    script: str
    args: list[str]
    workers: WorkerCounts
    threads: int
    device: str
    launcher: str
    generation: int
    generations: int
    recoveries: int
    step: int
    steps_total: int | None
    epoch: int | None
    epochs: int | None
    loss: float | None
    samples: int
    samples_per_second: float | None
    step_seconds: float | None
    data_seconds: float | None
    metrics: dict[str, float | None]
    weights_sha256: str | None
    weights_path: str | None
    members: list[Member]
    events: list[Event]
    error: JobFailure | None
    folder: str
    checkpoints: str


class Placement(TypedDict):
    """Where a job would run now."""

    launcher: str
    workers_now: int
    capacity: int
    free: int
    message: str


class Plan(TypedDict):
    """The answer to a dry run."""

    valid: bool
    placement: Placement


class InjectedFault(TypedDict):
    """A fault that was injected, and when."""

    time: float
    kind: str
    worker: str
    peer: str
    seconds: float
    amount: float


class LogLine(TypedDict):
    """A line of a job's output."""

    time: float
    worker: str
    rank: int | None
    stream: str
    line: str
