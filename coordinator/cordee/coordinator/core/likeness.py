"""Who computes differently from those that train stays out.

Workers apply the same update to the same sums. One that rounds differently (another CPU, another version, other
threads) ends each step with other weights, and the job with a result that no other run of it gives. So a world has
members that compute with the same, as they say themselves when they arrive:

- **Those that train decide**, or the world that trained last. Who comes and computes differently stands in the
  rendezvous, is told of in the history and in the job's status, and costs the others nothing.
- **A job begins** with what most of those that are there compute with.
- **Better other bits than none.** Where all who trained are gone, those that come again are waited for a while, until
  they are the job's minimum. Then the job goes on with what most of those that are there compute with, from its
  checkpoint, and says so.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from cordee.coordinator.core.crew import Crew
from cordee.coordinator.core.model import World
from cordee.coordinator.core.roster import Phase, Session, Slot

__all__ = ["keep_alike", "settle_on"]


def keep_alike(crew: Crew) -> float | None:
    """Finds who of those that wait is not to be let in. Returns when to look again."""
    live: list[Slot] = []
    joiners: list[tuple[Slot, Session]] = []
    for slot in crew.in_order():
        session = slot.session
        if crew.is_live(slot):
            live.append(slot)
        elif session is not None and session.phase is Phase.WAITING and session.computes_with:
            joiners.append((slot, session))
    live.sort(key=lambda slot: crew.ranks[slot.worker])
    kind, until = crew.durable.computes_with, None
    if live:
        # Since the last world they may have changed it themselves: a script chooses its threads.
        said = (slot.session.computes_with for slot in live if slot.session is not None)
        kind, crew.alone_since = next((parts for parts in said if parts), kind), None
    elif joiners:
        until = _hope_until(crew, joiners)
        if not kind or (until is not None and crew.now >= until):
            counts, before = Counter(session.computes_with for _, session in joiners), kind
            kind, until = max(counts, key=lambda parts: (counts[parts], parts == before)), None
    crew.odd.clear()
    for slot, session in joiners:
        if kind and session.computes_with != kind:
            words = f"{slot.worker} computes with {_what_of(session.computes_with, kind)}, the others with "
            crew.odd[slot.worker] = f"{words}{_what_of(kind, session.computes_with)}"
            if live and session.incarnation not in crew.told_odd:
                crew.told_odd.add(session.incarnation)
                crew.tell("kept_out", f"{crew.odd[slot.worker]}: it stays out, for it would give other bits")
    return until


def settle_on(crew: Crew, world: World) -> None:
    """This world is formed: what its members compute with is the job's from now on."""
    sessions = (crew.slots[member.worker].session for member in world.members)
    kind = next((s.computes_with for s in sessions if s is not None and s.computes_with), ())
    before = crew.durable.computes_with
    if kind and before and kind != before:
        words = f"{_what_of(kind, before)}, no more with {_what_of(before, kind)}"
        crew.tell("computes", f"the job goes on with {words}: its bits may differ from those of an undisturbed run")
    crew.durable = replace(crew.durable, computes_with=kind or before)
    crew.alone_since = None


def _hope_until(crew: Crew, joiners: list[tuple[Slot, Session]]) -> float | None:
    """Until when those are waited for that compute with what the job has computed with; None: enough are there."""
    kind = crew.durable.computes_with
    if sum(session.computes_with == kind for _, session in joiners) >= crew.durable.minimum:
        crew.alone_since = None
        return None
    if crew.alone_since is None:
        crew.alone_since = crew.now
    more_to_come = len(joiners) < crew.expected()
    return crew.alone_since + (crew.policy.absence_timeout_seconds if more_to_come else 0.0)


def _what_of(parts: tuple[str, ...], others: tuple[str, ...]) -> str:
    """What is only in `parts`, in words."""
    return "; ".join(part for part in parts if part not in others) or "less"
