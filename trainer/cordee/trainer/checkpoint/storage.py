"""Where checkpoints lie: a folder, or a bucket of an object store, behind one small protocol.

What a checkpoint needs of storage is what the least of them gives: an object that is put is whole or absent, and what
was put can be got, listed and deleted, by name. There is no rename and no append, so that a bucket will do.

Names are relative paths of plain parts (letters, digits, `.`, `_`, `-`): nothing that is read from a manifest leads out
of the place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from cordee.trainer.files import fsync_directory

__all__ = ["RESERVED_BYTES", "Entry", "LocalStorage", "Storage", "StorageError", "check_name"]

RESERVED_BYTES = 32 << 20
"""What a checkpoint leaves free of its disk: the coordinator's database is often on the same one, and a job can do
without a checkpoint, but not without that."""

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_PART = re.compile(r"[A-Za-z0-9_.\-]+")


class StorageError(OSError):
    """Storage cannot be used now: nothing is known of what lies there. A sentence that says what to do.

    A machine's fault by its number, so that a worker which cannot go on without storage is tried again.
    """

    def __init__(self, message: str) -> None:
        super().__init__(errno.EREMOTEIO, message)

    def __str__(self) -> str:
        return str(self.args[1])


@dataclass(frozen=True)
class Entry:
    """An object that is there."""

    name: str
    size: int
    modified: float
    """Unix time, by the storage's clock."""


class Storage(Protocol):
    """Objects by name. Every method may be called from any thread.

    Raises `FileNotFoundError` for what is not there, other `OSError`s for what failed (`StorageError`: the whole place
    cannot be reached), `ValueError` for a name that is none.
    """

    @property
    def location(self) -> str:
        """The folder or URL, as `open_storage` takes it."""
        ...

    def put(self, name: str, pieces: Sequence[bytes | memoryview]) -> int:
        """Writes an object: whole, durable and in place of what had its name, or not at all. Returns its size."""
        ...

    def get(self, name: str) -> Bytes:
        """A whole object, in memory of its own."""
        ...

    def list(self, folder: str = "") -> list[Entry]:
        """All that lies in `folder` and below, also what a killed writer left; nothing when there is no such folder."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Removes objects; those that are gone already are no error."""
        ...

    def where(self, name: str) -> str:
        """An object's path or URL, for people."""
        ...


def check_name(name: str) -> str:
    """`name`, if it is an object's."""
    if not all(_PART.fullmatch(part) and part not in (".", "..") for part in name.split("/")):
        raise ValueError(f"{name!r} is no name of an object: parts of letters, digits, '.', '_' and '-', with '/'")
    return name


def _created(path: Path) -> BinaryIO:
    """A new file, in a folder that another writer may be removing just now because it was empty."""
    try:
        return path.open("xb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")


class LocalStorage:
    """A folder. An object is written beside its place under a name that begins with a dot, flushed, and renamed."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @property
    def location(self) -> str:
        return str(self._root)

    def put(self, name: str, pieces: Sequence[bytes | memoryview]) -> int:
        target = self._path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        size = sum(len(piece) for piece in pieces)
        free = shutil.disk_usage(target.parent).free
        if size + RESERVED_BYTES > free:
            raise OSError(
                errno.ENOSPC,
                f"{size >> 20} MiB are to be written and {RESERVED_BYTES >> 20} kept, {free >> 20} are free",
                str(target.parent),
            )
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            with _created(unfinished) as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise
        fsync_directory(target.parent)
        if target.parent != self._root:
            fsync_directory(target.parent.parent)  # the folder's own entry, should it be new
        return size

    def get(self, name: str) -> Bytes:
        return np.fromfile(self._path(name), np.uint8)

    def list(self, folder: str = "") -> list[Entry]:
        start = self._path(folder) if folder else self._root
        found: list[Entry] = []
        waiting = [start]
        while waiting:
            try:
                children = list(os.scandir(waiting.pop()))
            except (FileNotFoundError, NotADirectoryError):
                continue  # deleted meanwhile, or never made
            for child in children:
                try:
                    if child.is_dir(follow_symlinks=False):
                        waiting.append(Path(child.path))
                    elif child.is_file(follow_symlinks=False):
                        status = child.stat(follow_symlinks=False)
                        name = Path(child.path).relative_to(self._root).as_posix()
                        found.append(Entry(name, status.st_size, status.st_mtime))
                except FileNotFoundError:
                    continue
        return sorted(found, key=lambda entry: entry.name)

    def delete(self, names: Iterable[str]) -> None:
        folders = set()
        for name in names:
            path = self._path(name)
            path.unlink(missing_ok=True)
            folders.add(path.parent)
        for folder in folders - {self._root}:
            with contextlib.suppress(OSError):  # something else lies in it
                folder.rmdir()

    def where(self, name: str) -> str:
        return str(self._path(name))

    def _path(self, name: str) -> Path:
        path = self._root / check_name(name)
        # A link that somebody laid into the folder does not lead out of it either.
        parent = path.parent
        while parent != self._root:
            if parent.is_symlink():
                raise ValueError(f"{parent} is a link: a checkpoint lies in its own folder")
            parent = parent.parent
        return path
