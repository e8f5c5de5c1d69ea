"""One step of training, as one worker of a world computes it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cordee.trainer import random
from cordee.trainer.elastic.buffers import Place, ShardBuffers
from cordee.trainer.elastic.header import Agreement, StepHeader, exact_sum
from cordee.trainer.elastic.protocols import PeerLostError
from cordee.trainer.elastic.tree import deal

if TYPE_CHECKING:
    from cordee.trainer.data import Batch, DataLoader
    from cordee.trainer.elastic.ledger import Ledger
    from cordee.trainer.elastic.partials import PartialSums
    from cordee.trainer.elastic.protocols import Membership, World
    from cordee.trainer.optim import Optimizer
    from cordee.trainer.tensors import Tensor

__all__ = ["Step"]


class Step:
    """This worker's share of one optimiser update, as `Run.steps` yields it.

    Go through `shards`, call `backward` with the mean loss of each, then `commit`. After a loss of a worker the same
    step is yielded again, with another share.

    Attributes:
        number: the step, from 1.
        epoch: its epoch, from 1.
        index: its place in the epoch, from 0.
        num_samples: samples in its global batch.
        epoch_end: whether it is the last of its epoch.
        loss: mean loss over the global batch, once committed; NaN where `backward` was not used. The same on every
            worker.
        measures: what `measure` was told, as means over the global batch, once committed. The same on every worker.
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
        optimizer: Optimizer,
        partials: Sequence[PartialSums],
        buffers: Iterable[Place] = (),
        membership: Membership,
        ledger: Ledger | None = None,
        checkpoint_due: Callable[[], bool],
        on_committed: Callable[[Step, Agreement], None],
        on_lost: Callable[[PeerLostError], None],
    ) -> None:
        """`partials`: one per group of `optimizer`. `on_committed` is told what all members' headers amount to."""
        steps_per_epoch = len(loader)
        self.number = number
        self.epoch = (number - 1) // steps_per_epoch + 1
        self.index = (number - 1) % steps_per_epoch
        self.epoch_end = self.index == steps_per_epoch - 1
        self.num_samples = loader.num_samples(self.index, self.epoch - 1)
        self.loss = math.nan
        self.measures: dict[str, float] = {}
        self.seconds = math.nan
        self.committed = False
        self.lost = False
        self._loader = loader
        self._optimizer = optimizer
        self._partials = partials
        self._buffers = ShardBuffers(buffers)
        self._membership = membership
        self._ledger = ledger
        self._checkpoint_due = checkpoint_due
        self._on_committed = on_committed
        self._on_lost = on_lost
        self._communicator = world.communicator
        self._range = deal(loader.num_shards, world.size)[world.rank]
        self._next_shard = self._range[0]
        self._samples_in_shard = 0
        self._shard_loss = math.nan
        self._weighted = False
        """Whether `backward` was called for the shard at hand."""
        self._losses: list[float] = []
        self._measured: dict[str, list[float]] = {}
        self._shard_measures: dict[str, float] = {}
        self._touched = np.zeros(sum(len(group.parameters) for group in optimizer.groups), np.bool_)
        self._started = time.perf_counter()

    @property
    def shards(self) -> Iterator[Batch]:
        """This worker's shards of the global batch, each a batch; inside, random numbers are keyed by step and
        shard."""
        optimizer = self._optimizer
        if self._next_shard != self._range[0]:
            raise RuntimeError(f"step {self.number}: its shards were gone through already")
        for group, partials in zip(self._optimizer.groups, self._partials, strict=True):
            partials.clear(group.grad)
        self._loader.expect(self.epoch - 1, self.index, self._range)
        ledger = self._ledger
        if ledger is not None:
            ledger.begin(self._range[0])
        for shard in range(*self._range):
            batch = self._loader.shard_batch(self.epoch - 1, self.index, shard)
            if ledger is not None:
                ledger.read(batch)
            optimizer.zero_grad()
            self._shard_loss = math.nan
            self._shard_measures = {}
            self._weighted = False
            if batch is not None:
                self._samples_in_shard = len(batch)
                with random.scope(step=self.number, shard=shard):
                    yield batch
            self._fold(shard)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of `loss`, the *mean* loss over the shard at hand, weighted by the shard's share of the
        batch.

        So the sum over all shards is the gradient of the mean loss over the global batch, whatever the shards' sizes.
        """
        if not self._samples_in_shard:
            raise RuntimeError(f"step {self.number}: backward is called inside `for batch in step.shards`")
        self._weighted = True
        weight = self._samples_in_shard / self.num_samples
        value = float(loss.item()) * weight
        self._shard_loss = value if math.isnan(self._shard_loss) else self._shard_loss + value
        loss.backward(weight)

    def measure(self, **means: float) -> None:
        """Notes means over the shard at hand, such as its accuracy; `measures` has them for the global batch.

        They travel with the gradients. Measure the same names for every shard.
        """
        if not self._samples_in_shard:
            raise RuntimeError(f"step {self.number}: measure is called inside `for batch in step.shards`")
        weight = self._samples_in_shard / self.num_samples
        for name, value in means.items():
            self._shard_measures[name] = float(value) * weight

    def commit(self) -> bool:
        """Sums the gradients of all workers, exactly, and applies the update.

        Returns whether the step is committed. False: a worker was lost in the middle; nothing was applied, and
        `Run.steps` yields the step again.
        """
        if self.committed or self.lost:
            raise RuntimeError(f"step {self.number} was committed already; go on with the next one")
        if self._next_shard != self._range[1]:
            raise RuntimeError(
                f"step {self.number} cannot be committed: {self._range[1] - self._next_shard} of this worker's "
                f"{self._range[1] - self._range[0]} shards were not gone through"
            )
        measured = {name: tuple(values) for name, values in self._measured.items()}
        num_shards = self._range[1] - self._range[0]
        computed = time.perf_counter() - self._started
        header = StepHeader(
            self.number,
            self._membership.change_pending(),
            tuple(self._losses),
            self._touched,
            measured,
            buffers=self._buffers.pack(),
            ledger=b"" if self._ledger is None else self._ledger.part(self),
            leaving=self._membership.leaving(),
            checkpoint=self._checkpoint_due(),
            shard_seconds=computed / num_shards if num_shards else math.nan,
        ).pack()
        try:
            headers = self._exchange(header)
        except PeerLostError as error:
            self.lost = True
            self._on_lost(error)
            return False
        self._apply(headers)
        if self._ledger is not None:
            self._ledger.committed(self, headers)
        self.seconds = time.perf_counter() - self._started
        self._on_committed(self, Agreement.of(headers))
        return True

    def _fold(self, shard: int) -> None:
        offset = 0
        for group, partials in zip(self._optimizer.groups, self._partials, strict=True):
            count = len(group.parameters)
            touched = group.touched()
            if touched.any() and not self._weighted:
                raise RuntimeError(
                    f"step {self.number}: a shard's gradients are not step.backward(loss)'s, which weights them by the "
                    "shard's share of the batch; call it instead of loss.backward()"
                )
            self._touched[offset : offset + count] |= touched
            offset += count
            group.fill_untouched()
            partials.fold(shard, group.grad, last=shard == self._range[1] - 1)
        self._buffers.fold(shard, self._samples_in_shard)
        for name in self._shard_measures:  # in the order of measuring, which is that of the history's columns
            self._measured.setdefault(name, [math.nan] * len(self._losses))
        for name, values in self._measured.items():
            values.append(self._shard_measures.get(name, math.nan))
        self._losses.append(self._shard_loss)
        self._samples_in_shard = 0
        self._next_shard = shard + 1

    def _exchange(self, header: bytes) -> list[StepHeader]:
        """Reduces every group; the gradients end in the groups' own buffers. Nothing is applied unless all arrive."""
        packed: list[bytes] = []
        for group, partials in zip(self._optimizer.groups, self._partials, strict=True):
            received = self._communicator.all_reduce(
                partials.spans, group.grad, num_shards=self._loader.num_shards, header=b"" if packed else header
            )
            packed = packed or received
        headers = [StepHeader.unpack(one) for one in packed]
        for rank, one in enumerate(headers):
            if one.step != self.number or len(one.touched) != len(self._touched):
                raise RuntimeError(
                    f"rank {rank} is at step {one.step} with {len(one.touched)} parameters, this worker at step "
                    f"{self.number} with {len(self._touched)}: the workers do not run the same script"
                )
        return headers

    def _apply(self, headers: list[StepHeader]) -> None:
        optimizer = self._optimizer
        touched = np.logical_or.reduce([header.touched for header in headers])
        offset = 0
        for group in optimizer.groups:
            count = len(group.parameters)
            group.mark_touched(touched[offset : offset + count])
            offset += count
        held_by, optimizer.held_by = optimizer.held_by, None
        optimizer.step()
        optimizer.held_by = held_by
        self._buffers.apply([header.buffers for header in headers], self.num_samples)
        # Ranks hold ascending ranges, so this is shard order; fsum's result does not depend on the order anyway.
        self.loss = self._total([header.losses for header in headers])
        names = {name: None for header in headers for name in header.measures}
        self.measures = {name: self._total([header.measures.get(name, ()) for header in headers]) for name in names}
        self.committed = True

    def _total(self, parts: Sequence[Sequence[float]]) -> float:
        """The shards' weighted values added up; NaN unless all shards that have samples gave one."""
        given = [value for values in parts for value in values if not math.isnan(value)]
        whole = len(given) == min(self._loader.num_shards, self.num_samples)
        return exact_sum(given) if given and whole else math.nan
