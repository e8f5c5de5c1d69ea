"""Everybody is asked to go: the state is put on storage before anybody does.

Each member writes its part, as always, and then meets the others in one more exchange of the world they are about to
leave. When that ends, all parts are there; when it breaks, somebody is gone, and with it perhaps a part: nobody waits
for that. Whoever commits then writes the whole state by itself, which every member holds. Should that one be gone, or
stand still, the others find no checkpoint of the step while they wait for a world, and save it in turn
(`Saver.standing_by`).
"""

from __future__ import annotations

import threading
import time

from cordee.trainer.elastic.position import Position
from cordee.trainer.elastic.protocols import Membership, PeerLostError, World
from cordee.trainer.elastic.saving import Place, Saver
from cordee.trainer.elastic.sums import all_reduce

__all__ = ["save_before_leaving"]

GRACE_SHARE = 0.5
"""Of the grace period: so long the others' parts are waited for. The rest is for writing all by oneself."""
KEEPING_SECONDS = 0.05


def save_before_leaving(
    saver: Saver, membership: Membership, world: World, position: Position, *, num_shards: int
) -> PeerLostError | None:
    """Saves what `world` has committed last, and returns when this member is needed no more; the error: the world is
    broken."""
    membership.at_storage()
    started = time.monotonic()
    place = Place.of(world)
    saver.save(position, place)
    saver.wait_part(membership.grace_seconds)
    # All parts are of one size: where writing the own one took long, the others' may as well.
    own = time.monotonic() - started
    lost = _all_there(world, num_shards, max(membership.grace_seconds * GRACE_SHARE - own, own))
    membership.at_storage()
    saver.finish_attempt(position, place)
    if world.size == 1:
        # The coordinator keeps a worker for its state until another one comes to take it over.
        while not membership.change_pending() and membership.leaving():
            time.sleep(KEEPING_SECONDS)  # the process's end comes as a signal, which interrupts this
    return lost


def _all_there(world: World, num_shards: int, seconds: float) -> PeerLostError | None:
    """Waits until every member has come here, for so long at most."""
    if world.size == 1:
        return None
    timer = threading.Timer(seconds, world.communicator.abort, ["the others' parts of a checkpoint do not come"])
    timer.daemon = True
    timer.start()
    try:
        all_reduce(world.communicator, (), num_shards=num_shards, header=b"")
    except PeerLostError as error:
        return error
    finally:
        timer.cancel()
    return None
