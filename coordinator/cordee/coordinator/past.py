"""Jobs whose coordinator is gone: what its state folder still tells about them.

`cordee run` ends with its job, and a service may be down; what their jobs came to lies in the store, where the
coordinator wrote everything before it acted on it. It is read with the service's own code and never written, so there
is no second record that could say something else, and a coordinator that was killed has left as much as one that ended.

A job that had not ended is not called running because the store's last word says so. While workers of it live they
train on for a while, and its state is the last known one; without them it is `interrupted`. Either way the reason says
that its coordinator is gone, and `hint` names the command that takes the job up again.
"""

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, cast

from cordee.coordinator.client import ClientError, ConflictError, JobNotFoundError, UnreachableError
from cordee.coordinator.folders import default_state, runs_folder
from cordee.coordinator.selection import ALL, Selection
from cordee.coordinator.views import INTERRUPTED, TERMINAL_STATES, JobView, KeptFile, LogLine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cordee.coordinator.service.job import Job
    from cordee.coordinator.service.store import JobRow, Store
    from cordee.coordinator.spec import JobDocument

__all__ = ["PastCoordinator", "PastJob", "has_past", "keep_command", "resume_command"]

_DATABASE: Final = "coordinator.db"
_COMMAND_FILE: Final = "command.json"


@dataclass(frozen=True)
class PastJob:
    """A job as its coordinator left it."""

    view: JobView
    document: "JobDocument"
    bundle: str | None


def has_past(folder: Path) -> bool:
    """Whether a coordinator has kept jobs in this folder."""
    return (folder / _DATABASE).is_file()


class PastCoordinator:
    """The jobs of a state folder, without its coordinator. Answers what a `Client` answers, as far as anybody can."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._store: Store | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            self._store.close()
            self._store = None

    @property
    def held(self) -> bool:
        """Whether a coordinator lives on the folder after all: it starts up, or is too busy to answer."""
        from cordee.coordinator.service.folder import is_held

        return is_held(self.folder)

    def jobs(self, wanted: Selection = ALL) -> list[JobView]:
        """Jobs, newest first: all of them, or those that are wanted."""
        return wanted.of(past.view for past in self.past_jobs())

    def job(self, ref: str) -> JobView:
        """A job by its id, or the newest one of that name."""
        found = self.jobs()
        by_id = [job for job in found if job["id"] == ref]
        for job in by_id or [job for job in found if job["name"] == ref]:
            return job
        raise JobNotFoundError(f"there is no job {ref!r}", "cordee jobs lists those there are")

    def unfinished(self) -> list[PastJob]:
        """The jobs that the next coordinator on this folder takes up."""
        return [past for past in self.past_jobs() if past.view["state"] not in TERMINAL_STATES]

    def past_jobs(self) -> list[PastJob]:
        """All jobs with what they were made of, newest first. A job that cannot be read is passed over."""
        from cordee.coordinator.service.launchers.process import living_agents

        store = self._opened()
        living, held, seen_at = living_agents(self.folder), self.held, self._seen_at()
        found: list[PastJob] = []
        for row in store.jobs():
            try:
                job = _load(row, store, self.folder)
            except (ValueError, TypeError, KeyError):
                continue
            view = cast("JobView", job.view(seen_at).model_dump(mode="json"))
            if not job.ended:
                _tell_as_it_is(view, num_living=living.count(job.id), held=held)
                view["members"] = []  # nobody watches them
            found.append(PastJob(view, job.document, job.bundle))
        return found

    def scale(self, ref: str, low: int, high: int) -> JobView:
        """Refuse, in the words of a coordinator."""
        del low, high
        raise self._refusal(ref, "scaled")

    def cancel(self, ref: str) -> JobView:
        """Refuse, in the words of a coordinator."""
        raise self._refusal(ref, "cancelled")

    def delete(self, ref: str) -> JobView:
        """Remove a job that has ended, with all that it has left; of a run, its folder. What it was like."""
        from cordee.coordinator.service.launchers.process import living_agents
        from cordee.coordinator.service.removal import lies_in

        job = self.job(ref)
        if job["state"] not in TERMINAL_STATES:
            raise ConflictError(f"the job {job['id']} has not ended ({job['state']})", f"first: cordee cancel {ref}")
        if len(found := [one["id"] for one in self.jobs() if one["name"] == ref]) > 1 and ref != job["id"]:
            raise ConflictError(f"{len(found)} jobs are called {ref!r}", f"say which one by its id: {', '.join(found)}")
        if job["id"] in living_agents(self.folder):
            raise ConflictError(f"workers of the job {job['id']} have yet to end", "try again in a moment")
        for other in self.unfinished():
            place = other.document.spec.warm_start
            if place is not None and lies_in(place, job["folder"]):
                raise ConflictError(
                    f"the job {other.view['id']}, which has not ended, starts from what {job['id']} has left", self.hint
                )
        self.close()
        _remove(self.folder, job["id"])
        return job

    def logs(
        self,
        ref: str,
        *,
        follow: bool = False,
        rank: int | None = None,
        worker: str | None = None,
        tail: int | None = None,
    ) -> Iterator[LogLine]:
        """A job's output, by time; with `follow` until no worker of it is left."""
        from cordee.coordinator.service.launchers.process import living_agents
        from cordee.coordinator.service.logs import LogReader

        job, store = self.job(ref)["id"], self._opened()
        folder = self._job_folder(job) / "logs"
        reader = LogReader(folder, lambda after: store.worlds(job, after=after), rank=rank, worker=worker)
        batches = reader.read(tail=tail, follow=(lambda: job in living_agents(self.folder)) if follow else None)
        for batch in _now(batches):
            for line in batch:
                yield cast("LogLine", asdict(line))

    def files(self, ref: str) -> list[KeptFile]:
        """What a job keeps."""
        from cordee.coordinator.service.files import Files

        found = Files().list(self._job_folder(ref))
        return [KeptFile(path=file.path, size=file.size, modified_at=file.modified_at) for file in found]

    def fetch(self, ref: str, path: str, to: Path) -> str:
        """Copy one of a job's files, whole or not at all; its SHA-256."""
        import shutil

        from cordee.coordinator.service.files import Files

        descriptor, _, sha256 = Files().open(self._job_folder(ref), path)
        to.parent.mkdir(parents=True, exist_ok=True)
        draft = to.with_name(f".{to.name}.part")
        with os.fdopen(descriptor, "rb") as source, draft.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        draft.replace(to)
        return sha256

    def _job_folder(self, ref: str) -> Path:
        from cordee.coordinator.service.folder import StateFolder

        return StateFolder(self.folder).job(self.job(ref)["id"])

    @property
    def hint(self) -> str:
        """How a job that has not ended goes on."""
        return f"to go on with it: {resume_command(self.folder)}"

    def _refusal(self, ref: str, verb: str) -> ClientError:
        job = self.job(ref)
        if job["state"] in TERMINAL_STATES:
            return ConflictError(f"the job {job['id']} has ended ({job['state']}) and cannot be {verb}")
        if self.held:
            return UnreachableError(f"the coordinator on the state folder {self.folder} does not answer", "try again")
        return ConflictError(f"the job {job['id']} cannot be {verb}: its coordinator is gone", self.hint)

    def _opened(self) -> "Store":
        from cordee.coordinator.service.store import Store

        if self._store is None:
            self._store = Store(self.folder / _DATABASE, read_only=True)
        return self._store

    def _seen_at(self) -> float:
        """When the coordinator last wrote."""
        files = (self.folder / _DATABASE, self.folder / f"{_DATABASE}-wal")
        return max(path.stat().st_mtime for path in files if path.is_file())


def _remove(folder: Path, job: str) -> None:
    """Remove a job that has ended from a folder without a coordinator; nobody may start one meanwhile."""
    import shutil

    from cordee.coordinator.service.folder import StateFolder
    from cordee.coordinator.service.removal import remove_folder
    from cordee.coordinator.service.store import Store

    with StateFolder(folder) as held:
        store = Store(held.database)
        try:
            store.remove_job(job)
            is_last = not store.jobs()
            remove_folder(held, job)  # the note of it stays: the next coordinator looks after the bundle
        finally:
            store.close()
        if is_last and folder.parent == runs_folder():
            shutil.rmtree(folder)


def _load(row: "JobRow", store: "Store", folder: Path) -> "Job":
    from cordee.coordinator.core.job import JobMachine
    from cordee.coordinator.core.record import JobRecord
    from cordee.coordinator.service.folder import StateFolder
    from cordee.coordinator.service.job import NUM_EVENTS, Job, Progress
    from cordee.coordinator.spec import parse_job

    return Job(
        id=row.id,
        document=parse_job(row.document, bundled=True),
        bundle=row.bundle,
        token="",
        folder=str(StateFolder(folder).job(row.id)),
        machine=JobMachine(JobRecord.from_json(row.record)),
        progress=Progress.from_json(row.progress),
        events=store.events(row.id, last=NUM_EVENTS),
    )


def _tell_as_it_is(view: JobView, *, num_living: int, held: bool) -> None:
    """Correct what was true when it was written."""
    if held:
        view["reason"] = "its coordinator does not answer; this is what it last wrote"
        return
    view["workers"]["now"] = num_living
    if num_living:
        workers = "1 worker trains" if num_living == 1 else f"{num_living} workers train"
        view["reason"] = f"its coordinator is gone; {workers} on without it for a while"
    else:
        view["reason"] = f"its coordinator is gone; it was {view['state']}"
        view["state"] = INTERRUPTED


def _now(batches: "AsyncIterator[list[Any]]") -> Iterator[list[Any]]:
    """An asynchronous iterator's items, for who has no event loop."""
    import asyncio

    async def following() -> list[Any] | None:
        return await anext(batches, None)

    with asyncio.Runner() as runner:
        while (batch := runner.run(following())) is not None:
            yield batch


# --- how a run goes on ------------------------------------------------------------------------------------------------


def keep_command(folder: Path, words: Sequence[str] | None) -> None:
    """Write down which `cordee run` works on this folder, to name it when it was cut off; None: it is the service."""
    if words is None:
        (folder / _COMMAND_FILE).unlink(missing_ok=True)
        return
    draft = folder / f"{_COMMAND_FILE}.new"
    draft.write_text(json.dumps({"words": list(words), "cwd": str(Path.cwd())}) + "\n")
    draft.replace(folder / _COMMAND_FILE)


def resume_command(folder: Path) -> str:
    """The command that takes up what is unfinished in a state folder: the run's own again, or the service."""
    try:
        written: dict[str, Any] = json.loads((folder / _COMMAND_FILE).read_text())
        words, cwd = [str(word) for word in written["words"]], str(written["cwd"])
    except (OSError, ValueError, KeyError, TypeError):
        words, cwd = ["cordee", "coordinator"], ""
        if folder != default_state():
            words += ["--state", str(folder)]
    command = shlex.join(words)
    return command if cwd in {"", str(Path.cwd())} else f"cd {shlex.quote(cwd)} && {command}"
