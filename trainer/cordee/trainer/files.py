"""Files that are whole or absent: written under another name, flushed to the disk, renamed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["alone_in", "fsync_directory", "fsync_file", "replace_atomically", "sha256_of"]

_CHUNK_BYTES = 4 << 20


@contextlib.contextmanager
def alone_in(directory: Path, patience_seconds: float = 10.0) -> Iterator[bool]:
    """Waits until nobody else is in this block for `directory`, and yields whether that is so.

    A lock of the operating system's, so a killed process holds none. False: somebody is still at it after
    `patience_seconds` (its process may be stopped), or the storage knows no locks.
    """
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + patience_seconds
        alone = False
        while not alone:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alone = True
            except BlockingIOError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            except OSError:
                break
        yield alone
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; on leaving, that file takes the place of `path` in one step."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield unfinished
        fsync_file(unfinished)
        unfinished.replace(path)
        fsync_directory(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def fsync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_directory(path: Path) -> None:
    """Makes a rename inside `path` survive a power cut."""
    fsync_file(path)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
