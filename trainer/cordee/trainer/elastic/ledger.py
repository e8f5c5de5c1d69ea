"""The ledger of a run: which samples every committed step consumed, in a file that outlives whoever wrote it.

Every worker tells all others with a step's exchange what it has read for it (`StepHeader.ledger`). So whoever commits a
step holds the step's whole entry. Rank 0 writes it to the file, by one call to the kernel, before it reports the step;
the others keep it until rank 0's next header says that it is written. So:

- Rank 0 dies: the next rank 0 is a survivor, or was healed by one and given what that one kept. It writes what it keeps
  with its next step.
- A survivor is a step behind and is healed: it takes what the giver keeps, which reaches up to the giver's step.
- Everybody dies: what the kernel has taken is in the file; what it had not is of steps that are lost, and done again. A
  checkpoint is committed after the ledger was flushed to the disk, so that no step before it is missing either.
- The last step: nobody meets after it, so every worker writes what it still keeps.

Writing twice is harmless: the entry of a step in a generation is the same, whoever writes it, and a step that is done
again in another generation must have read the same samples, which is what the proof looks at.

Where the file is this machine's own, and goes with it (a pod's), it is brought to where it stays by somebody else, who
tells how far that has come (`Membership.ledger_arrived`). "In the file" means "arrived" then: until it has, an entry is
kept, and a checkpoint waits for it. Each worker that ever wrote has a file; together they are the ledger.

A ledger that cannot be written (a full disk) never stops the training. What could not be written is kept, up to a
limit, and tried again; an event tells, and if it stays out of the file the proof finds the gap.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from cordee.trainer.elastic.ledger_entry import (
    MAX_LINE_BYTES,
    LedgerData,
    LedgerError,
    frame,
    pack_entry,
    pack_part,
    plan_digest,
    written_before,
)

if TYPE_CHECKING:
    from cordee.trainer.data import Batch, DataLoader
    from cordee.trainer.data.batch import Indices
    from cordee.trainer.elastic.header import StepHeader
    from cordee.trainer.elastic.protocols import Membership, NumberedStep

__all__ = ["Ledger"]

_log = logging.getLogger(__name__)

KEPT_BYTES: Final = 64 << 20
"""Entries that cannot be written are kept up to so many bytes."""
RETRY_SECONDS: Final = 1.0
ARRIVAL_SECONDS: Final = 10.0
"""For what is in the file to arrive, before a checkpoint; it runs beside training, and so does the wait."""
_ARRIVAL_POLL_SECONDS: Final = 0.02


class Ledger:
    """Notes what the steps of a run consume.

    Args:
        path: the file.
        loader: gives the samples.
        order_kind: how a seed makes an order, in this release.
        note: told, for the job's events, that the file cannot be written, and that it can be again.
        arrived: how many bytes of the file are where they stay; None: they stay in the file.
    """

    def __init__(
        self,
        path: Path,
        loader: DataLoader,
        order_kind: int,
        note: Callable[[str, str], None],
        arrived: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._loader = loader
        self._data = LedgerData.of(loader, order_kind)
        self._file = _File(path, self._data.line())
        self._note = note
        self._lock = threading.Lock()
        """A checkpoint's thread flushes while the training thread writes."""
        self._kept: dict[int, bytes] = {}
        """Entries by step, ascending, that are not known to be in the file."""
        self._kept_bytes = 0
        self._arrived = arrived
        self._ends: dict[int, int] = {}
        """Of kept entries that are in the file and may not have arrived: where they end there."""
        self._generation = 0
        self._rank = 0
        self._failed_at: float | None = None
        self._first_shard = 0
        self._read: list[Indices] = []
        self._read_before: list[Indices] = []

    @property
    def path(self) -> Path:
        return self._file.path

    @staticmethod
    def opened(
        path: str | os.PathLike[str] | None, loader: DataLoader, order_kind: int, membership: Membership
    ) -> Ledger | None:
        """The ledger of the job, if it keeps one, or else that of the script, at `path`; `LedgerError` when another
        file is there."""
        jobs = membership.ledger_path
        if jobs is None and path is None:
            return None
        arrived = membership.ledger_arrived if jobs is not None else lambda: None
        ledger = Ledger(jobs or Path(path or ""), loader, order_kind, membership.note, arrived)
        if jobs is None:
            ledger.check()
        return ledger

    @property
    def data(self) -> LedgerData:
        return self._data

    def check(self) -> None:
        """Raises `LedgerError` when there is another file, or a ledger of other data, at its path."""
        with contextlib.suppress(OSError):
            self._file.check()

    # A step

    def begin(self, first_shard: int, *, again: bool = False) -> None:
        """The shards of a step are gone through, or within one step `again`: those from `first_shard` on."""
        self._read_before = self._read if again else []
        self._first_shard = first_shard
        self._read = []

    def read(self, batch: Batch | None) -> None:
        """The next shard is handed to the script; None: it is an empty one."""
        if batch is None:
            self._read.append(range(0))
            return
        assert batch.indices is not None  # it comes from a loader
        self._read.append(batch.indices)

    def part(self, step: NumberedStep) -> bytes:
        """What this worker tells the others with the step's exchange."""
        for before, now in zip(self._read_before, self._read, strict=bool(self._read_before)):
            if not np.array_equal(before, now):
                raise RuntimeError(f"step {step.number} went through its shards twice, and got other samples")
        self._read_before = []
        written, plan = 0, 0
        if self._rank == 0:
            with self._lock:
                self._settle()
                written = min(self._kept, default=step.number) - 1
            if self._data.order == "sampler":  # nobody else can tell later what the step should have read
                plan = plan_digest(self._loader.batch_indices(step.epoch - 1, step.index))
        return pack_part(written, plan, self._first_shard, self._read)

    def committed(self, step: NumberedStep, headers: Sequence[StepHeader]) -> None:
        """The step's update has been applied here; `headers` are all workers', by rank."""
        parts = [header.ledger for header in headers]
        if not all(parts):
            raise RuntimeError(
                f"rank {parts.index(b'')} keeps no ledger, and this worker does: the script must do the same on every "
                "worker"
            )
        entry = pack_entry(step.number, step.epoch, step.index, self._generation, parts)
        with self._lock:
            self._keep(step.number, entry)
            if self._rank == 0:
                self._write()
            else:
                self._forget(written_before(parts[0]))

    # The world

    def joined(self, generation: int, rank: int) -> None:
        """This worker is a member, with the world's state. Rank 0 writes what it keeps with the next step."""
        with self._lock:
            self._generation, self._rank = generation, rank
            if rank:
                self._file.close()

    def hand_over(self) -> list[list[int | str]]:
        """What a worker that takes this one's state has to keep as well, as JSON can hold it."""
        with self._lock:
            return [[step, base64.b85encode(entry).decode()] for step, entry in self._kept.items()]

    def take_over(self, handed: Sequence[Sequence[int | str]]) -> None:
        """This worker takes another's state: what it kept itself is of steps that one has, too, or had written."""
        kept = {int(step): base64.b85decode(str(entry)) for step, entry in handed}
        with self._lock:
            self._kept, self._kept_bytes, self._ends = {}, 0, {}
            for step, entry in kept.items():
                self._keep(step, entry)

    # The file

    def flush(self) -> None:
        """All entries so far are on the disk when this returns, and arrived where it matters, or an event has told that
        they are not.

        Called before a checkpoint is committed, from any thread.
        """
        with self._lock:
            self._write(now=True)
        try:
            self._file.sync()
            self._await_arrival()
        except OSError as error:
            with self._lock:
                self._fail(error)

    def finish(self) -> None:
        """The run has its last step, or this worker leaves: whoever still keeps an entry writes it."""
        with self._lock:
            told = self._kept or self._rank == 0
        if told:
            self.flush()
        self._file.close()

    def _keep(self, step: int, entry: bytes) -> None:
        self._drop(step)
        self._kept_bytes += len(entry)
        self._kept[step] = entry
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:  # the proof will find the gap
            self._drop(next(iter(self._kept)))

    def _forget(self, written: int) -> None:
        while self._kept and (step := next(iter(self._kept))) <= written:
            self._drop(step)

    def _drop(self, step: int) -> None:
        self._kept_bytes -= len(self._kept.pop(step, b""))
        self._ends.pop(step, None)

    def _settle(self) -> None:
        """Lets go of what has arrived."""
        if self._ends:
            arrived = self._arrived() or 0
            for step in [step for step, end in self._ends.items() if end <= arrived]:
                self._drop(step)

    def _await_arrival(self) -> None:
        """Raises TimeoutError when what is in the file has not arrived in time."""
        until = time.monotonic() + ARRIVAL_SECONDS
        while True:
            with self._lock:
                self._settle()
                if not self._ends:
                    return
            if time.monotonic() > until:
                raise TimeoutError(f"it has not arrived at the coordinator within {ARRIVAL_SECONDS:g} s")
            time.sleep(_ARRIVAL_POLL_SECONDS)

    def _write(self, *, now: bool = False) -> None:
        """Writes what is kept. After a failure only once in a while, unless it is to be `now`."""
        failed_at = self._failed_at
        self._settle()
        new = {step: entry for step, entry in self._kept.items() if step not in self._ends}
        if not new or (failed_at is not None and not now and time.monotonic() < failed_at + RETRY_SECONDS):
            return
        try:
            end = self._file.append(b"".join(map(frame, new.values())))
        except (OSError, LedgerError) as error:
            self._fail(error)
            return
        if failed_at is not None:
            self._failed_at = None
            self._note("ledger", f"{self.path} is written again, from step {next(iter(new))} on")
        if self._arrived() is None:
            for step in new:
                self._drop(step)
        else:
            self._ends |= dict.fromkeys(new, end)

    def _fail(self, error: Exception) -> None:
        first = self._failed_at is None
        self._failed_at = time.monotonic()
        self._file.close()
        if first:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            message = f"{self.path} cannot be written: {reason}; training goes on, and the ledger may have a gap"
            _log.warning("%s", message)
            self._note("ledger_failed", message)


class _File:
    """A file that begins with `line`, to which only whole pieces are appended."""

    def __init__(self, path: Path, line: bytes) -> None:
        self.path = path
        self._line = line
        self._descriptor: int | None = None
        self._close: Callable[[], object] = lambda: None

    def check(self) -> None:
        """Raises `LedgerError` when there is another file at its path."""
        with self.path.open("rb") as file:
            self._compare(file.read(MAX_LINE_BYTES))

    def append(self, data: bytes) -> int:
        """Hands it to the kernel: it is in the file then, though this process may die. How long the file is with it.

        Raises:
            OSError: it cannot be written, or not all of it.
            LedgerError: there is another file at its path.
        """
        descriptor = self._opened()
        view = memoryview(data)
        if os.write(descriptor, view) != len(view):
            raise OSError(errno.ENOSPC, "the disk is full")
        return os.fstat(descriptor).st_size

    def sync(self) -> None:
        """What anybody on this machine has appended is on the disk when this returns."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)
            return
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        self._descriptor = None
        self._close()

    def _opened(self) -> int:
        if self._descriptor is not None:
            return self._descriptor
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            # Two that open it at the same time do not begin it twice.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if self._compare(os.pread(descriptor, MAX_LINE_BYTES, 0)):
                os.ftruncate(descriptor, 0)
                if os.write(descriptor, self._line) != len(self._line):
                    raise OSError(errno.ENOSPC, "the disk is full")
                os.fsync(descriptor)
                _sync_folder(self.path.parent)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)
        return descriptor

    def _compare(self, head: bytes) -> bool:
        """Whether the file has still to be begun: it is empty, or whoever began it did not get through its line."""
        if head.startswith(self._line):
            return False
        if len(head) < len(self._line) and self._line.startswith(head):
            return True
        theirs = LedgerData.from_line(head.partition(b"\n")[0])
        ours = LedgerData.from_line(self._line)
        if theirs.loader == ours.loader:
            raise LedgerError(f"{self.path} is a ledger that another release of Cordee has begun: choose another path")
        raise LedgerError(
            f"{self.path} is the ledger of {theirs.loader}, and this is {ours.loader}: choose another path"
        )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
