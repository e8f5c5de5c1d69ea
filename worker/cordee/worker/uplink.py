"""The way from a pod to its coordinator's REST port: for what a laptop's workers leave in a folder that all can see.

`CORDEE_UPLOADS` is the worker's own address there, `https://coordinator:8470/v1/workers/<worker>`. The worker's token
comes from CORDEE_TOKEN, or from CORDEE_TOKEN_FILE, which is read for every request: Kubernetes renews it. What the
coordinator is verified by, CORDEE_CA_FILE, is read for every connection.

Standard library only, and its small parts at that: the agent's forwarder is this and little else.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Callable, Mapping
from typing import IO, Any
from urllib.parse import quote, urlsplit

__all__ = ["AwayError", "RefusedError", "Uplink", "read_token"]

TIMEOUT_SECONDS = 10.0
"""For a connection to be made, and for silence on it."""
_BLOCK_BYTES = 256 << 10
_FINAL = frozenset({409, 413, 422, 507})
"""These do not get better by asking again. A 401 may (a token is renewed), and a 404 (a coordinator is starting)."""


class AwayError(Exception):
    """The coordinator cannot be reached, or cannot answer now. It is worth asking again."""


class RefusedError(Exception):
    """The coordinator does not take it, and will not."""


def read_token(environment: Mapping[str, str]) -> str:
    """This worker's token, as it is now; empty when there is none."""
    path = environment.get("CORDEE_TOKEN_FILE", "")
    if not path:
        return environment.get("CORDEE_TOKEN", "")
    try:
        with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123  pathlib costs start-up time
            return file.read().strip()
    except OSError:
        return ""


class Uplink:
    """One connection, kept open, made again when it breaks. For one thread."""

    def __init__(self, url: str, token: Callable[[], str], *, authority: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"CORDEE_UPLOADS is {url!r}, which is no http or https URL")
        self._scheme, self._host, self._port = parts.scheme, parts.hostname, parts.port
        self._root = parts.path.rstrip("/")
        self._token = token
        self._authority = authority
        self._connection: http.client.HTTPConnection | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], token: Callable[[], str] | None = None) -> Uplink | None:
        """As the environment says; None: this worker has no need of one."""
        url = environment.get("CORDEE_UPLOADS", "")
        if not url:
            return None
        given = dict(environment)
        return cls(url, token or (lambda: read_token(given)), authority=given.get("CORDEE_CA_FILE", ""))

    def post(self, path: str, body: bytes, *, kind: str = "application/octet-stream") -> dict[str, Any]:
        """The answer's JSON. Raises `AwayError`, `RefusedError`."""
        return self._ask("POST", path, body, {"Content-Type": kind, "Content-Length": str(len(body))})

    def put(self, path: str, file: IO[bytes], size: int, sha256: str, *, leaving: bool = False) -> dict[str, Any]:
        """Sends `size` bytes of a file, from its beginning."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size), "Cordee-Sha256": sha256}
        if leaving:
            headers["Cordee-Leaving"] = "1"
        return self._ask("PUT", quote(path), file, headers)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, method: str, path: str, body: bytes | IO[bytes], headers: dict[str, str]) -> dict[str, Any]:
        headers["Authorization"] = f"Bearer {self._token()}"
        try:
            status, answer = self._exchange(method, f"{self._root}/{path}", body, headers)
        except (OSError, http.client.HTTPException) as error:  # an `ssl.SSLError` is an OSError
            self.close()
            raise AwayError(f"{self._host}: {error or type(error).__name__}") from None
        except BaseException:
            self.close()  # broken off in the middle, by a signal perhaps: what comes next is not the next answer
            raise
        told = _parse(answer)
        if status == 200:
            return told
        refusal = told.get("error")
        words = refusal.get("message") if isinstance(refusal, dict) else None
        said = f"{words or 'it answered with no reason'} (HTTP {status})"
        raise RefusedError(said) if status in _FINAL else AwayError(said)

    def _exchange(self, method: str, path: str, body: bytes | IO[bytes], headers: dict[str, str]) -> tuple[int, bytes]:
        reused = self._connection is not None
        while True:
            connection = self._connection = self._connection or self._connect()
            try:
                try:
                    connection.request(method, path, body, headers)
                except (BrokenPipeError, ConnectionResetError):
                    if not isinstance(body, bytes):
                        pass  # it did not want to hear all of it, and has said why, perhaps
                    else:
                        raise
                response = connection.getresponse()
                return response.status, response.read()
            except (ConnectionError, http.client.BadStatusLine):
                # A server closes what has rested for a while; that is seen by whoever uses it next.
                self.close()
                if not reused:
                    raise
                reused = False
                if not isinstance(body, bytes):
                    body.seek(0)

    def _connect(self) -> http.client.HTTPConnection:
        if self._scheme == "http":
            return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_SECONDS, blocksize=_BLOCK_BYTES)
        context = ssl.create_default_context(cafile=self._authority or None)
        certificate = os.environ.get("CORDEE_CERT_FILE")
        if certificate:  # mutual TLS
            context.load_cert_chain(certificate, os.environ.get("CORDEE_KEY_FILE") or None)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=TIMEOUT_SECONDS, blocksize=_BLOCK_BYTES, context=context
        )


def _parse(answer: bytes) -> dict[str, Any]:
    try:
        told = json.loads(answer)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
