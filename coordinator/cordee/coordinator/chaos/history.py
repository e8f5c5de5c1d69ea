"""A job's events as facts: which worlds there were, when training went on again, what was noticed of whom.

Events are sentences with a kind and a time. What has to be read out of a sentence is read here and nowhere else; a test
holds it to the sentences that the coordinator and the workers really write.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from cordee.coordinator.chaos.recording import Happening

__all__ = ["BREAKING", "History", "Resumption", "Sign", "World", "read_history", "short", "shorts"]

BREAKING: Final = frozenset(
    {
        "world",
        "lost",
        "silent",
        "stuck",
        "link",
        "isolated",
        "died",
        "leaving",
        "drained",
        "agent_exited",
        "stopped",
        "fenced",
    }
)
"""Events after which the world is formed again without somebody."""
NOTICED: Final = BREAKING | {
    "straggler",
    "stack",
    "checkpoint_damaged",
    "checkpoint_failed",
    "ended",
    "given_up",
    "kept_out",
    "outnumbered",
}
"""Events that show that something was noticed."""
_ANYBODY: Final = frozenset({"checkpoint_damaged", "checkpoint_failed"})
"""These say what is wrong with a file; who wrote it is not always known."""

_WORLD = re.compile(r"generation (\d+) \(([\w ]+)\) from step (\d+): (.+)")
_PART = re.compile(r"(before|world|mesh|state|step) (\d+\.\d+) s")
_SECONDS = re.compile(r"\((\d[\d.e+-]*) s\)\s*$")


@dataclass(frozen=True, slots=True)
class World:
    """Who trained together from a moment on."""

    time: float
    generation: int
    cause: str
    step: int
    workers: tuple[str, ...]
    """By their short names: w0."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """The first step that was committed after a rendezvous."""

    time: float
    stall_seconds: float
    """From the last commit before it."""
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    """What rank 0 waited for, as it says: `before` it met the others, `world`, `mesh`, `state`, `step`."""
    first: bool = False
    """There was no step before."""


@dataclass(frozen=True, slots=True)
class Sign:
    """Something was noticed."""

    time: float
    kind: str
    message: str


@dataclass(frozen=True)
class History:
    """A job's events, read."""

    worlds: tuple[World, ...]
    resumptions: tuple[Resumption, ...]
    heals: tuple[tuple[float, float], ...]
    """When a joiner had its state, and how many seconds it took."""
    signs: tuple[Sign, ...]

    def first_sign(
        self, workers: Collection[str], after: float, before: float, *, anybody: bool = False
    ) -> Sign | None:
        """The first thing that was noticed of any of these workers."""
        for sign in self.signs:
            if not after <= sign.time < before:
                continue
            if any(_names(sign.message, worker) for worker in workers) or (anybody and sign.kind in _ANYBODY):
                return sign
        return None

    def first_loss(self, workers: Collection[str], after: float, before: float) -> Sign | None:
        """The first world that was formed, after a loss, without one of these workers who had been in the last one."""
        for last, world in pairwise(self.worlds):
            gone = set(last.workers) - set(world.workers)
            if after <= world.time < before and world.cause == "loss" and gone & {short(w) for w in workers}:
                return Sign(world.time, "world", f"generation {world.generation}")
        return None

    def world_at(self, time: float) -> World | None:
        """The world that trained at a moment."""
        return next((world for world in reversed(self.worlds) if world.time <= time), None)

    def resumed_after(self, time: float) -> Resumption | None:
        """When training went on after a moment."""
        return next((one for one in self.resumptions if one.time >= time), None)


def read_history(events: Iterable[Happening]) -> History:
    """What the events say."""
    worlds: list[World] = []
    resumptions: list[Resumption] = []
    heals: list[tuple[float, float]] = []
    signs: list[Sign] = []
    for event in sorted(events, key=lambda event: event.time):
        match = _WORLD.fullmatch(event.message) if event.kind == "world" else None
        if match is not None:
            members = tuple(short(name.strip()) for name in match[4].split(","))
            worlds.append(World(event.time, int(match[1]), match[2], int(match[3]), members))
        elif event.kind == "resumed":
            parts = {name: float(seconds) for name, seconds in _PART.findall(event.message)}
            is_first = "(start)" in event.message
            resumptions.append(Resumption(event.time, _seconds(event.message), parts, is_first))
        elif event.kind == "healed":
            heals.append((event.time, _seconds(event.message)))
        elif event.kind in NOTICED:
            signs.append(Sign(event.time, event.kind, event.message))
    return History(tuple(worlds), tuple(resumptions), tuple(heals), tuple(signs))


def short(worker: str) -> str:
    """`digits-idx4ov-w1` is w1 within its job."""
    return worker.rpartition("-")[2]


def shorts(workers: Sequence[str]) -> tuple[str, ...]:
    """Short names."""
    return tuple(short(worker) for worker in workers)


def _names(message: str, worker: str) -> bool:
    """Whether a sentence names a worker, by its id or its short name; w1 is not w10."""
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(short(worker))}(?![A-Za-z0-9])", message) is not None


def _seconds(message: str) -> float:
    match = _SECONDS.search(message)
    return float(match[1]) if match else 0.0
