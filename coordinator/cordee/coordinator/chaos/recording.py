"""What was done to a job and what became of it, as it was seen: all that a report is made of, and nothing worked out.

Times are Unix seconds on the coordinator's clock. It travels as JSON, so a report can be made again, elsewhere, later,
with another reference or another step time.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from cordee.coordinator.views import JobView

__all__ = ["FORMAT", "Happening", "Injection", "Outage", "Recording", "Sample", "sample_of"]

FORMAT: Final = "cordee-chaos-recording/1"


@dataclass(frozen=True, slots=True)
class Injection:
    """A fault that was injected, or was not and why. One with several victims (`mass`) is one."""

    number: int
    time: float
    kind: str
    workers: tuple[str, ...] = ()
    """The victims, and the peer at the other end."""
    seconds: float = 0.0
    amount: float = 0.0
    left_out: str = ""
    """Why it was not injected; empty if it was."""


@dataclass(frozen=True, slots=True)
class Sample:
    """How far the job was at a moment."""

    time: float
    step: int
    samples: int
    workers: int
    state: str


@dataclass(frozen=True, slots=True)
class Happening:
    """An event of the job's history."""

    time: float
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Outage:
    """A time without a coordinator."""

    start: float
    end: float | None
    """When it answered again; None: it never did."""


@dataclass(frozen=True)
class Recording:
    """A disturbed stretch of a job's life."""

    spec: str
    seed: int
    start: float
    end: float
    job: Mapping[str, Any]
    """The job's last view."""
    from_submission: bool = False
    """The stretch begins when the job was submitted: its start is part of it."""
    injections: tuple[Injection, ...] = ()
    samples: tuple[Sample, ...] = ()
    events: tuple[Happening, ...] = ()
    outages: tuple[Outage, ...] = ()
    calm: tuple[tuple[float, float], ...] = ()
    """When no fault was to come, by the plan."""
    notes: tuple[str, ...] = field(default=())
    """What a reader should know about how it came about."""

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return {"format": FORMAT, **asdict(self), "job": dict(self.job)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From a file; a `ValueError` if it is another one."""
        if data.get("format") != FORMAT:
            raise ValueError(f"it is no recording of this version of Cordee ({data.get('format')!r} is not {FORMAT!r})")
        rows: dict[str, type] = {
            "injections": Injection,
            "samples": Sample,
            "events": Happening,
            "outages": Outage,
        }
        values = {key: value for key, value in data.items() if key != "format"}
        for name, kind in rows.items():
            values[name] = tuple(kind(**_tuples(row)) for row in values.get(name, ()))
        values["calm"] = tuple((start, end) for start, end in values.get("calm", ()))
        return cls(**{**values, "notes": tuple(values.get("notes", ()))})


def sample_of(job: JobView, time: float) -> Sample:
    """A job's view as a point of its course."""
    return Sample(time, job["step"], job["samples"], job["workers"]["now"], job["state"])


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
