"""Files below a folder, and nowhere else: for paths that come over the network, into folders that scripts write to.

A path is taken part by part, and each part is opened in the folder before it, links refused (`O_NOFOLLOW`). So neither
`..` nor a link that a script has put there, before or between two looks, leads out.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cordee.coordinator.errors import InvalidError

__all__ = ["MAX_PATH", "check_path", "folder_beneath", "open_beneath", "walk_beneath"]

MAX_PATH: Final = 1024
_MAX_DEPTH: Final = 32
_MAX_NAME_BYTES: Final = 255
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def check_path(path: str) -> tuple[str, ...]:
    """Its parts; InvalidError when it is no plain relative path."""
    parts = tuple(path.split("/"))
    if len(path) > MAX_PATH or len(parts) > _MAX_DEPTH or not all(map(_is_plain, parts)):
        raise InvalidError(f"{path[:200]!r} is not a path of plain names with slashes between them")
    return parts


@contextlib.contextmanager
def folder_beneath(root: Path, parts: tuple[str, ...], *, make: bool = False) -> Iterator[int]:
    """A descriptor of the folder `root/parts…`; with `make` it is made where it is missing."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=descriptor)
            inner = os.open(part, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def open_beneath(root: Path, parts: tuple[str, ...]) -> int:
    """A descriptor of the regular file `root/parts…`, for reading; OSError when there is none."""
    with folder_beneath(root, parts[:-1]) as folder:
        # Not to wait for a pipe's other end.
        descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(parts[-1])
    return descriptor


def walk_beneath(root: Path, top: str, limit: int) -> Iterator[tuple[str, os.stat_result]]:
    """The regular files below `root/top`, by path, `limit` at most; links are passed over."""
    if (root / top).is_symlink():
        return
    for folder, folders, names in os.walk(root / top):  # which goes into no link
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            try:
                found = path.lstat()
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode) and limit > 0:
                limit -= 1
                yield path.relative_to(root).as_posix(), found


def _is_plain(part: str) -> bool:
    # What is not printable may be a lone surrogate, which no file's name in UTF-8 is, or make a list of files lie.
    return part not in ("", ".", "..") and part.isprintable() and len(part.encode()) <= _MAX_NAME_BYTES
