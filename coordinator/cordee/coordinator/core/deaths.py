"""How workers died, as far as it says something: told to the job's history, and counted (`failure.count`)."""

from __future__ import annotations

from dataclasses import replace

from cordee.coordinator.core.crew import Crew
from cordee.coordinator.core.failure import SAME_DEATHS, count, own_doing
from cordee.coordinator.core.model import JobError, PostMortem
from cordee.coordinator.core.roster import Slot

__all__ = ["bury", "dies_again"]

_STALE_SECONDS = 1.0
"""How old may be what is known of the job's step."""


def bury(crew: Crew, slot: Slot, previous: PostMortem) -> bool:
    """Tells what is known of the end of a worker's last process. Whether the job fails of it."""
    if previous.asked:
        return False
    where = f" after step {previous.step}" if previous.step else ""
    crew.tell("died", f"{slot.worker} {previous.words}{where}")
    if previous.stack:
        crew.tell("stack", f"{slot.worker}, as it ended:\n{previous.stack}")
    if not own_doing(previous.code):
        return False
    return dies_again(crew, slot.worker, "", previous.code, previous.words, previous.step, previous.stack)


def dies_again(crew: Crew, worker: str, whose: str, code: int, words: str, step: int = 0, stack: str = "") -> bool:
    """Counts a death by a worker's own doing. Whether it was one too many, and the job has failed."""
    usual = crew.tempo.usual_seconds
    deaths = count(
        crew.durable.deaths,
        worker=worker,
        code=code,
        words=words,
        furthest=max(crew.tempo.furthest, step),
        slack=int(_STALE_SECONDS / usual) if usual else 0,
    )
    crew.durable = replace(crew.durable, deaths=deaths)
    if deaths.times < SAME_DEATHS:
        return False
    where = f"at about step {deaths.furthest}" if deaths.furthest else "before the first step"
    again = f"{deaths.times} times, and the job got no further: it is not tried again"
    message = f"{worker}{whose} {words} {where}, {again}"
    crew.fail(JobError(message, stack, worker), message)
    return True
