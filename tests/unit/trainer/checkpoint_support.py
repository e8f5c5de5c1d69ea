"""Checkpoints as a world of any size writes them, one member after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cordee.trainer.checkpoint.layout import Attempt
from cordee.trainer.checkpoint.parts import Piece, Shape, cut_arrays, deal
from cordee.trainer.checkpoint.reader import CheckpointError
from cordee.trainer.checkpoint.storage import Storage
from cordee.trainer.checkpoint.writer import Snapshot, commit, write_part

__all__ = ["arrays", "refuse", "rows_of", "save", "snapshots"]

Arrays = dict[str, np.ndarray[Any, Any]]


def arrays(step: int) -> Arrays:
    return {
        "model.weight": np.arange(600, dtype=np.float32).reshape(200, 3) + step,
        "model.count": np.array(step, dtype=np.int64),
        "optimizer.none": np.zeros((0, 4)),
    }


def refuse(error: CheckpointError) -> None:
    raise error


def snapshots(
    step: int, state: Arrays, world_size: int = 1, *, generation: int = 1, meta: Mapping[str, Any] | None = None
) -> list[Snapshot]:
    """What the members of a world have of a state, by rank."""
    shapes = {name: Shape(array.shape[0] if array.ndim else 0, array.nbytes) for name, array in state.items()}
    attempt, parts = Attempt(step, generation, world_size), deal(shapes, world_size)
    return [
        Snapshot(
            attempt,
            number,
            {piece.key: rows_of(state, piece) for piece in part},
            cut_arrays(shapes, parts),
            meta or {},
        )
        for number, part in enumerate(parts)
    ]


def rows_of(state: Arrays, piece: Piece) -> np.ndarray[Any, Any]:
    """A piece of a state."""
    array = state[piece.name]
    return array if piece.end is None else array[piece.begin : piece.end]


def save(storage: Storage, step: int, state: Arrays | None = None, world_size: int = 1, **told: Any) -> str:
    """Commits a checkpoint; returns its folder's name."""
    members = snapshots(step, arrays(step) if state is None else state, world_size, **told)
    records = [write_part(storage, member) for member in members]
    commit(storage, members[0], records)
    return members[0].attempt.folder
