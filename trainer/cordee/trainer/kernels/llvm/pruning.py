"""What is removed from the folder of compiled code: what nobody has used for long, and more where it is too much.

Each release, CPU and formula has files of its own, and nobody asks again for those of an older release. A file's time
of modification says when it was used last, to a day. Any process may prune at any time beside others that read and
write: a file that is open stays readable, and one that is gone is compiled again. So a prune needs no agreement, and is
done by one process at a time only because one is enough.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import stat
import time
from pathlib import Path
from typing import NamedTuple

__all__ = ["one_more", "prune", "used"]

MOST_BYTES = 64 << 20
"""Of all files: some ten thousand loops. What is used by one release on one machine is a hundredth of it."""
MOST_AGE_SECONDS = 90 * 86400.0
"""How long a file is kept that nobody uses."""
_LEFT_OVER_SECONDS = 3600.0
"""After so long a lock or a file half written is one of a process that was killed."""
_KEPT = 0.75
"""The part of the bytes that is left where there were too many: or each new file would have the folder pruned."""
_DAY_SECONDS = 86400.0
_EVERY = 64
"""Files written by a process after which it prunes; it does with its first one, too."""

_FILE = re.compile(r"[\w.-]+-[0-9a-f]{32}\.o")
_LEFT_OVER = re.compile(_FILE.pattern + r"(\.lock|[a-z0-9_]{8})")

_written = itertools.count()


class _Found(NamedTuple):
    used: float
    num_bytes: int
    path: str


def used(descriptor: int) -> None:
    """Somebody reads this file now."""
    with contextlib.suppress(OSError):
        if time.time() - os.fstat(descriptor).st_mtime > _DAY_SECONDS:
            os.utime(descriptor)


def one_more(folder: Path) -> None:
    """A file is about to be written: now and then the folder is pruned."""
    if next(_written) % _EVERY == 0:
        prune(folder)


def prune(folder: Path) -> int:
    """Remove files that have not been used for long, then those used longest ago until the rest is not too much.

    Nothing but files that are named as compiled code is, and are this user's, is touched. Returns how many were
    removed; none where another process is at it.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        with contextlib.suppress(OSError):  # file systems without locks, and NFS, which has none for folders
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another prunes
                return 0
        return _prune(folder)
    except OSError:
        return 0
    finally:
        os.close(descriptor)


def _prune(folder: Path) -> int:
    now, found, removed = time.time(), list[_Found](), 0
    with os.scandir(folder) as entries:
        for entry in entries:
            is_code = _FILE.fullmatch(entry.name)
            if not is_code and not _LEFT_OVER.fullmatch(entry.name):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:  # removed meanwhile
                continue
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                continue
            if now - status.st_mtime > (MOST_AGE_SECONDS if is_code else _LEFT_OVER_SECONDS):
                removed += _remove(entry.path)
            elif is_code:
                found.append(_Found(status.st_mtime, status.st_size, entry.path))
    num_bytes = sum(each.num_bytes for each in found)
    if num_bytes > MOST_BYTES:
        for each in sorted(found):
            if num_bytes <= _KEPT * MOST_BYTES:
                break
            removed += _remove(each.path)
            num_bytes -= each.num_bytes
    return removed


def _remove(path: str) -> bool:
    try:
        Path(path).unlink()
    except OSError:  # another was faster, or may and we may not
        return False
    return True
