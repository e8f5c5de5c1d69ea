"""What happens when, and to whom: faults at a rate, on a schedule or both, as a pure function of the seed.

A plan knows no job. `Plan.timeline` says at which moments which kinds of faults are due; when one is, `choose` picks
its victims among the workers that live then. Both depend on the seed and on nothing else that could change from one run
to the next, so two runs of one plan on a job with the same workers differ only in what the job makes of it.

A random fault never takes the job below its minimum: a plan is to disturb a job, not to park it. A job with a fixed
number of workers would never be disturbed by that rule; of such a one a single worker may be missing.
"""

import heapq
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cordee.coordinator.faults import FAULTS, Fault, check_fault

__all__ = [
    "COORDINATOR",
    "KINDS",
    "MASS",
    "PRESETS",
    "Live",
    "Order",
    "Plan",
    "PlanError",
    "Postponed",
    "Rate",
    "Scheduled",
    "Who",
    "choose",
    "duration_words",
]

COORDINATOR: Final = "coordinator"
"""Not a worker's fault: `kill -9` of the coordinator."""
MASS: Final = "mass"
"""Several workers are killed at once."""
KINDS: Final = (*FAULTS, COORDINATOR, MASS)
PRESETS: Final = {
    "soak": ("kill", "stop", "partition"),
    "all": tuple(kind.name for kind in FAULTS.values() if not kind.fails_job),
}
"""Names for several kinds. A `bug` is the script's fault, and fails the job as it should: it is in none of them."""

_HARMLESS: Final = frozenset({"slow", "cut-off", "disk-full", "damage"})
"""Nobody is missing by them."""


class PlanError(ValueError):
    """What is wrong with a plan, in a sentence."""


@dataclass(frozen=True, slots=True)
class Who:
    """A victim as a plan names it."""

    how: Literal["worker", "rank"]
    number: int

    def __str__(self) -> str:
        return f"w{self.number}" if self.how == "worker" else f"rank {self.number}"


@dataclass(frozen=True, slots=True)
class Rate:
    """Faults of these kinds, with these weights, so many seconds apart (on average, if `exponential`)."""

    kinds: tuple[tuple[str, float], ...]
    every_seconds: float
    exponential: bool = False

    def __str__(self) -> str:
        kinds = ",".join(kind if weight == 1 else f"{kind}*{weight:g}" for kind, weight in self.kinds)
        return f"{kinds}@{'~' if self.exponential else ''}{duration_words(self.every_seconds)}"


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A fault at a time, or as soon as a step is committed."""

    kind: str
    at_seconds: float | None = None
    at_step: int | None = None
    who: tuple[Who, ...] = ()
    count: int | None = None
    """Of `mass`: how many."""
    seconds: float | None = None
    amount: float | None = None

    def __str__(self) -> str:
        when = f"step {self.at_step}" if self.at_seconds is None else duration_words(self.at_seconds)
        words = [f"at {when} {self.kind}", *(str(who) for who in self.who)]
        words += [] if self.count is None else [str(self.count)]
        words += [] if self.amount is None else [f"times {self.amount:g}"]
        return " ".join(words + ([] if self.seconds is None else [f"for {duration_words(self.seconds)}"]))


@dataclass(frozen=True, slots=True)
class Order:
    """One fault that is due: the plan's n-th, at a moment, and what was asked for."""

    number: int
    at_seconds: float
    """From the beginning; for one that waits for a step 0."""
    asked: Scheduled
    random: bool
    """It comes from a rate: it may be put off, and left out."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is to happen."""

    rates: tuple[Rate, ...] = ()
    schedule: tuple[Scheduled, ...] = ()
    seconds: float | None = None
    """How long; None: until the job has ended."""
    seed: int = 0
    calm: tuple[float, float] | None = None
    """The first so many seconds of every so many: no fault of a rate comes then, and what a step takes is measured."""

    def __str__(self) -> str:
        parts = [str(part) for part in (*self.rates, *self.schedule)]
        if self.calm is not None:
            parts.append(f"calm {duration_words(self.calm[0])} every {duration_words(self.calm[1])}")
        parts += [] if self.seconds is None else [f"for {duration_words(self.seconds)}"]
        return "; ".join([*parts, f"seed {self.seed}"])

    @property
    def kinds(self) -> frozenset[str]:
        """Every kind that may come up."""
        return frozenset([kind for rate in self.rates for kind, _ in rate.kinds] + [s.kind for s in self.schedule])

    def timeline(self) -> Iterator[Order]:
        """What is due by the clock, in order; endless if there is a rate and no `seconds`."""
        fixed = sorted(
            ((s.at_seconds, index, s, False) for index, s in enumerate(self.schedule) if s.at_seconds is not None),
            key=lambda entry: entry[:2],
        )
        arrivals = [self._arrivals(index, rate) for index, rate in enumerate(self.rates)]
        merged = heapq.merge(fixed, *arrivals, key=lambda entry: entry[:2])
        for number, (at, _, asked, is_random) in enumerate(merged, 1):
            if self.seconds is not None and at > self.seconds + 1e-6:  # three times 0.1 is more than 0.3
                return
            yield Order(number, at, asked, is_random)

    def awaiting_steps(self) -> list[Order]:
        """What is due at a step, in the steps' order. Numbered from -1 downwards: apart from those by the clock."""
        waiting = sorted((s for s in self.schedule if s.at_step is not None), key=lambda s: s.at_step or 0)
        return [Order(-number, 0.0, asked, False) for number, asked in enumerate(waiting, 1)]

    def _arrivals(self, index: int, rate: Rate) -> Iterator[tuple[float, int, Scheduled, bool]]:
        chooser = random.Random(f"{self.seed}/rate/{index}")
        kinds, weights = zip(*rate.kinds, strict=True)
        at = 0.0
        while True:
            at += chooser.expovariate(1 / rate.every_seconds) if rate.exponential else rate.every_seconds
            (kind,) = chooser.choices(kinds, weights)
            due = self._after_calm(at)
            yield due, len(self.schedule) + index, Scheduled(kind, due), True

    def _after_calm(self, at: float) -> float:
        """A rate's clock stands while it is calm."""
        if self.calm is None:
            return at
        calm, every = self.calm
        disturbed = every - calm
        # What is due as a calm begins is the last of before, not the first of after.
        rounds = math.ceil(at / disturbed - 1e-9)
        return at + calm * max(rounds, 1)

    def calm_windows(self, seconds: float) -> list[tuple[float, float]]:
        """When it is to be calm, as far as so many seconds go."""
        if self.calm is None:
            return []
        calm, every = self.calm
        end = seconds if self.seconds is None else min(seconds, self.seconds)
        starts = [index * every for index in range(math.ceil(end / every))]
        windows = [(start, min(start + calm, end)) for start in starts]
        return [*windows, (end, seconds)] if end < seconds else windows


@dataclass(frozen=True, slots=True)
class Live:
    """A worker that is a member of the world now."""

    worker: str
    rank: int


@dataclass(frozen=True, slots=True)
class Postponed:
    """Not now, and why."""

    reason: str


def choose(
    order: Order, seed: int, live: Sequence[Live], *, minimum: int, wanted: int
) -> tuple[Fault, ...] | Postponed:
    """Who is to suffer what, among those that live. An order for the coordinator has no victims: `()`."""
    asked = order.asked
    if asked.kind == COORDINATOR:
        return ()
    chooser = random.Random(f"{seed}/victims/{order.number}")
    members = sorted(live, key=lambda member: _natural(member.worker))
    known = FAULTS.get("kill" if asked.kind == MASS else asked.kind)
    assert known is not None
    count = asked.count or max(len(members) // 2, 1)
    if asked.kind == MASS:
        needed, missing = (asked.count or 2), count
    else:
        needed = max(len(asked.who), 2 if known.peer == "both" else 1)
        missing = 0 if asked.kind in _HARMLESS else 1
    if len(members) < needed:
        return Postponed(f"{len(members)} workers live, and it takes {needed}")
    if order.random and len(members) - missing < (floor := min(minimum, wanted - 1)):
        return Postponed(f"{len(members)} workers live; with {missing} fewer the job would be below its {floor}")
    named: list[Live] = []
    for who in asked.who:
        found = _find(who, members)
        if found is None:
            return Postponed(f"{who} does not live")
        named.append(found)
    others = [member for member in members if member not in named]
    if asked.kind == MASS:
        return tuple(check_fault("kill", member.worker, None, "", None) for member in chooser.sample(members, count))
    victim, *rest = [*named, *chooser.sample(others, max(needed - len(named), 0))]
    peer = rest[0].worker if rest else ""
    return (check_fault(asked.kind, victim.worker, asked.seconds, peer, asked.amount),)


def _find(who: Who, members: Sequence[Live]) -> Live | None:
    if who.how == "rank":
        return next((member for member in members if member.rank == who.number), None)
    return next((member for member in members if _index(member.worker) == who.number), None)


def _index(worker: str) -> int:
    number = worker.rpartition("-w")[2]
    return int(number) if number.isdigit() else -1


def _natural(worker: str) -> tuple[str, int]:
    return worker.rpartition("-w")[0], _index(worker)


def duration_words(seconds: float) -> str:
    """As a plan writes it: `29s`, `15m`, `1.5s`."""
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"
