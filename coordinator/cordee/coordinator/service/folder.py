"""The state folder: who holds it, and where its coordinator answers.

    coordinator.db  coordinator.lock  endpoint.json  token  bundles/  jobs/<id>/  agents/<worker>.json

One coordinator per folder: the lock is held by the living process and gone with it, however it died. `endpoint.json`
outlives it on purpose: the next coordinator takes the same ports, because workers look for it there.
"""

import fcntl
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from cordee.coordinator.errors import CoordinatorError

__all__ = ["StateFolder", "is_held"]

_LOCK: Final = "coordinator.lock"
_LOCK_TRIES: Final = 5  # who only asks whether it is held (`is_held`) holds it for that moment
_LOCK_RETRY_SECONDS: Final = 0.02
_ID = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


class StateFolder:
    """The folder of one coordinator; a context manager that holds its lock."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self._lock: int | None = None

    def __enter__(self) -> Self:
        try:
            for folder in (self.root, self.root / "bundles", self.root / "jobs", self.root / "agents"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            message = f"the state folder {self.root} cannot be used: {error.strerror}"
            raise CoordinatorError(message, hint="choose another with --state") from error
        try:
            _take(self._lock)
        except OSError as error:
            holder = os.read(self._lock, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            self._lock = None
            message = f"another coordinator (pid {holder}) runs on the state folder {self.root}"
            raise CoordinatorError(message, hint="use that one, or choose another folder with --state") from error
        os.ftruncate(self._lock, 0)
        os.write(self._lock, f"{os.getpid()}\n".encode())
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "coordinator.db"

    @property
    def token_file(self) -> Path:
        """Where the token for people lies."""
        return self.root / "token"

    def job(self, job: str) -> Path:
        """A job's folder. Ids are ours, but they come back to us over the network: nothing else is taken."""
        if not _ID.fullmatch(job):
            raise CoordinatorError(f"{job!r} is not a job id")
        return self.root / "jobs" / job

    def bundle(self, sha256: str) -> Path:
        """A bundle's file."""
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise CoordinatorError(f"{sha256!r} is not a SHA-256 digest in hexadecimal")
        return self.root / "bundles" / f"{sha256}.tar.gz"

    def touch_bundle(self, sha256: str) -> bool:
        """Whether a bundle is here. Who asks is about to use it: it is not removed for a while."""
        try:
            os.utime(self.bundle(sha256))
        except FileNotFoundError:
            return False
        return True

    def write_endpoint(self, endpoint: Mapping[str, Any]) -> None:
        """Say where this coordinator answers."""
        draft = self.root / "endpoint.json.new"
        draft.write_text(json.dumps(dict(endpoint), indent=2) + "\n")
        draft.replace(self.root / "endpoint.json")

    def read_endpoint(self) -> dict[str, Any]:
        """Where the last coordinator of this folder answered; empty when there was none."""
        try:
            endpoint = json.loads((self.root / "endpoint.json").read_text())
        except (OSError, ValueError):
            return {}
        return endpoint if isinstance(endpoint, dict) else {}


def is_held(root: Path) -> bool:
    """Whether a coordinator lives on this state folder: its lock says so, however the last one ended."""
    try:
        lock = os.open(root / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _take(lock: int) -> None:
    for tries_left in reversed(range(_LOCK_TRIES)):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if not tries_left:
                raise
            time.sleep(_LOCK_RETRY_SECONDS)
        else:
            return
