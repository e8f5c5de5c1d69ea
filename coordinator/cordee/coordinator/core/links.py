"""Links between two workers that carry nothing, though both live: found, and gone round until they are whole again.

A world needs every pair of its members. When two of them cannot reach each other, the world goes on at once without
one of the two. Who stays out stands in the rendezvous, with its state, tries now and then to reach the peers it is cut
off from, and is let in again when it does (`probing`). So a link that is cut costs its world two changes, however long
it is cut. One that is cut again and again, since it carries probes but no gradients perhaps, is left alone for longer
and longer: a second at first and a minute at last.

Two kinds of evidence:

- **In a step's exchange**: two members wait for each other, no byte has moved at either for a while, and nobody
  computes or moves bytes, so nobody else is the reason. (A worker that computes is for `stuck`.)
- **At the rendezvous**: a member says which peers it lost. A live one that loses a peer closes all its links, so most
  of these suspicions are echoes. They count only from a world that never got to a step, where connecting failed: at
  once when two that live suspect each other, the second time when only one does and nobody died. A connection that
  merely broke is made again at once, with everybody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from cordee.coordinator.core.activity import Doing, Standing
from cordee.coordinator.core.cover import Pair, covers, pair
from cordee.coordinator.core.rendezvous import Attendee

__all__ = ["PROBE_SECONDS", "Apart", "Links", "choose", "convicted", "find_cut", "judge"]

_ENOUGH = 2
_FIRST_BACKOFF_SECONDS = 1.0
_LAST_BACKOFF_SECONDS = 60.0
PROBE_SECONDS = 0.5
"""Asking costs nobody anything but the one that is asked."""
_FORGET_SECONDS = 60.0
"""A link that has held for so long, beyond its last back-off, is as good as new."""
_CONFIRM_SECONDS = 0.2
"""Between the first and the last heartbeat of each end that say so: an idle worker is heard four times a second."""
_ALL_IDLE_SECONDS = 3.0
"""A world in which no pair moves a byte has so long to go on by itself."""


def find_cut(members: Sequence[Standing], *, idle_seconds: float) -> frozenset[Pair]:
    """The pairs that wait for each other, when nobody else can be the reason.

    Both ends have said so twice: a machine that was throttled for a moment has all its workers say it once. And where
    no pair at all moves a byte, it is hardly the links.
    """
    activities = [member.activity for member in members]
    if len(members) < 2 or any(member.arrived for member in members):
        return frozenset()
    if any(a.doing not in (Doing.EXCHANGING, Doing.MEETING) or a.idle_seconds < idle_seconds for a in activities):
        return frozenset()
    steps = [a.step for a in activities if a.doing is Doing.EXCHANGING]
    if steps and max(steps) - min(steps) > 1:
        return frozenset()  # small gradients take one round: who has heard everybody is at the next step already
    found = {
        pair(one.worker, other.worker): min(one.idle_known, other.idle_known)
        for one in members
        for other in members
        if one.worker < other.worker and one.waits_for(other) and other.waits_for(one)
    }
    everybody = len(members) > 2 and len(found) == len(members) * (len(members) - 1) // 2
    if everybody and min(a.idle_seconds for a in activities) < _ALL_IDLE_SECONDS:
        return frozenset()
    return frozenset(link for link, known in found.items() if known >= _CONFIRM_SECONDS)


def judge(
    suspicions: Mapping[str, Collection[str]],
    *,
    alive: Collection[str],
    advanced: bool,
    died: bool,
    strikes: Mapping[Pair, int],
) -> dict[Pair, int]:
    """What is held against each link now: at 2 it is cut.

    `suspicions` are who lost whom, in a world that `advanced` by a step at least or did not, and in which somebody
    really `died` or not. What was held against a link is forgiven by a world that advanced.
    """
    if advanced:
        return {}
    said = {
        (accuser, suspect)
        for accuser, suspects in suspicions.items()
        for suspect in suspects
        if accuser != suspect and accuser in alive and suspect in alive
    }
    mutual = {pair(accuser, suspect) for accuser, suspect in said if (suspect, accuser) in said}
    found: dict[Pair, int] = dict(strikes)
    if mutual:  # what the others say is an echo of it
        found.update(dict.fromkeys(mutual, _ENOUGH))
    elif not died:
        for link in {pair(accuser, suspect) for accuser, suspect in said}:
            found[link] = found.get(link, 0) + 1
    return found


def convicted(strikes: Mapping[Pair, int]) -> list[Pair]:
    """The links that enough is held against."""
    return [link for link, held in strikes.items() if held >= _ENOUGH]


def choose(cut: Collection[Pair], present: Sequence[Attendee], minimum: int) -> frozenset[str] | None:
    """Who stays out; None: whoever does, too few are left.

    As few as possible; of equal ones those with the highest ranks, joiners before members; and not all who hold the
    furthest step.
    """
    places = {attendee.worker: place for place, attendee in enumerate(present)}
    among = [link for link in cut if link[0] in places and link[1] in places]
    furthest = max((a.step for a in present if a.step is not None), default=None)
    holders = frozenset(a.worker for a in present if furthest is not None and a.step == furthest)

    def cost(out: frozenset[str]) -> tuple[object, ...]:
        return (
            len(present) - len(out) < minimum,
            bool(holders) and holders <= out,
            len(out),
            sorted(-places[worker] for worker in out),
        )

    out = covers(among, cost)
    return None if len(present) - len(out) < minimum else out


@dataclass(slots=True)
class Apart:
    """A worker that stays out until it reaches its peers again."""

    incarnation: str
    peers: frozenset[str]
    """The workers it is cut off from."""
    since: float
    probe_at: float
    """When to ask it next whether it reaches them."""
    reached: frozenset[str] = frozenset()
    """Incarnations that it has said a moment ago to have reached."""
    unanswered_since: float | None = None
    """When it was first asked without having answered since."""


@dataclass(frozen=True, slots=True)
class _Cut:
    at: float
    times: int

    @property
    def backoff(self) -> float:
        return min(_FIRST_BACKOFF_SECONDS * 2.0 ** min(self.times - 1, 16), _LAST_BACKOFF_SECONDS)


@dataclass(slots=True)
class Links:
    """What one job remembers of its links. Forgotten when the coordinator dies: then they are tried again at once."""

    apart: dict[str, Apart] = field(default_factory=dict[str, Apart])
    suspicions: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Who said of whom that it lost it, in the current world."""
    found: dict[Pair, str] = field(default_factory=dict[Pair, str])
    """Links found to be cut, and how, that nobody was told to stay out for yet."""
    strikes: dict[Pair, int] = field(default_factory=dict[Pair, int])
    retry_at: float | None = None
    """No world is formed before, because none can do without a cut link."""
    reason: str = ""
    """Why, in words."""
    _cuts: dict[Pair, _Cut] = field(default_factory=dict[Pair, _Cut])

    def is_apart(self, worker: str, incarnation: str) -> bool:
        apart = self.apart.get(worker)
        return apart is not None and apart.incarnation == incarnation

    def cut(self, links: Collection[Pair], now: float) -> float:
        """These links are cut, once more perhaps. How long to do without them."""
        for link in links:
            last = self._cuts.get(link)
            again = last is not None and now - last.at < last.backoff + _FORGET_SECONDS
            self._cuts[link] = _Cut(now, last.times + 1 if again and last is not None else 1)
        return max(self._cuts[link].backoff for link in links)

    def keep_apart(self, worker: str, incarnation: str, cut: Collection[Pair], now: float, wait: float) -> None:
        """This worker stays out, for `wait` at least unless that is the first and shortest one."""
        peers = frozenset(end for link in cut if worker in link for end in link) - {worker}
        first = PROBE_SECONDS if wait <= _FIRST_BACKOFF_SECONDS else wait
        self.apart[worker] = Apart(incarnation, peers, now, now + first)

    def settle(self, advanced: bool) -> None:
        """A world was formed: what was said of the last one, which had `advanced` or not, is dealt with."""
        if advanced:
            self.strikes.clear()
        self.suspicions.clear()
        self.found.clear()
        self.retry_at, self.reason = None, ""
