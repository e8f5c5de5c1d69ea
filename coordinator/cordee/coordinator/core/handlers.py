"""What each event does to the roster: local, small, and without looking at the whole, which `turn` does afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cordee.coordinator.core import events
from cordee.coordinator.core.actions import RecordAgentExit, SendStop
from cordee.coordinator.core.crew import Crew
from cordee.coordinator.core.deaths import bury, dies_again, exhausted
from cordee.coordinator.core.failure import (
    NOT_RUNNABLE,
    WORKERS_WORDS,
    Verdict,
    describe_exit,
    exit_cause,
    judge,
    pause,
    retry,
)
from cordee.coordinator.core.lifecycle import STOP_REASONS
from cordee.coordinator.core.likeness import UNSAID
from cordee.coordinator.core.model import (
    ArrivalReason,
    ExitCause,
    JobError,
    JobState,
    LossCause,
    Outlook,
    StopReason,
    worker_index,
)
from cordee.coordinator.core.record import FinishedWorker
from cordee.coordinator.core.roster import Agent, Missing, Phase, Session, Slot

__all__ = ["take"]


def take(crew: Crew, event: events.Event) -> None:
    """Takes one event into the roster. Time alone (`Tick`) changes nothing here."""
    handler = _HANDLERS.get(type(event))
    if handler is not None:
        handler(crew, event)


def _on_attached(crew: Crew, event: events.WorkerAttached) -> None:
    def turn_away(reason: StopReason, message: str) -> None:
        crew.actions.append(SendStop(event.worker, event.incarnation, reason, message))

    if crew.over:
        return turn_away(STOP_REASONS[crew.state], f"the job has {crew.state}")
    slot = crew.slots.get(event.worker)
    if slot is None or slot.given_up:
        return turn_away(StopReason.DRAINED, "the job does not have this worker any more")
    member = crew.is_member(slot, event.incarnation)
    if slot.retiring and not member:
        slot.fence(event.incarnation)  # also if the slot is wanted again before it has read this
        return turn_away(StopReason.DRAINED, "the job was scaled down")
    if event.incarnation in slot.fenced:
        return turn_away(StopReason.FENCED, "the job goes on without this process")
    if event.generation > _newest_generation(crew, slot, event.incarnation):
        slot.fence(event.incarnation)
        return turn_away(StopReason.FENCED, f"it comes from generation {event.generation}, which is not current")
    if crew.finishing and event.incarnation != slot.incarnation:
        return turn_away(StopReason.FINISHED, "the job has its result already")
    if slot.incarnation != event.incarnation:
        crew.supersede(slot, event.incarnation)
        if event.previous is not None:
            slot.fence(event.previous.incarnation)  # its Hello may come late, and would look like a newer process's
            crew.be_patient(event.previous.patience)
        if event.previous is not None and bury(crew, slot, event.previous):
            return turn_away(StopReason.FAILED, "the job has failed")
    # What it was told last may have gone down with its stream; hearing it twice is hearing it once.
    crew.asked.discard(event.worker)
    crew.aborted.discard(event.worker)
    slot.missing, slot.trouble = None, ""
    slot.outlook, slot.doubted, slot.num_taken, slot.heard_at = None, None, 0, crew.now
    slot.session = Session(
        incarnation=event.incarnation,
        address=event.address,
        pid=event.pid,
        phase=Phase.TRAINING if member else Phase.JOINING,
        step=event.step,
        heard=crew.now,
        since=crew.now,
    )
    crew.latest_heard = crew.now
    if member and event.generation == crew.generation and event.step is not None:
        crew.advance(event.step)
    if slot.agent is not Agent.STOPPING:
        slot.stop_by = None
    if not crew.broken and not any(s.missing for s in crew.slots.values()):
        crew.loss = None  # its stream broke, and it is back: nothing was lost
    return None


def _on_detached(crew: Crew, event: events.WorkerDetached) -> None:
    slot, session = crew.current(event.worker, event.incarnation)
    if slot is None or session is None:
        return
    slot.session = None
    # At the job's end the time that it was given to go by stands: nobody comes back.
    going = crew.over or (session.phase is Phase.STOPPED and slot.draining)
    if slot.agent is Agent.RUNNING and not (going and slot.stop_by is not None):
        slot.stop_by = crew.now + crew.policy.absence_timeout_seconds
    if slot.fail_by is not None:
        slot.fail_by = crew.now
    if session.phase is Phase.STOPPED or not crew.is_member(slot, session.incarnation):
        return
    if crew.finishing:
        if session.phase is not Phase.FINISHED:
            crew.lose(slot, LossCause.DISCONNECTED)
        return
    crew.note_loss(LossCause.DISCONNECTED)
    until = crew.now + crew.policy.heartbeat_timeout_seconds
    slot.missing = Missing(at=crew.now, until=until, awaited=False)


def _on_arrived(crew: Crew, event: events.WorkerArrived) -> None:
    slot, session = crew.current(event.worker, event.incarnation)
    if slot is None or session is None or session.phase in (Phase.STOPPED, Phase.FINISHED):
        return
    crew.hear(session)
    member = crew.is_member(slot, session.incarnation)
    if event.generation > _newest_generation(crew, slot, session.incarnation):
        crew.fence(slot, f"it comes from generation {event.generation}, which is not current")
        return
    if crew.finishing:
        crew.dismiss(slot, StopReason.FINISHED, "the job has its result already")
        return
    if not member and slot.draining:
        crew.dismiss(slot, StopReason.DRAINED, "it is not needed any more")
        return
    session.phase, session.since, session.computes_with = Phase.WAITING, crew.now, event.computes_with or UNSAID
    # A joiner's weights are its own initial ones: state is what was trained in a world.
    session.step = event.step if member or session.incarnation == slot.apart else None
    crew.last_arrival = crew.now
    if member and event.generation == crew.generation and event.step is not None:
        crew.advance(event.step)
    if member and (event.reason is ArrivalReason.PEER_LOST or event.generation < crew.generation):
        crew.break_world(LossCause.MESH)
        if event.generation == crew.generation:
            crew.links.suspicions[event.worker] = event.suspects
        limit = crew.now + crew.policy.heartbeat_timeout_seconds
        for suspect in event.suspects:
            other = crew.slots.get(suspect)
            if other is None or other.missing is None:
                continue
            # Who was seen to go on without a stream is waited for no more, now that its peers do not see it either.
            awaited = other.missing.awaited and other.missing.stored
            other.missing = replace(other.missing, until=min(other.missing.until, limit), awaited=awaited)


def _on_leaving(crew: Crew, event: events.WorkerLeaving) -> None:
    slot, session = crew.current(event.worker, event.incarnation)
    if slot is None or session is None or session.phase in (Phase.STOPPED, Phase.FINISHED):
        return
    crew.hear(session)
    if not session.leaving:
        session.leaving = True
        because = f": {event.reason}" if event.reason else ""
        crew.tell("leaving", f"{event.worker} is asked to leave{because}")
    if not crew.is_member(slot, session.incarnation):
        crew.dismiss(slot, StopReason.DRAINED, "it may go")


def _on_reached(crew: Crew, event: events.WorkerReached) -> None:
    _, session = crew.current(event.worker, event.incarnation)
    if session is None:
        return
    crew.hear(session)
    apart = crew.links.apart.get(event.worker)
    if apart is not None and apart.incarnation == event.incarnation:
        apart.reached, apart.unanswered_since = frozenset(event.reached), None


def _on_checkpointed(crew: Crew, event: events.WorkerCheckpointed) -> None:
    _, session = crew.current(event.worker, event.incarnation)
    if session is None:
        return
    crew.hear(session)
    crew.durable = replace(crew.durable, saved=max(crew.durable.saved, event.step))


def _on_finished(crew: Crew, event: events.WorkerFinished) -> None:
    slot, session = crew.current(event.worker, event.incarnation)
    if slot is None or session is None or session.phase is Phase.STOPPED:
        return
    crew.hear(session)
    known = any(f.incarnation == event.incarnation and f.worker == event.worker for f in crew.durable.finished)
    if not known:
        if crew.durable.world is not None and not crew.is_member(slot, event.incarnation):
            crew.tell("ended", f"{event.worker}'s script ended without having joined the job's world")
            crew.fence(slot, "it has ended without having joined the job's world")
            return
        for other in crew.durable.finished:
            if other.result.weights_sha256 != event.result.weights_sha256:
                message = (
                    f"workers ended with different weights: {other.worker} at step {other.result.step} with "
                    f"{other.result.weights_sha256 or 'none'}, {event.worker} at step {event.result.step} with "
                    f"{event.result.weights_sha256 or 'none'}"
                )
                crew.fail(JobError(message, worker=event.worker), message)
                return
        rank = crew.ranks.get(event.worker, slot.index)
        crew.durable = replace(
            crew.durable,
            finished=(
                *crew.durable.finished,
                FinishedWorker(event.worker, event.incarnation, rank, crew.now, event.result),
            ),
        )
        crew.finish_mark = crew.now
        crew.tell("finished", f"{event.worker} has finished at step {event.result.step}")
    crew.stop(slot, StopReason.FINISHED, "well done", Phase.FINISHED)


def _on_script_failed(crew: Crew, event: events.ScriptFailed) -> None:
    slot, session = crew.current(event.worker, event.incarnation)
    if slot is None or session is None or session.phase in (Phase.STOPPED, Phase.FINISHED):
        return
    error = JobError(event.exception, event.traceback, event.worker)
    session.phase = Phase.STOPPED
    slot.stop_by = crew.now + crew.policy.parting_seconds
    crew.fail(error, f"the script raised {event.exception}")


def _on_agent_exited(crew: Crew, event: events.AgentExited) -> None:
    slot = crew.slots.get(event.worker)
    if slot is None:
        return
    blameless, slot.blameless = slot.blameless or slot.agent is Agent.ABSENT, False
    slot.agent, slot.stop_by, slot.kill_by, slot.start_at = Agent.ABSENT, None, None, crew.now
    slot.outlook, slot.doubted = None, None
    if crew.over or slot.given_up:
        return
    if slot.missing is not None:
        crew.lose(slot, LossCause.DISCONNECTED)
    verdict = judge(event.code)
    if slot.retiring or (crew.finishing and verdict is not Verdict.SCRIPT_FAILED):
        return
    words = event.message if event.taken else f"{event.worker}'s agent {describe_exit(event.code, event.message)}"
    if not blameless:
        crew.actions.append(RecordAgentExit(event.worker, event.cause or exit_cause(event.code)))
    if verdict is Verdict.SCRIPT_FAILED:
        # The agent's exit may overtake the worker's own words, which carry the traceback.
        slot.fail_by = crew.now + (crew.policy.last_words_seconds if slot.session is not None else 0.0)
    elif event.taken:
        # At once the first time; where whatever takes them takes every one, not as fast as can be.
        slot.start_at = crew.now + pause(slot.num_taken, crew.policy)
        slot.num_taken, slot.trouble = slot.num_taken + 1, words
        crew.tell("taken", words)
    elif blameless or verdict is Verdict.LEFT:
        pass
    elif verdict is Verdict.EXHAUSTED:
        exhausted(crew, slot, words)
    else:
        slot.trouble = words
        died = describe_exit(event.code, event.message)
        # A limit of memory is the job's own, and is met again at the same place.
        own = event.code in WORKERS_WORDS or event.cause is ExitCause.OUT_OF_MEMORY
        own = own or (event.code in NOT_RUNNABLE and not any(s.incarnation for s in crew.slots.values()))
        if own and event.code is not None and dies_again(crew, event.worker, "'s agent", event.code, died):
            return
        again = retry(slot.exits, crew.now, crew.policy, slot.heard_at)
        slot.exits = again.exits
        if again.at is None:
            unheard = (
                ""
                if len(slot.exits) < 2 or slot.exits[0] < slot.heard_at
                else ", and its worker was never heard of in between"
            )
            exhausted(crew, slot, f"{words}, {len(again.exits)} times{unheard}")
        else:
            slot.start_at = again.at
            crew.tell("agent_exited", words)


def _on_agent_noted(crew: Crew, event: events.AgentNoted) -> None:
    slot = crew.slots.get(event.worker)
    if slot is None or crew.over:
        return
    if event.message and event.kind:
        crew.tell(event.kind, event.message)
    if slot.agent is not Agent.RUNNING or slot.session is not None:
        return
    if event.outlook is None:
        if slot.outlook is not None:
            slot.outlook, slot.doubted, slot.trouble = None, None, ""
            slot.stop_by = crew.now + crew.policy.starting_timeout_seconds  # from now on it can be late
        return
    # Whoever waits for room is not late: it is not replaced, and nobody waits for it.
    slot.outlook, slot.trouble, slot.stop_by = event.outlook, event.message, None
    if event.outlook is Outlook.PASSING:
        slot.doubted = None
    elif slot.doubted is None:
        slot.doubted = crew.now


def _on_agent_absent(crew: Crew, event: events.AgentAbsent) -> None:
    slot = crew.slots.get(event.worker)
    if slot is not None and slot.agent is Agent.STOPPING and slot.start == event.start:
        _on_agent_exited(crew, events.AgentExited(event.worker, None))


def _on_scheduled(crew: Crew, event: events.Scheduled) -> None:
    count = min(event.count, crew.durable.maximum - crew.given_up())
    if not crew.over and count >= crew.durable.minimum:
        crew.durable = replace(crew.durable, wanted=count)


def _on_scale_requested(crew: Crew, event: events.ScaleRequested) -> None:
    if crew.over:
        return
    for slot in crew.slots.values():
        if slot.given_up:  # a user who scales asks for another try
            slot.given_up, slot.exits, slot.start_at = False, (), crew.now
    crew.durable = replace(
        crew.durable,
        minimum=event.minimum,
        maximum=event.maximum,
        wanted=min(crew.durable.wanted, event.maximum),
    )
    crew.tell("scaled", f"workers: {event.minimum}:{event.maximum}")


def _on_cancel_requested(crew: Crew, event: events.CancelRequested) -> None:
    crew.end(JobState.CANCELLED, event.reason)


def _on_job_refused(crew: Crew, event: events.JobRefused) -> None:
    crew.fail(JobError(event.message), event.message)


def _on_recovered(crew: Crew, event: events.Recovered) -> None:
    over = crew.over
    for worker in sorted(event.agents - set(crew.slots)):
        crew.slots[worker] = Slot(worker=worker, index=worker_index(worker), retiring=True)
    done = {(f.worker, f.incarnation) for f in crew.durable.finished}
    crew.finish_mark = crew.now
    for slot in crew.slots.values():
        slot.start_at = crew.now
        if slot.worker in event.agents:
            slot.agent = Agent.RUNNING
            if over or slot.given_up:
                slot.stop_by = crew.now
            elif not slot.retiring:
                policy = crew.policy
                patience = policy.absence_timeout_seconds if slot.incarnation else policy.starting_timeout_seconds
                slot.stop_by = crew.now + patience
        mine = crew.is_member(slot, slot.incarnation)
        if crew.durable.world is None and crew.finishing and slot.worker in event.agents:
            mine = bool(slot.incarnation)  # a script without an elastic run: its processes are all there is
        if mine and not over and (slot.worker, slot.incarnation) not in done:
            # A worker ends with its agent: one whose agent is gone is not waited for.
            patience = crew.policy.reattach_seconds if slot.worker in event.agents else 0.0
            slot.missing = Missing(at=crew.now, until=crew.now + patience, awaited=True, stored=True)
    if crew.durable.below_since is not None:
        # Without a coordinator nobody could come.
        crew.durable = replace(crew.durable, below_since=crew.now)
    if crew.state is JobState.RECOVERING:
        crew.break_world(LossCause.DISCONNECTED)


def _newest_generation(crew: Crew, slot: Slot, incarnation: str) -> int:
    """The newest world that this process can have seen."""
    return crew.generation if crew.is_member(slot, incarnation) or incarnation == slot.apart else 0


_HANDLERS: dict[type, Callable[[Crew, Any], None]] = {
    events.WorkerAttached: _on_attached,
    events.WorkerDetached: _on_detached,
    events.WorkerArrived: _on_arrived,
    events.WorkerLeaving: _on_leaving,
    events.WorkerReached: _on_reached,
    events.WorkerCheckpointed: _on_checkpointed,
    events.WorkerFinished: _on_finished,
    events.ScriptFailed: _on_script_failed,
    events.AgentExited: _on_agent_exited,
    events.AgentNoted: _on_agent_noted,
    events.AgentAbsent: _on_agent_absent,
    events.Scheduled: _on_scheduled,
    events.ScaleRequested: _on_scale_requested,
    events.CancelRequested: _on_cancel_requested,
    events.JobRefused: _on_job_refused,
    events.Recovered: _on_recovered,
}
