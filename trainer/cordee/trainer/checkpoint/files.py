"""Files that are whole or absent: written under another name, flushed to the disk, renamed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

__all__ = ["fsync_directory", "fsync_file", "replace_atomically", "sha256_of"]

_CHUNK_BYTES = 4 << 20


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
