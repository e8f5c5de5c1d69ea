"""Writes checkpoints beside training: a step pays for a copy in memory, a thread pays for the storage.

Every member of a world writes its own part; the one that commits waits for the others' records, has what belongs to the
step flushed, writes the manifest, and tidies up. Whatever goes wrong is told, and training goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np

from cordee.trainer.checkpoint.layout import MANIFEST, Attempt, step_folders, step_name, superseded
from cordee.trainer.checkpoint.manifest import Manifest, PartRecord
from cordee.trainer.checkpoint.opening import open_storage
from cordee.trainer.checkpoint.storage import Storage

__all__ = [
    "AbandonedError",
    "CheckpointWriter",
    "Listener",
    "PartFailedError",
    "Snapshot",
    "commit",
    "tidy",
    "write_part",
]

_log = logging.getLogger(__name__)

WAIT_SECONDS: Final = 120.0
"""How long the parts of others are waited for once the own one is written."""
HURRIED_SECONDS: Final = 2.0
"""The same when a member was lost: what it had not written by then never comes."""
DEPARTED_FACTOR: Final = 4.0
"""Who has left its world may still be writing: all parts are of one size, so it is given so many times what the own one
took, and not less than who was lost."""
PATIENCE_SECONDS: Final = 300.0
"""An unfinished step this old is nobody's any more: longer than anybody waits for parts."""
_FIRST_POLL_SECONDS, _LAST_POLL_SECONDS = 0.02, 2.0

Arrays = Mapping[str, np.ndarray[Any, Any]]


class AbandonedError(Exception):
    """A part did not come: there will be no checkpoint of this step."""


class PartFailedError(Exception):
    """Another member could not write its part, and said so. It would hardly be able to at the next step."""


class Listener(Protocol):
    """Who is told, from the writing threads."""

    def written(self, step: int, where: str, num_bytes: int, seconds: float) -> None: ...

    def failed(self, step: int, error: Exception) -> None: ...


@dataclass(frozen=True)
class Snapshot:
    """What one member has of a checkpoint: copies that training does not change."""

    attempt: Attempt
    number: int
    """Of its part; the member that has part 0 commits."""
    arrays: Arrays | Exception
    """By their names in the part; an exception: there was no room for the copies."""
    cut: Mapping[str, int] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


def write_part(storage: Storage, snapshot: Snapshot) -> PartRecord:
    """Writes a part, and its record unless its writer is the one that commits."""
    from cordee.trainer.interop.safetensors import encode_safetensors

    attempt, number = snapshot.attempt, snapshot.number
    file = attempt.part(number)
    try:
        if isinstance(snapshot.arrays, Exception):
            raise snapshot.arrays
        pieces = encode_safetensors(snapshot.arrays)
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        size = storage.put(f"{attempt.folder}/{file}", pieces)
    except Exception as error:
        if number:  # who commits need not wait for it
            failure = PartRecord(file, 0, "", f"{type(error).__name__}: {error}")
            with contextlib.suppress(OSError):
                storage.put(f"{attempt.folder}/{attempt.record(number)}", [failure.to_json()])
        raise
    record = PartRecord(file, size, digest.hexdigest())
    if number:
        storage.put(f"{attempt.folder}/{attempt.record(number)}", [record.to_json()])
    return record


def commit(
    storage: Storage, snapshot: Snapshot, parts: Sequence[PartRecord], hooks: Sequence[Callable[[int], None]] = ()
) -> Manifest:
    """Makes the checkpoint of which all parts are on storage."""
    step = snapshot.attempt.step
    for hook in hooks:
        hook(step)
    manifest = Manifest(step, time.time(), tuple(parts), snapshot.cut, snapshot.meta)
    storage.put(f"{snapshot.attempt.folder}/{MANIFEST}", [manifest.to_json()])
    return manifest


def tidy(storage: Storage, manifest: Manifest, *, keep: int, keep_seconds: float) -> None:
    """Removes what a committed checkpoint has made superfluous."""
    files = [part.file for part in manifest.parts]
    for names in superseded(
        step_folders(storage.list()),
        manifest.step,
        files,
        keep=keep,
        keep_seconds=keep_seconds,
        patience=PATIENCE_SECONDS,
    ):
        storage.delete(names[:1])
        storage.delete(names[1:])


def _clear(storage: Storage, attempt: Attempt) -> None:
    """Nobody commits this attempt any more: unless its parts go now, those of many attempts may fill the disk, and then
    there is no room for one that would be committed and tidy up."""
    numbers = range(attempt.num_parts)
    names = [name for number in numbers for name in (attempt.part(number), attempt.record(number))]
    with contextlib.suppress(OSError):
        storage.delete(f"{attempt.folder}/{name}" for name in names)


class CheckpointWriter:
    """Saves a run's checkpoints at `location`; one per world member. Failing storage never stops training."""

    def __init__(self, location: str, *, keep: int, keep_seconds: float = 0.0, listener: Listener) -> None:
        if keep < 1:
            raise ValueError(f"keep at least one checkpoint, not {keep}")
        self.before_commit: list[Callable[[int], None]] = []
        """Called with the step by the thread that is about to commit it, when all parts are there: what belongs to the
        step is then to be on storage as well. One that raises makes the checkpoint fail."""
        self._location = location
        self._keep = keep
        self._keep_seconds = keep_seconds
        self._listener = listener
        self._threads: list[threading.Thread] = []
        self._hurry = threading.Condition()
        self._hurried: tuple[float, float] | None = None
        """Up to which generation, and until when."""
        self._gone: dict[tuple[int, int], tuple[float, bool]] = {}
        """By generation and part: since when its writer is no member any more, and whether it was lost."""
        self._own_part = threading.Event()
        """The newest snapshot's own part is written, or could not be."""
        self._own_part.set()

    @property
    def busy(self) -> bool:
        """Whether this member is writing now, or waits for the parts of others."""
        return any(thread.is_alive() for thread in self._threads)

    def save(self, snapshot: Snapshot) -> None:
        """Writes in the background."""
        with self._hurry:
            if self._hurried is not None and math.isinf(self._hurried[0]):  # what was the end was none
                self._hurried = None
            generation = snapshot.attempt.generation
            self._gone = {part: since for part, since in self._gone.items() if part[0] >= generation}
        own_part = self._own_part = threading.Event()
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(
            target=self._write, args=(snapshot, own_part), name=f"checkpoint-{snapshot.attempt.step}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def hurry(self, generation: float, seconds: float | None = None) -> None:
        """The parts of the worlds up to `generation` are waited for so long and no longer (by default as those of who
        was lost): their members are gone."""
        seconds = HURRIED_SECONDS if seconds is None else seconds
        with self._hurry:
            self._hurried = (generation, time.monotonic() + seconds)
            self._hurry.notify_all()

    def forgo(self, generation: int, numbers: Iterable[int], *, lost: bool) -> None:
        """The writers of these parts of `generation` are no members any more: `lost`, and so dead, or else on their
        way out."""
        with self._hurry:
            for number in numbers:
                self._gone.setdefault((generation, number), (time.monotonic(), lost))
            self._hurry.notify_all()

    def is_whole(self, step: int) -> bool:
        """Whether there is a checkpoint of this step on storage, whoever wrote it. False if that cannot be seen."""
        manifest = f"{step_name(step)}/{MANIFEST}"
        try:
            return any(entry.name == manifest for entry in open_storage(self._location).list(step_name(step)))
        except OSError:
            return False

    def wait_part(self, seconds: float) -> None:
        """Waits until the own part of the newest snapshot is written, or could not be; for so long at most."""
        self._own_part.wait(seconds)

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until nothing is being written here, or for so long. Returns whether nothing is."""
        deadline = None if seconds is None else time.monotonic() + seconds
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not self.busy

    def finish(self, parts_seconds: float, seconds: float) -> bool:
        """The same at the end of a run; the parts of others are waited for so long and no longer. What is saved later,
        in the script's next loop, has its time again."""
        self.hurry(math.inf, parts_seconds)
        return self.wait(seconds)

    def _write(self, snapshot: Snapshot, own_part: threading.Event) -> None:
        step, started = snapshot.attempt.step, time.monotonic()
        try:
            try:
                storage = open_storage(self._location)
                record = write_part(storage, snapshot)
            finally:
                own_part.set()
            if snapshot.number:
                return
            try:
                parts = [record, *self._others(storage, snapshot.attempt, time.monotonic() - started)]
            except (AbandonedError, PartFailedError):
                _clear(storage, snapshot.attempt)
                raise
            manifest = commit(storage, snapshot, parts, self.before_commit)
        except Exception as error:  # whatever storage throws: training goes on, the error is told
            self._listener.failed(step, error)
            return
        where = storage.where(snapshot.attempt.folder)
        self._listener.written(step, where, manifest.num_bytes, time.monotonic() - started)
        try:
            tidy(storage, manifest, keep=self._keep, keep_seconds=self._keep_seconds)
        except Exception as error:
            _log.warning(
                "the checkpoint of step %d is there, but what it replaces could not be removed: %s", step, error
            )

    def _others(self, storage: Storage, attempt: Attempt, own_seconds: float) -> list[PartRecord]:
        """The records of all parts but the first, in their order, as soon as the last is there. `own_seconds`: what
        writing the first took."""
        found: dict[int, PartRecord] = {}
        deadline, pause = time.monotonic() + WAIT_SECONDS, _FIRST_POLL_SECONDS
        while True:
            if self._hurried is not None and attempt.generation <= self._hurried[0]:
                deadline = min(deadline, self._hurried[1])
            last_look = time.monotonic() >= deadline
            never = self._never(attempt, own_seconds)
            awaited = {
                f"{attempt.folder}/{attempt.record(number)}": number
                for number in range(1, attempt.num_parts)
                if number not in found
            }
            for entry in storage.list(attempt.folder) if awaited else ():
                if entry.name in awaited:
                    number = awaited.pop(entry.name)
                    found[number] = record = PartRecord.from_json(storage.get(entry.name).tobytes())
                    if record.failed:
                        raise PartFailedError(f"part {number} of {attempt.num_parts} failed: {record.failed}")
            if not awaited:
                return [found[number] for number in sorted(found)]
            if last_look or never.intersection(awaited.values()):
                missing = ", ".join(str(number) for number in sorted(awaited.values()))
                raise AbandonedError(f"of its {attempt.num_parts} parts these were not written: {missing}")
            with self._hurry:
                self._hurry.wait(pause)
            pause = min(pause * 1.5, _LAST_POLL_SECONDS)

    def _never(self, attempt: Attempt, own_seconds: float) -> set[int]:
        """The parts that will never come, if they are not there by now."""
        now = time.monotonic()
        patience = {True: HURRIED_SECONDS, False: max(HURRIED_SECONDS, DEPARTED_FACTOR * own_seconds)}
        with self._hurry:
            return {
                number
                for (generation, number), (since, lost) in self._gone.items()
                if generation == attempt.generation and now - since >= patience[lost]
            }
