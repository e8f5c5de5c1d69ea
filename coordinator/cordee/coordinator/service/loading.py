"""A job made of what is stored of it: at its submission, and again by every coordinator that takes it up."""

from pathlib import Path

from cordee.coordinator.core.job import JobMachine
from cordee.coordinator.core.model import Policy
from cordee.coordinator.core.record import JobRecord
from cordee.coordinator.service.job import Job, Progress
from cordee.coordinator.service.launchers.base import Launcher
from cordee.coordinator.service.policy import job_policy
from cordee.coordinator.service.store import EventRow, JobRow
from cordee.coordinator.spec import JobDocument

__all__ = ["load_job"]


def load_job(
    row: JobRow,
    document: JobDocument,
    token: str,
    key: str,
    events: list[EventRow],
    folder: Path,
    launcher: Launcher,
    policy: Policy,
) -> Job:
    """The job of a row, whose document that is. `events` are the newest of its history."""
    place = launcher.environment(row.id, folder, token, document.spec)
    return Job(
        id=row.id,
        document=document,
        bundle=row.bundle,
        token=token,
        folder=str(folder),
        checkpoints=place.get("CORDEE_CHECKPOINT_STORAGE"),
        launcher=launcher.name,
        machine=JobMachine(JobRecord.from_json(row.record), job_policy(policy, document.spec.failure_policy)),
        progress=Progress.from_json(row.progress),
        events=events,
        key=key,
    )
