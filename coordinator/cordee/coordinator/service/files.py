"""What a job keeps: its files at the coordinator, as they come from workers in pods, and as people fetch them.

    jobs/<id>/result/model.safetensors    the final weights
    jobs/<id>/output/…                    what the script has put into CORDEE_OUTPUT_DIR
    jobs/<id>/ledger/…                    which samples its steps read

A file comes under its SHA-256 and is there whole or not at all. Every worker of a job's last world offers the same
files; who asks first is asked for one, and the others hear that it is coming. One that does not keep its promise loses
it after a while: promises are forgotten with the process, since they cost one upload more at worst.

A worker that is drained in the middle brings what is in its output folder, too. What one brings that has come to the
end takes its place, and never the other way round, whichever arrives last.
"""

import asyncio
import errno
import hashlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cordee.coordinator.config import Uploads
from cordee.coordinator.errors import InvalidError, NotFoundError, StorageFullError, TooLargeError
from cordee.coordinator.service.beneath import check_path, folder_beneath, open_beneath, walk_beneath

_Identity = tuple[int, int, int, int, int]

__all__ = ["DRAFT", "Answer", "Digests", "FileUpload", "Files", "Found"]

DRAFT: Final = ".incoming-"
_KEPT: Final = ("result", "output", "ledger")
_RESULT: Final = "result"
_TAKEN: Final = frozenset({_RESULT, "output"})
_MAX_FILES: Final = 20_000
_PROMISE_SECONDS: Final = 15.0
"""For an upload to begin, and between two pieces of it."""
_MAX_DIGESTS: Final = 50_000
_MAX_ENDING: Final = 256
"""Jobs of which is known what workers that came to the end have offered: those that ended last."""
_BLOCK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A file of a job."""

    path: str
    size: int
    modified_at: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What to do with a file that a worker has: `wanted`, `there`, `coming` from another, `refused`."""

    state: str
    where: str = ""
    why: str = ""


class Digests:
    """SHA-256 of files, computed once for each content that they have had."""

    def __init__(self) -> None:
        self._known: dict[_Identity, str] = {}

    def of(self, descriptor: int) -> str:
        """Of the open file, from its beginning. Reads it, unless it is known: not for the loop's thread."""
        key = _identity(descriptor)
        digest = self._known.get(key)
        if digest is None:
            hasher, offset = hashlib.sha256(), 0
            while block := os.pread(descriptor, min(_BLOCK_BYTES, key[2] - offset), offset):
                hasher.update(block)
                offset += len(block)
            digest = hasher.hexdigest()
            if _identity(descriptor) == key:
                self.note(descriptor, digest)
        return digest

    def note(self, descriptor: int, digest: str) -> None:
        """The file has this one."""
        if len(self._known) >= _MAX_DIGESTS:
            self._known.clear()
        self._known[_identity(descriptor)] = digest


@dataclass
class _Promise:
    worker: str
    sha256: str
    until: float


class Files:
    """The files of all jobs. Of one event loop; what touches the disk runs in threads."""

    def __init__(self, limits: Uploads | None = None) -> None:
        self.limits = limits or Uploads()
        self.digests = Digests()
        self._promises: dict[tuple[Path, str], _Promise] = {}
        self._final: dict[Path, set[str]] = {}
        """Files that workers have who came to the end, by job."""

    # -- for people

    def list(self, folder: Path) -> list[Found]:
        """What a job has kept so far. Not for the loop's thread."""
        left = _MAX_FILES
        found: list[Found] = []
        for top in _KEPT:
            for path, status in walk_beneath(folder, top, left - len(found)):
                found.append(Found(path, status.st_size, status.st_mtime))
        return found

    def open(self, folder: Path, path: str) -> tuple[int, int, str]:
        """A descriptor of one of these, its size, its SHA-256. Not for the loop's thread."""
        parts = check_path(path)
        try:
            if parts[0] not in _KEPT:
                raise FileNotFoundError
            descriptor = open_beneath(folder, parts)
        except OSError:
            raise NotFoundError(
                f"this job keeps no file {path!r}", hint="see what it keeps: cordee fetch JOB --list"
            ) from None
        try:
            return descriptor, os.fstat(descriptor).st_size, self.digests.of(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    # -- for workers

    async def offer(
        self, folder: Path, worker: str, path: str, size: int, sha256: str, *, leaving: bool = False
    ) -> Answer:
        """A worker has this file: whether it is to send it. `leaving`: it has not come to the script's end."""
        parts = check_path(path)
        if parts[0] not in _TAKEN or len(parts) < 2:
            raise InvalidError(f"a worker leaves files in result/ and output/, not {path!r}")
        if size > self.limits.file_bytes:
            return Answer("refused", why=self._too_large(size))
        if leaving and await self.is_final(folder, path):
            return Answer("there", where=str(folder.joinpath(*parts)))
        if not leaving:
            self._final.setdefault(folder, set()).add(path)
            if len(self._final) > _MAX_ENDING:
                del self._final[next(iter(self._final))]
        if await asyncio.to_thread(self._has, folder, parts, size, sha256):
            return Answer("there", where=str(folder.joinpath(*parts)))
        promise = self._promises.get((folder, path))
        now = time.monotonic()
        if promise is not None and promise.until > now and promise.sha256 == sha256 and promise.worker != worker:
            return Answer("coming")
        self._promises[folder, path] = _Promise(worker, sha256, now + _PROMISE_SECONDS)
        return Answer("wanted")

    def upload(
        self, folder: Path, worker: str, path: str, size: int, sha256: str, *, leaving: bool = False
    ) -> "FileUpload":
        """The file comes: a context manager."""
        parts = check_path(path)
        if parts[0] not in _TAKEN or len(parts) < 2:
            raise InvalidError(f"a worker leaves files in result/ and output/, not {path!r}")
        if size > self.limits.file_bytes:
            raise TooLargeError(self._too_large(size))
        return FileUpload(self, folder, worker, parts, size, sha256, leaving=leaving)

    async def is_final(self, folder: Path, path: str) -> bool:
        """Whether a worker that has come to the end has this file, and has brought it or will.

        What it has offered is forgotten with the process, and offered again, but for what is here. A result is brought
        at the end only, and first: beside one, a file may be the last word.
        """
        if path in self._final.get(folder, ()):
            return True
        return await asyncio.to_thread(lambda: (folder / _RESULT).exists() and (folder / path).exists())

    def keep_promise(self, folder: Path, worker: str, path: str, sha256: str) -> None:
        """It is coming."""
        self._promises[folder, path] = _Promise(worker, sha256, time.monotonic() + _PROMISE_SECONDS)

    def forget_promise(self, folder: Path, worker: str, path: str) -> None:
        """It has come, or will not."""
        promise = self._promises.get((folder, path))
        if promise is not None and promise.worker == worker:
            del self._promises[folder, path]

    def check_room(self, folder: Path, parts: tuple[str, ...], size: int) -> None:
        """StorageFullError when this file is too much. Not for the loop's thread."""
        kept = self.list(folder)
        path = "/".join(parts)
        total = size + sum(file.size for file in kept if file.path != path)
        if total > self.limits.job_bytes:
            raise StorageFullError(
                f"this job's files may have {self.limits.job_bytes >> 20} MiB together (uploads.jobBytes)"
            )
        if len(kept) >= _MAX_FILES:
            raise StorageFullError(f"this job keeps {_MAX_FILES} files already")

    def _too_large(self, size: int) -> str:
        return f"it has {size >> 20} MiB, and a file may have {self.limits.file_bytes >> 20} MiB (uploads.fileBytes)"

    def _has(self, folder: Path, parts: tuple[str, ...], size: int, sha256: str) -> bool:
        try:
            descriptor = open_beneath(folder, parts)
        except OSError:
            return False
        try:
            return os.fstat(descriptor).st_size == size and self.digests.of(descriptor) == sha256
        finally:
            os.close(descriptor)


class FileUpload:
    """One upload. A context manager that leaves nothing behind unless `keep` was reached."""

    def __init__(
        self,
        files: Files,
        folder: Path,
        worker: str,
        parts: tuple[str, ...],
        size: int,
        sha256: str,
        *,
        leaving: bool = False,
    ) -> None:
        self._files, self._folder, self._worker, self._parts = files, folder, worker, parts
        self._size, self._sha256, self._leaving = size, sha256, leaving
        self._digest = hashlib.sha256()
        self._num_bytes = 0

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._files.check_room, self._folder, self._parts, self._size)
        descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=DRAFT)
        self._draft, self._file = Path(name), os.fdopen(descriptor, "wb", buffering=0)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._draft.unlink(missing_ok=True)
        self._files.forget_promise(self._folder, self._worker, "/".join(self._parts))

    async def write(self, data: bytes) -> None:
        """Take a piece."""
        self._num_bytes += len(data)
        if self._num_bytes > self._size:
            raise InvalidError("more bytes came than were announced")
        self._files.keep_promise(self._folder, self._worker, "/".join(self._parts), self._sha256)
        await asyncio.to_thread(self._write, data)

    async def keep(self) -> str:
        """Put it in its place, which is told; an error when it is not what it was said to be."""
        if self._num_bytes != self._size or self._digest.hexdigest() != self._sha256:
            found = f"{self._num_bytes} bytes with the SHA-256 {self._digest.hexdigest()}"
            raise InvalidError(f"what came of {self._parts[-1]!r} is {found}, not what was announced")
        if not (self._leaving and await self._files.is_final(self._folder, "/".join(self._parts))):
            await asyncio.to_thread(self._keep)
        return str(self._folder.joinpath(*self._parts))

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) or 0 :]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFullError("the disk of the coordinator is full") from None
            raise

    def _keep(self) -> None:
        os.fsync(self._file.fileno())
        try:
            with folder_beneath(self._folder, self._parts[:-1], make=True) as folder:
                os.replace(self._draft, self._parts[-1], dst_dir_fd=folder)
                os.fsync(folder)
        except OSError as error:
            raise InvalidError(f"{'/'.join(self._parts)!r} cannot be put in its place: {error.strerror}") from None
        self._files.digests.note(self._file.fileno(), self._sha256)


def _identity(descriptor: int) -> _Identity:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
