"""How workers died, as far as it says something: told to the job's history, and counted (`failure.count`); and what
follows when one has died too often."""

from __future__ import annotations

from dataclasses import replace

from cordee.coordinator.core.actions import RecordDeath
from cordee.coordinator.core.crew import Crew
from cordee.coordinator.core.failure import LONGEST_PATIENCE, SAME_DEATHS, count, own_doing
from cordee.coordinator.core.model import JobError, PostMortem
from cordee.coordinator.core.roster import Slot

__all__ = ["bury", "dies_again", "exhausted"]


def bury(crew: Crew, slot: Slot, previous: PostMortem) -> bool:
    """Tells what is known of the end of a worker's last process. Whether the job fails of it."""
    if previous.asked:
        return False
    crew.actions.append(RecordDeath(slot.worker, previous))
    where = f" after step {previous.step}" if previous.step else ""
    crew.tell("died", f"{slot.worker} {previous.words}{where}")
    if previous.stack:
        crew.tell("stack", f"{slot.worker}, as it ended:\n{previous.stack}")
    # What may be slow but right is tried with more and more patience; what is silent for the longest time is not slow.
    hangs = previous.silent and previous.patience >= LONGEST_PATIENCE
    if not own_doing(previous.code) and not hangs and not previous.out_of_memory:
        return False
    return dies_again(crew, slot.worker, "", previous.code, previous.words, previous.step, previous.stack)


def dies_again(crew: Crew, worker: str, whose: str, code: int, words: str, step: int = 0, stack: str = "") -> bool:
    """Counts a death by a worker's own doing. Whether it was one too many, and the job has failed."""
    deaths = count(
        crew.durable.deaths,
        worker=worker,
        code=code,
        words=words,
        furthest=max(crew.tempo.furthest, step),
        slack=crew.tempo.stale_steps,
    )
    crew.durable = replace(crew.durable, deaths=deaths)
    if deaths.times < SAME_DEATHS:
        return False
    where = f"at about step {deaths.furthest}" if deaths.furthest else "before the first step"
    again = f"{deaths.times} times, and the job got no further: it is not tried again"
    message = f"{worker}{whose} {words}; this happened {where}, {again}"
    crew.fail(JobError(message, stack, worker), message)
    return True


def exhausted(crew: Crew, slot: Slot, words: str) -> None:
    """A worker's restarts are used up: the job goes on without it, if it can.

    If it cannot, there are too few workers, and the job would fail. One that has got further since this happened last
    does not deserve that: whatever the worker dies of, it is worth being started again, after the longest pause.
    """
    advances = crew.tempo.furthest > 0 if not slot.pardoned else crew.tempo.further_than(slot.pardoned)
    if crew.durable.wanted > crew.durable.minimum or not advances or not crew.policy.restart_budget:
        crew.give_up(slot, words)
        return
    slot.pardoned, slot.exits = crew.tempo.furthest, ()
    slot.start_at = crew.now + crew.policy.restart_backoff_max_seconds
    crew.tell("agent_exited", f"{words}; the job needs it, and has got further: it is started again")
