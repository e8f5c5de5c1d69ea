"""The whole turn: after an event is in the roster, what must be done, whatever the event was.

One place forms worlds, one starts agents, one ends a job; each looks at the facts as they are now.
"""

from __future__ import annotations

from cordee.coordinator.core.actions import StartAgent
from cordee.coordinator.core.crew import Crew
from cordee.coordinator.core.lifecycle import Facts, finish_due, state_of
from cordee.coordinator.core.likeness import keep_alike
from cordee.coordinator.core.meeting import call_members, meet
from cordee.coordinator.core.model import (
    JobError,
    JobState,
    LossCause,
    Outlook,
    StopReason,
    worker_id,
)
from cordee.coordinator.core.probing import probe_due
from cordee.coordinator.core.rendezvous import Decision
from cordee.coordinator.core.roster import Agent, Phase, Slot
from cordee.coordinator.core.watch import below_until, watch_members, watch_minimum

__all__ = ["only_waits", "reconcile"]


def only_waits(crew: Crew) -> bool:
    """Whether a member that has just come to a rendezvous, to which all were called before, only waits for others.

    A turn costs time for every worker of the job, and a rendezvous has an arrival of every worker: without this short
    cut its cost would grow with the square.
    """
    if crew.actions or crew.over or crew.finishing or not (crew.broken or crew.asked):
        return False
    for worker in crew.members:
        slot = crew.slots.get(worker)
        session = None if slot is None else slot.session
        if slot is None or session is None or session.phase is not Phase.TRAINING:
            continue
        if crew.is_member(slot, session.incarnation):
            return worker in (crew.aborted if crew.broken else crew.asked)
    return False


def reconcile(crew: Crew) -> None:
    if not crew.over:
        _expire(crew)
    until: list[float | None] = []
    if not crew.over and crew.finishing:
        until = [_finish(crew)]
    elif not crew.over:
        until = [keep_alike(crew)]
        watch_members(crew)
        _resize(crew)
        _part_with_retired(crew)
        decision = meet(crew)
        until += [decision.until, call_members(crew)]
        _start_agents(crew)
        _set_state(crew, decision)
        watch_minimum(crew)
        until += [below_until(crew), probe_due(crew)]
    _press_on(crew)
    crew.deadline = _next(crew, until)


def _expire(crew: Crew) -> None:
    hopeless = next((s for s in crew.in_order() if crew.now >= _hope_until(crew, s)), None)
    if hopeless is not None:
        crew.fail(JobError(hopeless.trouble, worker=hopeless.worker), hopeless.trouble)
        return
    for slot in crew.in_order():
        if slot.fail_by is not None and crew.now >= slot.fail_by:
            message = "the script raised; its traceback is in the worker's log"
            crew.fail(JobError(message, worker=slot.worker), message)
            return
        if slot.missing is not None and crew.now >= crew.missing_until(slot):
            crew.lose(slot, LossCause.DISCONNECTED)
        session = slot.session
        if session is not None and crew.now >= crew.silent_at(session):
            crew.tell("silent", f"{slot.worker} was not heard for {crew.now - session.heard:.1f} s")
            crew.note_silence()
            if crew.is_member(slot, session.incarnation):
                crew.lose(slot, LossCause.HEARTBEAT)
            crew.replace(slot, StopReason.FENCED, "it was not heard for too long", silent=True)


def _hope_until(crew: Crew, slot: Slot) -> float:
    """When a job fails because of a worker that may never start: not if any of its workers ever came."""
    if slot.doubted is None or not slot.usable or any(other.incarnation for other in crew.slots.values()):
        return float("inf")
    return slot.doubted + (0.0 if slot.outlook is Outlook.HOPELESS else crew.policy.doubt_seconds)


def _finish(crew: Crew) -> float | None:
    """Ends the job when everybody has finished who will. Returns when to look again."""
    formed = crew.durable.world is not None
    for slot in crew.in_order():
        phase = None if slot.session is None else slot.session.phase
        if phase is Phase.WAITING or (formed and phase is Phase.JOINING):
            crew.dismiss(slot, StopReason.FINISHED, "the job has its result already")
    done = {(f.worker, f.incarnation) for f in crew.durable.finished}
    awaited = [
        crew.ranks.get(slot.worker, slot.index)
        for slot in crew.in_order()
        if (slot.missing is not None)
        or (
            slot.session is not None
            and slot.session.phase is (Phase.TRAINING if formed else Phase.JOINING)
            and (slot.worker, slot.session.incarnation) not in done
        )
    ]
    due = finish_due(
        finished_ranks=[f.rank for f in crew.durable.finished],
        awaited_ranks=awaited,
        mark=crew.finish_mark,
        finish_seconds=crew.policy.finish_seconds,
    )
    if due is not None and crew.now >= due:
        crew.end(JobState.SUCCEEDED, "")
        return None
    _set_state(crew, Decision())
    return due


def _resize(crew: Crew) -> None:
    """As many usable slots as are wanted. Scaled away first: who goes anyway, who trains not, then high ranks."""
    usable = [slot for slot in crew.in_order() if slot.usable]
    excess = len(usable) - crew.durable.wanted
    if excess > 0:

        def last_to_go(slot: Slot) -> tuple[bool, int, int]:
            rank = crew.ranks[slot.worker] if crew.is_live(slot) else len(crew.ranks)
            return (slot.draining, rank, slot.index)

        for slot in sorted(usable, key=last_to_go)[-excess:]:
            slot.retiring = True
            if slot.session is None and slot.agent is Agent.RUNNING:
                slot.stop_by = None  # nobody to wait for: `_part_with_retired` stops it now
    for slot in crew.in_order():
        if excess < 0 and slot.retiring:
            slot.retiring = False
            excess += 1
            if slot.session is None and slot.agent is Agent.RUNNING and slot.stop_by is None:
                slot.stop_by = crew.now + crew.policy.absence_timeout_seconds  # as before it was to go
    while excess < 0:
        index = next(k for k in range(len(crew.slots) + 1) if worker_id(crew.durable.job, k) not in crew.slots)
        worker = worker_id(crew.durable.job, index)
        slot = Slot(worker=worker, index=index, scaled=crew.durable.world is not None)
        if worker in crew.members:  # its last process left this very world, and is not to come back
            slot.fence(crew.members[worker].incarnation)
        crew.slots[worker] = slot
        excess += 1


def _part_with_retired(crew: Crew) -> None:
    for slot in [s for s in crew.slots.values() if s.retiring]:
        if crew.is_live(slot):
            continue  # it leaves at a step boundary
        if slot.session is not None:
            if slot.session.phase is not Phase.STOPPED:
                crew.dismiss(slot, StopReason.DRAINED, "the job was scaled down")
        elif slot.agent is Agent.RUNNING and slot.stop_by is None:
            crew.stop_agent(slot, crew.policy.stop_seconds)
        elif slot.agent is Agent.ABSENT:
            del crew.slots[slot.worker]


def _start_agents(crew: Crew) -> None:
    for slot in crew.in_order():
        if slot.usable and slot.agent is Agent.ABSENT and slot.fail_by is None and crew.now >= slot.start_at:
            crew.num_starts += 1
            slot.agent, slot.start = Agent.RUNNING, crew.num_starts
            slot.stop_by = crew.now + crew.policy.starting_timeout_seconds  # until somebody attaches
            crew.actions.append(StartAgent(slot.worker))


def _set_state(crew: Crew, decision: Decision) -> None:
    state, reason = state_of(
        Facts(
            wanted=crew.durable.wanted,
            minimum=crew.durable.minimum,
            arrived=crew.waiting(),
            formed=crew.durable.world is not None,
            finishing=crew.finishing,
            broken=crew.broken,
            short=_short(crew, decision),
            trouble=crew.trouble,
            waits=next((s.trouble for s in crew.in_order() if s.outlook is not None and s.usable), ""),
            live=sum(crew.is_live(s) for s in crew.slots.values()),
            held=crew.links.reason,
        )
    )
    crew.enter(state, reason)


def _short(crew: Crew, decision: Decision) -> int:
    if decision.missing or crew.durable.world is None or any(crew.is_live(s) for s in crew.slots.values()):
        return decision.missing
    waiting = crew.waiting()
    return max(crew.durable.minimum - waiting, 0)


def _press_on(crew: Crew) -> None:
    """Who was told to stop and has not is told by stronger means: its agent by SIGTERM, then by SIGKILL."""
    for slot in crew.in_order():
        if slot.kill_by is not None and crew.now >= slot.kill_by:
            slot.kill_by = None
            if slot.agent is Agent.RUNNING:
                crew.tell("agent_killed", _why_killed(slot))
                crew.stop_agent(slot, 0.0)
        if slot.stop_by is None or crew.now < slot.stop_by:
            continue
        match slot.agent:
            case Agent.RUNNING:
                crew.stop_agent(slot, crew.policy.stop_seconds)
            case Agent.STOPPING:
                crew.stop_agent(slot, 0.0)
            case Agent.ABSENT:
                slot.stop_by = None


def _why_killed(slot: Slot) -> str:
    if slot.silent:
        heard = f"{slot.worker} is still not heard, and no other process of it has come"
        return f"{heard}: its machine or its network may be gone; its agent is killed"
    return f"{slot.worker}'s agent has not replaced a process that hangs, and is killed"


def _next(crew: Crew, until: list[float | None]) -> float | None:
    times: list[float] = [time for time in until if time is not None]
    over = crew.over
    for slot in crew.slots.values():
        times.extend(t for t in (slot.stop_by, slot.fail_by, slot.kill_by) if t is not None)
        if over:
            continue
        if slot.usable and slot.agent is Agent.ABSENT and slot.fail_by is None and not crew.finishing:
            times.append(slot.start_at)
        if slot.missing is not None:
            times.append(crew.missing_until(slot))
        if slot.session is not None:
            times.append(crew.silent_at(slot.session))
        if slot.doubted is not None:
            times.append(_hope_until(crew, slot))
    watched = any(s.session is not None or s.missing is not None for s in crew.slots.values())
    # Time that nobody looked at is taken for a sleep of ours, and forgiven: so it is looked at.
    below = crew.durable.below_since is not None and crew.policy.minimum_timeout_seconds > 0.0
    if not over and (watched or below):
        times.append(crew.now + crew.policy.tick_seconds)
    soonest = min(times, default=float("inf"))
    return None if soonest == float("inf") else soonest
