"""What is to be done next about one TrainingJob object and its job, so that the two come to say the same. Pure.

An object and a job are two halves of one thing, and either may come first: an object that `kubectl` made is submitted,
a job that was submitted over REST is given an object. Afterwards the job's state flows into the object's status, and
the range of workers flows both ways: whichever side has changed since they were last alike is followed, so that an edit
is never undone by the echo of another one. `next_step` gives one step; whoever carries it out asks again with what it
has come to, until there is nothing to do but to wait.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from cordee.k8s.names import JOB_LABEL
from cordee.k8s.status import (
    LOST,
    TERMINAL,
    JobFacts,
    accepted_status,
    lost_status,
    only_progress,
    refused_status,
)

__all__ = [
    "COORDINATOR_LABEL",
    "FINALIZER",
    "Cancel",
    "Claim",
    "Delete",
    "Make",
    "Memory",
    "Refusal",
    "Release",
    "Rest",
    "Scale",
    "SetWorkers",
    "Step",
    "Submit",
    "Thing",
    "WriteStatus",
    "next_step",
]

FINALIZER: Final = "cordee.dev/job"
COORDINATOR_LABEL: Final = "cordee.dev/coordinator"
"""Which coordinator of a namespace has taken an object."""
STATUS_SECONDS: Final = 1.0
"""Between two writes of a status at least."""
SETTLE_SECONDS: Final = 0.5
"""A job that has just begun changes many times a second: it is told of when so much of it is over."""

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Thing:
    """A TrainingJob object, as far as it matters here."""

    name: str
    uid: str
    generation: int = 1
    deleting: bool = False
    finalizer: bool = False
    coordinator: str = ""
    """Whose it is; empty: nobody has taken it yet."""
    job_label: str = ""
    workers: Range = (1, 1)
    ttl: int | None = None
    status: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> "Thing":
        """From the API server's JSON."""
        metadata, spec = data["metadata"], data.get("spec") or {}
        labels, workers = metadata.get("labels") or {}, spec.get("workers") or {}
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            generation=int(metadata.get("generation") or 1),
            deleting=bool(metadata.get("deletionTimestamp")),
            finalizer=FINALIZER in (metadata.get("finalizers") or ()),
            coordinator=labels.get(COORDINATOR_LABEL, ""),
            job_label=labels.get(JOB_LABEL, ""),
            workers=(int(workers.get("min", 1)), int(workers.get("max", 1))),
            ttl=spec.get("ttlSecondsAfterFinished"),
            status=data.get("status") or {},
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an object cannot become a job, or cannot yet."""

    generation: int
    reason: str
    sentence: str
    retry_at: float | None = None
    """When it is tried again; None: not before the object has changed."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered about an object between two steps. Nothing in it need survive a restart."""

    coordinator: str
    """Which one we are."""
    written_at: float = -1e9
    """When its status was written last."""
    settled_at: float = -1e9
    """Its status is not written before."""
    progress_seconds: float = STATUS_SECONDS
    """Between two writes at least that are about progress only."""
    refusal: Refusal | None = None
    unscaled: int = 0
    """The object's generation whose range of workers was refused."""
    bereft: bool = False
    """The job had an object, and it is gone."""
    wanted: bool = False
    """The job was seen alive, and has had no object yet."""
    unmade: bool = False
    """There cannot be an object for it."""
    ending: bool = False
    """Its namespace is being deleted: our rights may go any moment."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Take the object: our label and our finalizer, unless somebody was faster."""


@dataclass(frozen=True, slots=True)
class Submit:
    """Submit it."""


@dataclass(frozen=True, slots=True)
class Make:
    """Make an object for the job."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Give the job the object's range of workers."""

    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class SetWorkers:
    """Give the object the job's range of workers."""

    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """End the job: its object is gone, or asked to go."""


@dataclass(frozen=True, slots=True)
class Release:
    """Take our finalizer away."""


@dataclass(frozen=True, slots=True)
class WriteStatus:
    """Write the object's status."""

    status: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """Its time after the job's end is over, or its job has been removed."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do before something changes, or before that time."""

    until: float | None = None


Step = Claim | Submit | Make | Scale | SetWorkers | Cancel | Release | WriteStatus | Delete | Rest


def next_step(thing: Thing | None, job: JobFacts | None, memory: Memory, now: float) -> Step:
    """What to do next."""
    if thing is None:
        return Rest() if job is None else _without_object(job, memory)
    if thing.coordinator not in ("", memory.coordinator):
        return Rest()
    if thing.deleting:
        return _deleting(thing, job, memory, now)
    if job is None:
        return _without_job(thing, memory, now)
    return _together(thing, job, memory, now)


def _without_object(job: JobFacts, memory: Memory) -> Step:
    if job.uid or memory.bereft:
        return Rest() if job.ended else Cancel()
    if memory.unmade or (job.ended and not memory.wanted):
        return Rest()
    return Make()


def _deleting(thing: Thing, job: JobFacts | None, memory: Memory, now: float) -> Step:
    if not thing.finalizer:
        return Rest()
    if job is None or job.gone or (job.ended and memory.ending):
        return Release()
    if not job.ended:
        return Cancel()
    return _status_of(thing, job, memory, now)  # its pods have yet to go


def _without_job(thing: Thing, memory: Memory, now: float) -> Step:
    if thing.status.get("jobId"):
        if thing.status.get("state") not in TERMINAL:
            return WriteStatus(lost_status(thing.status, thing.generation, now))
        if thing.finalizer:
            return Release()
        if thing.job_label == thing.name and thing.status.get("reason") != LOST:
            return Delete()  # it was made for a job that has been removed; one that somebody applied stays theirs
        finished_at = thing.status.get("finishedAt")
        return _later(thing, datetime.fromisoformat(finished_at).timestamp() if finished_at else None, now)
    refusal = memory.refusal
    if refusal is None or refusal.generation != thing.generation:
        return Submit() if thing.finalizer and thing.coordinator else Claim()
    final = refusal.retry_at is None
    wanted = refused_status(refusal.sentence, refusal.reason, thing.generation, thing.status, now, final=final)
    if wanted != thing.status:
        return WriteStatus(wanted)
    if refusal.retry_at is not None and now >= refusal.retry_at:
        return Submit()
    if final and thing.finalizer:
        return Release()  # there is nothing that would have to be cleaned up
    return Rest(refusal.retry_at)


def _together(thing: Thing, job: JobFacts, memory: Memory, now: float) -> Step:
    if not job.gone and not (thing.finalizer and thing.coordinator):
        return Claim()
    if not job.ended and (step := _alike(thing, job, memory)) is not None:
        return step
    step = _status_of(thing, job, memory, now)
    if not isinstance(step, Rest) or step.until is not None or not job.gone:
        return step
    if thing.finalizer:
        return Release()  # nothing is left that would have to be cleaned up: it can be deleted without us
    return _later(thing, job.finished_at, now)


def _later(thing: Thing, finished_at: float | None, now: float) -> Step:
    """Delete it when its time after the job's end is over, if it has one."""
    if thing.ttl is None or finished_at is None:
        return Rest()
    over = finished_at + thing.ttl
    return Delete() if now >= over else Rest(over)


def _alike(thing: Thing, job: JobFacts, memory: Memory) -> Step | None:
    """Make the ranges of workers the same, by following the side that has changed; None: nothing is to be done."""
    mine = (job.minimum, job.maximum)
    if thing.workers == mine:
        return None
    last = _range(thing.status)
    if last is None:  # they were never compared yet: whichever of the two was there first is followed
        by_object, by_job = bool(job.uid), True
    else:
        by_object, by_job = thing.workers != last, mine != last
    seen = thing.generation in (thing.status.get("observedGeneration"), memory.unscaled)
    if by_object and not seen:
        return Scale(*thing.workers)
    return SetWorkers(*mine) if by_job else None


def _range(status: Mapping[str, Any]) -> Range | None:
    """The range that object and job had when the status was written."""
    workers = status.get("workers") or {}
    if "min" not in workers or "max" not in workers:
        return None
    return int(workers["min"]), int(workers["max"])


def _status_of(thing: Thing, job: JobFacts, memory: Memory, now: float) -> Step:
    wanted = accepted_status(job, thing.generation, thing.status, now)
    if wanted == thing.status:
        return Rest()
    if job.ended and thing.status.get("state") != job.state:
        return WriteStatus(wanted)  # an end is told at once
    pause = memory.progress_seconds if only_progress(thing.status, wanted) else STATUS_SECONDS
    due = max(memory.written_at + pause, memory.settled_at)
    return WriteStatus(wanted) if now >= due else Rest(due)
