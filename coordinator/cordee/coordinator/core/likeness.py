"""Who computes differently from those that train stays out.

Workers apply the same update to the same sums. One that rounds differently (another CPU, another version, other
threads) ends each step with other weights, and the job with a result that no other run of it gives. So a world has
members that compute with the same, as they say themselves when they arrive:

- **Those that train decide**, or the world that trained last. Who comes and computes differently stands in the
  rendezvous, is told of in the history and in the job's status, and costs the others nothing.
- **A job begins** with what most of those that are there compute with.
- **Better other bits than none.** Where all who trained are gone, those that come again are waited for a while, until
  they are the job's minimum. Then the job goes on with what most of those that are there compute with, from its
  checkpoint, and says so. So it does where some are left, but too few, and those that came are enough: once what these
  hold is saved, they begin anew as well, and stay out.
- **Who does not say** is of a Cordee from before workers said it. It computes with something else than those that do,
  and would not understand what they tell each other with a step.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from cordee.coordinator.core.crew import Crew
from cordee.coordinator.core.model import World
from cordee.coordinator.core.rendezvous import Muster
from cordee.coordinator.core.roster import Phase, Session, Slot

__all__ = ["UNSAID", "give_way", "keep_alike", "settle_on"]

UNSAID = ("an older Cordee, which does not say with what",)
"""What a worker computes with that does not say it."""


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


def give_way(crew: Crew, muster: Muster) -> tuple[bool, float | None]:
    """Too few are left of those who trained. Are enough others there, and is all saved that is held? Then those that
    are left begin anew. Returns whether they do, and else when to look again."""
    left = [slot.session for slot in crew.in_order() if slot.session is not None and _is_left(crew, slot)]
    others = [s.session for s in crew.in_order() if s.session is not None and crew.is_odd(s) and not s.draining]
    counts = Counter(session.computes_with for session in others)
    kind = max(counts, key=lambda parts: (counts[parts], parts), default=())
    before = next((session.computes_with for session in left if session.computes_with), crew.durable.computes_with)
    if muster.awaited or not left or counts[kind] < crew.durable.minimum:
        crew.outnumbered_since = None
        return False, None
    step = max(session.step or 0 for session in left)
    old, new = _what_of(before, kind), _what_of(kind, before)
    if crew.outnumbered_since is None:
        crew.outnumbered_since = crew.now
        words = (
            f"too few are left that compute with {old}, and {counts[kind]} workers are there that compute with {new}"
        )
        crew.tell("outnumbered", f"{words}: they go on once step {step} is saved" if step else f"{words}: they go on")
    more_to_come = len(muster.present) + len(others) < crew.expected()
    until = crew.outnumbered_since + (crew.policy.absence_timeout_seconds if more_to_come else 0.0)
    if crew.now < until:
        return False, until
    if step > crew.durable.saved:
        return False, None  # who waits with a state saves it, and says so
    words = f"the job begins anew with {new}, no more with {old}{f', from step {step}' if step else ''}"
    crew.tell("computes", f"{words}: its bits may differ from those of an undisturbed run")
    why = f"too few are left that compute as it does{', its state is saved' if step else ''}, and others go on"
    for slot in crew.in_order():
        if _is_left(crew, slot):
            crew.fence(slot, why)
    crew.durable, crew.outnumbered_since = replace(crew.durable, computes_with=kind), None
    keep_alike(crew)
    return True, None


def _is_left(crew: Crew, slot: Slot) -> bool:
    """It is of the last world, and waits: with what it has trained, or with nothing, where that world broke before it
    had a state."""
    return slot.session is not None and slot.session.phase is Phase.WAITING and crew.is_live(slot)


def _hope_until(crew: Crew, joiners: list[tuple[Slot, Session]]) -> float | None:
    """Until when those are waited for that compute with what the job has computed with; None: enough are there."""
    kind = crew.durable.computes_with
    if sum(session.computes_with == kind for _, session in joiners) >= crew.durable.minimum:
        crew.alone_since = None
        return None
    if crew.alone_since is None:
        crew.alone_since = crew.now
    more_to_come = len(joiners) < crew.expected() or any(_saves_and_goes(crew, slot) for slot in crew.slots.values())
    return crew.alone_since + (crew.policy.absence_timeout_seconds if more_to_come else 0.0)


def _saves_and_goes(crew: Crew, slot: Slot) -> bool:
    """It was told to go with a state that is not on storage yet, where it puts it on its way out."""
    session = slot.session
    if session is None or session.phase is not Phase.STOPPED:
        return False
    return session.step is not None and session.step > crew.durable.saved


def _what_of(parts: tuple[str, ...], others: tuple[str, ...]) -> str:
    """What is only in `parts`, in words."""
    return "; ".join(part for part in parts if part not in others) or "less"
