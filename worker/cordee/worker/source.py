"""Unpacks the job's source bundle into the job's folder on this machine, confined and once.

A bundle is a gzipped tar named by its SHA-256. It comes from whoever may submit jobs, which is not whoever owns the
machine: nothing in it may be written outside its folder, and it may not fill the disk. Only plain files and folders are
taken: a link could only ever point somewhere that the copy does not need. Unpacking ends in one rename, so several
workers of a host may do it at the same time, and a killed one leaves nothing that another would take for a source.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import IO, Any

__all__ = ["BundleError", "ensure_source"]

MAX_BUNDLE_BYTES = 1 << 30
MAX_UNPACKED_BYTES = 4 << 30
MAX_FILES = 100_000
STALE_SECONDS = 600.0
"""A half-unpacked folder older than this belongs to a process that died."""
MAX_READ_BYTES = 2 << 20
"""At once. A member is read by smaller pieces; a header that wants more (a name of a gigabyte) is a trap."""
_PARTIAL = ".partial-"


class BundleError(Exception):
    """The job's source could not be unpacked."""


def ensure_source(root: Path, sha256: str, fetch: Callable[[], Iterable[bytes]]) -> Path:
    """The folder `root/sha256` with the bundle's files, unpacked from `fetch()`'s pieces unless it is there already."""
    target = root / sha256
    if target.is_dir():
        return target
    # A worker that starts again finds its source unpacked, and is spared these imports.
    import shutil
    import tempfile

    root.mkdir(parents=True, exist_ok=True)
    _remove_stale(root)
    partial = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{sha256[:12]}-", dir=root))
    try:
        with tempfile.TemporaryFile(dir=root) as archive:
            _receive(archive, sha256, fetch())
            archive.seek(0)
            _unpack(archive, partial)
        partial.chmod(0o755)
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # else another worker was faster, with the same files
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _receive(archive: IO[bytes], sha256: str, pieces: Iterable[bytes]) -> None:
    import hashlib

    digest = hashlib.sha256()
    received = 0
    for piece in pieces:
        received += len(piece)
        if received > MAX_BUNDLE_BYTES:
            raise BundleError(f"the source bundle is larger than {MAX_BUNDLE_BYTES >> 20} MiB")
        digest.update(piece)
        archive.write(piece)
    if digest.hexdigest() != sha256:
        raise BundleError(f"the source bundle that arrived is not {sha256} but {digest.hexdigest()} ({received} bytes)")


class _Bounded:
    """What is unzipped, read by pieces of a sane size only: a header's length comes from whoever made the bundle."""

    def __init__(self, unzipped: Any) -> None:
        self._unzipped = unzipped
        self.seek, self.tell, self.close = unzipped.seek, unzipped.tell, unzipped.close

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_READ_BYTES:
            raise BundleError("the source bundle holds a header of an absurd size")
        data: bytes = self._unzipped.read(size)
        return data


def _unpack(archive: IO[bytes], folder: Path) -> None:
    import gzip
    import shutil
    import tarfile

    unpacked = num_files = 0
    try:
        bounded: Any = _Bounded(gzip.GzipFile(fileobj=archive))
        with tarfile.open(fileobj=bounded, mode="r:") as bundle:
            for member in bundle:
                num_files += 1
                unpacked += member.size
                if member.size < 0:
                    raise BundleError(f"the source bundle holds {member.name!r}, whose size is below zero")
                if num_files > MAX_FILES:
                    raise BundleError(f"the source bundle holds more than {MAX_FILES} files")
                if unpacked > MAX_UNPACKED_BYTES:
                    raise BundleError(f"the source bundle unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB")
                path = folder.joinpath(*_parts(member.name))
                if member.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                elif member.isreg():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    source = bundle.extractfile(member)
                    assert source is not None
                    with source, path.open("wb") as file:
                        shutil.copyfileobj(source, file, 1 << 20)
                    path.chmod(0o755 if member.mode & 0o100 else 0o644)
                else:
                    raise BundleError(f"the source bundle holds {member.name!r}, which is neither a file nor a folder")
    except (tarfile.TarError, EOFError, OSError) as error:
        # gzip's and zlib's errors are OSError and EOFError; a name that is a file and a folder is an OSError.
        raise BundleError(f"the source bundle cannot be unpacked: {error}") from error


def _parts(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise BundleError(f"the source bundle holds {name!r}, which lies outside its folder")
    return path.parts


def _remove_stale(root: Path) -> None:
    import shutil

    oldest = time.time() - STALE_SECONDS
    for path in root.glob(f"{_PARTIAL}*"):
        try:
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # its owner has just moved or removed it
