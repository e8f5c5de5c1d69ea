"""Members of a new world that lack its newest state take it from those that hold it.

All holders give at once, each its share of the bytes, to all that lack it: the others' stall is that of one share.
Nothing is applied before everything has arrived, because a giver may die half-way. When nobody holds any state, one
member says where to start (from its checkpoint, or from the weights its script made), so that even a script without a
seed starts from one place.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from cordee.trainer.array import to_numpy
from cordee.trainer.elastic.ledger import Ledger
from cordee.trainer.elastic.position import Position
from cordee.trainer.elastic.protocols import World
from cordee.trainer.elastic.state import StateError, TrainingState

__all__ = ["heal_words", "shares", "synchronise"]

LEAST_SHARE_BYTES: Final = 1 << 20
"""A smaller share is not worth another giver's while."""


def synchronise(
    world: World,
    state: TrainingState,
    position: Position,
    begin: Callable[[], Position],
    ledger: Ledger | None = None,
) -> tuple[Position, tuple[int, ...]]:
    """Brings this member to the world's state. Returns its position and the ranks that gave it; none: it had it.

    `begin` restores the newest checkpoint, if there is one, and returns the position it leads to; it is called on one
    member, when none holds state. What the run's `ledger` has still to write goes along with the state. Raises
    `PeerLostError`, with this member's state as it was.
    """
    holders = [rank for rank, step in enumerate(world.member_steps) if step == world.step]
    if all(step is None for step in world.member_steps):
        holders = [0]
        if world.rank == 0:
            position = begin()
    takers = [rank for rank in range(world.size) if rank not in holders]
    if world.rank in takers:
        return _take(world, state, holders, ledger), tuple(holders)
    if takers:
        _give(world, state, position, holders, takers, ledger)
    return position, ()


def heal_words(step: int, givers: Sequence[int]) -> str:
    """A heal, for the job's events."""
    return f"took the state of step {step} from rank{'s' * (len(givers) > 1)} {', '.join(map(str, givers))}"


def shares(num_bytes: int, givers: int) -> list[tuple[int, int]]:
    """Which bytes of a state each giver sends: even shares, none smaller than is worth a giver's while but for the
    first; the last ones may have none."""
    busy = max(1, min(givers, num_bytes // LEAST_SHARE_BYTES))
    cuts = [giver * num_bytes // busy for giver in range(busy + 1)]
    return [*itertools.pairwise(cuts), *[(num_bytes, num_bytes)] * (givers - busy)]


def _give(
    world: World,
    state: TrainingState,
    position: Position,
    holders: Sequence[int],
    takers: Sequence[int],
    ledger: Ledger | None,
) -> None:
    views = state.views()
    arrays = [[name, list(view.shape), view.dtype.name] for name, view in views.items()]
    sizes = [view.nbytes for view in views.values()]
    place = holders.index(world.rank)
    start, stop = shares(sum(sizes), len(holders))[place]
    meta: dict[str, Any] = {"position": position.to_json(), "arrays": arrays}
    if not place:
        meta["scalars"] = state.scalars()
        meta["ledger"] = [] if ledger is None else ledger.hand_over()
    pieces: list[np.ndarray[Any, Any]] = []
    at = 0
    for view, size in zip(views.values(), sizes, strict=True):
        first, last = max(start - at, 0), min(stop - at, size)
        if first < last:
            pieces.append(np.ascontiguousarray(to_numpy(view)).reshape(-1).view(np.uint8)[first:last])
        at += size
    world.communicator.send_states(takers, json.dumps(meta).encode(), pieces)


def _take(world: World, state: TrainingState, holders: Sequence[int], ledger: Ledger | None) -> Position:
    received = world.communicator.recv_states(holders)
    metas = [json.loads(meta) for meta, _ in received]
    first = metas[0]
    for holder, meta in zip(holders, metas, strict=True):
        if meta["arrays"] != first["arrays"] or meta["position"]["step"] != first["position"]["step"]:
            raise StateError(
                f"ranks {holders[0]} and {holder} hold different states: the script is to make the same model, "
                "optimizer and data on every worker, every time"
            )
    pieces = [piece for _, pieces in received for piece in pieces]
    arrays = {}
    for name, shape, dtype in first["arrays"]:
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        parts: list[memoryview] = []
        while sum(map(len, parts)) < size:  # an array that two givers share comes in two pieces
            parts.append(pieces.pop(0))
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        arrays[name] = np.frombuffer(data, kind).reshape(shape)
    state.restore(arrays, first["scalars"])
    if ledger is not None:
        ledger.take_over(first["ledger"])
    return Position.from_json(first["position"])
