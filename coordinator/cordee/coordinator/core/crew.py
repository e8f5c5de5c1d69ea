"""One job's state between two turns, and the moves that everything else is made of: lose, fence, dismiss, stop, end.

Kept apart from what decides to make them (`handlers`, by event; `turn`, by the whole), so that each move is in one
place and complete: whoever is told to stop is fenced, has a time to be gone by, and is in the list of actions.
"""

from __future__ import annotations

from dataclasses import replace

from cordee.coordinator.core.actions import Action, RecordEvent, SendStop, SetState, StopAgent
from cordee.coordinator.core.activity import Activity, Doing, Standing
from cordee.coordinator.core.failure import LONGEST_PATIENCE
from cordee.coordinator.core.lifecycle import STOP_REASONS, TRANSITIONS
from cordee.coordinator.core.links import Links
from cordee.coordinator.core.model import (
    TERMINAL_STATES,
    Cause,
    JobError,
    JobState,
    LossCause,
    Member,
    Policy,
    StopReason,
    World,
)
from cordee.coordinator.core.record import JobRecord
from cordee.coordinator.core.roster import Agent, Loss, Phase, Session, Slot
from cordee.coordinator.core.stragglers import Stragglers
from cordee.coordinator.core.tempo import Tempo

__all__ = ["Crew"]

_DOUBLINGS = LONGEST_PATIENCE.bit_length() - 1
"""So many times the limit of silence doubles."""


class Crew:
    """Mutable, and only ever touched within `JobMachine.handle`."""

    def __init__(self, record: JobRecord, policy: Policy) -> None:
        self.policy = policy
        self.durable = record
        """The durable facts but for the slots, which `record` takes from the roster."""
        self.slots = {slot.worker: Slot.from_record(slot) for slot in record.slots}
        self.tempo = Tempo(0 if record.deaths is None else record.deaths.furthest)
        self.links = Links()
        self.stragglers = Stragglers()
        self.odd: dict[str, str] = {}
        """Workers that wait and are not let in, since they compute differently, and how, in words."""
        self.told_odd: set[str] = set()
        """Processes of which that was said."""
        self.alone_since: float | None = None
        """Since when too few are there who compute with what the job computed with."""
        self.outnumbered_since: float | None = None
        """Since when too few are left of those who trained, while enough wait that compute with something else."""
        self.members: dict[str, Member] = {}
        self.ranks: dict[str, int] = {}
        self.take_world(record.world)
        self.loss: Loss | None = None
        self.broken = False
        """A member of the current world is lost, or its exchange broke."""
        self.broken_at = float("-inf")
        self.asked: set[str] = set()
        """Members told ChangePending in this generation, on the stream they have now."""
        self.aborted: set[str] = set()
        """Members told Abort in this generation, on the stream they have now."""
        self.drained: Cause | None = None
        """Why somebody was released since the last world."""
        self.last_arrival = float("-inf")
        self.latest_heard = float("-inf")
        """When any worker was heard."""
        self.first_joiner: float | None = None
        """Since when a worker waits to be let in."""
        self.woke_at = float("-inf")
        """When this coordinator last found that it had slept: nobody was waited for in that time."""
        self.silent_in = -1
        """The generation in which a worker was given up for its silence last."""
        self.standstills: tuple[int, int] = (0, 0)
        """A step at which the world stood still, and how often."""
        self.hold: tuple[int, int, float] = (0, 0, 0.0)
        """A world, a step of it that some compute while others wait for them, and for how long these do."""
        self.told_waits: set[tuple[int, str, int]] = set()
        """What the world, or one that is still to be formed, waits for, and that this was said."""
        self.num_starts = 0
        """Agents started since this machine was made."""
        self.told_alone = 0
        """The step for which a lone worker was said to take long."""
        self.look_at = float("-inf")
        """When it is worth comparing activities again between two turns."""
        self.finish_mark = float("-inf")
        """The latest finish, or loss of somebody who was to finish."""
        self.now = float("-inf")
        self.deadline: float | None = None
        self.actions: list[Action] = []
        """What this turn has decided so far."""

    # ---------------------------------------------------------------------------------------------------- questions

    @property
    def state(self) -> JobState:
        return self.durable.state

    @property
    def over(self) -> bool:
        return self.durable.state in TERMINAL_STATES

    @property
    def generation(self) -> int:
        return self.durable.generation

    def record(self) -> JobRecord:
        return replace(self.durable, slots=tuple(slot.record() for slot in self.in_order()))

    @property
    def finishing(self) -> bool:
        return bool(self.durable.finished)

    def in_order(self) -> list[Slot]:
        return sorted(self.slots.values(), key=lambda slot: slot.index)

    def given_up(self) -> int:
        return sum(slot.given_up for slot in self.slots.values())

    def usable(self) -> int:
        """Workers the job is to have, those included that leave and are replaced; not those that are not let in."""
        return sum(slot.usable and not self.is_odd(slot) for slot in self.slots.values())

    def expected(self) -> int:
        """Workers the job is to have that are to stay."""
        return sum(slot.usable and not slot.draining for slot in self.slots.values())

    @property
    def trouble(self) -> str:
        """What keeps workers from coming, as far as it is known: of the first of them."""
        troubles = (slot.trouble or self.odd.get(slot.worker, "") for slot in self.in_order() if slot.usable)
        return next((trouble for trouble in troubles if trouble), "")

    def is_odd(self, slot: Slot) -> bool:
        """It waits, and computes differently: it is not to be let in."""
        return slot.worker in self.odd

    def waiting(self) -> int:
        return sum(self.is_waiting(slot) for slot in self.slots.values())

    def is_waiting(self, slot: Slot) -> bool:
        """It stands in the rendezvous, and may be let in."""
        session = slot.session
        if session is None or session.phase is not Phase.WAITING:
            return False
        return not (self.is_odd(slot) or self.links.is_apart(slot.worker, session.incarnation))

    def standings(self, *, lately: bool = False) -> list[Standing]:
        """What the members do, as far as their streams stand; `lately`: only of those that are heard."""
        found: list[Standing] = []
        for worker, rank in self.ranks.items():
            slot = self.slots.get(worker)
            session = None if slot is None else slot.session
            if slot is None or session is None or not self.is_member(slot, session.incarnation):
                continue
            if lately and self.now - session.heard > 3.0 * self.policy.heartbeat_seconds:
                continue
            here = self.now - max(session.since, self.woke_at)
            if session.phase is Phase.WAITING:
                found.append(Standing(worker, rank, Activity(Doing.MEETING, seconds=here), arrived=True))
            elif session.phase is Phase.TRAINING:
                activity = session.activity
                # It may count from before this world was formed, or over a sleep of all.
                seconds, idle_seconds = min(activity.seconds, here), min(activity.idle_seconds, here)
                known = 0.0
                if session.idle_since is not None:
                    known = max(0.0, session.idle_heard - max(session.idle_since, self.woke_at))
                activity = replace(activity, seconds=seconds, idle_seconds=idle_seconds)
                found.append(Standing(worker, rank, activity, idle_known=known))
        return found

    @property
    def link_limit(self) -> float:
        """How long two members may wait for each other without a byte."""
        return max(self.policy.link_idle_seconds, 2.0 * self.tempo.usual_seconds)

    def current(self, worker: str, incarnation: str) -> tuple[Slot | None, Session | None]:
        """The slot and session that a message is of; nothing when another process has taken its place."""
        slot = self.slots.get(worker)
        if slot is None or slot.session is None or slot.session.incarnation != incarnation:
            return None, None
        return slot, slot.session

    def is_member(self, slot: Slot, incarnation: str) -> bool:
        member = self.members.get(slot.worker)
        return member is not None and member.incarnation == incarnation and incarnation not in slot.fenced

    def is_live(self, slot: Slot) -> bool:
        """Its process, as far as is known, is a member of the current world."""
        return (slot.session is not None or slot.missing is not None) and self.is_member(slot, slot.incarnation)

    def silent_at(self, session: Session) -> float:
        """When a session counts as hanging, unless it is heard before."""
        if session.phase in (Phase.STOPPED, Phase.FINISHED):
            return float("inf")
        if session.phase is Phase.JOINING:
            return session.heard + self._lengthened(self.policy.joining_timeout_seconds)
        limit = self._lengthened(self.policy.heartbeat_timeout_seconds)
        heard = session.heard + max(limit, self._patience(session.heard))
        if session.phase is Phase.WAITING:
            return heard
        # A world that advances proves that its members compute, heard or not.
        return max(heard, self.tempo.advanced_at + limit)

    def _lengthened(self, seconds: float) -> float:
        """This limit of silence, where workers were given up for it before, and the job got no further since: a call in
        native code may take its time, and look like a process that hangs.

        The agents count as well, and see it better. They have the time of two heartbeats more to decide first: one
        whose worker does not go is killed, and what it knows with it.
        """
        step, times = self.durable.silenced
        if not times or self.tempo.further_than(step):
            return seconds
        return seconds * 2.0**times + 2.0 * self.policy.heartbeat_seconds

    def note_silence(self) -> None:
        """A worker is given up for its silence. Several at once (the same step silences all) are one time."""
        if self.silent_in == self.generation:
            return
        self.silent_in = self.generation
        step, times = self.durable.silenced
        if self.tempo.further_than(step):
            step, times = self.tempo.furthest, 0
        self.durable = replace(self.durable, silenced=(step, min(times + 1, _DOUBLINGS)))

    def be_patient(self, factor: int) -> None:
        """An agent tells that it lets its new worker be silent for so many times longer than usual."""
        told = min(max(factor, 1), LONGEST_PATIENCE).bit_length() - 1
        step, times = self.durable.silenced
        if told and (told > times or self.tempo.further_than(step)):
            self.durable = replace(self.durable, silenced=(self.tempo.furthest, told))

    def missing_until(self, slot: Slot) -> float:
        """When a member without a stream counts as lost, unless it comes back before."""
        assert slot.missing is not None
        until = max(slot.missing.until, self.tempo.advanced_at + self.policy.heartbeat_timeout_seconds)
        return until if slot.missing.stored else max(until, slot.missing.at + self._patience(slot.missing.at))

    def _patience(self, since: float) -> float:
        """How long a worker may be silent that was heard last at this time.

        When nobody has been heard since, nothing says that it is this worker's fault: the network may be down, and all
        of them may train on, as they do when a coordinator dies. Nobody waits for it either.
        """
        if self.latest_heard > since + 1.5 * self.policy.heartbeat_seconds:
            return self.policy.heartbeat_timeout_seconds
        return max(self.policy.heartbeat_timeout_seconds, self.policy.reattach_seconds)

    def hear(self, session: Session) -> None:
        """A word of this worker."""
        session.heard = self.latest_heard = self.now

    # -------------------------------------------------------------------------------------------------------- moves

    def take_world(self, world: World | None) -> None:
        members = () if world is None else world.members
        self.members = {member.worker: member for member in members}
        self.ranks = {member.worker: rank for rank, member in enumerate(members)}
        if world is not None:
            self.tempo.enter(world.step)

    def advance(self, step: int) -> None:
        """A member of the current world tells of this step."""
        if not self.tempo.advance(step, self.now):
            return
        for slot in self.slots.values():
            missing = slot.missing
            if missing is None or missing.awaited or self.now - missing.at < 1.5 * self.policy.heartbeat_seconds:
                continue  # the first words after its stream broke may be of steps from before
            if missing.mark is None:
                slot.missing = replace(missing, mark=step)
            elif step >= missing.mark + 2:
                slot.missing = replace(missing, awaited=True)  # it takes part: only its stream is gone

    def tell(self, kind: str, message: str) -> None:
        self.actions.append(RecordEvent(kind, message))

    def note_loss(self, cause: LossCause) -> None:
        if self.loss is None:
            self.loss = Loss(self.now, cause)

    def break_world(self, cause: LossCause) -> None:
        self.note_loss(cause)
        if not self.broken:
            self.broken, self.broken_at = True, self.now

    def lose(self, slot: Slot, cause: LossCause) -> None:
        """A member is lost for certain."""
        slot.fence(slot.incarnation)
        slot.missing = None
        self.finish_mark = self.now
        self.tell("lost", f"{slot.worker} is lost ({cause})")
        if not self.finishing:
            self.break_world(cause)

    def supersede(self, slot: Slot, incarnation: str) -> None:
        """A newer process of a worker takes the place of the last one, whatever became of it."""
        old = slot.incarnation
        if slot.session is not None:
            message = "a newer process of this worker has taken its place"
            self.actions.append(SendStop(slot.worker, old, StopReason.FENCED, message))
        if self.is_live(slot):
            self.lose(slot, LossCause.REPLACED)
        slot.fence(old)
        slot.session, slot.kill_by, slot.apart = None, None, ""
        self.links.apart.pop(slot.worker, None)
        self.stragglers.forget(slot.worker)
        slot.restarts += 1 if old else 0
        slot.incarnation = incarnation

    def stop(self, slot: Slot, reason: StopReason, message: str, phase: Phase = Phase.STOPPED) -> None:
        """Tells an attached worker to stop, and sets the time by which it must have."""
        assert slot.session is not None
        self.actions.append(SendStop(slot.worker, slot.session.incarnation, reason, message))
        slot.session.phase = phase
        if slot.agent is Agent.RUNNING:
            slot.stop_by = self.now + self.policy.parting_seconds

    def fence(self, slot: Slot, message: str) -> None:
        """This process must not come back; its agent starts another one."""
        assert slot.session is not None
        slot.fence(slot.session.incarnation)
        self.stop(slot, StopReason.FENCED, message)

    def replace(self, slot: Slot, reason: StopReason, message: str, *, silent: bool = False) -> None:
        """This process hangs, wholly or in part, or its machine is gone, if it is `silent`: its agent kills it and
        starts another one, or is killed itself."""
        assert slot.session is not None
        slot.silent = silent
        slot.fence(slot.session.incarnation)
        self.stop(slot, reason, message)
        if slot.agent is Agent.RUNNING:
            slot.stop_by, slot.kill_by = None, self.now + self.policy.replacement_seconds

    def dismiss(self, slot: Slot, reason: StopReason, message: str) -> None:
        """This worker leaves for good, and nobody is to blame."""
        assert slot.session is not None
        slot.fence(slot.session.incarnation)
        slot.blameless = True
        self.stop(slot, reason, message)

    def stop_agent(self, slot: Slot, grace_seconds: float) -> None:
        slot.agent = Agent.STOPPING
        slot.blameless = slot.blameless or slot.retiring or self.over
        slot.stop_by = self.now + (grace_seconds or self.policy.stop_seconds) + self.policy.tick_seconds
        self.actions.append(StopAgent(slot.worker, grace_seconds, slot.start))

    def give_up(self, slot: Slot, words: str) -> None:
        slot.given_up = True
        self.durable = replace(self.durable, wanted=self.durable.wanted - 1)
        self.tell("given_up", f"{words}: {slot.worker} is given up")
        if self.durable.wanted < self.durable.minimum:
            message = f"{words}; fewer workers are left than the job's minimum of {self.durable.minimum}"
            self.fail(JobError(message, worker=slot.worker), message)

    def fail(self, error: JobError, reason: str) -> None:
        if not self.over:
            self.durable = replace(self.durable, error=error)
            self.end(JobState.FAILED, reason)

    def end(self, state: JobState, reason: str) -> None:
        """A terminal state: final, and every worker and agent is told to stop."""
        if self.over:
            return
        self.durable = replace(self.durable, finished_at=self.now)
        self.enter(state, reason)
        for slot in self.in_order():
            slot.missing, slot.fail_by, slot.kill_by = None, None, None
            session = slot.session
            if session is not None and session.phase not in (Phase.STOPPED, Phase.FINISHED):
                self.stop(slot, STOP_REASONS[state], reason)
            elif slot.agent is Agent.RUNNING:
                parted = self.now + self.policy.parting_seconds
                if session is None or slot.stop_by is None:
                    slot.stop_by = parted if any(f.worker == slot.worker for f in self.durable.finished) else self.now
                else:  # it has been told to stop, or its session is what another process left behind
                    slot.stop_by = min(slot.stop_by, parted)
        # `turn` presses on.

    def enter(self, state: JobState, reason: str) -> None:
        if (state, reason) != (self.durable.state, self.durable.reason):
            assert state is self.durable.state or state in TRANSITIONS[self.durable.state]
            self.durable = replace(self.durable, state=state, reason=reason)
            self.actions.append(SetState(state, reason))
