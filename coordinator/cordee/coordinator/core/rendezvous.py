"""How the next world is formed: who is in it, who is let go, who is waited for.

The rules:

- **Everybody who can still speak is heard first.** While a live member of the current world has not arrived, nothing
  is decided: it may hold a step that the others do not. So the furthest committed step is never lost while a holder
  lives.
- **Survivors do not wait for the dead.** As soon as all live members have arrived, and they and the joiners are at
  least the minimum, the world is formed; who comes later joins at a later step boundary. A member whose stream broke
  counts as dead here, for it is a step ahead of the others at most; but where nobody else holds state, it is awaited
  until its loss is confirmed.
- **A world that starts from nothing waits a little.** When nobody holds state (the first world, or everybody was
  lost), there is no work that stands still, so all that are expected are waited for, or, with the minimum there, until
  nobody new has come for the settle time.
- **A draining worker goes when it is not needed.** It stays for one more world when it alone holds the furthest step
  and there will be somebody to hand it to; so draining everybody, one replacement after the other, loses nothing. When
  nobody could take over (a lone worker is asked to leave), it goes, and the checkpoint is what is left. Those that are
  let go are let go even when too few are left to form a world.
- **Ranks are stable**: survivors in their old order, then joiners by slot number.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Attendee", "Decision", "Muster", "change_needed", "decide", "place"]


@dataclass(frozen=True, slots=True)
class Attendee:
    """A worker that waits at the rendezvous."""

    worker: str
    index: int
    rank: int | None
    """In the current world; None: it joins."""
    step: int | None
    """The last committed step it holds; None: no state."""
    draining: bool = False
    replaced: bool = True
    """Another process follows it in its slot when it goes; not so when it is scaled away or given up."""


@dataclass(frozen=True, slots=True)
class Muster:
    """All that forming a world depends on."""

    minimum: int
    present: tuple[Attendee, ...]
    awaited: int
    """Live members of the current world that have not arrived."""
    expected: int
    """Workers the job is to have and that are to stay, arrived or not."""
    usable: int
    """Workers the job is to have, those included that leave and are replaced."""
    last_arrival: float
    settle_seconds: float


@dataclass(frozen=True, slots=True)
class Decision:
    form: tuple[Attendee, ...] = ()
    """The next world, by rank; empty: none yet."""
    release: tuple[Attendee, ...] = ()
    """Draining workers that may go now."""
    until: float | None = None
    """When to decide again, if nothing happens."""
    missing: int = 0
    """How many workers there are too few."""


def decide(muster: Muster, now: float) -> Decision:
    if muster.awaited or not muster.present:
        return Decision()
    stay = [a for a in muster.present if not a.draining]
    going = [a for a in muster.present if a.draining]
    furthest = max((a.step for a in muster.present if a.step is not None), default=None)
    if furthest is not None and all(a.step != furthest for a in stay):
        keeper = min((a for a in going if a.step == furthest), key=place)
        if muster.usable > keeper.replaced:  # there is, or will be, another one to take the state over
            going.remove(keeper)
            stay.append(keeper)
    release = tuple(going)
    missing = muster.minimum - len(stay)
    if missing > 0 or not stay:
        return Decision(release=release, missing=max(missing, 1))
    if furthest is None and len(stay) < muster.expected:
        settled = muster.last_arrival + muster.settle_seconds
        if now < settled:
            return Decision(release=release, until=settled)
    return Decision(form=tuple(sorted(stay, key=place)), release=release)


def change_needed(*, staying: int, draining: int, joiners: int, minimum: int, successors: int) -> bool:
    """Whether a world that trains should meet: for joiners that would be let in, or for a worker that would be let go.

    `staying` and `draining` are the world's live members, `joiners` wait, `successors` are the slots, filled or not,
    that are not those of draining members. A world is not stopped for joiners that are too few to reach the minimum
    with it, nor for a draining worker that would have to be kept for its state.
    """
    keeper = 1 if draining and not staying else 0
    admits = joiners > 0 and staying + joiners + keeper >= minimum
    releases = draining > 0 and (staying > 0 or draining > 1 or not successors)
    return admits or releases


def place(attendee: Attendee) -> tuple[bool, int, int]:
    """Where it stands in the next world: survivors in their old order, then joiners by slot number."""
    rank = attendee.rank
    return (rank is None, 0 if rank is None else rank, attendee.index)
