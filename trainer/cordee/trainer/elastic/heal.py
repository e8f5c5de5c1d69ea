"""Members of a new world that lack its newest state take it from those that hold it.

The holders share the work; nothing is applied before everything has arrived, because a giver may die half-way. When
nobody holds any state, one member says where to start (from its checkpoint, or from the weights its script made), so
that even a script without a seed starts from one place.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from cordee.trainer.array import to_numpy
from cordee.trainer.elastic.position import Position
from cordee.trainer.elastic.protocols import World
from cordee.trainer.elastic.state import TrainingState

__all__ = ["synchronise"]


def synchronise(
    world: World, state: TrainingState, position: Position, begin: Callable[[], Position]
) -> tuple[Position, int | None]:
    """Brings this member to the world's state. Returns its position and the rank that gave it; None: it had it already.

    `begin` restores the newest checkpoint, if there is one, and returns the position it leads to; it is called on one
    member, when none holds state. Raises `PeerLostError`, with this member's state as it was.
    """
    holders = [rank for rank, step in enumerate(world.member_steps) if step == world.step]
    if all(step is None for step in world.member_steps):
        holders = [0]
        if world.rank == 0:
            position = begin()
    takers = [rank for rank in range(world.size) if rank not in holders]
    giver_of = {taker: holders[place % len(holders)] for place, taker in enumerate(takers)}
    if world.rank in giver_of:
        giver = giver_of[world.rank]
        return _take(world, state, giver), giver
    mine = [taker for taker, giver in giver_of.items() if giver == world.rank]
    if mine:
        _give(world, state, position, mine)
    return position, None


def _give(world: World, state: TrainingState, position: Position, takers: list[int]) -> None:
    views = state.views()
    buffers = [np.ascontiguousarray(to_numpy(view)).reshape(-1) for view in views.values()]
    meta = {
        "position": position.to_json(),
        "scalars": state.scalars(),
        "arrays": [[name, list(view.shape), view.dtype.name] for name, view in views.items()],
    }
    for taker in takers:
        world.communicator.send_state(taker, json.dumps(meta).encode(), buffers)


def _take(world: World, state: TrainingState, giver: int) -> Position:
    meta_bytes, buffers = world.communicator.recv_state(giver)
    meta = json.loads(meta_bytes)
    arrays = {
        name: np.frombuffer(buffer, np.dtype(dtype)).reshape(shape)
        for (name, shape, dtype), buffer in zip(meta["arrays"], buffers, strict=True)
    }
    state.restore(arrays, meta["scalars"])
    return Position.from_json(meta["position"])
