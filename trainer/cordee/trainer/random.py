"""Random numbers by counting: a draw depends on its key, never on who computes it or on what was drawn before.

The generator is Philox: a block cipher over a 256-bit counter under a 128-bit key. The key holds the seed and a stream
number; the counter holds where we are. Inside `scope(step=…, shard=…)` the counter holds (step, shard, draw), so the
dropout of a shard is the same whichever worker computes it, and the same again when the step is redone after a loss.
Outside, draws are simply numbered. Draws are made on the host and moved to the device, so both give the same numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["generator", "get_state", "initial_seed", "manual_seed", "scope", "seed", "set_state", "stream"]

_WORD = (1 << 64) - 1
_BLOCKS_FREE = 0  # the lowest counter word runs within one draw
STREAM_PLAIN, STREAM_SCOPED, STREAM_DATA = 0, 1, 2


class _State:
    seed: int = 0
    draw: int = 0  # draws outside any scope so far
    scope: list[int] | None = None  # [step, shard, draws so far] inside a scope


def seed(value: int) -> None:
    """Start all streams anew from this seed."""
    _State.seed = int(value) & _WORD
    _State.draw = 0


manual_seed = seed


def initial_seed() -> int:
    """The seed in force."""
    return _State.seed


@contextlib.contextmanager
def scope(*, step: int, shard: int = 0) -> Iterator[None]:
    """Key every draw inside by (seed, step, shard, number of the draw within the scope)."""
    outer, _State.scope = _State.scope, [step, shard, 0]
    try:
        yield
    finally:
        _State.scope = outer


def generator() -> np.random.Generator:
    """A generator for the next draw; take all the numbers of that draw from it."""
    current = _State.scope
    if current is None:
        draw, _State.draw = _State.draw, _State.draw + 1
        return stream(STREAM_PLAIN, draw)
    step, shard, draw = current
    current[2] = draw + 1
    return stream(STREAM_SCOPED, draw, shard, step)


def stream(number: int, *counter: int) -> np.random.Generator:
    """The generator at an explicit place: a stream of the seed, and up to three counter words."""
    words = [_BLOCKS_FREE, *counter, 0, 0, 0][:4]
    key = np.array([_State.seed, number & _WORD], dtype=np.uint64)
    bits = np.random.Philox(key=key, counter=np.array([w & _WORD for w in words], dtype=np.uint64))
    return np.random.Generator(bits)


def get_state() -> dict[str, Any]:
    """Seed and number of draws, as JSON can hold them."""
    return {"seed": _State.seed, "draw": _State.draw}


def set_state(state: dict[str, Any]) -> None:
    """Go on from a state that `get_state` gave."""
    _State.seed, _State.draw = int(state["seed"]) & _WORD, int(state["draw"])
