"""States that are nobody's fault for certain, and in which a job stands still: they are said, once, and left alone.

A worker may import for as long as it likes, all may compute one step for an hour, and a script may evaluate after its
run while its peers are in an exchange. Each can be meant, and each can be a job that hangs. Only its user knows, and a
user who reads nothing waits as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cordee.coordinator.core.activity import Doing, Standing

__all__ = ["Wait", "find_waits"]

_PREPARING_SECONDS = 300.0
_LONG_SECONDS = 600.0
_STEPS = 20.0


@dataclass(frozen=True, slots=True)
class Wait:
    who: str
    """What tells it from another wait: a worker, or all."""
    step: int
    words: str


def find_waits(
    members: Sequence[Standing],
    *,
    preparing: Sequence[tuple[str, float]],
    waiting_seconds: float,
    usual_seconds: float,
) -> list[Wait]:
    """What is waited for, for so long that it is worth a word.

    `preparing`: workers that have not come to the rendezvous yet, and how long they have been there. `waiting_seconds`:
    how long somebody has stood in it.
    """
    found = [
        Wait(
            worker,
            0,
            f"{worker} has prepared for {seconds:.0f} s (imports, its model, its data) and has not asked "
            f"to join; the world waits for it, for {waiting_seconds:.0f} s",
        )
        for worker, seconds in preparing
        if min(seconds, waiting_seconds) > _PREPARING_SECONDS
    ]
    activities = [member.activity for member in members]
    if len(members) > 1 and all(a.doing is Doing.COMPUTING and a.step == activities[0].step for a in activities):
        least = min(a.seconds for a in activities)
        if least > max(_LONG_SECONDS, _STEPS * usual_seconds):
            usual = f"; a step takes {usual_seconds:.3g} s usually" if usual_seconds else ""
            step = activities[0].step
            words = (
                f"all {len(members)} workers have been computing step {step} for {least:.0f} s, so none of them is late"
            )
            found.append(Wait("", step, words + usual))
    for member in members:
        if member.activity.doing is not Doing.OUTSIDE or member.arrived:
            continue
        held = [m for m in members if m.activity.doing is Doing.EXCHANGING and m.waits_for(member)]
        longest = max((peer.activity.seconds for peer in held), default=0.0)
        if longest > _LONG_SECONDS:
            words = f"{member.worker} is outside of its run, and {len(held)} of its peers have waited for it in the"
            found.append(Wait(member.worker, held[0].activity.step, f"{words} exchange for {longest:.0f} s"))
    return found
