"""When a run saves itself, and how it finds its way back: the policy between the elastic step and the checkpoint
files."""

from __future__ import annotations

import logging
import time

from cordee.trainer.checkpoint import CheckpointError, CheckpointWriter, load_latest
from cordee.trainer.elastic.position import Position
from cordee.trainer.elastic.protocols import CheckpointPolicy, Membership
from cordee.trainer.elastic.state import TrainingState

__all__ = ["Saver"]

_log = logging.getLogger(__name__)


class Saver:
    """Saves `state` as `policy` says, beside training, and tells `membership` of it. Saving never changes a weight."""

    def __init__(self, policy: CheckpointPolicy, state: TrainingState, membership: Membership) -> None:
        self._policy = policy
        self._state = state
        self._membership = membership
        self._writer = CheckpointWriter(
            policy.directory, keep=policy.keep, on_written=membership.checkpointed, on_failed=self._failed
        )
        self._last_step = 0
        self._last_time = time.monotonic()

    def restore(self) -> Position | None:
        """Takes over the newest checkpoint that is whole; None when there is none."""
        started = time.monotonic()
        loaded = load_latest(self._policy.directory, self._damaged)
        if loaded is None:
            return None
        self._state.restore(loaded.arrays, loaded.meta["scalars"])
        position = Position.from_json(loaded.meta["position"])
        self._last_step, self._last_time = position.step, time.monotonic()
        self._membership.note("restored", f"resumed from {loaded.path.name}", time.monotonic() - started)
        return position

    def due(self, step: int) -> bool:
        """Whether it is time to save the state that `step` ends in."""
        policy = self._policy
        by_steps = policy.interval_steps and step - self._last_step >= policy.interval_steps
        by_time = policy.interval_seconds and time.monotonic() - self._last_time >= policy.interval_seconds
        return bool(by_steps or by_time) and not self._writer.busy  # slow storage: no step waits for it

    def save(self, position: Position) -> None:
        """Called after a committed step, by the one worker that saves. Costs a copy in memory."""
        self._save(position)

    def save_last(self, position: Position) -> None:
        """Saves before this worker leaves with what nobody else may hold; returns when it is on storage."""
        wanted = self._policy.interval_steps or self._policy.interval_seconds
        if wanted and position.step > self._last_step:
            self._save(position)
        self._writer.wait()

    def _save(self, position: Position) -> None:
        self._last_step, self._last_time = position.step, time.monotonic()
        meta = {"position": position.to_json(), "scalars": self._state.scalars()}
        self._writer.save(position.step, self._state.host_copies(), meta)

    def wait(self) -> None:
        """Waits until nothing is being written."""
        self._writer.wait()

    def _damaged(self, error: CheckpointError) -> None:
        _log.warning("passed over a damaged checkpoint: %s", error)
        self._membership.note("checkpoint_damaged", f"passed over: {error}")

    def _failed(self, step: int, error: Exception) -> None:
        _log.warning("the checkpoint of step %d failed: %s", step, error)
        self._membership.note("checkpoint_failed", f"step {step}: {error}")
