"""A job as its TrainingJob object's `status` shows it. Pure: the same job and time give the same status.

The conditions are made so that `kubectl wait --for=condition=Succeeded` works, and so that whatever follows kstatus
(Helm's `--wait`, Argo CD, Flux) finds a job current when it trains or has succeeded, and failed when it will never get
any further: `Ready` and `Stalled` are for them. A condition keeps the time of its last change.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cordee.k8s.names import JOB_LABEL

__all__ = [
    "LOST",
    "MAX_MEMBERS",
    "PROGRESS_FIELDS",
    "STATES",
    "JobFacts",
    "MemberFacts",
    "accepted_status",
    "lost_status",
    "merge_patch",
    "only_progress",
    "refused_status",
    "timestamp",
]

Status = dict[str, Any]

STATES: Final = ("pending", "starting", "running", "recovering", "succeeded", "failed", "cancelled")
TERMINAL: Final = frozenset({"succeeded", "failed", "cancelled"})
LOST: Final = "JobUnknown"
"""The reason of an object whose job was lost."""
MAX_MEMBERS: Final = 64
PROGRESS_FIELDS: Final = frozenset({"step", "loss", "samples", "checkpointStep", "members"})
"""What changes all the time while a job runs; of its members, what is not in its state and its counts as well."""
_MAX_MESSAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """A worker, as the coordinator sees it."""

    name: str
    state: str
    rank: int | None = None
    restarts: int = 0
    node: str = ""


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What the coordinator knows about a job, as far as an object shows or needs it."""

    id: str
    name: str
    uid: str = ""
    """Of the object that it was made from; empty: it was submitted over REST."""
    state: str = "pending"
    reason: str = ""
    minimum: int = 1
    maximum: int = 1
    wanted: int = 0
    running: int = 0
    generation: int = 0
    recoveries: int = 0
    step: int = 0
    steps_total: int | None = None
    loss: float | None = None
    samples: int = 0
    checkpoint_step: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    weights_sha256: str = ""
    members: tuple[MemberFacts, ...] = ()
    gone: bool = False
    """It has ended, and no agent of it is left."""

    @property
    def ended(self) -> bool:
        """Succeeded, failed or cancelled. Agents may have yet to go."""
        return self.state in TERMINAL


def timestamp(seconds: float) -> str:
    """A time as Kubernetes writes it, to the second."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def accepted_status(job: JobFacts, generation: int, before: Mapping[str, Any], now: float) -> Status:
    """The status of a job that the coordinator has. `generation` is the object's, `before` the status until now."""
    optional: dict[str, Any] = {
        "stepsTotal": job.steps_total,
        "loss": float(f"{job.loss:.6g}") if job.loss is not None else None,
        "checkpointStep": job.checkpoint_step,
        "startedAt": timestamp(job.started_at) if job.started_at is not None else None,
        "finishedAt": timestamp(job.finished_at) if job.finished_at is not None else None,
        "weightsSha256": job.weights_sha256 or None,
    }
    word = _word(job.state)
    return {
        "observedGeneration": generation,
        "state": job.state,
        "reason": word,
        "message": job.reason[:_MAX_MESSAGE],
        "jobId": job.id,
        "generation": job.generation,
        "recoveries": job.recoveries,
        "step": job.step,
        "samples": job.samples,
        **{name: value for name, value in optional.items() if value is not None},
        "workers": {
            "min": job.minimum,
            "max": job.maximum,
            "wanted": job.wanted,
            "running": job.running,
            "summary": f"{job.running}/{job.maximum}",
            "selector": f"{JOB_LABEL}={job.id}",
        },
        "members": [_member(member) for member in job.members[:MAX_MEMBERS]],
        "conditions": _conditions(before, generation, now, dict(_states(job, word))),
    }


def refused_status(
    sentence: str, reason: str, generation: int, before: Mapping[str, Any], now: float, *, final: bool = True
) -> Status:
    """The status of an object that is no job, because it cannot be one; or, where that is not final, cannot be yet."""
    said = ("False", reason, sentence)
    states = {
        "Accepted": said,
        "Running": said,
        "Succeeded": ("Unknown", reason, sentence),
        "Failed": (_truth(final), reason, sentence),
        "Ready": said,
        "Stalled": (_truth(final), reason, sentence),
    }
    return {
        "observedGeneration": generation,
        "state": "failed" if final else "pending",
        "reason": reason,
        "message": sentence[:_MAX_MESSAGE],
        "conditions": _conditions(before, generation, now, states),
    }


def lost_status(before: Mapping[str, Any], generation: int, now: float) -> Status:
    """The status of an object whose job the coordinator does not have any more: its state was lost."""
    identity = before.get("jobId", "")
    sentence = (
        f"this coordinator has no job {identity}: it has another state than the one that took this object in; "
        "to train again delete the object and make it again"
    )
    said = ("False", LOST, sentence)
    states = {
        "Accepted": ("True", "Accepted", f"it is the job {identity}"),
        "Running": said,
        "Succeeded": said,
        "Failed": ("True", LOST, sentence),
        "Ready": said,
        "Stalled": ("True", LOST, sentence),
    }
    return {
        **before,
        "observedGeneration": generation,
        "state": "failed",
        "reason": LOST,
        "message": sentence,
        "members": [],
        "conditions": _conditions(before, generation, now, states),
    }


def only_progress(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether nothing but figures that change all the time tells two statuses apart."""
    return {name: value for name, value in before.items() if name not in PROGRESS_FIELDS} == {
        name: value for name, value in after.items() if name not in PROGRESS_FIELDS
    }


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What makes `after` of `before`, as RFC 7386 has it; empty when they are the same. Lists are replaced whole."""
    patch: dict[str, Any] = {name: None for name in before if name not in after}
    for name, value in after.items():
        old = before.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if inner := merge_patch(old, value):
                patch[name] = inner
        elif name not in before or old != value:
            patch[name] = value
    return patch


def _member(member: MemberFacts) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": member.name, "state": member.state, "restarts": member.restarts}
    if member.rank is not None:
        shown["rank"] = member.rank
    if member.node:
        shown["node"] = member.node
    return shown


def _word(state: str) -> str:
    return state[:1].upper() + state[1:]


def _states(job: JobFacts, word: str) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """Every condition's status, reason and message."""
    sentence = job.reason[:_MAX_MESSAGE]
    running, succeeded = job.state == "running", job.state == "succeeded"
    yield "Accepted", ("True", "Accepted", f"it is the job {job.id}")
    yield "Running", (_truth(running), word, sentence)
    yield "Succeeded", (_truth(succeeded) if job.ended else "Unknown", word, sentence)
    yield "Failed", (_truth(job.state == "failed"), word, sentence)
    yield "Ready", (_truth(running or succeeded), word, sentence)
    yield "Stalled", (_truth(job.ended and not succeeded), word, sentence)


def _truth(value: bool) -> str:
    return "True" if value else "False"


def _conditions(
    before: Mapping[str, Any], generation: int, now: float, states: Mapping[str, tuple[str, str, str]]
) -> list[dict[str, Any]]:
    known = {condition["type"]: condition for condition in before.get("conditions") or ()}
    found = []
    for kind, (status, reason, message) in states.items():
        old = known.get(kind, {})
        changed = old.get("status") != status
        found.append(
            {
                "type": kind,
                "status": status,
                "observedGeneration": generation,
                "lastTransitionTime": timestamp(now) if changed else old["lastTransitionTime"],
                "reason": reason,
                "message": message,
            }
        )
    return found
