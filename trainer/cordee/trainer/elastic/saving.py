"""When a run saves itself, and how it finds its way back: the policy between the elastic step and the checkpoint
files.

All members of a world save at the same step, because they have read it in the same headers: each copies its share of
the state, and its thread writes that. Only the member of rank 0 keeps the time, and commits.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cordee.trainer.array import Array, to_numpy
from cordee.trainer.checkpoint.layout import Attempt
from cordee.trainer.checkpoint.opening import open_storage
from cordee.trainer.checkpoint.parts import Piece, Shape, count_parts, cut_arrays, deal
from cordee.trainer.checkpoint.reader import CheckpointError, load_latest, load_weights
from cordee.trainer.checkpoint.storage import StorageError
from cordee.trainer.checkpoint.writer import AbandonedError, CheckpointWriter, PartFailedError, Snapshot
from cordee.trainer.elastic.computes import computes_with
from cordee.trainer.elastic.position import Position
from cordee.trainer.elastic.protocols import CheckpointPolicy, Membership, World
from cordee.trainer.elastic.state import TrainingState

__all__ = ["Place", "Saver"]

_log = logging.getLogger(__name__)

STANDBY_SECONDS = 1.0
"""How long a worker that may be the last to hold the state waits for a world before it saves that by itself."""
TURN_BYTES_PER_SECOND, LONGEST_TURN_SECONDS, MOST_TURNS = 200e6, 5.0, 3
"""How much longer for each one before it in the ranks: about what that one needs to do so. The last may be waiting to
be killed, so it does not wait for many."""
CHANGE_SECONDS = 4.0
"""How much longer where nobody was lost: the others may be evaluating, or go on with its state."""
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 2.0, 60.0
"""After how long one that could not save tries again, at first and at most."""
PARTS_SECONDS, FINISH_SECONDS = 5.0, 30.0
"""At a run's end, how long others' parts are waited for, and how long the storage: the result is there."""


@dataclass(frozen=True)
class Place:
    """Who saves which part: a member's place in the world that committed the step."""

    generation: int
    rank: int
    size: int
    members: tuple[str, ...] = ()
    """By rank, as `World.members`."""

    @staticmethod
    def of(world: World) -> Place:
        return Place(world.generation, world.rank, world.size, world.members)

    @property
    def alone(self) -> Place:
        """The same member, saving all by itself."""
        return Place(self.generation, 0, 1)


class Saver:
    """Saves `state` as `policy` says, beside training, and tells `membership` of it. Saving never changes a weight."""

    def __init__(self, policy: CheckpointPolicy, state: TrainingState, membership: Membership) -> None:
        self._policy = policy
        self._state = state
        self._membership = membership
        self._writer = CheckpointWriter(
            policy.storage, keep=policy.keep, keep_seconds=policy.keep_seconds, listener=self
        )
        self._last_step = 0
        self._whole_step = 0
        """The last one that is known to be on storage; only who commits is told."""
        self._told_step = 0
        """The last one that the job was told of by this member."""
        self._last_time = time.monotonic()
        self._rank: int | None = None
        self._overdue = False
        """A checkpoint was not finished, or may not have been: the next one is due at once."""
        self._awaiting: Place | None = None
        """From where the parts of others are waited for."""
        self._lost = False
        """The world of before was left because another member is gone."""
        self._missing_step = 0
        """The last one of which another member's part did not come."""

    @property
    def before_commit(self) -> list[Callable[[int], None]]:
        """Called with a step by the thread that is about to commit its checkpoint."""
        return self._writer.before_commit

    @property
    def saving(self) -> bool:
        """Whether something is being written here."""
        return self._writer.busy

    @property
    def wanted(self) -> bool:
        """Whether the job wants checkpoints at all."""
        return bool(self._policy.interval_steps or self._policy.interval_seconds)

    # Finding the way back

    def begin(self, *, first_world: bool) -> Position | None:
        """Where a run starts whose members are all new: from the newest checkpoint, or, with the weights it is to begin
        with if there are any, from its beginning: None."""
        position = self.restore(first_world=first_world)
        if position is None:
            self.warm_start()
        return position

    def restore(self, *, first_world: bool) -> Position | None:
        """Takes over the newest checkpoint that is whole; None when there is none.

        Storage that cannot be read is no reason to begin anew, unless nothing was ever trained (`first_world`): then
        it is told, and raised otherwise (an `OSError`, a machine's fault: the worker is started again).
        """
        started = time.monotonic()
        self._membership.at_storage()
        try:
            loaded = load_latest(open_storage(self._policy.storage), self._damaged)
        except OSError as error:
            if not first_world:
                raise StorageError(f"cannot look for the job's checkpoints: {error}") from error
            self._failed(f"cannot look for checkpoints: {error}")
            return None
        if loaded is None:
            return None
        position = Position.from_json(loaded.meta["position"])
        self._state.restore(loaded.arrays, loaded.meta["scalars"])
        self._last_step = self._whole_step = position.step
        self._last_time = time.monotonic()
        name = loaded.where.rstrip("/").rpartition("/")[2]
        self._membership.note("restored", f"resumed from {name}", time.monotonic() - started)
        self._compare(loaded.meta.get("computes_with"), name)
        return position

    def _compare(self, before: object, name: str) -> None:
        """Says so when the job has computed differently up to a checkpoint: `before`; None: it does not tell."""
        now = computes_with()
        if not isinstance(before, list) or tuple(before) == now:
            return
        was, is_now = [part for part in before if part not in now], [part for part in now if part not in before]
        words = f"{name} was computed with {'; '.join(map(str, was))}; this goes on with {'; '.join(is_now)}"
        _log.warning("%s: the bits may differ from those of an undisturbed run", words)
        self._membership.note("computes", f"{words}: its bits may differ from those of an undisturbed run")

    def warm_start(self) -> None:
        """Takes over the weights that the job begins with, if it names any.

        Raises `CheckpointError` when there are none, `StateError` when they are not the model's.
        """
        if not self._policy.warm_start:
            return
        started = time.monotonic()
        self._membership.at_storage()
        weights, where = load_weights(self._policy.warm_start, self._damaged)
        self._state.load_weights(weights, where)
        self._membership.note("warm_start", f"took {len(weights)} arrays from {where}", time.monotonic() - started)

    # Saving

    def joined(self, world: World) -> None:
        """This member's world of the moment."""
        if world.rank == 0 and self._rank not in (None, 0):
            self._overdue = True  # whoever committed before is gone, perhaps in the middle of it
        self._rank = world.rank
        awaiting = self._awaiting
        if awaiting is not None and awaiting.members and world.members:
            gone = [rank for rank, member in enumerate(awaiting.members) if member not in world.members]
            self._writer.forgo(awaiting.generation, gone, lost=self._lost)
        elif awaiting is not None and self._lost:
            self._writer.hurry(awaiting.generation)
        self._lost = False

    def left(self, *, lost: bool) -> None:
        """This member has left its world; `lost`: because another one is gone, with the part it may not have written.
        Which one is known in the next world."""
        self._lost = self._lost or lost

    def due(self, step: int) -> bool:
        """Whether it is time to save the state that `step` ends in."""
        policy = self._policy
        by_steps = policy.interval_steps and step - self._last_step >= policy.interval_steps
        by_time = policy.interval_seconds and time.monotonic() - self._last_time >= policy.interval_seconds
        due = by_steps or by_time or (self._overdue and self.wanted)
        return bool(due) and not self._writer.busy  # slow storage: no step waits for it

    def save(self, position: Position, place: Place) -> None:
        """Called after a committed step, by every member of its world. Costs a copy of the own part in memory."""
        self._last_step, self._last_time, self._overdue = position.step, time.monotonic(), False
        self._awaiting = place if place.rank == 0 and place.size > 1 else None
        snapshot = self._snapshot(position, place)
        if snapshot is not None:
            self._writer.save(snapshot)

    def wait_part(self, seconds: float) -> None:
        """Waits until this member's part of what was saved last is written, or could not be; for so long at most."""
        self._writer.wait_part(seconds)

    def finish_attempt(self, position: Position, place: Place) -> None:
        """After `save`, once no part will come that is not there: returns when this member is done with it. Who
        commits, and misses one, saves all of the state."""
        self._writer.hurry(place.generation)
        self.wait()
        if self._missing_step == position.step:
            self.save(position, place.alone)
            self.wait()

    def save_last(self, position: Position, place: Place) -> None:
        """Saves before this worker leaves with what nobody else may hold; returns when it is on storage."""
        self._writer.hurry(place.generation)
        self.wait()
        if self.wanted and not self._is_whole(position.step):  # a part of it may have died with another worker
            self.save(position, place.alone)
        self.wait()

    @contextlib.contextmanager
    def between_worlds(
        self, position: Position, place: Place, suspects: Sequence[int], *, holds_alone: bool
    ) -> Iterator[None]:
        """Around a rendezvous. `holds_alone`: nobody else may hold the state."""
        # The others may leave, too, and too few may be left: so it stands by in any case.
        later = 0.0 if holds_alone or self._membership.leaving() else CHANGE_SECONDS
        alone_from = time.monotonic() + (0.0 if holds_alone else STANDBY_SECONDS)
        try:
            with self.standing_by(position, place, suspects, later):
                yield
        except BaseException:  # told to leave: a drain loses nothing
            if time.monotonic() >= alone_from:  # where the others go on with it, they do so at once
                self.save_last(position, place)
            else:
                self.wait_leaving(place)  # the others wait for this member's part
            raise

    @contextlib.contextmanager
    def standing_by(
        self, position: Position, place: Place, suspects: Sequence[int] = (), later: float = 0.0
    ) -> Iterator[None]:
        """While this worker waits in here for a world, with a state that it may be the last to hold: should that take
        long (`later`: so much longer), it saves it, unless it is on storage, and tries until it is. Then it says so:
        who has saved it may be gone, and the job may wait for that word. Nothing changes the state meanwhile.

        Others may wait as well, all with this state; one is enough to save it. Nobody knows who is left, but everybody
        knows the ranks: they look, and save, in their order, without those that are known to be gone (`suspects`). Two
        that save at a time write the same files.
        """
        over, lock = threading.Event(), threading.Lock()
        num_before = place.rank - sum(rank < place.rank for rank in set(suspects))
        seconds = STANDBY_SECONDS + later + self._turn_seconds(num_before)

        def save() -> None:
            if over.wait(seconds) or not self.wanted or not position.step:
                return
            if self._lost or place.size == 1:  # a part that is not there was of one that is gone, as far as one knows
                self._writer.hurry(place.generation)
            self.wait()
            pause = RETRY_SECONDS
            while not self._is_whole(position.step):
                with lock:  # storage may let one wait for long, and training goes on meanwhile
                    if over.is_set():
                        return
                    self.save(position, place.alone)
                self.wait()
                if not self._is_whole(position.step) and over.wait(pause):
                    return
                pause = min(2 * pause, LONGEST_RETRY_SECONDS)
            if self._told_step < position.step and not over.is_set():
                self._told_step = position.step
                self._membership.checkpointed(position.step, self._policy.storage, 0, 0.0)

        threading.Thread(target=save, name="checkpoint-standby", daemon=True).start()
        try:
            yield
        finally:
            with lock:
                over.set()

    def _turn_seconds(self, num_before: int) -> float:
        num_bytes = sum(view.nbytes for view in self._state.views().values())
        turn = min(STANDBY_SECONDS + num_bytes / TURN_BYTES_PER_SECOND, LONGEST_TURN_SECONDS)
        return turn * max(0, min(num_before, MOST_TURNS))

    def _is_whole(self, step: int) -> bool:
        """Whether this step is on storage; only who commits is told."""
        if step > self._whole_step and self._writer.is_whole(step):
            self._whole_step = step
        return step <= self._whole_step

    def wait(self) -> None:
        """Waits until nothing is being written here."""
        self._writer.wait()

    def wait_leaving(self, place: Place) -> None:
        """Waits until nothing is being written here, before a worker leaves whose state others hold: their parts, no
        longer than its grace allows."""
        self._writer.hurry(place.generation, self._membership.grace_seconds / 2)
        self.wait()

    def finish(self) -> None:
        """Waits at the run's end until nothing is being written: not for the parts of others, nor for storage that
        hangs. The result does not wait for those."""
        if not self._writer.finish(PARTS_SECONDS, FINISH_SECONDS):
            self._failed(f"step {self._last_step}: it was still being written when the run ended")

    def _snapshot(self, position: Position, place: Place) -> Snapshot | None:
        views = self._state.views()
        shapes = {name: Shape(view.shape[0] if view.ndim else 0, view.nbytes) for name, view in views.items()}
        attempt = Attempt(position.step, place.generation, count_parts(shapes, place.size))
        if place.rank >= attempt.num_parts:
            return None  # the state is small: others write all of it
        parts = deal(shapes, attempt.num_parts)
        copies: dict[str, np.ndarray[Any, Any]] | Exception
        try:
            copies = _copies(views, parts[place.rank])
        except MemoryError as error:
            copies = MemoryError(f"no memory for a copy of the state: {error}")
        if place.rank:
            return Snapshot(attempt, place.rank, copies)
        meta = {
            "position": position.to_json(),
            "scalars": self._state.scalars(),
            "computes_with": list(computes_with()),
        }
        return Snapshot(attempt, 0, copies, cut_arrays(shapes, parts), meta)

    # What the writing threads tell

    def written(self, step: int, where: str, num_bytes: int, seconds: float) -> None:
        """A checkpoint is committed."""
        self._whole_step = max(self._whole_step, step)
        self._told_step = max(self._told_step, step)
        self._membership.checkpointed(step, where, num_bytes, seconds)

    def failed(self, step: int, error: Exception) -> None:
        """There will be none of this step, or this member's part is missing."""
        if isinstance(error, AbandonedError):
            self._overdue = True
        if isinstance(error, AbandonedError | PartFailedError):
            self._missing_step = step
        self._failed(f"step {step}: {error or type(error).__name__}")

    def _failed(self, message: str) -> None:
        _log.warning("the checkpoint failed: %s", message)
        self._membership.note("checkpoint_failed", message)

    def _damaged(self, error: CheckpointError) -> None:
        _log.warning("passed over a damaged checkpoint: %s", error)
        self._membership.note("checkpoint_damaged", f"passed over: {error}")


def _copies(views: Mapping[str, Array], pieces: Sequence[Piece]) -> dict[str, np.ndarray[Any, Any]]:
    """Copies in host memory, in C order, of what belongs to a part."""
    return {
        piece.key: np.array(
            to_numpy(views[piece.name] if piece.end is None else views[piece.name][piece.begin : piece.end]),
            order="C",
            copy=True,
        )
        for piece in pieces
    }
