"""What this worker shows its coordinator, and what it knows the coordinator by.

A token in a file (a projected service-account token is renewed every hour) is read anew for every call; the authority
that the coordinator is verified by, and a client certificate where mutual TLS asks for one, at every new connection.
The name that is verified is the one in CORDEE_COORDINATOR.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Credentials"]


@dataclass(frozen=True)
class Credentials:
    """A token, or the file it lies in; and TLS, if the coordinator speaks it."""

    token: str = ""
    token_file: Path | None = None
    tls: bool = False
    authority: Path | None = None
    """None: those that come with gRPC."""
    certificate: Path | None = None
    key: Path | None = None

    def current_token(self) -> str:
        """The token as it is now; empty where its file cannot be read: the coordinator refuses, and is asked again."""
        if self.token_file is None:
            return self.token
        try:
            return self.token_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            sys.stderr.write(f"cordee: the token file {self.token_file} (CORDEE_TOKEN_FILE) cannot be read: {error}\n")
            return ""

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return (("authorization", f"Bearer {self.current_token()}"),)

    def material(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The files of a connection, as they are now: the authority, the certificate and its key."""
        return _read(self.authority), _read(self.certificate), _read(self.key)

    def open_channel(
        self, address: str, options: Any, material: tuple[bytes | None, bytes | None, bytes | None]
    ) -> Any:
        """A channel to the coordinator, made of what `material` said."""
        import grpc

        if not self.tls:
            return grpc.insecure_channel(address, options)
        authority, certificate, key = material
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority, key, certificate), options)


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        sys.stderr.write(f"cordee: {path} cannot be read: {error.strerror}\n")
        return b""  # an authority that is nobody's: no connection is made
