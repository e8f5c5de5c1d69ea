"""Who is there: the job's slots, their agents, and the sessions of their workers.

A slot outlives processes: its worker id is stable, its agent may be started again, and the agent starts the worker's
process again, each time as a new incarnation. A session is one incarnation whose stream is up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from cordee.coordinator.core.activity import UNKNOWN, Activity, Doing
from cordee.coordinator.core.model import LossCause, Outlook
from cordee.coordinator.core.record import SlotRecord

__all__ = ["Agent", "Loss", "Missing", "Phase", "Session", "Slot"]

_FENCED_KEPT = 8
"""Incarnations that are remembered as fenced, per worker: those of a burst of restarts, not of a whole life."""


class Agent(Enum):
    ABSENT = "absent"
    RUNNING = "running"
    STOPPING = "stopping"


class Phase(Enum):
    JOINING = "joining"
    """Imports, builds the model; or runs a script that makes no elastic run at all."""
    WAITING = "waiting"
    TRAINING = "training"
    FINISHED = "finished"
    STOPPED = "stopping"
    """It was told to stop."""


@dataclass(slots=True)
class Session:
    incarnation: str
    address: str
    pid: int
    phase: Phase
    step: int | None
    heard: float
    since: float
    """When its phase began."""
    activity: Activity = UNKNOWN
    """Its last heartbeat's word on what it does, in this world."""
    idle_since: float | None = None
    """When the first of the heartbeats was heard that say, one after the other, that it waits without a byte."""
    idle_heard: float = 0.0
    """When the latest of them was."""
    leaving: bool = False
    """Its process was asked to go (SIGTERM); a replacement is wanted."""
    computes_with: tuple[str, ...] = ()
    """What decides the bits of its numbers, as it said when it arrived last; empty: it has not said."""

    def does(self, activity: Activity, now: float, idle_seconds: float) -> None:
        """A heartbeat's word on what it does. Without a byte for `idle_seconds`, it is worth noting since when."""
        last, self.activity = self.activity, activity
        if activity.doing not in (Doing.EXCHANGING, Doing.MEETING) or activity.idle_seconds < idle_seconds:
            self.idle_since = None
            return
        goes_on = (last.doing, last.step) == (activity.doing, activity.step)
        if self.idle_since is None or not goes_on or activity.idle_seconds <= last.idle_seconds:
            self.idle_since = now
        self.idle_heard = now


@dataclass(frozen=True, slots=True)
class Loss:
    """The first sign that the current world has lost somebody."""

    at: float
    cause: LossCause


@dataclass(frozen=True, slots=True)
class Missing:
    """A member without a stream that is not given up yet."""

    at: float
    """Since when."""
    until: float
    """When it is lost, unless the world advances meanwhile, which it cannot without it."""
    awaited: bool
    """Worlds are held back for it, since it probably trains: it is known only from the store, or was seen to go on."""
    stored: bool = False
    """It is known only from the store."""
    mark: int | None = None
    """How far the world was when whatever had been told before its stream broke had come in."""


@dataclass(slots=True)
class Slot:
    worker: str
    index: int
    retiring: bool = False
    given_up: bool = False
    exits: tuple[float, ...] = ()
    heard_at: float = 0.0
    restarts: int = 0
    incarnation: str = ""
    fenced: tuple[str, ...] = ()
    joined: bool = False
    scaled: bool = False
    start: int = 0
    """The number of its agent's start, among the job's."""
    apart: str = ""
    pardoned: int = 0
    # The rest is rebuilt after the coordinator's restart.
    agent: Agent = Agent.ABSENT
    start_at: float = float("-inf")
    """Not to be started before this time."""
    stop_by: float | None = None
    """When to press on with stopping its agent."""
    kill_by: float | None = None
    """When to kill its agent, unless that has started another process before: the last one hangs."""
    silent: bool = False
    """Its last process was given up for its silence: whether anybody is there at all is not known."""
    blameless: bool = False
    """Its agent's next exit was asked for, and counts for nothing."""
    fail_by: float | None = None
    """Its agent said that the script raised; until then the worker's own words are waited for."""
    trouble: str = ""
    """What its agent did last, or waits for, while no process of it has attached since."""
    outlook: Outlook | None = None
    """Its agent does not run yet; what is to be expected of it."""
    doubted: float | None = None
    """Since when it waits for what may never come."""
    num_taken: int = 0
    """How often in a row its agent was taken away before a process of it attached."""
    session: Session | None = None
    missing: Missing | None = None

    @property
    def usable(self) -> bool:
        """It is one of the workers that the job is to have."""
        return not self.retiring and not self.given_up

    @property
    def draining(self) -> bool:
        """Its worker is to go at a step boundary; given up, because nobody would watch it any more."""
        return self.retiring or self.given_up or (self.session is not None and self.session.leaving)

    def fence(self, incarnation: str) -> None:
        if incarnation and incarnation not in self.fenced:
            self.fenced = (*self.fenced, incarnation)[-_FENCED_KEPT:]

    def record(self) -> SlotRecord:
        return SlotRecord(
            worker=self.worker,
            retiring=self.retiring,
            given_up=self.given_up,
            exits=self.exits,
            heard_at=self.heard_at,
            restarts=self.restarts,
            incarnation=self.incarnation,
            fenced=self.fenced,
            joined=self.joined,
            scaled=self.scaled,
            apart=self.apart,
            pardoned=self.pardoned,
        )

    @classmethod
    def from_record(cls, record: SlotRecord) -> Slot:
        return cls(
            worker=record.worker,
            index=record.index,
            retiring=record.retiring,
            given_up=record.given_up,
            exits=record.exits,
            heard_at=record.heard_at,
            restarts=record.restarts,
            incarnation=record.incarnation,
            fenced=record.fenced,
            joined=record.joined,
            scaled=record.scaled,
            apart=record.apart,
            pardoned=record.pardoned,
        )
