"""Who gets how many workers: a pure function from the jobs' demands and the capacity to worker counts.

The rules, in order:

1. A job that runs keeps its minimum. Nothing is ever stopped to make room; what is above a minimum may be drained.
2. Jobs are admitted by priority, then age: their minimum all at once, or nothing. A job that does not fit yet is not
   overtaken by later ones, or a stream of small jobs would starve it; a job whose minimum exceeds the whole capacity
   holds nobody up.
3. What is left goes to the admitted jobs, one worker at a time to the one that has fewest, up to their maximum.
4. A grant is given only out of slots that are free now. A slot whose worker still drains, or is at its job's end and
   has not gone yet, is not: so the promise to one job never runs ahead of what another has really given back; ask again
   when a slot comes free. Whose turn it is does not depend on that: while a large job's slots come free one by one, no
   small one slips in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

__all__ = ["Demand", "Demands", "schedule", "targets"]


@dataclass(frozen=True, slots=True)
class Demand:
    """What one job asks for, and what it has."""

    job: str
    minimum: int
    maximum: int
    submitted: float = 0.0
    priority: int = 0
    """Higher goes first."""
    granted: int = 0
    """Its last grant; 0: it waits."""
    occupied: int = 0
    """The slots its workers hold now, draining ones included."""

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise ValueError(f"job {self.job}: the minimum must be in 1..maximum, got {self.minimum}:{self.maximum}")


class Demands:
    """What all jobs ask for, kept up to date job by job, so that a grant does not cost a look at a thousand others.

    As long as there is room for everybody's maximum, only those that wait for something are looked at; the answer is
    that of `schedule` always.
    """

    def __init__(self) -> None:
        self.version = 0
        """Another one whenever anything has changed."""
        self._known: dict[str, Demand] = {}
        self._parting: dict[str, int] = {}
        self._open: set[str] = set()
        """Those that have not what they want at most."""
        self._wanted = self._held = 0

    def __iter__(self) -> Iterator[Demand]:
        return iter(self._known.values())

    @property
    def parting(self) -> int:
        """The slots that jobs at their end have yet to give back."""
        return sum(self._parting.values())

    def note(self, job: str, demand: Demand | None, occupied: int) -> bool:
        """What a job asks for now (None: nothing any more) and what it holds. Whether that is news."""
        before, parting = self._known.get(job), occupied if demand is None else 0
        if before == demand and self._parting.get(job, 0) == parting:
            return False
        self.version += 1
        if before is not None:
            del self._known[job]
            self._open.discard(job)
            self._wanted -= before.maximum
            self._held -= _held(before)
        if demand is not None:
            self._known[job] = demand
            self._wanted += demand.maximum
            self._held += _held(demand)
            if demand.granted != demand.maximum:
                self._open.add(job)
        self._parting.pop(job, None)
        if parting:
            self._parting[job] = parting
        return True

    def changes(self, capacity: int) -> dict[str, int]:
        """The grants that are other ones now, in the order of the jobs' turns."""
        if self._wanted > capacity:
            grants = schedule(self._known.values(), capacity, self.parting)
        else:
            order = _in_order(self._known[job] for job in self._open)
            grants = {d.job: min(d.granted, d.maximum) for d in order}
            _offer(order, grants, {d.job: d.maximum for d in order}, capacity - self.parting - self._held)
        return {job: count for job, count in grants.items() if count != self._known[job].granted}


def schedule(demands: Iterable[Demand], capacity: int, parting: int = 0) -> dict[str, int]:
    """The grant of every job, given now. Call it again whenever a demand, the capacity or an `occupied` changes.

    `parting` is how many of the slots are held by jobs that demand nothing any more.
    """
    order = _in_order(demands)
    target = targets(order, capacity)
    grants = {d.job: min(d.granted, target[d.job]) for d in order}
    _offer(order, grants, target, capacity - parting - sum(max(d.occupied, grants[d.job]) for d in order))
    return grants


def targets(demands: Iterable[Demand], capacity: int) -> dict[str, int]:
    """What every job has once all that must drain has drained."""
    order = _in_order(demands)
    counts = {d.job: min(d.granted, d.minimum) for d in order}
    left = capacity - sum(counts.values())
    for d in order:
        need = d.minimum - counts[d.job]
        if need <= 0 or d.minimum > capacity:
            continue
        if need > left:
            break
        counts[d.job] += need
        left -= need
    poorest = [(counts[d.job], place, d) for place, d in enumerate(order) if d.minimum <= counts[d.job] < d.maximum]
    heapify(poorest)
    while left > 0 and poorest:
        count, place, d = heappop(poorest)
        counts[d.job] = count + 1
        left -= 1
        if count + 1 < d.maximum:
            heappush(poorest, (count + 1, place, d))
    return counts


def _in_order(demands: Iterable[Demand]) -> list[Demand]:
    return sorted(demands, key=lambda d: (-d.priority, d.submitted, d.job))


def _offer(order: Iterable[Demand], grants: dict[str, int], target: Mapping[str, int], free: int) -> None:
    """Raise grants towards their targets, out of what is free."""
    for d in order:
        held = max(d.occupied, grants[d.job])
        offer = min(target[d.job], held + max(free, 0))
        if offer <= grants[d.job] or (grants[d.job] < d.minimum and offer < d.minimum):
            continue
        grants[d.job] = offer
        free -= max(offer - held, 0)


def _held(demand: Demand) -> int:
    """What nobody else can have: its slots, and what of its grant it has not taken yet."""
    return max(demand.occupied, min(demand.granted, demand.maximum))
