"""Who stays out because of a cut link is asked whether it reaches its peers again, and let in when it does.

To try it out by forming a world would stop everybody for a second or two, each time that the link is still cut. Asking
costs the others nothing: the kernel of a peer answers, whatever its process does. So a cut costs its world two changes,
one without the worker and one with it again, however long it lasts.

Who is let in unasked: one whose peers are all gone, since nobody is left that it could not reach, and one that has not
answered for long, which may be of an older version.
"""

from __future__ import annotations

from cordee.coordinator.core.actions import SendProbe
from cordee.coordinator.core.crew import Crew
from cordee.coordinator.core.links import PROBE_SECONDS, Apart
from cordee.coordinator.core.model import Member
from cordee.coordinator.core.rendezvous import Muster
from cordee.coordinator.core.roster import Phase

__all__ = ["begin_anew", "look_again", "probe_due", "state_is_apart"]

_UNANSWERED_SECONDS = 60.0
"""Who has not answered for so long is let in as it is, and put out again if that was wrong."""


def look_again(crew: Crew) -> None:
    """Lets in who reaches its peers again, and asks the others."""
    for worker, apart in list(crew.links.apart.items()):
        slot = crew.slots.get(worker)
        if slot is None or slot.incarnation != apart.incarnation:
            del crew.links.apart[worker]
            continue
        reached, apart.reached = apart.reached, frozenset()
        if slot.session is None or slot.session.phase is not Phase.WAITING:
            apart.unanswered_since = None
            continue
        peers = _peers(crew, apart)
        asked = crew.now if apart.unanswered_since is None else apart.unanswered_since
        if reached.issuperset(peer.incarnation for peer in peers):
            gone = "" if peers else ", for those it did not reach are gone"
            crew.tell("link", f"{worker} comes back after {crew.now - apart.since:.1f} s{gone}")
            del crew.links.apart[worker]
        elif crew.now - asked >= _UNANSWERED_SECONDS:
            crew.tell("link", f"{worker} does not say whether it reaches its peers, and is let in to see")
            del crew.links.apart[worker]
        elif crew.now >= apart.probe_at:
            apart.probe_at, apart.unanswered_since = crew.now + PROBE_SECONDS, asked
            crew.actions.append(SendProbe(worker, apart.incarnation, peers))


def probe_due(crew: Crew) -> float | None:
    """When somebody is to be asked next."""
    due = [
        apart.probe_at
        for worker, apart in crew.links.apart.items()
        if (slot := crew.slots.get(worker)) is not None
        and slot.session is not None
        and slot.session.phase is Phase.WAITING
    ]
    return min(due, default=None)


def state_is_apart(crew: Crew, muster: Muster) -> bool:
    """All who trained on are lost, and the only ones that hold state stay out."""
    if muster.awaited or not muster.present or any(attendee.step is not None for attendee in muster.present):
        return False
    sessions = [crew.slots[worker].session for worker in crew.links.apart if worker in crew.slots]
    return any(s is not None and s.phase is Phase.WAITING and s.step is not None for s in sessions)


def begin_anew(crew: Crew, muster: Muster) -> bool:
    """All who trained on are lost, and a checkpoint is newer than what those hold that stayed out: these restore it,
    too, or the job would go back to where they were cut off."""
    if muster.awaited or not any(slot.apart for slot in crew.slots.values()):
        return False
    holders = [
        (slot, slot.session.step, slot.apart == slot.session.incarnation)
        for slot in crew.in_order()
        if slot.session is not None and slot.session.phase is Phase.WAITING and slot.session.step is not None
    ]
    if not holders or not all(apart and step < crew.durable.saved for _, step, apart in holders):
        return False
    for slot, step, _ in holders:
        crew.tell("link", f"{slot.worker} stayed out at step {step}, and begins anew: {crew.durable.saved} is saved")
        crew.fence(slot, "a checkpoint is newer than its state, and nobody else holds one")
    return True


def _peers(crew: Crew, apart: Apart) -> tuple[Member, ...]:
    """The processes it is cut off from, as they are now: some may be gone, others new."""
    found: list[Member] = []
    for worker in sorted(apart.peers):
        slot = crew.slots.get(worker)
        session = None if slot is None else slot.session
        if session is not None:
            gone = session.phase in (Phase.STOPPED, Phase.FINISHED)
            if not gone and not crew.links.is_apart(worker, session.incarnation):
                found.append(Member(worker, session.incarnation, session.address, session.step))
        elif slot is not None and slot.missing is not None and crew.is_member(slot, slot.incarnation):
            found.append(crew.members[worker])  # its stream is broken, and it trains on perhaps
    return tuple(found)
