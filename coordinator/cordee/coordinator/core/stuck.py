"""Who holds the others up: a worker that is alive but stuck, found by what its peers do meanwhile.

A step may take as long as it likes: as long as all compute, nobody is late. But a worker that computes while others
have waited for it for longer than the limit is stuck: a read that never returns, a loop without an end, a lock. So
the clock that counts is the waiting of the others, not the worker's own time; and where most do what one does not
wait for, that one is the odd one out, and the many have ten times as long.

The same rule covers the rendezvous. Who stands there waits for all who have not come; a member that was told to come
and does not, or that never gets through connecting and healing, holds them up like one that computes.

A limit can be wrong: an evaluation on one worker takes its time. So it doubles each time at the same step, and what
is slow but right gets through at last. What got through is remembered for as long as the job lives, so the next
evaluation, which takes as long, has the time it needs from the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cordee.coordinator.core.activity import Activity, Doing, Standing

__all__ = ["Stuck", "find_alone", "find_deaf", "find_hold", "find_standstill", "find_stuck", "limit_seconds"]

_FEW = 10.0
"""How many times longer a worker has that few wait for, or none."""
_STEPS = 10.0
"""A worker that holds the others up has at least so many times what a step usually takes."""
_MANY_DOUBLINGS = 12
_ROOM = 1.5
"""How many times longer than the longest that got through."""


@dataclass(frozen=True, slots=True)
class Stuck:
    worker: str
    step: int
    words: str


def limit_seconds(stuck_seconds: float, usual_seconds: float, times: int, longest_hold: float = 0.0) -> float:
    """How long others may wait for a worker that has held them up at this same step so many times already.

    `longest_hold` is how long one has done so and got through: what did once is right the next time.
    """
    limit = max(stuck_seconds, _STEPS * usual_seconds) * 2.0 ** min(times, _MANY_DOUBLINGS)
    return max(limit, _ROOM * longest_hold)


def find_hold(members: Sequence[Standing], *, limit: float) -> tuple[int, float]:
    """The step that some compute while others wait for them, and for how long: if that is near the limit, or beyond it,
    so that it is worth remembering; else (0, 0)."""
    found = (0, 0.0)
    for member in members:
        if member.activity.doing is not Doing.COMPUTING or member.arrived or member.activity.seconds * _ROOM <= limit:
            continue
        waiting = [peer for peer in members if peer is not member and peer.waits_for(member)]
        if waiting and _may_be_late(member, waiting):
            found = max(found, (member.activity.step, _held_up(member, waiting)), key=lambda hold: hold[1])
    return found if found[1] * _ROOM > limit else (0, 0.0)


def find_stuck(members: Sequence[Standing], *, limit: float, usual_seconds: float = 0.0) -> list[Stuck]:
    """The members that others have waited for, for longer than the limit."""
    late: list[tuple[Standing, list[Standing]]] = []
    for member in members:
        if member.activity.seconds < limit:
            continue  # nearly always: this is asked in every turn, and the rest of it is quadratic
        waiting = [peer for peer in members if peer is not member and peer.waits_for(member)]
        if not waiting or not _may_be_late(member, waiting):
            continue
        if _held_up(member, waiting) >= limit:
            late.append((member, waiting))
    found: list[Stuck] = []
    for member, waiting in late:
        if len(waiting) >= len(late) or _held_up(member, waiting) >= _FEW * limit:
            found.append(Stuck(member.worker, member.activity.step, _words(member, waiting, usual_seconds)))
    return found


def find_deaf(
    members: Sequence[Standing], *, broken_seconds: float, limit: float, longest_hold: float = 0.0
) -> list[Stuck]:
    """Members of a broken world that do not come to the rendezvous, when nobody, or only joiners, stand there.

    Who computes comes when it has computed; who waits for bytes is woken at once, unless it cannot be.
    """
    long = max(_FEW * limit, _ROOM * longest_hold)
    found = [
        member
        for member in members
        if not member.arrived
        and member.activity.doing is not Doing.OUTSIDE
        and broken_seconds >= (limit if member.activity.doing in (Doing.EXCHANGING, Doing.MEETING) else long)
    ]
    come = f"was told {broken_seconds:.0f} s ago that its world is broken, and does not come"
    return [Stuck(m.worker, m.activity.step, f"{m.worker} has been {_describe(m)} and {come}") for m in found]


def find_alone(members: Sequence[Standing], *, limit: float) -> Stuck | None:
    """A world of one has no peers to measure by: only a very long step is worth a word."""
    if len(members) != 1 or members[0].arrived:
        return None
    member = members[0]
    busy = member.activity.doing in (Doing.COMPUTING, Doing.MEETING, Doing.EXCHANGING)
    if not busy or member.activity.seconds < _FEW * limit:
        return None
    words = f"{member.worker} has been {_describe(member)} for {member.activity.seconds:.0f} s, and trains alone"
    return Stuck(member.worker, member.activity.step, words)


def find_standstill(members: Sequence[Standing], *, limit: float, meeting_limit: float) -> str:
    """Words for a world in which all wait, for longer than the limit, and none of them is the one; empty: it is not so.

    That should not be. Whatever it is, breaking it off and doing it again costs a step.
    """
    if len(members) < 2 or any(member.arrived for member in members):
        return ""
    activities = [member.activity for member in members]
    if all(a.doing is Doing.MEETING and _still(a) >= meeting_limit for a in activities):
        return f"no step has begun for {min(a.seconds for a in activities):.0f} s since the world was formed"
    if all(a.doing is Doing.EXCHANGING and a.idle_seconds >= limit for a in activities):
        return f"nobody has sent or received a byte for {min(a.idle_seconds for a in activities):.0f} s, and all wait"
    return ""


def _held_up(member: Standing, waiting: Sequence[Standing]) -> float:
    """For how long it has held them up."""
    return min(_still(member.activity), max(peer.activity.seconds for peer in waiting))


def _still(activity: Activity) -> float:
    """Since when it got no further. A large state takes its time to travel: while bytes move, a member is not stuck."""
    if activity.doing is Doing.MEETING and activity.idle_seconds > 0.0:
        return min(activity.seconds, activity.idle_seconds)
    return activity.seconds


def _may_be_late(member: Standing, waiting: Sequence[Standing]) -> bool:
    if member.arrived:
        return False
    match member.activity.doing:
        case Doing.COMPUTING:
            return all(peer.arrived or peer.activity.step >= member.activity.step for peer in waiting)
        case Doing.MEETING:
            return True
        case Doing.EXCHANGING:
            return any(peer.arrived for peer in waiting)  # it does not hear that the exchange is broken off
        case _:
            return False


def _describe(member: Standing) -> str:
    match member.activity.doing:
        case Doing.MEETING:
            return "connecting to its peers, or taking their state,"
        case Doing.EXCHANGING:
            return f"in the exchange of step {member.activity.step}, which is broken off,"
        case Doing.UNKNOWN | Doing.PREPARING:
            return "silent about what it does"
        case _:
            return f"computing step {member.activity.step}"


def _words(member: Standing, waiting: Sequence[Standing], usual_seconds: float) -> str:
    names = [peer.worker.rpartition("-")[2] for peer in waiting]
    if len(names) > 8:
        names = [*names[:7], f"{len(names) - 7} more"]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    usual = f"; a step takes {usual_seconds:.3g} s usually" if usual_seconds else ""
    verb = "wait" if len(names) > 1 else "waits"
    since = f"{member.worker} has been {_describe(member)} for {member.activity.seconds:.0f} s"
    return f"{since}; {listed} {verb} for it{usual}"
