"""A training run that survives its workers: `for step in run.steps(epochs)`.

The run keeps one promise: parameters and optimiser state after step *k* have the same bits, whatever happened to the
world on the way. It needs three things for it: shards that do not depend on the world, one fixed tree to sum them in,
and the rule that a worker which holds the whole sum may apply it. After a loss the survivors stand at step *k* or *k
+ 1*; the furthest is right, the others take its state, and nobody has to vote.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cordee.trainer.array import to_numpy
from cordee.trainer.checkpoint import CheckpointError, CheckpointWriter, load_latest
from cordee.trainer.elastic import runtime
from cordee.trainer.elastic.partials import PartialSums
from cordee.trainer.elastic.protocols import PeerLostError, ProgressReport, RunResult, World
from cordee.trainer.elastic.state import TrainingState, model_arrays
from cordee.trainer.elastic.step import Step
from cordee.trainer.elastic.weights import weights_sha256, write_weights

if TYPE_CHECKING:
    from pathlib import Path

    from cordee.trainer.data import DataLoader
    from cordee.trainer.nn import Module
    from cordee.trainer.optim import Optimizer

__all__ = ["Run"]

_log = logging.getLogger(__name__)


class Run:
    """Trains `model` with `optimizer` on `loader`, alone or as one worker of a job.

    Under `cordee run` or `cordee submit` the workers of the job share the work; under plain `python` the same script
    trains alone. Either way it ends with the same weights.

        run = elastic.Run(model, optimizer, loader)
        for step in run.steps(epochs=10):                      # may yield a step again after a loss
            for batch in step.shards:                          # this worker's share
                step.backward(criterion(model(batch.x), batch.y))
            step.commit()                                      # exact sum, update, next
        run.report(accuracy=accuracy(model))

    Args:
        model: its parameters and buffers are the weights.
        optimizer: trains parameters of `model`.
        loader: `batch_size` is the global batch; its number of shards is the most workers that can help.

    Raises:
        ValueError: `optimizer` trains parameters that `model` does not have.
    """

    def __init__(self, model: Module, optimizer: Optimizer, loader: DataLoader) -> None:
        self.model = model
        self.optimizer = optimizer
        self.loader = loader
        self.membership = runtime.current()
        self.partials = [PartialSums(loader.num_shards) for _ in optimizer.groups]
        self.metrics: dict[str, float] = {}
        self._state = TrainingState(model, optimizer)
        self._world: World | None = None
        self._step = 0
        self._samples = 0
        self._loss = math.nan
        self._has_state = False
        self._epochs = 0
        self._arrival: tuple[Literal["join", "change", "lost"], tuple[int, ...]] = ("join", ())
        self._finished: RunResult | None = None
        self._writer: CheckpointWriter | None = None
        self._last_checkpoint = (0, time.monotonic())

    # What a script asks

    @property
    def step(self) -> int:
        """The last committed step; 0 before the first."""
        return self._step

    @property
    def samples(self) -> int:
        """Samples consumed by committed steps."""
        return self._samples

    @property
    def loss(self) -> float:
        """Mean loss of the last committed step; NaN before the first.

        Use this after the loop rather than `step.loss`: a worker that joined late may not have been through any step.
        """
        return self._loss

    @property
    def rank(self) -> int:
        """This worker's rank in the world of the moment; 0 before there is one."""
        return self._world.rank if self._world else 0

    @property
    def world_size(self) -> int:
        """Workers in the world of the moment; 1 before there is one."""
        return self._world.size if self._world else 1

    @property
    def generation(self) -> int:
        """The generation of the world of the moment: it grows with every membership change; 0 before there is one."""
        return self._world.generation if self._world else 0

    def weights(self) -> dict[str, np.ndarray[Any, Any]]:
        """The parameters and buffers of the moment, by name, in host memory."""
        return {name: to_numpy(array) for name, array in model_arrays(self.model).items()}

    def weights_sha256(self) -> str:
        """The fingerprint of the weights of the moment: equal means the same bits (see `elastic.weights`)."""
        return weights_sha256(self.weights())

    def report(self, **metrics: float) -> None:
        """Adds to the job's metrics, as `cordee run -o json` and `cordee status` show them; the newest value of a
        name counts.

        Report what all workers compute alike (say, an accuracy over the whole held-out set): whose report arrives is
        chance.

        Raises:
            TypeError: a metric is no number.
        """
        for name, value in metrics.items():
            try:
                self.metrics[name] = float(value)
            except (TypeError, ValueError) as error:
                raise TypeError(f"metric {name!r} is to be a number, not {value!r}") from error
        if self._finished is not None:
            self._announce_result()

    def steps(self, epochs: int) -> Iterator[Step]:
        """Yields the steps up to the end of epoch `epochs` that are not committed yet; after a loss, a step once more.

        Raises:
            RuntimeError: the loop went on without committing a step.
        """
        if epochs < 0:
            raise ValueError(f"epochs is a number of passes over the data, not {epochs}")
        self._epochs = max(self._epochs, epochs)
        last = epochs * len(self.loader)
        while True:
            # Whoever has the last step of this loop needs nobody any more: a joiner is not made to wait for it.
            if self._has_state and self._step >= last:
                break
            if self._world is None:
                self._meet()
                continue
            step = Step(self, self._world, self._step + 1)
            yield step
            if not (step.committed or step.lost):
                raise RuntimeError(f"step {step.number} was left without step.commit()")
        self._finish()

    # What a step tells

    def lost(self, error: PeerLostError) -> None:
        """The exchange of the step at hand broke: meet the others, and do it again."""
        self._leave_world("lost", error.ranks)

    def committed(self, step: Step, seconds: float, change_pending: bool) -> None:
        """The update of `step` has been applied here."""
        self._step = step.number
        self._samples += step.num_samples
        self._loss = step.loss
        self.membership.report(
            ProgressReport(
                step=step.number,
                steps_total=self._epochs * len(self.loader),
                epoch=step.epoch,
                epochs=self._epochs,
                loss=step.loss,
                samples=self._samples,
                seconds=seconds,
                metrics=self.metrics,
            )
        )
        self._maybe_checkpoint()
        if change_pending:
            self._leave_world("change", ())

    # Membership

    def _leave_world(self, reason: Literal["join", "change", "lost"], suspects: tuple[int, ...]) -> None:
        assert self._world is not None
        self._world.communicator.close()
        self._world = None
        self._arrival = (reason, suspects)

    def _meet(self) -> None:
        """Rendezvous until a world stands whose members all hold the same state."""
        while self._world is None:
            reason, suspects = self._arrival
            world = self.membership.rendezvous(
                step=self._step if self._has_state else None, reason=reason, suspects=suspects
            )
            self._world = world
            try:
                self._synchronise(world)
            except PeerLostError as error:
                self._leave_world("lost" if self._has_state else "join", error.ranks)

    def _synchronise(self, world: World) -> None:
        """Members without the world's newest state take it from those that hold it."""
        holders = [rank for rank, step in enumerate(world.member_steps) if step == world.step]
        if all(step is None for step in world.member_steps):
            # Everybody is new. One of them says where to start, so that even an unseeded script starts from one place.
            holders = [0]
            if world.rank == 0:
                self._restore_checkpoint()
        takers = [rank for rank in range(world.size) if rank not in holders]
        giver_of = {taker: holders[place % len(holders)] for place, taker in enumerate(takers)}
        if world.rank in giver_of:
            self._take_state(world, giver_of[world.rank])
        elif world.rank in giver_of.values():
            self._give_state(world, [taker for taker, giver in giver_of.items() if giver == world.rank])
        self._has_state = True

    def _give_state(self, world: World, takers: list[int]) -> None:
        views = self._state.views()
        buffers = [np.ascontiguousarray(to_numpy(view)).reshape(-1) for view in views.values()]
        meta = json.dumps(
            {
                **self._position(),
                "arrays": [[name, list(view.shape), view.dtype.name] for name, view in views.items()],
            }
        ).encode()
        for taker in takers:
            world.communicator.send_state(taker, meta, buffers)

    def _take_state(self, world: World, giver: int) -> None:
        started = time.monotonic()
        meta_bytes, buffers = world.communicator.recv_state(giver)
        meta = json.loads(meta_bytes)
        # Nothing is applied before everything has arrived: a giver may die half-way.
        arrays = {
            name: np.frombuffer(buffer, np.dtype(dtype)).reshape(shape)
            for (name, shape, dtype), buffer in zip(meta["arrays"], buffers, strict=True)
        }
        self._state.restore(arrays, meta["scalars"])
        self._take_position(meta)
        if self._step:
            self.membership.note(
                "healed", f"took the state of step {self._step} from rank {giver}", time.monotonic() - started
            )

    def _position(self) -> dict[str, Any]:
        return {
            "step": self._step,
            "samples": self._samples,
            "loss": self._loss if math.isfinite(self._loss) else None,  # JSON has no NaN
            "metrics": dict(self.metrics),
            "scalars": self._state.scalars(),
        }

    def _take_position(self, position: Mapping[str, Any]) -> None:
        self._step, self._samples = int(position["step"]), int(position["samples"])
        self._loss = math.nan if position["loss"] is None else float(position["loss"])
        self.metrics = dict(position["metrics"])

    # Checkpoints and the result

    def _restore_checkpoint(self) -> None:
        policy = self.membership.checkpoint_policy
        if policy is None:
            return

        def damaged(error: CheckpointError) -> None:
            _log.warning("passed over a damaged checkpoint: %s", error)
            self.membership.note("checkpoint_damaged", f"passed over: {error}")

        started = time.monotonic()
        loaded = load_latest(policy.directory, damaged)
        if loaded is None:
            return
        self._state.restore(loaded.arrays, loaded.meta["scalars"])
        self._take_position(loaded.meta)
        self._last_checkpoint = (self._step, time.monotonic())
        self.membership.note("restored", f"resumed from {loaded.path.name}", time.monotonic() - started)

    def _maybe_checkpoint(self) -> None:
        policy = self.membership.checkpoint_policy
        if policy is None or self._world is None or self._world.rank != 0:
            return
        last_step, last_time = self._last_checkpoint
        due_by_steps = policy.interval_steps and self._step - last_step >= policy.interval_steps
        due_by_time = policy.interval_seconds and time.monotonic() - last_time >= policy.interval_seconds
        if not (due_by_steps or due_by_time):
            return
        if self._writer is None:
            self._writer = CheckpointWriter(
                policy.directory,
                keep=policy.keep,
                on_written=self._checkpoint_written,
                on_failed=self._checkpoint_failed,
            )
        if self._writer.busy:
            return  # storage is slower than the interval; the step does not wait for it
        self._last_checkpoint = (self._step, time.monotonic())
        self._writer.save(self._step, self._state.host_copies(), self._position())

    def _checkpoint_written(self, step: int, path: Path, size_bytes: int, seconds: float) -> None:
        self.membership.checkpointed(step, path, size_bytes, seconds)

    def _checkpoint_failed(self, step: int, error: Exception) -> None:
        _log.warning("the checkpoint of step %d failed: %s", step, error)
        self.membership.note("checkpoint_failed", f"step {step}: {error}")

    def _finish(self) -> None:
        if self._writer is not None:
            self._writer.wait()
        self._announce_result()

    def _announce_result(self) -> None:
        weights = self.weights()
        sha256 = weights_sha256(weights)
        path = None
        if self.membership.result_directory is not None:
            path = self.membership.result_directory / "model.safetensors"
            write_weights(path, weights, sha256)
        self._finished = RunResult(self._step, self._samples, sha256, dict(self.metrics), path)
        self.membership.finished(self._finished)
