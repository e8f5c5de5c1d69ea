"""One step of training, as one worker of a world computes it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cordee.trainer import random
from cordee.trainer.autograd.casting import forget_casts
from cordee.trainer.elastic import clipping
from cordee.trainer.elastic.buffers import ShardBuffers
from cordee.trainer.elastic.figures import ShardFigures
from cordee.trainer.elastic.header import Agreement, StepHeader, unpack_all
from cordee.trainer.elastic.protocols import PeerLostError
from cordee.trainer.elastic.sums import GradientSums, all_reduce, find
from cordee.trainer.elastic.tree import deal

if TYPE_CHECKING:
    from cordee.trainer.data import Batch, DataLoader
    from cordee.trainer.elastic.early import EarlyExchange
    from cordee.trainer.elastic.ledger import Ledger
    from cordee.trainer.elastic.protocols import Membership, World
    from cordee.trainer.elastic.scaling import Scaling
    from cordee.trainer.elastic.state import TrainingState
    from cordee.trainer.optim import Optimizer
    from cordee.trainer.optim.snapshot import Snapshot
    from cordee.trainer.tensors import Tensor

__all__ = ["Step"]


class Step:
    """This worker's share of one step, as `Run.steps` yields it.

    Go through `shards`, call `backward` with the mean loss of each, then `commit`. After a loss of a worker the same
    step is yielded again, with another share.

    With several optimisers, `update` applies one of them in the middle of the step; then the shards may be gone through
    again. The step is still done wholly or not at all: when a worker is lost, whatever `update` has applied is taken
    back, and what is left of the loop's body runs without effect (there are no shards; `update` and `commit` return
    False).

    Attributes:
        number: the step, from 1.
        epoch: its epoch, from 1.
        index: its place in the epoch, from 0.
        num_samples: samples in its global batch.
        epoch_end: whether it is the last of its epoch.
        loss: mean loss over the global batch, once committed (of the newest pass over the shards); NaN where `backward`
            was not used. The same on every worker.
        measures: what `measure` was told, as means over the global batch, once committed. The same on every worker.
        grad_norm: the norm that `clip_grad_norm_` found, once committed; NaN where it was not asked for.
        skipped: whether an update was left out because its gradient was not finite; only with a gradient scaler.
        seconds: wall time from its start to its commit.
        committed: whether its update has been applied here.
        lost: whether a worker was lost in the middle, so that it will be yielded again.
    """

    def __init__(
        self,
        number: int,
        world: World,
        *,
        loader: DataLoader,
        sums: Sequence[GradientSums],
        buffers: ShardBuffers,
        state: TrainingState,
        membership: Membership,
        scaling: Scaling,
        ledger: Ledger | None = None,
        early: EarlyExchange | None = None,
        keep_batches: bool = False,
        checkpoint_due: Callable[[], bool],
        on_committed: Callable[[Step, Agreement], None],
        on_lost: Callable[[PeerLostError], None],
    ) -> None:
        """`sums`: one per optimiser. `keep_batches`: the shards are expected to be gone through again.
        `on_committed` is told what all members' headers amount to."""
        steps_per_epoch = len(loader)
        self.number = number
        self.epoch = (number - 1) // steps_per_epoch + 1
        self.index = (number - 1) % steps_per_epoch
        self.epoch_end = self.index == steps_per_epoch - 1
        self.num_samples = loader.num_samples(self.index, self.epoch - 1)
        self.loss = math.nan
        self.measures: dict[str, float] = {}
        self.grad_norm = math.nan
        self.skipped = False
        self.seconds = math.nan
        self.committed = False
        self.lost = False
        self._loader = loader
        self._sums = sums
        self._buffers = buffers
        self._state = state
        self._membership = membership
        self._scaling = scaling
        self._ledger = ledger
        self._keep_batches = keep_batches
        self._batches: dict[int, Batch | None] = {}
        """This worker's shards, as they were loaded, for when they are gone through again."""
        self._checkpoint_due = checkpoint_due
        self._on_committed = on_committed
        self._on_lost = on_lost
        self._communicator = world.communicator
        self._early = early if world.size > 1 else None
        """Has the only optimiser's gradients travel as soon as they are complete; None: all travel at the end."""
        self._range = deal(loader.num_shards, world.size)[world.rank]
        self._next_shard = self._range[0]
        self.num_passes = 0
        """How often this worker has begun to go through its shards."""
        self._phase = 0
        """How many exchanges there were."""
        self._gone_through = False
        """Whether the shards of this phase have been begun."""
        self._applied: dict[str, Snapshot] = {}
        """Which optimisers `update` has applied, and what was before."""
        self._clips: list[clipping.Clip] = []
        self._samples_in_shard = 0
        self._figures = ShardFigures()
        self._waited_before = loader.waited_seconds
        self._started = time.perf_counter()

    # What a script does

    @property
    def shards(self) -> Iterator[Batch]:
        """This worker's shards of the global batch, each a batch; inside, random numbers are keyed by step and
        shard."""
        if self.lost:
            return
        if self.committed or (self._gone_through and self._next_shard != self._range[0]):
            raise RuntimeError(
                f"step {self.number}: its shards were gone through already"
                + (" (step.update(optimizer) goes between two passes over them)" if not self.committed else "")
            )
        self._begin()
        for shard in range(*self._range):
            batch = self._load(shard)
            if self._ledger is not None:
                self._ledger.read(batch)
            for sums in self._sums:
                sums.optimizer.zero_grad()
            self._figures.begin_shard()
            if shard == self._range[1] - 1 and self._early is not None and not self._applied:
                self._early.watch(self._communicator, shard, self._loader.num_shards)
            if batch is not None:
                self._samples_in_shard = len(batch)
                with random.scope(step=self.number, shard=shard, phase=self._phase):
                    yield batch
            self._fold(shard)
        self._state.unchanged_by_shards(self.number)

    def abandon(self) -> bool:
        """The script leaves the step as it is. Returns whether gradients of it travel: nobody is to wait for the
        rest."""
        if self._early is None:
            return False
        self._early.unwatch()
        return self._early.num_sent > 0 and not self.committed

    def backward(self, loss: Tensor, **options: Any) -> None:
        """Adds the gradient of `loss`, the *mean* loss over the shard at hand, weighted by the shard's share of the
        batch.

        So the sum over all shards is the gradient of the mean loss over the global batch, whatever the shards' sizes.

        Args:
            options: `loss.backward`'s, such as `retain_graph=True`.
        """
        if not self._samples_in_shard:
            raise RuntimeError(f"step {self.number}: backward is called inside `for batch in step.shards`")
        weight = self._samples_in_shard / self.num_samples
        self._figures.note_loss(float(loss.item()) * weight)
        loss.backward(weight * self._scaling.factor, **options)

    def measure(self, **means: float) -> None:
        """Notes means over the shard at hand, such as its accuracy; `measures` has them for the global batch.

        They travel with the gradients. Measure the same names for every shard.
        """
        if not self._samples_in_shard:
            raise RuntimeError(f"step {self.number}: measure is called inside `for batch in step.shards`")
        weight = self._samples_in_shard / self.num_samples
        for name, value in means.items():
            self._figures.note(name, float(value) * weight)

    def clip_grad_norm_(
        self,
        max_norm: float,
        norm_type: float = 2.0,
        error_if_nonfinite: bool = False,
        *,
        parameters: Tensor | Iterable[Tensor] | None = None,
    ) -> None:
        """Has the next `update` or `commit` scale the gradients so that their common norm is at most `max_norm`.

        Call it beside `commit`, not in a shard: what is clipped is the exact sum over the global batch, so it does not
        depend on the workers. The norm before clipping is in `grad_norm` afterwards.

        Args:
            norm_type: its order; `math.inf` for the largest absolute value.
            error_if_nonfinite: raise ValueError when the norm is infinite or not a number, with nothing applied.
            parameters: those that are clipped together; all that are updated by default.
        """
        self._clips.append(clipping.by_norm(max_norm, norm_type, parameters, error_if_nonfinite))

    def clip_grad_value_(self, clip_value: float, *, parameters: Tensor | Iterable[Tensor] | None = None) -> None:
        """Has the next `update` or `commit` bring every number of the gradients' sum between `-clip_value` and
        `clip_value`."""
        self._clips.append(clipping.by_value(clip_value, parameters))

    def update(self, *optimizers: Optimizer | str) -> bool:
        """Sums the gradients of these optimisers (or of those with these names), exactly, and applies them now.

        Afterwards the shards may be gone through again. `commit` still ends the step; it leaves these optimisers alone.
        Returns whether they are applied. False: a worker was lost, all is as before the step, and it comes again.
        """
        chosen = [find(self._sums, optimizer) for optimizer in optimizers]
        if not chosen:
            raise TypeError("step.update takes the optimizers to apply now; step.commit() applies all the others")
        if self.lost:
            return False
        self._check_ready("step.update()")
        before = {sums.name: sums.snapshot() for sums in chosen if sums.name not in self._applied}
        headers = self._exchange(chosen, StepHeader(self.number, False, (), np.empty(0, np.bool_)))
        if headers is None:
            return False
        self._applied |= before
        self._apply(chosen, headers)
        return True

    def commit(self) -> bool:
        """Sums the gradients of all workers, exactly, and applies the update.

        Returns whether the step is committed. False: a worker was lost in the middle; nothing was applied, and
        `Run.steps` yields the step again.
        """
        if self.lost:
            return False
        self._check_ready("step.commit()")
        num_shards = self._range[1] - self._range[0]
        computed = time.perf_counter() - self._started
        chosen = [sums for sums in self._sums if sums.name not in self._applied]
        headers = self._exchange(
            chosen,
            StepHeader(
                self.number,
                self._membership.change_pending(),
                (),
                np.empty(0, np.bool_),
                ledger=b"" if self._ledger is None else self._ledger.part(self),
                leaving=self._membership.leaving(),
                checkpoint=self._checkpoint_due(),
                shard_seconds=computed / num_shards if num_shards else math.nan,
                data_seconds=self._loader.waited_seconds - self._waited_before,
            ),
        )
        if headers is None:
            return False
        self._apply(chosen, headers)
        self._scaling.committed()
        self.committed = True
        if self._ledger is not None:
            self._ledger.committed(self, headers)
        self.seconds = time.perf_counter() - self._started
        self._on_committed(self, Agreement.of(headers))
        return True

    # Shards

    def _load(self, shard: int) -> Batch | None:
        """A script may write into what it gets: a copy, when there is another pass to come."""
        if shard in self._batches:
            return copy.deepcopy(self._batches[shard])
        batch = self._loader.shard_batch(self.epoch - 1, self.index, shard)
        if self._keep_batches:
            self._batches[shard] = copy.deepcopy(batch)
        return batch

    def _begin(self) -> None:
        for sums in self._sums:
            sums.begin()
        if self._early is not None:
            self._early.begin()
        self._buffers.begin()
        forget_casts()  # a joiner has none of weights that a script has written to since
        self._state.before_shards()
        self._figures.begin()
        self._next_shard = self._range[0]
        self._gone_through = True
        self.num_passes += 1
        if self._ledger is not None:
            self._ledger.begin(self._range[0], again=self.num_passes > 1)
        if self.num_passes == 1:  # the others read the same shards again, which nobody has loaded ahead
            self._loader.expect(self.epoch - 1, self.index, self._range)

    def _fold(self, shard: int) -> None:
        if shard == self._range[1] - 1 and self._early is not None and not self._applied:
            self._early.fold()
        for sums in self._sums:
            if sums.fold(shard, last=shard == self._range[1] - 1) and not self._figures.weighted:
                raise RuntimeError(
                    f"step {self.number}: a shard's gradients are not step.backward(loss)'s, which weights them by the "
                    "shard's share of the batch; call it instead of loss.backward()"
                )
        self._buffers.fold(shard, self._samples_in_shard)
        self._figures.fold()
        self._samples_in_shard = 0
        self._next_shard = shard + 1

    # Exchange and update

    def _check_ready(self, what: str) -> None:
        if self.committed:
            raise RuntimeError(f"step {self.number} was committed already; go on with the next one")
        if self._next_shard != self._range[1]:
            raise RuntimeError(
                f"step {self.number}: {what} comes too early: {self._range[1] - self._next_shard} of this worker's "
                f"{self._range[1] - self._range[0]} shards were not gone through"
            )

    def _exchange(self, chosen: Sequence[GradientSums], header: StepHeader) -> list[StepHeader] | None:
        """Sums the gradients of some optimisers; all workers' headers, by rank. None: a worker was lost."""
        # Once something has been applied, nothing travels early: another pass over the shards was folded as a whole.
        early = self._early if chosen and not self._applied else None
        touched = [np.empty(0, np.bool_), *(sums.touched for sums in chosen)]
        ours = StepHeader(
            header.step,
            header.change_pending,
            self._figures.losses,
            np.concatenate(touched),
            self._figures.measures,
            buffers=self._buffers.pack(),
            ledger=header.ledger,
            leaving=header.leaving,
            checkpoint=header.checkpoint,
            shard_seconds=header.shard_seconds,
            data_seconds=header.data_seconds,
            phase=self._phase,
            redo=0 if early is None else early.redo,
        )
        num_shards = self._loader.num_shards
        try:
            if early is None:
                packed = all_reduce(self._communicator, chosen, num_shards=num_shards, header=ours.pack())
                return unpack_all(packed, ours)
            headers = unpack_all(early.exchange(self._communicator, num_shards, ours.pack()), ours)
            early.again(self._communicator, num_shards, max(header.redo for header in headers))
            early.land()
        except PeerLostError as error:
            self._give_up(error)
            return None
        return headers

    def _give_up(self, error: PeerLostError) -> None:
        self.lost = True
        self._clips.clear()
        for before in self._applied.values():
            before.put_back()
        self._on_lost(error)

    def _apply(self, chosen: Sequence[GradientSums], headers: list[StepHeader]) -> None:
        if chosen:
            touched = np.logical_or.reduce([header.touched for header in headers])
            offset = 0
            for sums in chosen:
                sums.mark(touched[offset : offset + len(sums.touched)])
                offset += len(sums.touched)
            finite = self._scaling.finite(chosen)
            self.skipped |= len(finite) < len(chosen)
            if self._clips and finite:
                self._clip(finite)
            self._clips.clear()
            for sums in finite:
                sums.apply()
        self._buffers.apply([header.buffers for header in headers], self.num_samples)
        self.loss, measures = self._figures.means(headers, min(self._loader.num_shards, self.num_samples))
        self.measures |= measures
        self._phase += 1
        self._gone_through = False

    def _clip(self, chosen: Sequence[GradientSums]) -> None:
        parameters = [p for sums in chosen for group in sums.optimizer.groups for p in group.parameters]
        updated = list({id(parameter): parameter for parameter in parameters}.values())
        for clip in self._clips:
            norm = clip(list(updated))
            self.grad_norm = self.grad_norm if norm is None else norm
