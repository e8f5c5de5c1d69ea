"""What workers in pods append to, far away: their logs and their ledgers, byte for byte as they are there.

Each file of theirs is a file here, named by its worker and by the name that the worker's forwarder gives it, and what
is here is its beginning: its size is all that has to be known, so a coordinator that is killed knows it as well. Bytes
come with their offset; what is here already is passed over, what does not follow is not taken, and the answer is how
much there is. So whatever is sent twice is here once, and nothing is left out.

    jobs/<id>/logs/<worker>.jsonl.<name>          read by `logs`, with those of agents that share our disk
    jobs/<id>/ledger/<worker>.<name>.ledger

A job's logs are limited together, as an agent's own are: then the oldest that nobody writes to any more goes. An empty
file keeps its place, so that it is not sent again.
"""

import asyncio
import errno
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from cordee.coordinator.config import Uploads
from cordee.coordinator.errors import InvalidError, StorageFullError

__all__ = ["LEDGER", "LOGS", "MAX_BATCH_BYTES", "Appends", "Kind"]

Kind = Literal["logs", "ledger"]
LOGS: Final = "logs"
LEDGER: Final = "ledger"
MAX_BATCH_BYTES: Final = 1 << 20
_MAX_FILES: Final = 10_000
"""Of one job: an agent that is started again in a new pod begins a new one."""
_NAME: Final = re.compile(r"[0-9a-f]{32}")
_GONE: Final = ".gone"
_MAX_KNOWN: Final = 1000
"""Folders of which it is remembered what is in them; of others it is looked at again."""


@dataclass
class _Folder:
    """What is known of one job's folder of one kind."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One writes at a time: a batch that is sent again may come while the first is still being written."""
    sizes: dict[str, int] | None = None
    """By file; None: nobody has looked yet."""


class Appends:
    """All jobs' appended files. Of one event loop; what touches the disk runs in threads."""

    def __init__(self, limits: Uploads) -> None:
        self._limits = limits
        self._folders: dict[Path, _Folder] = {}

    async def append(self, folder: Path, worker: str, kind: Kind, name: str, offset: int, data: bytes) -> int:
        """How much of the file is here now. `folder` is the job's, `worker` a worker of it."""
        if not _NAME.fullmatch(name):
            raise InvalidError(f"{name[:80]!r} is no name of a forwarded file")
        if len(data) > MAX_BATCH_BYTES:
            raise InvalidError(f"a batch has {MAX_BATCH_BYTES >> 10} KiB at most")
        place = folder / kind
        known = self._known(place)
        file = f"{worker}.jsonl.{name}" if kind == LOGS else f"{worker}.{name}.ledger"
        async with known.lock:
            return await asyncio.to_thread(self._append, place, known, kind, file, offset, data)

    def _known(self, place: Path) -> _Folder:
        known = self._folders.pop(place) if place in self._folders else _Folder()
        self._folders[place] = known
        oldest = next(iter(self._folders))
        if len(self._folders) > _MAX_KNOWN and not self._folders[oldest].lock.locked():
            del self._folders[oldest]
        return known

    def _append(self, place: Path, known: _Folder, kind: Kind, file: str, offset: int, data: bytes) -> int:
        if known.sizes is None:
            place.mkdir(parents=True, exist_ok=True)
            known.sizes = {path.name: path.lstat().st_size for path in place.iterdir()}
        sizes = known.sizes
        if file + _GONE in sizes:
            return offset + len(data)
        if file not in sizes and len(sizes) >= _MAX_FILES:
            raise StorageFullError(f"this job's workers have sent {_MAX_FILES} files of {kind} already")
        self._make_room(place, sizes, kind, file, len(data))
        descriptor = os.open(place / file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if offset <= size < offset + len(data):
                view = memoryview(data)[size - offset :]
                while view:
                    written = os.write(descriptor, view)
                    size += written
                    view = view[written:]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFullError("the disk of the coordinator is full") from None
            raise
        finally:
            sizes[file] = os.fstat(descriptor).st_size
            os.close(descriptor)
        return size

    def _make_room(self, place: Path, sizes: dict[str, int], kind: Kind, file: str, more: int) -> None:
        limit = self._limits.log_bytes if kind == LOGS else self._limits.job_bytes
        excess = sum(sizes.values()) + more - limit
        if excess <= 0:
            return
        if kind == LOGS:
            for old in self._left_behind(place, sizes, file):
                (place / old).unlink(missing_ok=True)
                (place / (old + _GONE)).touch()
                excess -= sizes.pop(old)
                sizes[old + _GONE] = 0
                if excess <= 0:
                    return
        raise StorageFullError(f"this job's {kind} may have {limit >> 20} MiB, and they are used up")

    @staticmethod
    def _left_behind(place: Path, sizes: dict[str, int], file: str) -> list[str]:
        """Files that their workers have gone on from, the oldest first."""
        written = {name: (place / name).lstat().st_mtime_ns for name, size in sizes.items() if size}
        newest: dict[str, str] = {}
        for name in sorted(written, key=lambda name: written[name]):
            newest[name.partition(".jsonl")[0]] = name
        newest[file.partition(".jsonl")[0]] = file
        kept = set(newest.values())
        return sorted((name for name in written if name not in kept), key=lambda name: written[name])
