"""A job's history as Events of its TrainingJob object, which `kubectl describe` shows. Pure.

An event's name is made of the object's uid and the number that it has in the history, so that telling it twice, before
and after a restart of the coordinator, is telling it once. What repeats itself is counted in a series, and a job that
has much to tell is cut short: the cluster's store of events is everybody's, and the whole history is in `cordee
events` and in the REST API.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cordee.coordinator.spec import API_VERSION, KIND

__all__ = ["MAX_AGE_SECONDS", "Post", "Repeat", "Teller"]

MAX_AGE_SECONDS: Final = 600.0
"""What is older is not told any more after a restart: the cluster forgets its events, too."""

_SILENT: Final = frozenset({"stack", "resumed"})
"""Pages of text, and times to the millisecond."""
_WARNINGS: Final = frozenset(
    {
        "agent_exited",
        "agent_killed",
        "computes",
        "config",
        "deleted",
        "died",
        "evicted",
        "failed",
        "fault",
        "given_up",
        "image",
        "isolated",
        "kept_out",
        "link",
        "lost",
        "node_lost",
        "outnumbered",
        "preempted",
        "pressure",
        "quota",
        "refused",
        "silent",
        "straggler",
        "stuck",
        "tainted",
        "taken",
        "unreachable",
        "unschedulable",
    }
)
_ASIDES: Final = {"ignored": "submitted"}
"""Said in the same breath as another word, and told with it: two events of one moment are one request too many."""
_BREATH_SECONDS: Final = 1.0
_MAX_NOTE: Final = 1024
_MAX_NAME: Final = 200
"""Of an object's name, in the names of its events: those have numbers, too."""
_BURST: Final = 30
_PER_SECOND: Final = 0.1
_SERIES_SECONDS: Final = 300.0
_CONTROLLER: Final = "cordee.dev/coordinator"


@dataclass(frozen=True, slots=True)
class Post:
    """An event to be created."""

    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Repeat:
    """An event that happened again."""

    name: str
    patch: Mapping[str, Any]


@dataclass(slots=True)
class _Told:
    name: str
    count: int
    time: float


class Teller:
    """What is told about one object."""

    def __init__(self, *, name: str, namespace: str, uid: str, instance: str) -> None:
        self.uid = uid
        self.last = 0
        """The number of the newest event of the history that has been looked at."""
        self.seen: object = None
        """The newest row of the history when it was looked at."""
        self.ended = False
        """The job's end has been told."""
        self._name, self._namespace, self._instance = name, namespace, instance
        self._told: dict[tuple[str, str], _Told] = {}
        self._room, self._filled_at = float(_BURST), 0.0
        self._dropped = 0

    def tell_all(self, history: Iterable[tuple[int, str, str, float]], since: float) -> Iterator[Post | Repeat]:
        """What is to be done about a stretch of the history (number, kind, message, time), without what is older."""
        for number, kind, message, time in _in_breaths(history):
            if time < since:
                self.last = number
            elif (told := self.tell(number, kind, message, time)) is not None:
                yield told

    def tell(self, number: int, kind: str, message: str, time: float) -> Post | Repeat | None:
        """What is to be done about an event of the history; None: nothing."""
        self.last = max(self.last, number)
        if kind in _SILENT:
            return None
        note = message if len(message) <= _MAX_NOTE else message[: _MAX_NOTE - 1] + "…"
        if kind == "taken" and self._is_known(message, time):
            return None  # the notice of it said so
        before = self._told.get((kind, note))
        if before is not None and time - before.time <= _SERIES_SECONDS:
            before.count, before.time = before.count + 1, time
            series = {"count": before.count, "lastObservedTime": _micro(time)}
            return Repeat(before.name, {"series": series}) if self._may(time) else None
        if not self._may(time):
            self._dropped += 1
            return None
        if self._dropped:
            left_out = f" ({self._dropped} events before this one are in the job's history only)"
            note = note[: _MAX_NOTE - len(left_out)] + left_out
            self._dropped = 0
        name = self._event_name(f"{number:x}")
        self._told = {key: told for key, told in self._told.items() if time - told.time <= _SERIES_SECONDS}
        self._told[kind, message[:_MAX_NOTE]] = _Told(name, 1, time)
        return self._post(name, kind, note, time)

    def tell_end(self, state: str, reason: str, time: float) -> Post:
        """The job has come to its end."""
        self.ended = True
        return self._post(self._event_name("end"), state, reason or f"the job has {state}", time)

    def tell_refusal(self, generation: int, reason: str, sentence: str, time: float) -> Post:
        """The object is no job: never, or not yet."""
        name = self._event_name(f"{reason.lower()}-{generation}")
        return self._post(name, reason, sentence, time, warning=True)

    def _is_known(self, message: str, time: float) -> bool:
        """Whether that, or more, was told lately."""
        recent = (words for (_, words), told in self._told.items() if time - told.time <= _SERIES_SECONDS)
        return any(words.startswith(message[:_MAX_NOTE]) for words in recent)

    def _event_name(self, suffix: str) -> str:
        name = self._name[:_MAX_NAME].rstrip(".-")
        return f"{name}.{self.uid.replace('-', '')[:12]}.{suffix}"

    def _post(self, name: str, kind: str, note: str, time: float, *, warning: bool = False) -> Post:
        if len(note) > _MAX_NOTE:
            note = note[: _MAX_NOTE - 1] + "…"
        reason = "".join(part[:1].upper() + part[1:] for part in kind.split("_"))[:128] or "Note"
        return Post(
            {
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": {"name": name, "namespace": self._namespace},
                "eventTime": _micro(time),
                "type": "Warning" if warning or kind in _WARNINGS else "Normal",
                "reason": reason,
                "action": reason,
                "note": note,
                "reportingController": _CONTROLLER,
                "reportingInstance": self._instance,
                "regarding": {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": self._name,
                    "namespace": self._namespace,
                    "uid": self.uid,
                },
            }
        )

    def _may(self, time: float) -> bool:
        """A bucket of so many events, filled slowly."""
        self._room = min(self._room + max(time - self._filled_at, 0.0) * _PER_SECOND, float(_BURST))
        self._filled_at = max(time, self._filled_at)
        if self._room < 1.0:
            return False
        self._room -= 1.0
        return True


def _in_breaths(history: Iterable[tuple[int, str, str, float]]) -> Iterator[tuple[int, str, str, float]]:
    """Asides joined to what they go with. The number is the last one's: whoever goes on after it leaves nothing out."""
    held: tuple[int, str, str, float] | None = None
    for number, kind, message, time in history:
        if held is not None and _ASIDES.get(kind) == held[1] and time - held[3] <= _BREATH_SECONDS:
            held = (number, held[1], f"{held[2]}; {message}", held[3])
            continue
        if held is not None:
            yield held
        held = (number, kind, message, time)
    if held is not None:
        yield held


def _micro(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
