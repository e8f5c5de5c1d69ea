"""What `--warm-start` and `--checkpoint-storage` name: a place, or a job whose weights are there."""

from collections.abc import Callable
from pathlib import Path

from cordee.coordinator.cli.errors import UsageError
from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.places import RESULT

__all__ = ["absolute_place", "warm_start_place", "weights_of_job"]


def absolute_place(text: str, base: Path) -> str:
    """A URL as it is; a path, relative to `base`, as an absolute one."""
    return text if not text or "://" in text else str((base / Path(text).expanduser()).absolute())


def warm_start_place(text: str, base: Path, weights_of_job: Callable[[str], str]) -> str:
    """A URL or an absolute path as it is; a path that is there, from `base`, made absolute; else a job's weights."""
    path = Path(text).expanduser()
    if not text or "://" in text or path.is_absolute() or (base / path).exists():
        return absolute_place(text, base)
    try:
        return weights_of_job(text)
    except CoordinatorError as error:
        raise UsageError(
            f"--warm-start {text} is neither a path that exists nor a job: {error}",
            "give a checkpoint's folder, a .safetensors file, a URL such as s3://bucket/prefix, or a job's id or name",
        ) from None


def weights_of_job(ref: str, server: str | None = None, state: Path | None = None) -> str:
    """The final weights of a job, or else its checkpoints."""
    from cordee.coordinator.cli.reach import reach

    with reach(server, state) as coordinators:
        _, job = coordinators.find(ref)
    final = Path(job["folder"]) / RESULT
    place = str(final) if job["state"] == "succeeded" and final.is_file() else str(job["checkpoints"])
    if not place:
        raise CoordinatorError(
            f"the weights of {job['id']} are not on this machine, and it wrote no checkpoints",
            f"fetch them first: cordee fetch {job['id']}",
        )
    return place
