"""One optimiser's gradients during a step: folded shard by shard, summed over the workers, applied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cordee.trainer.elastic.partials import LastFold, PartialSums
from cordee.trainer.elastic.tree import cover, deal
from cordee.trainer.optim.snapshot import Snapshot

if TYPE_CHECKING:
    from cordee.trainer.elastic.protocols import Communicator
    from cordee.trainer.optim import Optimizer

__all__ = ["GradientSums", "all_reduce", "find"]


class GradientSums:
    """Lives as long as the run: its memory is used again by every step."""

    def __init__(self, name: str, optimizer: Optimizer, num_shards: int) -> None:
        """`name`: among the run's optimisers; "" where there is only one."""
        self.name = name
        self.optimizer = optimizer
        self._num_shards = num_shards
        self._groups = tuple(optimizer.groups)
        self._partials = [PartialSums(num_shards) for _ in self._groups]
        self.touched: npt.NDArray[np.bool_] = np.zeros(sum(len(group.parameters) for group in self._groups), np.bool_)
        """Which parameters have a gradient from any shard so far."""
        self._in_pieces = False
        """Whether the last shard is folded by somebody else."""
        self._snapshot: Snapshot | None = None

    def begin(self) -> None:
        """The shards are gone through from the first one on.

        Raises:
            RuntimeError: the optimiser has got other parameters since the run was made.
        """
        if len(self.optimizer.groups) != len(self._groups):
            raise RuntimeError(
                "the optimizer has got another parameter group since elastic.Run was made: workers that join make it "
                "anew and could not take its state. Make all groups before, with parameters that are frozen for now "
                "(requires_grad_(False))"
            )
        for group, partials in zip(self._groups, self._partials, strict=True):
            partials.clear(group.grad, *([group.landing] if group.has_landing else ()))
        self.touched[:] = False
        self._in_pieces = False

    def fold(self, shard: int, *, last: bool) -> bool:
        """Adds what backward has left for a shard. Returns whether there was any gradient."""
        offset, any_touched = 0, False
        for group, partials in zip(self._groups, self._partials, strict=True):
            count = len(group.parameters)
            touched = group.touched()
            self.touched[offset : offset + count] |= touched
            any_touched = any_touched or bool(touched.any())
            offset += count
            group.fill_untouched()
            if not (last and self._in_pieces):
                partials.fold(shard, group.grad, last=last)
        return any_touched

    def last_folds(self, shard: int | None) -> list[LastFold]:
        """By group, the last shard, to be folded piece by piece; None: this worker has no shard."""
        self._in_pieces = True
        return [p.last(shard, group.grad) for group, p in zip(self._groups, self._partials, strict=True)]

    def all_reduce(self, communicator: Communicator, header: bytes) -> list[bytes]:
        """Sums over all workers; the sums end in the groups' own gradients. Returns all workers' headers."""
        packed: list[bytes] = []
        for group, partials in zip(self._groups, self._partials, strict=True):
            received = communicator.all_reduce(
                partials.spans, group.grad, num_shards=self._num_shards, header=b"" if packed else header
            )
            packed = packed or received
        return packed

    def mark(self, touched: npt.NDArray[np.bool_]) -> None:
        """These parameters have a gradient, on whichever worker."""
        offset = 0
        for group in self._groups:
            group.mark_touched(touched[offset : offset + len(group.parameters)])
            offset += len(group.parameters)

    def apply(self) -> None:
        """The update."""
        held_by, self.optimizer.held_by = self.optimizer.held_by, None
        try:
            self.optimizer.step()
        finally:
            self.optimizer.held_by = held_by

    def snapshot(self) -> Snapshot:
        """A copy of all that an update changes."""
        if self._snapshot is None:
            self._snapshot = Snapshot(self.optimizer)
        self._snapshot.take()
        return self._snapshot


def all_reduce(
    communicator: Communicator, chosen: Sequence[GradientSums], *, num_shards: int, header: bytes
) -> list[bytes]:
    """Sums the gradients of these optimisers over all workers, and returns all workers' headers. With none of them,
    only the headers are exchanged."""
    packed: list[bytes] = []
    for sums in chosen:
        received = sums.all_reduce(communicator, b"" if packed else header)
        packed = packed or received
    if chosen:
        return packed
    spans = cover(*deal(num_shards, communicator.size)[communicator.rank], num_shards)
    nothing = {span: np.zeros(1, np.float32) for span in spans}
    return communicator.all_reduce(nothing, np.zeros(1, np.float32), num_shards=num_shards, header=header)


def find(sums: Sequence[GradientSums], optimizer: Optimizer | str) -> GradientSums:
    """That of an optimiser, or of a name. Raises `ValueError` when there is none."""
    for each in sums:
        if optimizer is each.optimizer or (isinstance(optimizer, str) and optimizer and optimizer == each.name):
            return each
    names = ", ".join(repr(each.name) for each in sums if each.name)
    raise ValueError(f"this run has no such optimizer: {optimizer!r}" + (f"; it has {names}" if names else ""))
