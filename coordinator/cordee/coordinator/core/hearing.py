"""What heartbeats and progress tell: thousands of words a second, of which hardly any is worth a turn."""

from __future__ import annotations

from cordee.coordinator.core.crew import Crew
from cordee.coordinator.core.events import WorkerHeard
from cordee.coordinator.core.links import find_cut
from cordee.coordinator.core.model import StragglerPolicy
from cordee.coordinator.core.roster import Phase, Session

__all__ = ["heard"]

_LOOK_SECONDS = 0.1
"""Activities are compared no more often between two turns, however many heartbeats come."""


def heard(crew: Crew, event: WorkerHeard) -> bool:
    """Whether this is worth a turn; mostly it is not, and there are thousands a second."""
    slot, session = crew.current(event.worker, event.incarnation)
    if slot is None or session is None:
        return False
    crew.hear(session)
    if session.phase is not Phase.TRAINING:
        return False
    if event.step is not None:
        session.step = event.step  # for people; what a worker arrived with is what counts
        if crew.is_member(slot, event.incarnation):
            crew.advance(event.step)
    if event.activity is not None:
        session.does(event.activity, crew.now, crew.link_limit)
    if event.paces and crew.policy.stragglers is not StragglerPolicy.OFF and not crew.finishing:
        _take_paces(crew, event)
    return bool(crew.actions) or _links_look_cut(crew, session)


def _take_paces(crew: Crew, event: WorkerHeard) -> None:
    for change in crew.stragglers.told(dict(event.paces), event.step or 0, crew.now):
        crew.tell("straggler" if change.slow else "caught_up", change.words)
        slot = crew.slots.get(change.worker)
        session = None if slot is None else slot.session
        if slot is None or session is None or session.leaving or not change.slow:
            continue
        if crew.policy.stragglers is not StragglerPolicy.REPLACE or any(s.draining for s in crew.slots.values()):
            continue
        others = sum(crew.is_live(s) for s in crew.slots.values()) - 1
        if others < crew.durable.minimum:
            crew.tell("straggler", f"{change.worker} is kept: without it fewer than the minimum are left")
        elif crew.stragglers.may_replace(change.worker, crew.now):
            session.leaving = True
            crew.tell("leaving", f"{change.worker} leaves at the next step boundary, and is replaced: it is slow")


def _links_look_cut(crew: Crew, session: Session) -> bool:
    """A link is to be found cut within a second: at a heartbeat, not at the next tick."""
    if crew.broken or crew.now < crew.look_at or session.activity.idle_seconds < crew.link_limit:
        return False
    crew.look_at = crew.now + _LOOK_SECONDS
    return bool(find_cut(crew.standings(lately=True), idle_seconds=crew.link_limit))
