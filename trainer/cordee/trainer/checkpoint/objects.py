"""Checkpoints in a bucket: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage, all by `obstore`.

Credentials, region and endpoint come from where each service's own tools take them: the environment (`AWS_*`,
`GOOGLE_*`, `AZURE_*`) and the machine's identity. None is ever part of a URL or of a job.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np

from cordee.trainer.checkpoint.storage import Bytes, Entry, StorageError, check_name

__all__ = ["SCHEMES", "ObjectStorage"]

T = TypeVar("T")

SCHEMES = {"s3": "AWS_*", "gs": "GOOGLE_*", "az": "AZURE_*"}
"""The URLs that are understood, and the environment variables that give access."""

_WHOLE_BYTES = 8 << 20
"""Up to this size an object goes up in one request."""
_CHUNK_BYTES = 8 << 20
_CONCURRENT = 4
"""Chunks of one object on their way at a time."""
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_URL = re.compile(r"([a-z0-9]+)://([^/?#@:]+)(/[^?#]*)?")

# Bounded everywhere: a checkpoint that cannot be written is told of, and the next one tries again.
_CLIENT_OPTIONS = {"connect_timeout": timedelta(seconds=10), "timeout": timedelta(minutes=10)}
_RETRIES = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
}


class ObjectStorage:
    """The objects below a prefix of a bucket."""

    def __init__(self, url: str) -> None:
        match = _URL.fullmatch(url)
        if match is None or match[1] not in SCHEMES:
            known = ", ".join(f"{scheme}://bucket/prefix" for scheme in SCHEMES)
            raise ValueError(
                f"{url!r} is no storage that is known: give a folder, {known}; credentials have no place in it"
            )
        self._url = url.rstrip("/")
        self._scheme = match[1]
        self._store = self._guarded(lambda: _open(self._scheme, match[2], (match[3] or "").strip("/")), self._url)

    @property
    def location(self) -> str:
        return self._url

    def put(self, name: str, pieces: Sequence[bytes | memoryview]) -> int:
        size = sum(len(piece) for piece in pieces)
        path = check_name(name)
        content: bytes | Iterator[bytes] = b"".join(pieces) if size <= _WHOLE_BYTES else _chunks(pieces)
        self._guarded(
            lambda: self._store.put(path, content, chunk_size=_CHUNK_BYTES, max_concurrency=_CONCURRENT),
            self.where(name),
            writing=True,
        )
        return size

    def get(self, name: str) -> Bytes:
        path = check_name(name)
        return self._guarded(lambda: _read(self._store.get(path)), self.where(name))

    def list(self, folder: str = "") -> list[Entry]:
        def entries() -> list[Entry]:
            return [
                Entry(meta["path"], meta["size"], meta["last_modified"].timestamp())
                for batch in self._store.list(check_name(folder) if folder else None)
                for meta in batch
            ]

        return sorted(self._guarded(entries, self._url), key=lambda entry: entry.name)

    def delete(self, names: Iterable[str]) -> None:
        paths = [check_name(name) for name in names]
        if not paths:
            return
        try:
            self._guarded(lambda: self._store.delete(paths), self._url)
        except FileNotFoundError:
            pass

    def where(self, name: str) -> str:
        return f"{self._url}/{name}"

    def _guarded(self, act: Callable[[], T], what: str, *, writing: bool = False) -> T:
        """Does it; what goes wrong comes out as one sentence."""
        try:
            return act()
        except FileNotFoundError as error:
            if not writing and "NoSuchBucket" not in str(error):
                raise FileNotFoundError(f"{what} is not there") from None
            raise StorageError(_sentence(self._scheme, what, error)) from None
        except ImportError:
            raise StorageError(
                f"{what}: URLs like this need the package obstore on every machine that trains or reads checkpoints: "
                "pip install 'cordee[storage]'"
            ) from None
        except OSError:
            raise
        except Exception as error:  # obstore's own tree
            raise StorageError(_sentence(self._scheme, what, error)) from None


def _open(scheme: str, bucket: str, prefix: str) -> Any:
    from obstore.store import AzureStore, GCSStore, S3Store

    options: dict[str, Any] = dict(_CLIENT_OPTIONS)
    common: dict[str, Any] = {"prefix": prefix or None, "retry_config": _RETRIES, "client_options": options}
    if scheme == "gs":
        return GCSStore(bucket, **common)
    if scheme == "az":
        return AzureStore(bucket, **common)
    endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)
    if endpoint is not None and endpoint.startswith("http://"):
        options["allow_http"] = True  # who names an endpoint without TLS means it: a store in the same house
    if endpoint is not None:
        common["endpoint"] = endpoint
    return S3Store(bucket, **common)


def _chunks(pieces: Sequence[bytes | memoryview]) -> Iterator[bytes]:
    """The same bytes in pieces of the upload's size: a thousand small arrays are not a thousand requests."""
    held = bytearray()
    for piece in pieces:
        view = memoryview(piece)
        while view:
            taken = view[: _CHUNK_BYTES - len(held)]
            held += taken
            view = view[len(taken) :]
            if len(held) == _CHUNK_BYTES:
                yield bytes(held)
                held.clear()
    if held:
        yield bytes(held)


def _read(result: Any) -> Bytes:
    size = result.meta["size"]
    data = np.empty(size, np.uint8)
    position = 0
    for chunk in result.stream(min_chunk_size=_CHUNK_BYTES):
        view = np.frombuffer(memoryview(chunk), np.uint8)
        data[position : position + view.size] = view
        position += view.size
    if position != size:
        raise OSError(f"{position} bytes came of {size}")
    return data


_CAUSES = (
    (("NoSuchBucket", "ContainerNotFound", "bucket does not exist"), "there is no such bucket: make it first"),
    (
        ("PermissionDenied", "Unauthenticated", "403 Forbidden", "401 Unauthorized"),
        "access is refused: check the credentials (environment variables {variables})",
    ),
    (
        ("error sending request", "dns error"),
        "the service cannot be reached: check the endpoint (environment variables {variables}) and the network",
    ),
    (
        ("Missing", "must be specified", "credential", "metadata"),
        "no credentials were found: set the environment variables {variables} where the workers are started",
    ),
)
_TAG = re.compile(r"<[^>]*>")


def _sentence(scheme: str, what: str, error: Exception) -> str:
    told = f"{type(error).__name__}: {error}"
    words = next((words for marks, words in _CAUSES if any(mark in told for mark in marks)), "storage has failed")
    text = str(error).split("Debug source:")[0].rpartition("Server returned non-2xx status code: ")[2]
    detail = " ".join(_TAG.sub(" ", text).split())
    return f"{what}: {words.format(variables=SCHEMES[scheme])}: {detail[:200]}"
