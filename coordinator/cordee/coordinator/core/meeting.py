"""The rendezvous of a job's workers within a turn: whom it calls, what it decides, and the world that it forms."""

from __future__ import annotations

from dataclasses import replace

from cordee.coordinator.core.actions import RecordRecovery, SendAbort, SendChangePending, SendWorld
from cordee.coordinator.core.activity import UNKNOWN
from cordee.coordinator.core.crew import Crew
from cordee.coordinator.core.likeness import give_way, settle_on
from cordee.coordinator.core.model import Cause, Member, StopReason, World
from cordee.coordinator.core.probing import begin_anew, look_again, state_is_apart
from cordee.coordinator.core.rendezvous import Attendee, Decision, Muster, change_needed, decide
from cordee.coordinator.core.roster import Phase
from cordee.coordinator.core.watch import part

__all__ = ["call_members", "meet"]


def meet(crew: Crew) -> Decision:
    """Forms the next world, if one can be formed, and lets go who may go."""
    look_again(crew)
    muster = _muster(crew)
    if begin_anew(crew, muster):
        muster = _muster(crew)
    if not muster.awaited and part(crew, muster):
        muster = _muster(crew)
    decision = decide(muster, crew.now)
    # Better all of them, and a link that may be whole again, than too few, or than all over again.
    if crew.links.apart and (decision.missing or state_is_apart(crew, muster)):
        crew.tell("link", "who stays out is let in all the same: without them it does not go on")
        crew.links.apart.clear()
        decision = decide(muster := _muster(crew), crew.now)
    if decision.missing:
        given_way, until = give_way(crew, muster)
        decision = decide(_muster(crew), crew.now) if given_way else replace(decision, until=until)
    else:
        crew.outnumbered_since = None
    retry_at = crew.links.retry_at
    if retry_at is not None and crew.now < retry_at:
        decision = replace(decision, form=(), until=retry_at)
    if decision.release:
        retiring = any(crew.slots[a.worker].retiring for a in decision.release)
        crew.drained = Cause.SCALE if retiring else crew.drained or Cause.DRAIN
    for attendee in decision.release:
        crew.tell("drained", f"{attendee.worker} has left at step {attendee.step}")
        crew.dismiss(crew.slots[attendee.worker], StopReason.DRAINED, "it has left at a step boundary")
    if decision.form:
        _form(crew, decision.form)
    return decision


def _muster(crew: Crew) -> Muster:
    present: list[Attendee] = []
    awaited = missing = 0
    for slot in crew.in_order():
        member = crew.is_live(slot)
        if slot.session is not None and crew.links.is_apart(slot.worker, slot.session.incarnation):
            continue  # it stands there, and is not to be let in yet
        if crew.is_odd(slot):
            continue
        if slot.session is not None and crew.is_waiting(slot):
            rank = crew.ranks[slot.worker] if member else None
            step = slot.session.step
            present.append(Attendee(slot.worker, slot.index, rank, step, slot.draining, slot.usable))
        elif member:
            awaited += slot.missing is None or slot.missing.awaited
            missing += slot.missing is not None
    if all(attendee.rank is None or attendee.step is None for attendee in present):
        # No survivor with a state is there to say that they are gone: joiners alone do not replace a world.
        awaited += missing
    return Muster(
        minimum=crew.durable.minimum,
        present=tuple(present),
        awaited=awaited,
        expected=crew.expected(),
        usable=crew.usable(),
        last_arrival=crew.last_arrival,
        settle_seconds=crew.policy.settle_seconds,
    )


def _form(crew: Crew, attendees: tuple[Attendee, ...]) -> None:
    members: list[Member] = []
    for attendee in attendees:
        session = crew.slots[attendee.worker].session
        assert session is not None
        members.append(Member(attendee.worker, session.incarnation, session.address, attendee.step))
    world = World(
        generation=crew.generation + 1,
        members=tuple(members),
        step=max((m.step for m in members if m.step is not None), default=0),
        cause=_cause(crew, attendees),
    )
    staying = {(m.worker, m.incarnation) for m in members}
    for old in crew.members.values():
        slot = crew.slots.get(old.worker)
        if slot is not None and (old.worker, old.incarnation) not in staying:
            if slot.apart != old.incarnation:
                slot.fence(old.incarnation)
            slot.missing = None
    if crew.loss is not None:
        crew.actions.append(RecordRecovery(crew.loss.cause, crew.now - crew.loss.at))
        crew.durable = replace(crew.durable, recoveries=crew.durable.recoveries + 1)
    started_at = crew.durable.started_at
    advanced = crew.durable.world is not None and crew.tempo.step > crew.durable.world.step
    crew.durable = replace(crew.durable, world=world, started_at=crew.now if started_at is None else started_at)
    if all(member.step is None for member in members):
        # They restore what can be read, which may be less than what was saved: the next checkpoint tells.
        crew.durable = replace(crew.durable, saved=0)
    crew.take_world(world)
    crew.loss, crew.broken, crew.drained = None, False, None
    settle_on(crew, world)
    crew.asked, crew.aborted, crew.first_joiner = set(), set(), None
    crew.links.settle(advanced)
    ranks = ", ".join(m.worker.rpartition("-")[2] for m in members)
    crew.tell("world", f"generation {world.generation} ({world.cause}) from step {world.step}: {ranks}")
    for member in members:
        slot = crew.slots[member.worker]
        slot.joined, slot.apart = True, ""
        session = slot.session
        assert session is not None
        session.phase, session.since, session.activity = Phase.TRAINING, crew.now, UNKNOWN
        session.idle_since = None
        crew.actions.append(SendWorld(member.worker, member.incarnation, world))


def _cause(crew: Crew, attendees: tuple[Attendee, ...]) -> Cause:
    joiners = [crew.slots[a.worker] for a in attendees if a.rank is None]
    if crew.durable.world is None:
        return Cause.START
    if crew.loss is not None or len(joiners) == len(attendees):
        return Cause.LOSS
    if crew.drained is not None:
        return crew.drained
    return Cause.SCALE if any(s.scaled and not s.joined for s in joiners) else Cause.JOIN


def call_members(crew: Crew) -> float | None:
    """Asks the members of the current world to meet, when there is a reason to, or to break off, when it broke.

    Returns when to look again, if joiners are waited for.
    """
    live = [slot for slot in crew.in_order() if crew.is_live(slot)]
    world = crew.durable.world
    if world is None or not live:
        return None
    computing = [(s, s.session) for s in live if s.session is not None and s.session.phase is Phase.TRAINING]
    if crew.broken:
        here = {slot.worker for slot in live if slot.missing is None}
        lost = tuple(worker for worker in crew.members if worker not in here)
        for slot, session in computing:
            if slot.worker not in crew.aborted:
                crew.aborted.add(slot.worker)
                crew.actions.append(SendAbort(slot.worker, session.incarnation, world.generation, lost))
        return None
    draining = sum(slot.draining for slot in live)
    joiners = sum(
        s.session is not None and crew.is_waiting(s) and not s.draining and not crew.is_member(s, s.session.incarnation)
        for s in crew.slots.values()
    )
    gathered = None if crew.asked or draining else _gathered_at(crew, joiners)
    if gathered is not None and crew.now < gathered:
        return gathered
    wanted = change_needed(
        staying=len(live) - draining,
        draining=draining,
        joiners=joiners,
        minimum=crew.durable.minimum,
        successors=crew.usable() - sum(s.usable and s.draining for s in live),
    )
    if wanted or crew.asked:
        for slot, session in computing:
            if slot.worker not in crew.asked:
                crew.asked.add(slot.worker)
                crew.actions.append(SendChangePending(slot.worker, session.incarnation, world.generation))
    return None


def _gathered_at(crew: Crew, joiners: int) -> float | None:
    """Until when more joiners are waited for: a world is stopped once for all that come at about the same time."""
    if not joiners:
        crew.first_joiner = None
        return None
    if crew.first_joiner is None:
        crew.first_joiner = crew.now
    if not any(s.session is not None and s.session.phase is Phase.JOINING and s.usable for s in crew.slots.values()):
        return None
    policy = crew.policy
    return min(crew.first_joiner + policy.gather_max_seconds, crew.last_arrival + policy.gather_seconds)
