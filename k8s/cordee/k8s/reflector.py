"""What is asked of the API server to know a collection of objects for good, and what the answers mean: list, watch.

A pure state machine: it says what to do next (`next`), is told what came of it, and gives the changes. Nothing is
lost whatever breaks: a watch that ends is taken up at the last resource version that was heard of (bookmarks keep it
fresh where nothing happens); when the server has forgotten that version (410 Gone) everything is listed again, and
what is not there any more has been deleted, even though nobody said so. A name that comes back with another uid is a
deletion and an addition.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

__all__ = ["Ask", "Change", "Kind", "List", "Pause", "Reflector", "Watch", "key_of"]

Json = dict[str, Any]

_BASE_SECONDS: Final = 0.2
_MAX_SECONDS: Final = 10.0
_SHORT_SECONDS: Final = 1.0
"""A watch that ends sooner, without a word, is counted as a failure, or it would be asked for as fast as one can."""
_TRIES: Final = 4
"""So many watches may fail at one version before everything is listed again."""


class Kind(StrEnum):
    """What happened to an object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Change:
    """One object, and what happened to it. For a deletion the object as it was known last."""

    kind: Kind
    object: Json


@dataclass(frozen=True, slots=True)
class List:
    """List the collection: the page that `token` names, or from the beginning."""

    token: str = ""


@dataclass(frozen=True, slots=True)
class Watch:
    """Watch from this version on."""

    version: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so long."""

    seconds: float


Ask = List | Watch | Pause


def key_of(thing: Mapping[str, Any]) -> str:
    """An object's name, with its namespace where it has one."""
    metadata = thing["metadata"]
    namespace = metadata.get("namespace", "")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


class Reflector:
    """One collection. `objects` is what is known to exist now, by `key_of`."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self.objects: dict[str, Json] = {}
        self.synced = False
        """Everything was listed at least once."""
        self.trouble = ""
        """Why the last request failed; empty while all is well."""
        self._chance = chance
        self._version = ""
        """The resource version to watch from; empty: list first."""
        self._token = ""
        self._pages: dict[str, Json] = {}
        self._failures = 0
        self._pause = 0.0
        self._watched_at = 0.0
        self._heard = False

    # -- what to do

    def next(self, now: float) -> Ask:
        """What to do now. A pause is given once."""
        if self._pause > 0.0:
            pause, self._pause = self._pause, 0.0
            return Pause(pause)
        if not self._version:
            return List(self._token)
        self._watched_at, self._heard = now, False
        return Watch(self._version)

    # -- what came of it

    def listed(self, answer: Mapping[str, Any]) -> list[Change]:
        """A page of the list. The changes come with the last one."""
        metadata = answer.get("metadata") or {}
        for item in answer.get("items") or ():
            self._pages[key_of(item)] = item
        self._token = metadata.get("continue") or ""
        if self._token:
            return []
        found, self._pages = self._pages, {}
        self._version = str(metadata.get("resourceVersion") or "0")
        self.synced, self.trouble = True, ""
        changes = [Change(Kind.DELETED, old) for key, old in self.objects.items() if key not in found]
        for key, thing in found.items():
            changes += _compare(self.objects.get(key), thing)
        self.objects = found
        return changes

    def event(self, event: Mapping[str, Any]) -> list[Change]:
        """A line of the watch."""
        kind, thing = event.get("type"), event.get("object")
        if not isinstance(thing, dict):
            return []
        if kind == "ERROR":
            self.failed(thing.get("code"), str(thing.get("message") or thing.get("reason") or ""))
            return []
        metadata = thing.get("metadata") or {}
        version = metadata.get("resourceVersion")
        if version:
            self._version = str(version)
        self._heard, self._failures, self.trouble = True, 0, ""
        if kind == "BOOKMARK" or kind not in Kind.__members__:
            return []
        key = key_of(thing)
        known = self.objects.get(key)
        if kind == "DELETED":
            if known is None:
                return []
            del self.objects[key]
            return [Change(Kind.DELETED, thing if _uid(known) == _uid(thing) else known)]
        self.objects[key] = thing
        return _compare(known, thing)

    def ended(self, now: float) -> None:
        """The watch ended, as all do: the server closes them after some minutes, or when it stops."""
        if self._heard or now - self._watched_at >= _SHORT_SECONDS:
            self._failures, self.trouble = 0, ""
            return
        self._back_off(None)

    def failed(self, status: int | None, why: str, retry_after: float | None = None) -> None:
        """A request failed with this HTTP status (None: there was no answer), or the watch said so."""
        self.trouble = why or f"status {status}"
        # 504 of a watch: our version is newer than what the server knows (etcd was restored from a backup).
        gone = status == 410 or (status == 504 and bool(self._version))
        if gone and not self._failures:
            self._failures = 1  # at once: nothing is wrong but our being late
        else:
            self._back_off(retry_after)
        if gone or self._failures >= _TRIES:
            self._version, self._token, self._pages = "", "", {}

    def _back_off(self, retry_after: float | None) -> None:
        # Jitter: after a restart of the server not everybody comes back in the same moment.
        longest = min(_BASE_SECONDS * 2.0 ** min(self._failures, 16), _MAX_SECONDS)
        self._pause = max(longest * (0.5 + 0.5 * self._chance()), retry_after or 0.0)
        self._failures += 1


def _uid(thing: Mapping[str, Any]) -> str:
    return str(thing["metadata"].get("uid", ""))


def _compare(known: Json | None, thing: Json) -> list[Change]:
    if known is None:
        return [Change(Kind.ADDED, thing)]
    if _uid(known) != _uid(thing):
        return [Change(Kind.DELETED, known), Change(Kind.ADDED, thing)]
    if known["metadata"].get("resourceVersion") == thing["metadata"].get("resourceVersion"):
        return []
    return [Change(Kind.MODIFIED, thing)]
