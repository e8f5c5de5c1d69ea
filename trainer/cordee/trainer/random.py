"""Random numbers by counting: a draw depends on its key, never on who computes it or on what was drawn before.

The generator is Philox: a block cipher over a 256-bit counter under a 128-bit key. The key holds the seed and a stream
number; the counter holds where we are. Inside `scope(step=…, shard=…)` the counter holds (step, shard, draw), so the
dropout of a shard is the same whichever worker computes it, and the same again when the step is redone after a loss.
A step that goes through its shards several times (`phase`) draws from a stream of its own each time. In a step, but in
no shard, the counter holds (step, draw): what one worker draws there more than another (to evaluate, say) is without
consequence for later steps. Outside of all scopes, draws are simply numbered. Draws are made on the host and moved to
the device, so both give the same numbers.

While a loader fetches samples, on whatever thread or process, the counter holds (epoch, sample, draw) under its
seed: `data_scope`. So an augmentation depends neither on who loads a sample nor on what the training draws meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = [
    "DataPlace",
    "data_place",
    "data_scope",
    "generator",
    "get_state",
    "initial_seed",
    "manual_seed",
    "scope",
    "seed",
    "set_state",
    "stream",
]

_WORD = (1 << 64) - 1
_BLOCKS_FREE = 0  # the lowest counter word runs within one draw
STREAM_PLAIN, STREAM_SCOPED, STREAM_DATA, STREAM_SAMPLE, STREAM_BATCH, STREAM_STEP = 0, 1, 2, 3, 4, 5
_PHASE = 1 << 32  # added to a stream's number for every phase of a step after the first


class _State:
    seed: int = 0
    draw: int = 0  # draws outside any scope so far


class DataPlace:
    """Where a loader is: the stream that draws come from on this thread, under the loader's own seed."""

    __slots__ = ("draws", "epoch", "number", "seed", "stream")

    def __init__(self, seed: int, epoch: int) -> None:
        self.seed, self.epoch = seed & _WORD, epoch
        self.at(STREAM_BATCH, 0)

    def at(self, stream: int, number: int) -> None:
        """The next draws are those of this sample (`STREAM_SAMPLE`), or of the batch that starts here."""
        self.stream, self.number, self.draws = stream, number, 0


class _OfThread(threading.local):
    place: DataPlace | None = None  # inside a loader's fetch
    scope: list[int] | None = None  # [step, shard, draws so far, stream] inside a scope


_OF_THREAD = _OfThread()


def seed(value: int) -> None:
    """Start all streams anew from this seed."""
    _State.seed = int(value) & _WORD
    _State.draw = 0


manual_seed = seed


def initial_seed() -> int:
    """The seed in force."""
    return _State.seed


@contextlib.contextmanager
def scope(*, step: int, shard: int | None = 0, phase: int = 0) -> Iterator[None]:
    """Key every draw inside by (seed, step, shard, phase, number of the draw within the scope).

    Args:
        shard: None: in the step, but in none of its shards.
        phase: which time it is that the step goes through its shards.
    """
    stream = STREAM_STEP if shard is None else STREAM_SCOPED + phase * _PHASE
    outer, _OF_THREAD.scope = _OF_THREAD.scope, [step, shard or 0, 0, stream]
    try:
        yield
    finally:
        _OF_THREAD.scope = outer


def data_place() -> DataPlace | None:
    """This thread's place in a loader's fetch; None outside."""
    return _OF_THREAD.place


@contextlib.contextmanager
def data_scope(*, seed: int, epoch: int) -> Iterator[DataPlace]:
    """Key every draw of this thread inside by (seed, epoch, the place's sample, number of the draw for it)."""
    outer, _OF_THREAD.place = _OF_THREAD.place, DataPlace(seed, epoch)
    try:
        yield _OF_THREAD.place
    finally:
        _OF_THREAD.place = outer


def generator() -> np.random.Generator:
    """A generator for the next draw; take all the numbers of that draw from it."""
    place = _OF_THREAD.place
    if place is not None:
        place.draws += 1
        return _at(place.seed, place.stream, place.draws - 1, place.number, place.epoch)
    current = _OF_THREAD.scope
    if current is None:
        draw, _State.draw = _State.draw, _State.draw + 1
        return stream(STREAM_PLAIN, draw)
    step, shard, draw, number = current
    current[2] = draw + 1
    return stream(number, draw, shard, step)


def stream(number: int, *counter: int) -> np.random.Generator:
    """The generator at an explicit place: a stream of the seed, and up to three counter words."""
    return _at(_State.seed, number, *counter)


def _at(seed: int, number: int, *counter: int) -> np.random.Generator:
    words = [_BLOCKS_FREE, *counter, 0, 0, 0][:4]
    key = np.array([seed, number & _WORD], dtype=np.uint64)
    bits = np.random.Philox(key=key, counter=np.array([w & _WORD for w in words], dtype=np.uint64))
    return np.random.Generator(bits)


def get_state() -> dict[str, Any]:
    """Seed and number of draws, as JSON can hold them."""
    return {"seed": _State.seed, "draw": _State.draw}


def set_state(state: dict[str, Any]) -> None:
    """Go on from a state that `get_state` gave."""
    _State.seed, _State.draw = int(state["seed"]) & _WORD, int(state["draw"])


def mark() -> tuple[int, int, tuple[int, ...] | None]:
    """The place that the next draw will be at, for `replay`."""
    return _State.seed, _State.draw, None if _OF_THREAD.scope is None else tuple(_OF_THREAD.scope)


@contextlib.contextmanager
def replay(place: tuple[int, int, tuple[int, ...] | None]) -> Iterator[None]:
    """Draw again inside what was drawn after `mark()`; afterwards go on as if nothing had been drawn."""
    before = _State.seed, _State.draw, _OF_THREAD.scope
    _State.seed, _State.draw = place[:2]
    _OF_THREAD.scope = None if place[2] is None else list(place[2])
    try:
        yield
    finally:
        _State.seed, _State.draw, _OF_THREAD.scope = before
