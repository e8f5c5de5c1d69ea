"""A collection of the API server's, followed by a thread: what `reflector` decides, done.

    watcher = Watcher(api, Collection("/api/v1/namespaces/jobs/pods", "app.kubernetes.io/managed-by=cordee"), deliver)
    watcher.start()
    ...
    watcher.stop()

`deliver` is called on the watcher's own thread with the changes, in order; `on_loop` makes of a function of an event
loop one that may be called so. Synced is when everything that existed has been delivered once.
"""

import asyncio
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cordee.k8s.api import Api, Stream
from cordee.k8s.errors import ApiError, KubernetesError
from cordee.k8s.reflector import Change, Kind, List, Pause, Reflector, Watch

__all__ = ["Change", "Collection", "Deliver", "Kind", "Watcher", "on_loop"]

_log = logging.getLogger(__name__)

Deliver = Callable[[Sequence[Change]], None]

_PAGE: Final = 500
_WATCH_SECONDS: Final = 240
"""A watch is closed by the server after so long, up to twice that."""
_SILENCE_SECONDS: Final = 30.0
"""Beyond that: the server is gone, and nobody told."""


@dataclass(frozen=True, slots=True)
class Collection:
    """What is followed: a path of the API, and which of its objects."""

    path: str
    labels: str = ""
    """A label selector; empty: all."""
    fields: str = ""
    """A field selector."""

    @property
    def query(self) -> dict[str, str]:
        """The selectors, as the API takes them."""
        wanted = {"labelSelector": self.labels, "fieldSelector": self.fields}
        return {name: text for name, text in wanted.items() if text}


class Watcher:
    """Follows one collection until it is stopped, over restarts of the API server."""

    def __init__(
        self,
        api: Api,
        collection: Collection,
        deliver: Deliver,
        *,
        on_synced: Callable[[], object] = lambda: None,
    ) -> None:
        self.synced = threading.Event()
        self._api = api
        self._collection = collection
        self._deliver = deliver
        self._on_synced = on_synced
        self._reflector = Reflector()
        self._stopping = threading.Event()
        self._stream: Stream | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"watch {collection.path}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End; when this returns nothing more is delivered. Not to be called by `deliver`."""
        self._stopping.set()
        with self._lock:
            if self._stream is not None:
                self._stream.close()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def trouble(self) -> str:
        """Why the API server could not be asked the last time; empty while all is well."""
        return self._reflector.trouble

    # -- the thread

    def _run(self) -> None:
        said = ""
        while not self._stopping.is_set():
            try:
                self._turn()
            except KubernetesError as error:
                status = error.status if isinstance(error, ApiError) else None
                after = error.retry_after if isinstance(error, ApiError) else None
                self._reflector.failed(status, error.message, after)
            if self._reflector.trouble != said:
                said = self._reflector.trouble
                if said and not self._stopping.is_set():
                    _log.warning("following %s: %s; it is tried again", self._collection.path, said)
                elif not said:
                    _log.info("following %s again", self._collection.path)

    def _turn(self) -> None:
        match self._reflector.next(time.monotonic()):
            case Pause(seconds):
                self._stopping.wait(seconds)
            case List(token):
                query = self._collection.query | {"limit": str(_PAGE)} | ({"continue": token} if token else {})
                changes = self._reflector.listed(self._api.request("GET", self._collection.path, query=query))
                self._hand_over(changes)
                if self._reflector.synced and not self.synced.is_set():
                    self.synced.set()
                    self._on_synced()
            case Watch(version):
                self._watch(version)

    def _watch(self, version: str) -> None:
        seconds = _WATCH_SECONDS + random.randrange(_WATCH_SECONDS)
        query = self._collection.query | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        stream = self._api.stream(self._collection.path, query=query, timeout_seconds=seconds + _SILENCE_SECONDS)
        with self._lock:
            self._stream = stream
            if self._stopping.is_set():
                stream.close()
        try:
            for line in stream:
                if self._stopping.is_set():
                    return
                event = _event(line)
                self._hand_over(self._reflector.event(event))
                if event.get("type") == "ERROR":
                    return
        finally:
            with self._lock:
                self._stream = None
        if not self._stopping.is_set():
            self._reflector.ended(time.monotonic())

    def _hand_over(self, changes: Sequence[Change]) -> None:
        if changes:
            try:
                self._deliver(changes)
            except Exception:
                _log.exception("a change of %s could not be taken in", self._collection.path)


def on_loop(loop: asyncio.AbstractEventLoop, function: Deliver) -> Deliver:
    """Call `function` on the event loop, in order, from any thread. Once the loop is closed nothing happens."""

    def deliver(changes: Sequence[Change]) -> None:
        try:
            loop.call_soon_threadsafe(function, changes)
        except RuntimeError:
            if not loop.is_closed():
                raise

    return deliver


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:  # cut off: the watch is taken up from the last whole line
        return {}
    return event if isinstance(event, dict) else {}
