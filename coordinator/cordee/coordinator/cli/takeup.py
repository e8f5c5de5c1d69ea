"""Taking up a run that was cut off: the same command on the same folder goes on with its job.

The folder of a `cordee run` that was killed holds a job that has not ended; a coordinator on the folder takes it up,
with those of its workers that live, or from its checkpoint. The command goes on with it if it asks for the same thing:
another number of workers is no difference (the result is the same, and the job is scaled), anything else is. Then
nothing is started at all: beside a new job the old one would run too, and end with this command.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cordee.coordinator.cli.output import count
from cordee.coordinator.errors import ConflictError

if TYPE_CHECKING:
    from cordee.coordinator.cli.prepare import Prepared
    from cordee.coordinator.client import Client
    from cordee.coordinator.past import PastJob
    from cordee.coordinator.views import JobView

__all__ = ["describe", "find_unfinished", "take_up"]


def find_unfinished(prepared: "Prepared", folder: Path) -> "PastJob | None":
    """The folder's unfinished job, if it is this very one; an error if it is another."""
    from cordee.coordinator.past import PastCoordinator, has_past, resume_command

    if not has_past(folder):
        return None
    with PastCoordinator(folder) as past:
        if past.held:
            return None  # the coordinator that is to be started says so
        unfinished = past.unfinished()
    if not unfinished:
        return None
    if len(unfinished) > 1:
        raise ConflictError(
            f"the state folder {folder} holds {len(unfinished)} unfinished jobs",
            f"finish them with: {resume_command(folder)}; or choose another folder with --state",
        )
    (earlier,) = unfinished
    if differences := _differences(prepared, earlier):
        job = earlier.view
        raise ConflictError(
            f"the state folder {folder} holds an unfinished job, {job['id']}, and this command asks for another one "
            f"(not the same: {', '.join(differences)})",
            f"{past.hint}; to end it: cordee cancel {job['id']} --state {folder}; or choose another --state",
        )
    return earlier


def take_up(client: "Client", earlier: "PastJob", prepared: "Prepared") -> "JobView":
    """The job as its new coordinator has it, with as many workers as are asked for now."""
    job = client.job(earlier.view["id"])
    wanted = prepared.document.spec.workers
    if (wanted.min, wanted.max) != (job["workers"]["min"], job["workers"]["max"]):
        job = client.scale(job["id"], wanted.min, wanted.max)
    return job


def describe(earlier: "PastJob") -> str:
    """What is gone on with, in a sentence."""
    job = earlier.view
    living = job["workers"]["now"]
    workers = f"{count(living, 'worker')} of it live" if living else "from its checkpoint"
    if living == 1:
        workers = "1 worker of it lives"
    return f"going on with {job['id']}, which was cut off at step {job['step']}; {workers}"


def _differences(prepared: "Prepared", earlier: "PastJob") -> list[str]:
    """What is not the same, by the names of the job file's fields."""
    mine = _facts(prepared.document.to_document(), prepared.bundle.sha256)
    its = _facts(earlier.document.to_document(), earlier.bundle)
    return [name for name in sorted(mine | its) if mine.get(name) != its.get(name)]


def _facts(document: dict[str, Any], bundle: str | None) -> dict[str, Any]:
    """What makes a job this job."""
    spec = {name: value for name, value in document["spec"].items() if name != "workers"}
    return {**spec, "name": document["metadata"]["name"], "files in the source folder": bundle}
