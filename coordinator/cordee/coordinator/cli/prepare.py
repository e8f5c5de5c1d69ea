"""From a command line or a job file to what is sent: a checked job document and its packed source.

Flags and job files are one thing: flags become the same document and pass the same checks, and over a job file they
override its fields. Everything that can be known to be wrong without starting anything is found here.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from cordee.coordinator.bundle import IGNORE_FILE, Bundle, pack
from cordee.coordinator.cli.errors import UsageError
from cordee.coordinator.cli.warm import absolute_place, warm_start_place, weights_of_job
from cordee.coordinator.spec import (
    API_VERSION,
    KIND,
    MAX_NAME_LENGTH,
    JobDocument,
    Problem,
    SpecError,
    load_job,
    parse_job,
)

__all__ = ["JOB_FILE_SUFFIXES", "Prepared", "Wish", "job_name", "prepare"]

JOB_FILE_SUFFIXES: Final = (".yaml", ".yml")

# Which flag a field of the document came from, so that a sentence names what the user typed.
_FLAGS: Final = {
    "metadata.name": "--name",
    "spec.workers": "--workers",
    "spec.threads": "--threads",
    "spec.device": "--device",
    "spec.launcher": "--launcher",
    "spec.env": "--env",
    "spec.checkpoint.intervalSeconds": "--checkpoint-every",
    "spec.checkpoint.storage": "--checkpoint-storage",
    "spec.warmStart": "--warm-start",
}


@dataclass(frozen=True)
class Wish:
    """What the command line says; None where it is silent."""

    script: Path
    args: tuple[str, ...] | None = None
    workers: str | None = None
    threads: int | None = None
    device: str | None = None
    launcher: str | None = None
    name: str | None = None
    env: tuple[str, ...] = ()
    checkpoint_every: float | None = None
    checkpoint_storage: str | None = None
    warm_start: str | None = None
    source: Path | None = None
    ledger: bool = False
    allow_chaos: bool = False


@dataclass(frozen=True)
class Prepared:
    """A job that is ready to be sent, and what its owner should know."""

    document: JobDocument
    bundle: Bundle  # empty: the source lies elsewhere, where spec.sourceFrom says
    notes: tuple[str, ...] = ()


def prepare(wish: Wish, *, weights_of_job: Callable[[str], str] = weights_of_job, elsewhere: bool = False) -> Prepared:
    """Check everything and pack the source; a `SpecError` or `CoordinatorError` says what is wrong.

    `weights_of_job` says where the weights of a job lie that `--warm-start` names; `elsewhere`, whether the source may
    lie where `spec.sourceFrom` says.
    """
    if wish.script.suffix.lower() in JOB_FILE_SUFFIXES:
        job = load_job(wish.script)
        script = wish.script.parent / job.spec.script
        source = None if job.spec.source is None else wish.script.parent / job.spec.source
        given = job.to_document()
        named_by = f"{wish.script}: spec.script"
    else:
        script, source = wish.script, None
        given = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": job_name(script)},
            "spec": {"script": str(script)},
        }
        named_by = "SCRIPT"
    _override(given, wish)
    job = _checked(given)
    _locate(given, job, wish, weights_of_job)
    job = _checked(given)
    if job.spec.source_from is not None:
        if not elsewhere or wish.source is not None or job.spec.source is not None:
            raise UsageError(
                "spec.sourceFrom says that the source lies elsewhere",
                "leave it out to send a folder; or leave out the source folder, and submit the job: cordee submit",
            )
        return Prepared(job.bundled(job.spec.script), Bundle(b"", "", ()))
    _check_script(script, named_by)
    source = wish.source or source or script.parent
    relative = _inside(script, source)
    bundle = pack(source)
    if relative not in bundle.names:
        _refuse_link(relative, source, bundle.skipped)
        raise UsageError(
            f"the script {script} is left out of the bundle of {source}",
            f"see {source / IGNORE_FILE}; folders whose name begins with a dot and virtual environments never travel",
        )
    notes = tuple(f"left out of the bundle: {skipped}" for skipped in bundle.skipped)
    return Prepared(job.bundled(relative), bundle, notes)


def _refuse_link(relative: str, source: Path, skipped: Sequence[str]) -> None:
    """Where the script, or a folder above it, is a link that is not followed: say that instead of how to ignore it."""
    path = PurePosixPath(relative)
    for name in map(str, (path, *path.parents)):
        reason = next((said.removeprefix(name) for said in skipped if said.startswith(f"{name} (")), "")
        if reason:
            raise UsageError(
                f"the script {source / relative} does not travel with the job: {name} is {reason.strip(' ()')}",
                f"copy the folder with what its links lead to, cp -rL {source} DIR, and submit DIR/{relative}",
            )


def job_name(script: Path) -> str:
    """A job's name from its script's: `Train_MNIST.py` gives `train-mnist`."""
    plain = re.sub(r"[^a-z0-9]+", "-", script.stem.lower()).strip("-")
    return plain[:MAX_NAME_LENGTH].strip("-") or "job"


def _override(document: dict[str, Any], wish: Wish) -> None:
    """What the command line says goes over what the job file says."""
    spec: dict[str, Any] = document["spec"]
    if wish.name is not None:
        document["metadata"]["name"] = wish.name
    given = {
        "workers": wish.workers,
        "threads": wish.threads,
        "device": wish.device,
        "launcher": wish.launcher,
        "args": None if wish.args is None else list(wish.args),
    }
    spec.update({field: value for field, value in given.items() if value is not None})
    if wish.checkpoint_every is not None:
        spec["checkpoint"] = {**spec.get("checkpoint", {}), "intervalSeconds": wish.checkpoint_every}
    if wish.checkpoint_storage is not None:
        spec["checkpoint"] = {**spec.get("checkpoint", {}), "storage": wish.checkpoint_storage}
    if wish.warm_start is not None:
        spec["warmStart"] = wish.warm_start
    if wish.ledger:
        spec["ledger"] = True
    if wish.allow_chaos:
        spec["chaos"] = True
    if wish.env:
        spec["env"] = {**spec.get("env", {}), **_environment(wish.env)}


def _locate(document: dict[str, Any], job: JobDocument, wish: Wish, weights_of_job: Callable[[str], str]) -> None:
    """Writes places as they are to be sent: flags are relative to where the user is, fields to the job file."""
    spec: dict[str, Any] = document["spec"]
    file, here = wish.script.parent, Path()
    if job.spec.checkpoint.storage is not None:
        place = absolute_place(job.spec.checkpoint.storage, file if wish.checkpoint_storage is None else here)
        spec["checkpoint"] = {**spec["checkpoint"], "storage": place}
    if job.spec.warm_start is not None:
        base = file if wish.warm_start is None else here
        spec["warmStart"] = warm_start_place(job.spec.warm_start, base, weights_of_job)


def _environment(pairs: Sequence[str]) -> dict[str, str]:
    env: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--env is {pair!r}; give KEY=VALUE, such as --env {pair or 'KEY'}=1")
        env[name] = value
    return env


def _checked(document: dict[str, Any]) -> JobDocument:
    """The document as a job. Only a flag can be wrong by now: the job file has been read."""
    try:
        return parse_job(document)
    except SpecError as error:
        problems: list[Problem] = []
        for problem in error.problems:
            flag = next((flag for field, flag in _FLAGS.items() if problem.field.startswith(field)), problem.field)
            if not any(known.field == flag and known.message == problem.message for known in problems):
                problems.append(Problem(flag, problem.message))
        raise SpecError(tuple(problems)) from None


def _check_script(script: Path, named_by: str) -> None:
    if script.is_file():
        try:
            with script.open("rb"):
                return
        except OSError as error:
            raise UsageError(f"the script {script} cannot be read: {error.strerror}") from None
    if script.is_dir():
        raise UsageError(f"{script} is a folder, not a script", f"give the file to run, such as {script / 'train.py'}")
    hint = f"{named_by} is a path relative to {'the job file' if ':' in named_by else Path.cwd()}"
    raise UsageError(f"there is no script {script}", hint)


def _inside(script: Path, source: Path) -> str:
    """The script's path in the bundle."""
    if not source.is_dir():
        reason = "is not a folder" if source.exists() else "does not exist"
        raise UsageError(f"the source folder {source} {reason}", "give the folder that holds the script: --source DIR")
    for path, folder in ((script.absolute(), source.absolute()), (script.resolve(), source.resolve())):
        if path.is_relative_to(folder) and ".." not in path.relative_to(folder).parts:
            return path.relative_to(folder).as_posix()
    raise UsageError(
        f"the script {script} is not inside the source folder {source}",
        "choose a folder that holds the script: --source DIR",
    )
