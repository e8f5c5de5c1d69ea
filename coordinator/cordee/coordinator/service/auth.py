"""Tokens in files: the administrator's, which only its owner can read, and others; and one per job for its workers.

There is no mode without a token. All comparisons take the same time wherever the first difference lies.
"""

import contextlib
import hmac
import ipaddress
import logging
import os
import secrets
from pathlib import Path

from cordee.coordinator.errors import CoordinatorError

__all__ = ["TokenFile", "bearer", "is_loopback", "load_or_create_token", "matches", "new_token", "read_token"]

_log = logging.getLogger(__name__)

_NUM_BYTES = 32
_MIN_LENGTH = 16


def new_token() -> str:
    """A fresh secret."""
    return secrets.token_urlsafe(_NUM_BYTES)


def load_or_create_token(path: Path) -> str:
    """The token of this state folder; made on first use, readable by its owner only."""
    with contextlib.suppress(FileExistsError):
        # O_EXCL and the mode together: at no moment does the file exist with wider permissions.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(new_token() + "\n")
            file.flush()
            os.fsync(descriptor)
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return read_token(path, hint="delete it and a new one is made")


def read_token(path: Path, *, hint: str = "") -> str:
    """The token that a file holds. Raises CoordinatorError where that is no file, or no token to speak of."""
    try:
        token = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise CoordinatorError(f"the token file {path} cannot be read: {error.strerror}") from error
    if len(token) < _MIN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        message = f"the token file {path} holds no usable token (at least {_MIN_LENGTH} ASCII characters)"
        raise CoordinatorError(message, hint=hint)
    return token


class TokenFile:
    """A token in a file, read again when the file changes. While it holds none, nobody comes in by it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._token = read_token(path)  # at the start it is a mistake to be told at once

    @property
    def token(self) -> str:
        """What it holds now; empty when that is no token."""
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._seen:
                self._seen, self._token = seen, read_token(self._path)
        except (OSError, CoordinatorError) as error:
            if self._token:
                _log.warning("nobody comes in by the token file %s: %s", self._path, error)
            self._token = ""
        return self._token


def bearer(header: str | None) -> str:
    """The token of an `Authorization: Bearer …` header; empty when there is none."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def matches(given: str, expected: str) -> bool:
    """Whether the tokens are the same. An empty one never is."""
    return bool(given) and bool(expected) and hmac.compare_digest(given.encode(), expected.encode())


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, whoever it leads to: 127.0.0.1.example is anybody's
        return False
