"""Compiled code on disk, for the next process: a file for each key, in a folder that is the user's alone.

It is native code, and it is run: so it is only taken from a folder, and from files, that nobody else can write to, and
only whole. Of processes that need the same at the same time one compiles, and the others wait for it, but not for long:
it may have been stopped. What nobody has used for long is removed in time (`pruning`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

from cordee.trainer.kernels.llvm import pruning

__all__ = ["folder", "kept", "read", "trouble", "write"]

PATIENCE_SECONDS = 5.0
"""Longer than a family takes to be compiled."""
_DIGEST = hashlib.sha256().digest_size


def folder() -> Path:
    """Where compiled code is kept: CORDEE_KERNEL_CACHE, or in the user's cache folder."""
    if told := os.environ.get("CORDEE_KERNEL_CACHE"):
        return Path(told)
    try:
        return platformdirs.user_cache_path("cordee") / "kernels"
    except RuntimeError:  # a user without a name, as containers have them, and without HOME
        return Path("~", ".cache", "cordee", "kernels")


def trouble() -> str:
    """What keeps this process from using the folder, which is made if it is not there; "" if nothing does."""
    place = folder()
    if not place.is_absolute():
        return f"{place} is not an absolute path"
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = place.stat()
    except OSError as error:
        return f"{place}: {error.strerror}"
    if not _is_private(status):
        return f"others than this process's user ({os.geteuid()}) may write to {place}"
    return "" if os.access(place, os.W_OK | os.X_OK) else f"{place} cannot be written to"


def kept(name: str, make: Callable[[], bytes]) -> bytes:
    """What is kept under this name; if there is nothing, what `make` makes, and it is kept from then on."""
    code = read(name)
    if code is not None:
        return code
    with _alone(name):
        code = read(name)  # another may have made it since
        if code is None:
            code = make()
            write(name, code)
    return code


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """What one process at a time does for a name, if the others have the patience."""
    with contextlib.ExitStack() as stack:
        if not trouble():
            _wait(folder() / f"{name}.lock", stack)
        yield


def _wait(lock: Path, stack: contextlib.ExitStack) -> None:
    try:
        file = stack.enter_context(lock.open("w"))
        until = time.monotonic() + PATIENCE_SECONDS
        while not _locked(file.fileno()):
            if time.monotonic() >= until:
                return
            time.sleep(0.005)
        stack.callback(lock.unlink, missing_ok=True)
    except OSError:  # a file system without locks
        pass


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read(name: str) -> bytes | None:
    """What was kept under this name; None: nothing, or nothing to be trusted."""
    try:
        place = folder()
        if not place.is_absolute() or not _is_private(place.stat()):
            return None
        with (place / name).open("rb") as file:
            if not _is_private(os.fstat(file.fileno())):
                return None
            digest, code = file.read(_DIGEST), file.read()
            pruning.used(file.fileno())
    except OSError:
        return None
    return code if hashlib.sha256(code).digest() == digest else None


def write(name: str, code: bytes) -> None:
    """Keep it under this name, whole or not at all, if there is a folder to keep it in."""
    if trouble():
        return
    place = folder()
    pruning.one_more(place)
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=place, prefix=name, delete=False) as file:
        try:
            file.write(hashlib.sha256(code).digest() + code)
            file.flush()
            Path(file.name).replace(place / name)
        except OSError:
            Path(file.name).unlink(missing_ok=True)


def _is_private(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
