"""A training run that survives its workers: `for step in run.steps(epochs)`.

The run keeps one promise: parameters and optimiser state after step *k* have the same bits, whatever happened to the
world on the way. It needs three things for it: shards that do not depend on the world, one fixed tree to sum them in,
and the rule that a worker which holds the whole sum may apply it. After a loss the survivors stand at step *k* or *k
+ 1*; the furthest is right, the others take its state, and nobody has to vote.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cordee.trainer import random
from cordee.trainer.array import to_numpy
from cordee.trainer.elastic import runtime
from cordee.trainer.elastic.buffers import ShardBuffers, buffer_places
from cordee.trainer.elastic.early import EarlyExchange
from cordee.trainer.elastic.header import Agreement
from cordee.trainer.elastic.heal import heal_words, synchronise
from cordee.trainer.elastic.ledger import Ledger
from cordee.trainer.elastic.loops import Loops
from cordee.trainer.elastic.parting import save_before_leaving
from cordee.trainer.elastic.position import Position
from cordee.trainer.elastic.protocols import PeerLostError, World
from cordee.trainer.elastic.result import announce
from cordee.trainer.elastic.saving import Place, Saver
from cordee.trainer.elastic.scaling import Scaling
from cordee.trainer.elastic.several import Models, Optimizers, check_for_steps
from cordee.trainer.elastic.state import ORDER_KIND, TrainingState, model_arrays
from cordee.trainer.elastic.step import Step
from cordee.trainer.elastic.sums import GradientSums
from cordee.trainer.elastic.undo import Undo
from cordee.trainer.elastic.weights import weights_sha256

if TYPE_CHECKING:
    from cordee.trainer.amp import GradScaler
    from cordee.trainer.data import DataLoader

__all__ = ["Run"]


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
        model: its parameters and buffers are the weights. Several are given as a dictionary or a list; their names or
            numbers then come first in the weights' names.
        optimizer: trains parameters of `model`; or several, as a dictionary or a list. `step.commit()` applies all,
            `step.update(optimizer)` one of them before, in the middle of a step.
        loader: `batch_size` is the global batch; its number of shards is the most workers that can help.
        state: by name, more that training depends on; see `register`.
        ledger: a file to note in which samples every committed step consumed; a job's `ledger: true` needs no path
            here. `cordee ledger` proves by it that every sample came once.
        scaler: scales losses and gradients, and leaves out updates by what is not finite; its methods are not called
            then. It travels with the run.
        overlap: have the gradients of a worker's last shard travel while backward still runs; the bits are the same.

    Raises:
        ValueError: `optimizer` trains parameters that `model` does not have, or cannot train in steps; `ledger` is a
            file of another kind, or of other data.
    """

    def __init__(
        self,
        model: Models,
        optimizer: Optimizers,
        loader: DataLoader,
        *,
        state: Mapping[str, Any] | None = None,
        ledger: str | os.PathLike[str] | None = None,
        scaler: GradScaler | None = None,
        overlap: bool = True,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.loader = loader
        self._membership = runtime.current()
        self._state = TrainingState(model, optimizer, loader)
        check_for_steps(self._state.optimizers)
        self._sums = [GradientSums(name, each, loader.num_shards) for name, each in self._state.optimizers.items()]
        early = EarlyExchange(self._sums[0]) if overlap and len(self._sums) == 1 else None
        self._early = early if early is not None and early.worthwhile else None
        self._scaling = Scaling(scaler, self._state.registered)
        for name, thing in (state or {}).items():
            self.register(name, thing)
        policy = self._membership.checkpoint_policy
        self._saver = Saver(policy, self._state, self._membership) if policy is not None else None
        self._ledger = noted = Ledger.opened(ledger, loader, ORDER_KIND, self._membership)
        if self._saver is not None and noted is not None:
            self._saver.before_commit.append(lambda _: noted.flush())
        self._position = Position()
        self._has_state = False
        self._may_hold_alone = False
        self._epochs = 0
        self._world: World | None = None
        self._agreement: Agreement | None = None
        """Of the step committed last."""
        self._place = Place(0, 0, 1)
        """In the world that committed it."""
        self._arrival: tuple[Literal["join", "change", "lost"], tuple[int, ...]] = ("join", ())
        self._undo: Undo | None = None
        """Of the step at hand."""
        self._loops = Loops(self._state)
        self._passes_again = False
        """Whether steps of this script go through their shards more than once."""

    # What a script asks

    @property
    def step(self) -> int:
        """The last committed step; 0 before the first."""
        return self._position.step

    @property
    def samples(self) -> int:
        """Samples consumed by committed steps."""
        return self._position.samples

    @property
    def loss(self) -> float:
        """Mean loss of the last committed step; NaN before the first.

        Use this after the loop rather than `step.loss`: a worker that joined late may not have been through any step.
        """
        return self._position.loss

    @property
    def metrics(self) -> dict[str, float]:
        """What the script reported so far, by any worker whose state this one took. A copy."""
        return dict(self._position.metrics)

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

    @property
    def behind(self) -> bool:
        """Whether this worker, which has joined late, comes through a part of the script that the others have left.

        What it does there has no consequence: when the script is where the others are, their state is put back.
        """
        return self._loops.behind

    def weights(self) -> dict[str, np.ndarray[Any, Any]]:
        """The parameters and buffers of the moment, by name, in host memory."""
        if self._loops.has_left:
            self._loops.check_left()
        return {name: to_numpy(array) for name, array in model_arrays(self._state.model).items()}

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
        self._position = self._position.reporting(metrics)

    def register(self, name: str, thing: Any) -> None:
        """Has something travel with the run: to workers that join, into checkpoints, and back when a step is lost.

        Register what training depends on and is neither model nor optimiser, schedule or average: the best loss so far,
        a curriculum, a random generator of NumPy's or Python's. Change it outside of the shards: in them every worker
        would change its own.

        Args:
            name: the same on every worker.
            thing: has `state_dict()` and `load_state_dict(state)`; or is a dictionary, list, set, array, tensor or
                random generator (`random` and `numpy.random`, too, stand for their global ones). Its state is made of
                numbers, strings, arrays, tensors and nested ones of these; nothing is pickled.

        Raises:
            TypeError: it is nothing of the kind; the sentence says what in it is not.
            ValueError: the name is used.
        """
        self._state.registered.register(name, thing)

    def steps(self, epochs: int) -> Iterator[Step]:
        """Yields the steps up to the end of epoch `epochs` that are not committed yet; after a loss, a step once more.

        Raises:
            RuntimeError: the loop went on without committing a step; or, in a job, the script trains a second run.
        """
        if epochs < 0:
            raise ValueError(f"epochs is a number of passes over the data, not {epochs}")
        runtime.claim(self._membership, self)
        self._epochs = max(self._epochs, epochs)
        last = epochs * len(self.loader)
        if not self._state.loop:
            self._state.settle()
        self._position = self._loops.enter(self._position)
        self._membership.begun()
        places = buffer_places(self._state.model)
        while True:
            # Whoever has the last step of this loop needs nobody any more: a joiner is not made to wait for it.
            if self.behind or (self._has_state and self.step >= last):
                break
            if self._world is None:
                self._meet(last)
                continue
            buffers = ShardBuffers(places)
            step = Step(
                self.step + 1,
                self._world,
                loader=self.loader,
                sums=self._sums,
                early=self._early,
                buffers=buffers,
                state=self._state,
                membership=self._membership,
                scaling=self._scaling,
                ledger=self._ledger,
                keep_batches=self._passes_again,
                checkpoint_due=self._checkpoint_due,
                on_committed=self._step_committed,
                on_lost=self._step_lost,
            )
            if not step.index:
                self._state.check_names()
            self._undo, metrics = Undo(self._state, buffers), self._position.metrics
            self._hold("in an elastic run step.commit() applies the update, on all workers or on none")
            self._state.at_step(step)
            self._loops.at_hand = step
            try:
                with random.scope(step=step.number, shard=None):
                    yield step
            except GeneratorExit:
                self._loops.has_left = True
                if not step.lost:  # a lost one would have come again: the others wait for it, and are to find out
                    if step.abandon():
                        self._leave_world("lost", ())
                    self._membership.outside()
                raise
            finally:
                self._state.at_step(None)
                self._hold(None)
            self._loops.at_hand = None
            if step.lost:
                self._undo.take_back()
                self._position = replace(self._position, metrics=metrics)
            elif not step.committed:
                raise RuntimeError(f"step {step.number} was left without step.commit()")
            elif self._saver is not None and self._agreement is not None:
                # Now, not in the commit: what the script did since belongs to the step.
                self._save(self._saver, self._agreement)
        self._state.check_names()
        if not self.behind:
            self._finish()

    def _hold(self, reason: str | None) -> None:
        self._scaling.hold(reason is not None)
        for optimizer in self._state.optimizers.values():
            optimizer.held_by = reason

    # Checkpoints

    def _save(self, saver: Saver, agreement: Agreement) -> None:
        """Saves the state that the step at hand has ended in, if its members have agreed to."""
        if not agreement.all_leaving:
            if agreement.checkpoint:
                saver.save(self._position, self._place)
            return
        # Nobody is left to hold the state: it goes to storage before anybody goes, and no step follows that would not.
        if not saver.wanted or self._world is None:
            return
        lost = save_before_leaving(
            saver, self._membership, self._world, self._position, num_shards=self.loader.num_shards
        )
        self._leave_world("change" if lost is None else "lost", () if lost is None else lost.ranks)

    # What a step tells

    def _checkpoint_due(self) -> bool:
        """Asked at every step; one member's word is enough, and rank 0 is the one that keeps the time."""
        return self.rank == 0 and self._saver is not None and self._saver.due(self.step + 1)

    def _step_committed(self, step: Step, agreement: Agreement) -> None:
        """The update of `step` has been applied here."""
        self._passes_again = step.num_passes > 1
        self._position = replace(
            self._position, step=step.number, samples=self.samples + step.num_samples, loss=step.loss
        )
        self._membership.report(
            self._position.progress(step, agreement, epochs=self._epochs, steps_per_epoch=len(self.loader))
        )
        self._agreement = agreement
        assert self._world is not None
        self._place = Place.of(self._world)
        # Where all leave, the members meet once more when the script is through with the step.
        saves_first = agreement.all_leaving and self._saver is not None and self._saver.wanted
        if agreement.change_pending and not saves_first:
            self._leave_world("change", ())

    def _step_lost(self, error: PeerLostError) -> None:
        """The exchange of the step at hand broke: meet the others, and do it again."""
        self._leave_world("lost", error.ranks)
        assert self._undo is not None
        self._undo.lost()

    # Membership

    def _leave_world(self, reason: Literal["join", "change", "lost"], suspects: tuple[int, ...]) -> None:
        assert self._world is not None
        self._world.communicator.close()
        if self._saver is not None:
            self._saver.left(lost=reason == "lost")
        # The others of a world go on with its state; alone, or after a loss, this worker may be all that holds it.
        self._may_hold_alone = self._world.size == 1 or reason == "lost"
        self._world = None
        self._arrival = (reason, suspects)

    def _meet(self, last: int) -> None:
        """One rendezvous: ends in a world whose members all hold the same state, or in none, to be tried again."""
        reason, suspects = self._arrival
        saver = self._saver if self._has_state else None
        between = saver and saver.between_worlds(
            self._position, self._place, suspects, holds_alone=self._may_hold_alone
        )
        with between or contextlib.nullcontext():
            self._world = world = self._membership.rendezvous(
                step=self.step if self._has_state else None, reason=reason, suspects=suspects
            )
        if self._saver is not None:
            self._saver.joined(world)
        started = time.monotonic()
        try:
            self._position, givers = synchronise(world, self._state, self._position, self._begin, self._ledger)
        except PeerLostError as error:
            self._leave_world("lost" if self._has_state else "join", error.ranks)
            return
        self._has_state = True
        if self._ledger is not None:
            self._ledger.joined(world.generation, world.rank)
        if givers and self.step:
            self._membership.note("healed", heal_words(self.step, givers), time.monotonic() - started)
        self._position = self._loops.took(self._position, last)

    def _begin(self) -> Position:
        """Where a run starts whose members are all new."""
        restored = self._saver.begin(first_world=self.generation <= 1) if self._saver is not None else None
        return restored or self._position

    # The result

    @property
    def saving(self) -> bool:
        """Whether a part of a checkpoint is being written here. For whoever ends the process."""
        return self._saver is not None and self._saver.saving

    def conclude(self) -> None:
        """Tells what stands now as the result: of a loop that the script has left early as well, and with what it
        reported or did to the weights after its loop. For whoever runs the script, at its end."""
        self._loops.check_ended()
        if self._has_state:
            self._finish()

    def _finish(self) -> None:
        if self._saver is not None:
            self._saver.finish()
        if self._ledger is not None:
            self._ledger.finish()
        announce(self._membership, self._position, self.weights())
