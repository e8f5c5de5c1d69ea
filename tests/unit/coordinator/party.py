"""Workers that train together, in simulated time, for stories about the job machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from cordee.coordinator.core import actions as act
from cordee.coordinator.core import events as ev
from cordee.coordinator.core.activity import Activity, Doing
from cordee.coordinator.core.job import JobMachine
from cordee.coordinator.core.model import (
    ArrivalReason,
    JobState,
    Policy,
    PostMortem,
    World,
)
from cordee.coordinator.core.record import JobRecord

__all__ = ["POLICY", "Party", "computing", "waiting"]

A = TypeVar("A", bound=act.Action)
POLICY = Policy()


class Party:
    """Workers that train together, in simulated time: who is not said to do otherwise computes, and commits."""

    def __init__(self, size: int, *, minimum: int = 1, maximum: int = 0, **policy: Any) -> None:
        self.now = 1000.0
        self.policy = replace(POLICY, **policy)
        self.machine = JobMachine(JobRecord("j", minimum, maximum or size, created_at=self.now), self.policy)
        self.life: dict[int, int] = {}
        self.kinds: dict[int, tuple[str, ...]] = {}
        """What workers compute with, those that say it."""
        self.step = 0
        self.told: list[act.Action] = []
        self.tell(ev.Scheduled(size))
        self.join(*range(size))

    def tell(self, event: ev.Event) -> None:
        self.told += self.machine.handle(event, self.now)

    def who(self, k: int) -> tuple[str, str]:
        return f"j-w{k}", f"{k}.{self.life.get(k, 0)}"

    def join(self, *workers: int, previous: PostMortem | None = None) -> None:
        for k in workers:
            self.tell(ev.WorkerAttached(*self.who(k), f"host:{k}", pid=1, previous=previous))
            self.tell(ev.WorkerArrived(*self.who(k), 0, None, ArrivalReason.JOIN, computes_with=self.kinds.get(k, ())))

    def arrive(self, k: int, *suspects: int, lost: bool = True, step: int | None = None) -> None:
        reason = ArrivalReason.PEER_LOST if lost else ArrivalReason.CHANGE
        names = tuple(f"j-w{s}" for s in suspects)
        step = self.step if step is None else step
        kind = self.kinds.get(k, ())
        self.tell(ev.WorkerArrived(*self.who(k), self.machine.generation, step, reason, names, computes_with=kind))

    def die(self, k: int, **end: Any) -> None:
        """Its stream breaks; its agent starts another process, which has attached when this returns."""
        _, incarnation = self.who(k)
        self.tell(ev.WorkerDetached(*self.who(k)))
        self.life[k] = self.life.get(k, 0) + 1
        end = {"code": -9, "words": "was killed by SIGKILL", "step": self.step, **end}
        self.join(k, previous=PostMortem(incarnation, **end))

    def go(self, seconds: float, doing: dict[int, Activity] | None = None, *, heard: tuple[int, ...] = ()) -> None:
        """Time passes, with two heartbeats a second and the ticks that are asked for.

        `doing`: who is heard, and what they do; their `seconds` and `idle_seconds` grow by themselves. `heard`: who is
        heard, and commits ten steps a second.
        """
        end = self.now + seconds
        begun = self.now
        while self.now < end - 1e-9:
            self.now += 0.25
            for k in heard:
                self.step += 5 if k == heard[0] else 0
                self.tell(ev.WorkerHeard(*self.who(k), self.step, Activity(Doing.COMPUTING, self.step + 1)))
            for k, activity in (doing or {}).items():
                passed = self.now - begun
                idle = passed if activity.doing is Doing.EXCHANGING else activity.idle_seconds
                grown = replace(activity, seconds=activity.seconds + passed, idle_seconds=idle)
                self.tell(ev.WorkerHeard(*self.who(k), self.step or None, grown))
            deadline = self.machine.next_deadline()
            if deadline is not None and deadline <= self.now:
                self.tell(ev.Tick())

    def take(self, kind: type[A]) -> list[A]:
        """What was decided of this kind since it was asked last."""
        found = [action for action in self.told if isinstance(action, kind)]
        self.told = [action for action in self.told if not isinstance(action, kind)]
        return found

    def events(self, kind: str) -> list[str]:
        return [action.message for action in self.told if isinstance(action, act.RecordEvent) and action.kind == kind]

    def restart(self, *agents: int) -> None:
        self.machine = JobMachine(JobRecord.from_json(self.machine.record.to_json()), self.policy)
        self.tell(ev.Recovered(frozenset(f"j-w{k}" for k in agents)))

    @property
    def world(self) -> World:
        assert self.machine.record.world is not None
        return self.machine.record.world

    @property
    def ranks(self) -> list[int]:
        return [int(member.worker[3:]) for member in self.world.members]

    @property
    def state(self) -> JobState:
        return self.machine.state


def computing(step: int, seconds: float = 0.0) -> Activity:
    return Activity(Doing.COMPUTING, step, seconds)


def waiting(step: int, *workers: int) -> Activity:
    return Activity(Doing.EXCHANGING, step, 0.0, tuple(f"j-w{k}" for k in workers))
