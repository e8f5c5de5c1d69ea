"""What travels over REST: snake_case JSON, times as Unix seconds, absent numbers as null (JSON has no NaN)."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Arrived",
    "ErrorBody",
    "ErrorView",
    "EventPage",
    "EventView",
    "FaultRequest",
    "FaultView",
    "FileList",
    "FileView",
    "Health",
    "JobError",
    "JobList",
    "JobView",
    "LogView",
    "MemberView",
    "NumberedEvent",
    "Offer",
    "OfferAnswer",
    "OfferAnswers",
    "OfferedFile",
    "Placement",
    "Plan",
    "Ready",
    "ScaleRequest",
    "Stored",
    "Submission",
    "WorkersView",
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")


class WorkersView(_Model):
    """How many workers a job may have, should have, and has."""

    min: int
    max: int
    wanted: int = Field(description="what the scheduler gives it now")
    now: int = Field(description="members of the current world")


class MemberView(_Model):
    """A worker of a job."""

    worker: str
    rank: int | None = Field(description="null: not a member of the current world")
    state: str
    step: int
    restarts: int
    pid: int | None
    shard_seconds: float | None = Field(default=None, description="how long it computes per shard, lately")
    slow: bool = Field(default=False, description="a straggler: more than twice as long as the others")


class EventView(_Model):
    """A sentence in a job's history."""

    time: float
    kind: str
    message: str


class NumberedEvent(EventView):
    """An event, and its number: greater than those of all earlier events of the job."""

    id: int


class EventPage(_Model):
    """Some of a job's history, oldest first."""

    events: list[NumberedEvent]
    more: bool = Field(description="there are events after the last one here; ask for those after its id")


class JobError(_Model):
    """Why a job failed, where its script is to blame."""

    exception: str
    traceback: str
    worker: str | None


class JobView(_Model):
    """Everything about a job."""

    id: str
    name: str
    state: str
    reason: str = Field(description="one sentence: why it is in this state; may be empty")
    created_at: float
    started_at: float | None
    finished_at: float | None
    seconds: float = Field(description="since it was created, until it ended or now")
    script: str
    args: list[str]
    workers: WorkersView
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
    data_seconds: float | None = Field(default=None, description="of step_seconds: waiting for data")
    metrics: dict[str, float | None]
    weights_sha256: str | None
    weights_path: str | None
    members: list[MemberView]
    events: list[EventView] = Field(description="the newest 50")
    error: JobError | None
    folder: str = Field(description="the job's folder on the coordinator's machine")
    checkpoints: str = Field(description="the folder or URL that the job's checkpoints lie in; empty: none are written")


class JobList(_Model):
    """Jobs, newest first, a page of them."""

    jobs: list[JobView]
    next: str | None = Field(description="give it as 'after' for the next page; null: this was the last one")


class Submission(_Model):
    """A job to take in. The job document's schema is `cordee.coordinator.spec`'s; it is checked by it, not here."""

    job: dict[str, Any]
    bundle: str | None = Field(
        default=None, description="an uploaded bundle's SHA-256; not needed for a dry run, nor with spec.sourceFrom"
    )
    key: str = Field(
        default="",
        max_length=64,
        pattern=r"^[0-9A-Za-z_-]*$",  # those with a slash are the coordinator's own
        description="a word of the client's own for this submission: sent again with the same, it is the same job",
    )


class Placement(_Model):
    """Where a job would run now."""

    launcher: str
    workers_now: int
    capacity: int
    free: int
    message: str


class Plan(_Model):
    """Answer to a dry run."""

    valid: bool
    placement: Placement


class ScaleRequest(_Model):
    """A new range of worker counts."""

    min: int
    max: int


class FaultRequest(_Model):
    """A fault to inject. What is left out is the kind's own: see `cordee.coordinator.faults`."""

    kind: str = Field(max_length=64)
    worker: str = Field(max_length=128)
    seconds: float | None = None
    peer: str = Field(default="", max_length=128)
    amount: float | None = None


class FaultView(_Model):
    """A fault that was injected, and when."""

    time: float
    kind: str
    worker: str
    peer: str
    seconds: float
    amount: float


class LogView(_Model):
    """A line of a job's output."""

    time: float
    worker: str
    rank: int | None
    stream: str
    line: str


class FileView(_Model):
    """A file that a job keeps."""

    path: str = Field(description="below the job's folder: result/…, output/…, ledger/…")
    size: int
    modified_at: float


class FileList(_Model):
    """What a job keeps, by path."""

    files: list[FileView]


class Arrived(_Model):
    """How much of an appended file is here, in bytes: what comes next begins there."""

    offset: int


class OfferedFile(_Model):
    """A file that a worker has."""

    path: str = Field(max_length=1024)
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Offer(_Model):
    """Files that a worker has for its job."""

    files: list[OfferedFile] = Field(max_length=1000)
    leaving: bool = Field(
        default=False, description="the worker goes before the script's end: what others bring at it counts for more"
    )


class OfferAnswer(_Model):
    """What a worker is to do with a file."""

    path: str
    state: str = Field(description="wanted: send it; there; coming: another worker sends it; refused")
    where: str = Field(default="", description="where it lies, once it is there")
    why: str = Field(default="", description="why it is refused")


class OfferAnswers(_Model):
    """For each file that was offered, in that order."""

    files: list[OfferAnswer]


class Stored(_Model):
    """The file is in its place."""

    where: str


class Health(_Model):
    """The coordinator answers."""

    status: str
    version: str


class Ready(_Model):
    """Whether the coordinator can do its work."""

    status: str = Field(description="ready, or not ready")
    version: str
    problems: list[str] = Field(description="why it is not ready")


class ErrorBody(_Model):
    """What is wrong, and what to do about it."""

    code: str
    message: str
    hint: str = ""


class ErrorView(_Model):
    """The shape of every refusal."""

    error: ErrorBody
