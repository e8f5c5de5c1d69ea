"""What the members of a world do is compared, and who holds it up is dealt with: the moves that follow from `stuck`,
`links`, and from too few workers for too long.

Everything here is looked at in every turn, so at least once a second while workers are watched. Nothing waits for
ever: a worker that holds the others up is replaced, a link that carries nothing is gone round, a world in which all
wait is formed again, and a job that stays below its minimum ends, if its user has set a limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cordee.coordinator.core import links, stuck
from cordee.coordinator.core.activity import Standing
from cordee.coordinator.core.cover import Pair
from cordee.coordinator.core.crew import Crew
from cordee.coordinator.core.model import JobError, LossCause, StopReason
from cordee.coordinator.core.rendezvous import Muster, place
from cordee.coordinator.core.roster import Phase
from cordee.coordinator.core.waits import find_waits

__all__ = ["below_until", "part", "watch_members", "watch_minimum"]


def watch_members(crew: Crew) -> None:
    """Finds who holds the world up."""
    members = crew.standings()
    _tell_waits(crew, members)
    if not members:
        return
    usual = crew.tempo.usual_seconds
    if crew.policy.stuck_seconds > 0.0:
        _remember_hold(crew, members, usual)
        step, times = crew.durable.held_up
        longest = crew.durable.longest_hold
        at_hand = max(member.activity.step for member in members)
        short = stuck.limit_seconds(crew.policy.stuck_seconds, usual, times if step == at_hand else 0)
        limit = stuck.limit_seconds(short, 0.0, 0, longest)
        late = stuck.find_stuck(members, limit=limit, usual_seconds=usual)
        if crew.broken and not late:
            silence = crew.now - crew.broken_at
            late = stuck.find_deaf(members, broken_seconds=silence, limit=short, longest_hold=longest)
        for found in late:
            _replace_stuck(crew, found)
        if len(crew.members) == 1 and not late:
            _watch_alone(crew, stuck.find_alone(members, limit=limit))
    if crew.broken:
        return
    # That two wait for each other says enough, whatever one does that is not heard.
    heard = crew.standings(lately=True)
    cut = links.find_cut(heard, idle_seconds=crew.link_limit)
    if cut:
        idle = min(member.activity.idle_seconds for member in heard)
        for link in cut:
            crew.links.found[link] = f"no byte between them for {idle:.1f} s, at step {heard[0].activity.step}"
        crew.break_world(LossCause.LINK)
        return
    if len(heard) < len(crew.members):
        return
    step, times = crew.standstills
    times = times if step == crew.tempo.step else 0
    patience = max(crew.policy.standstill_seconds, 4.0 * crew.link_limit) * 2.0 ** min(times, 8)
    words = stuck.find_standstill(members, limit=patience, meeting_limit=max(patience, crew.policy.stuck_seconds))
    if words:
        crew.standstills = (crew.tempo.step, times + 1)
        crew.tell("stuck", f"{words}: the world is broken off, and formed again")
        crew.break_world(LossCause.STUCK)


def part(crew: Crew, muster: Muster) -> bool:
    """All who can come have come: who may not be in one world? Whether that is another answer than before."""
    here, world = crew.links, crew.durable.world
    if world is None or not (here.suspicions or here.found):
        return False
    alive = {attendee.worker for attendee in muster.present if attendee.rank is not None}
    here.strikes = links.judge(
        here.suspicions,
        alive=alive,
        advanced=crew.tempo.step > world.step,
        died=len(alive) < len(world.members),
        strikes=here.strikes,
    )
    cut: dict[Pair, str] = dict.fromkeys(links.convicted(here.strikes), "they cannot connect") | here.found
    here.strikes = {link: strikes for link, strikes in here.strikes.items() if link not in cut}
    here.suspicions.clear()
    here.found.clear()
    if not cut:
        return False
    _keep_apart(crew, muster, cut)
    return True


def _keep_apart(crew: Crew, muster: Muster, cut: Mapping[Pair, str]) -> None:
    staying = sorted((a for a in muster.present if not a.draining), key=place)
    here = {attendee.worker for attendee in staying}
    cut = {link: how for link, how in cut.items() if here.issuperset(link)}
    if not cut:
        return
    wait = crew.links.cut(cut, crew.now)
    named = sorted(cut)
    words = f"{_short(named[0][0])} and {_short(named[0][1])} cannot reach each other ({cut[named[0]]})"
    if len(named) > 1:
        words += f", nor can {len(named) - 1} more pair{'s' if len(named) > 2 else ''}"
    out = links.choose(named, staying, crew.durable.minimum)
    if out is None:
        crew.links.retry_at = crew.now + wait
        crew.links.reason = f"{words}; without one of them too few are left, so all try again"
        crew.tell("link", f"{crew.links.reason} in {wait:g} s")
        return
    for worker in sorted(out):
        slot = crew.slots[worker]
        assert slot.session is not None
        slot.apart = slot.session.incarnation
        crew.links.keep_apart(worker, slot.apart, named, crew.now, wait)
        crew.tell("isolated", f"{words}: {_short(worker)} stays out until they do again")


def watch_minimum(crew: Crew) -> None:
    """Ends a job that has been below its minimum for longer than its user wants."""
    limit, facts = crew.policy.minimum_timeout_seconds, crew.durable
    if limit <= 0.0:
        return
    ready = sum(crew.is_live(slot) or crew.is_waiting(slot) for slot in crew.slots.values())
    joining = sum(
        slot.session is not None and slot.session.phase in (Phase.JOINING, Phase.FINISHED)
        for slot in crew.slots.values()
    )
    # Before anybody waits, those that are about to come are enough; a script without an elastic run has no others.
    there = ready if ready else joining
    if facts.wanted and (there < facts.minimum or crew.links.retry_at is not None):
        if facts.below_since is None:
            crew.durable = replace(facts, below_since=crew.now)
        elif crew.now >= facts.below_since + limit:
            trouble = f"; {crew.trouble}" if crew.trouble else ""
            why = crew.links.reason or f"{there} of the at least {facts.minimum} workers are there{trouble}"
            message = f"the job could not train for {limit:g} s: {why} (spec.failurePolicy.minimumTimeoutSeconds)"
            crew.fail(JobError(message), message)
    elif facts.below_since is not None and crew.tempo.advanced_at >= facts.below_since:
        crew.durable = replace(facts, below_since=None)


def below_until(crew: Crew) -> float | None:
    """When `watch_minimum` is due."""
    since, limit = crew.durable.below_since, crew.policy.minimum_timeout_seconds
    return None if since is None or limit <= 0.0 or since + limit <= crew.now else since + limit


def _tell_waits(crew: Crew, members: Sequence[Standing]) -> None:
    preparing: list[tuple[str, float]] = []
    longest = 0.0
    for slot in crew.in_order():
        session = slot.session
        if session is None or session.phase not in (Phase.JOINING, Phase.WAITING):
            continue
        seconds = crew.now - max(session.since, crew.woke_at)
        if session.phase is Phase.JOINING:
            preparing.append((slot.worker, seconds))
        elif crew.is_waiting(slot):
            longest = max(longest, seconds)
    here = members if len(members) == len(crew.members) else ()
    usual = crew.tempo.usual_seconds
    for wait in find_waits(here, preparing=preparing, waiting_seconds=longest, usual_seconds=usual):
        key = (crew.generation, wait.who, wait.step)
        if key not in crew.told_waits:
            crew.told_waits.add(key)
            crew.tell("waiting", wait.words)


def _remember_hold(crew: Crew, members: Sequence[Standing], usual: float) -> None:
    """What held the others up for long, and was right: the world has committed that step."""
    generation, step, seconds = crew.hold
    if generation == crew.generation and 0 < step <= crew.tempo.step:
        crew.hold = (0, 0, 0.0)
        crew.durable = replace(crew.durable, longest_hold=max(crew.durable.longest_hold, round(seconds, 1)))
    limit = stuck.limit_seconds(crew.policy.stuck_seconds, usual, 0, crew.durable.longest_hold)
    step, seconds = stuck.find_hold(members, limit=limit)
    if step > crew.tempo.step and not crew.broken:
        crew.hold = (crew.generation, step, seconds)


def _replace_stuck(crew: Crew, found: stuck.Stuck) -> None:
    slot = crew.slots[found.worker]
    step, times = crew.durable.held_up
    crew.durable = replace(crew.durable, held_up=(found.step, times + 1 if step == found.step else 1))
    crew.tell("stuck", found.words)
    crew.lose(slot, LossCause.STUCK)
    crew.replace(slot, StopReason.STUCK, found.words)


def _watch_alone(crew: Crew, found: stuck.Stuck | None) -> None:
    if found is None:
        return
    if crew.policy.stuck_alone:
        _replace_stuck(crew, found)
    elif crew.told_alone != found.step:
        crew.told_alone = found.step
        crew.tell("stuck", found.words)


def _short(worker: str) -> str:
    return worker.rpartition("-")[2]
