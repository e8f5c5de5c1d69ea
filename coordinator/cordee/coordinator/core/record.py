"""What a job must remember over the coordinator's death, and its form in the store.

Everything else about a running job is rebuilt from the launcher's list and from the workers' own re-attachment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cordee.coordinator.core.model import Cause, JobError, JobState, Member, Result, World, worker_index

__all__ = ["Deaths", "FinishedWorker", "JobRecord", "SlotRecord"]


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """One worker id that the job runs, or still has to see the end of."""

    worker: str
    retiring: bool = False
    """Scaled away: it goes at the next step boundary, and does not come back."""
    given_up: bool = False
    """Its restarts are used up: it holds no capacity, and is not started again unless the job is scaled."""
    exits: tuple[float, ...] = ()
    """When its agent exited unasked: within the budget's window, and since a process of it was heard of."""
    heard_at: float = 0.0
    """When a process of it attached last."""
    restarts: int = 0
    """Processes of this worker seen so far, less one. For people."""
    incarnation: str = ""
    """The newest process that attached."""
    fenced: tuple[str, ...] = ()
    """The latest processes that must not come back: lost, replaced, or released."""
    joined: bool = False
    """It has been a member of a world."""
    scaled: bool = False
    """It was added by growing, after the first world."""
    apart: str = ""
    """The process that stays out of the world for a while, with its state, because it cannot reach a peer."""
    pardoned: int = 0
    """How far the job was when this worker's restarts were used up, and the job could not do without it."""

    @property
    def index(self) -> int:
        return worker_index(self.worker)


@dataclass(frozen=True, slots=True)
class FinishedWorker:
    worker: str
    incarnation: str
    rank: int
    at: float
    result: Result


@dataclass(frozen=True, slots=True)
class Deaths:
    """The same death, again and again: see `failure.count`."""

    code: int
    words: str
    furthest: int
    """The furthest step that the job had come to. Once it is further, the count begins anew."""
    times: int
    workers: tuple[str, ...]
    """Who died so since it counted last: several at once are one time."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job's durable half. Times are the shell's wall clock, the one that `handle` is given."""

    job: str
    minimum: int
    maximum: int
    wanted: int = 0
    """The scheduler's grant."""
    state: JobState = JobState.PENDING
    reason: str = ""
    world: World | None = None
    """The newest world; its generation is the job's."""
    slots: tuple[SlotRecord, ...] = ()
    finished: tuple[FinishedWorker, ...] = ()
    """Who has said Finished. Once there is one, no further world is formed."""
    error: JobError | None = None
    recoveries: int = 0
    deaths: Deaths | None = None
    held_up: tuple[int, int] = (0, 0)
    """A step that workers were found stuck at, and how often: next time they have longer."""
    silenced: tuple[int, int] = (0, 0)
    """How far the job was when a worker was given up for its silence, and how often: next time they have longer."""
    longest_hold: float = 0.0
    """The longest time, in seconds, that a worker computed while others waited for it, and then got through: if it is
    worth remembering. An evaluation that takes its time is paid for once, and not each time."""
    saved: int = 0
    """The step of the newest checkpoint."""
    computes_with: tuple[str, ...] = ()
    """What the newest world's members compute with; empty: they do not say."""
    below_since: float | None = None
    """Since when fewer workers than the minimum are there."""
    created_at: float = 0.0
    started_at: float | None = None
    """When the first world was formed."""
    finished_at: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise ValueError(
                f"workers: the minimum must be at least 1 and at most the maximum, got {self.minimum}:{self.maximum}"
            )

    @property
    def generation(self) -> int:
        return 0 if self.world is None else self.world.generation

    @property
    def result(self) -> Result | None:
        """What the job ended with: the lowest rank's word, completed by the others' (weights' path, metrics)."""
        if not self.finished:
            return None
        results = [f.result for f in sorted(self.finished, key=lambda f: (f.rank, f.worker))]
        metrics: dict[str, float] = {}
        for result in reversed(results):
            metrics.update(result.metrics)
        return Result(
            step=results[0].step,
            samples=results[0].samples,
            weights_sha256=results[0].weights_sha256,
            metrics=metrics,
            weights_path=next((r.weights_path for r in results if r.weights_path), ""),
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict: what the store keeps."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> JobRecord:
        """What was stored. What only a newer coordinator knows of is left out: an older one may be put back."""
        fields = _known(JobRecord, data)
        fields["state"] = JobState(fields["state"])
        fields["world"] = _world(fields["world"])
        fields["slots"] = tuple(_slot(slot) for slot in fields["slots"])
        fields["finished"] = tuple(_finished(f) for f in fields["finished"])
        # What an older coordinator did not know of is not in its records.
        if fields.get("deaths") is not None:
            fields["deaths"] = _deaths(fields["deaths"])
        fields["computes_with"] = tuple(fields.get("computes_with", ()))
        fields["held_up"] = tuple(fields.get("held_up", (0, 0)))
        fields["silenced"] = tuple(fields.get("silenced", (0, 0)))
        fields["error"] = None if fields["error"] is None else JobError(**_known(JobError, fields["error"]))
        return cls(**fields)


def _known(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name in kind.__dataclass_fields__}


def _slot(data: Mapping[str, Any]) -> SlotRecord:
    fields = _known(SlotRecord, data)
    fields["exits"], fields["fenced"] = tuple(fields["exits"]), tuple(fields["fenced"])
    return SlotRecord(**fields)


def _deaths(data: Mapping[str, Any]) -> Deaths:
    fields = _known(Deaths, data)
    fields["workers"] = tuple(fields["workers"])
    return Deaths(**fields)


def _finished(data: Mapping[str, Any]) -> FinishedWorker:
    fields = _known(FinishedWorker, data)
    fields["result"] = Result(**_known(Result, fields["result"]))
    return FinishedWorker(**fields)


def _world(data: Mapping[str, Any] | None) -> World | None:
    if data is None:
        return None
    return World(
        generation=data["generation"],
        members=tuple(Member(**_known(Member, member)) for member in data["members"]),
        step=data["step"],
        cause=Cause(data["cause"]),
    )
