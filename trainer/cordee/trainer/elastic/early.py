"""Gradients that travel while backward still runs.

A worker's last shard is all that its peers wait for. Backward reaches the last layers first, and their gradients lie at
the end of the flat storage: so that is cut into *buckets*, which are exchanged one after the other, from the end on.
Each is summed over the workers as soon as it is complete here, while backward computes what comes before it. The fixed
tree adds number by number, so neither the buckets nor their timing can change a bit.

All workers exchange the same buckets in the same order, each when it gets to it: nothing needs to be agreed on, and a
worker that sends nothing early (since it has no shard, or changes its gradients) only lets the others wait, as they
would without all this. The first bucket of the storage is the last one to travel. It is complete when backward is over,
and takes the header along.

When is a gradient complete? Backward says whenever one arrives at a parameter, and how often it does so is taken to be
what it was in the step before. What is sent can still be looked at, and be changed: by another backward, a hook, the
script. So the sums land in another buffer, and the worker's own gradients stay as they are until all is there. If some
have changed since they were sent, the header says so, and every worker exchanges these buckets again. A script that
does it a third time goes on without sending early.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from sys import getrefcount
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cordee.trainer.autograd.arrive import WATCHED
from cordee.trainer.elastic.partials import LastFold
from cordee.trainer.tensors import Leaf, Tensor, wrap

if TYPE_CHECKING:
    from cordee.trainer.elastic.protocols import Buffer, Communicator
    from cordee.trainer.elastic.sums import GradientSums
    from cordee.trainer.elastic.tree import Span
    from cordee.trainer.optim.flat import FlatGroup

__all__ = ["BUCKET_BYTES", "Bucket", "EarlyExchange", "cut"]

BUCKET_BYTES = 4 << 20
"""A bucket has at least so many bytes: enough that an exchange of its own is worth its messages."""
_PATIENCE = 3
"""After so many steps in which what was sent had to be sent again, nothing is sent early any more."""


class Bucket(NamedTuple):
    """A stretch of one group's flat storage, from one parameter to another."""

    group: int
    where: slice
    parameters: range
    """Which of the group's."""


def cut(groups: Sequence[FlatGroup], least_bytes: int) -> tuple[Bucket, ...]:
    """The buckets, in the order in which they travel: from the last group's end to the first group's begin."""
    found: list[Bucket] = []
    for number, group in reversed(list(enumerate(groups))):
        starts = [each.start for each in group.slices]
        stop, last = group.size, len(starts)
        for index in reversed(range(len(starts))):
            if index and (stop - starts[index]) * group.dtype.itemsize < least_bytes:
                continue
            found.append(Bucket(number, slice(starts[index], stop), range(index, last)))
            stop, last = starts[index], index
    return tuple(found)


class _Sent(Tensor):
    """A gradient that has been sent. Whoever wants its numbers, to read or to change, has it remembered as it was."""

    __slots__ = ("_array", "_before")

    _array: Any
    _before: Any

    def remember(self) -> None:
        if self._before is None:
            self._before = self._array.copy()

    @property
    def data(self) -> Any:
        self.remember()
        return self._array

    @data.setter
    def data(self, array: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if array is not self._array:
            self._array[...] = array

    # A copy is an ordinary tensor.

    def __copy__(self) -> Tensor:
        return copy.copy(wrap(self.data))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return copy.deepcopy(wrap(self.data), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return wrap(self.data).__reduce_ex__(protocol)

    def changed(self) -> bool:
        """Whether its numbers are others by now."""
        return self._before is not None and self._before.tobytes() != self._array.tobytes()


def _references_of_a_local() -> int:
    local = object()
    return getrefcount(local)


_ALONE = _references_of_a_local()
"""How often Python says that something is referred to that a function holds, and nobody else."""


def _sent(array: Any) -> _Sent:
    tensor = _Sent.__new__(_Sent)
    tensor._array, tensor._before = array, None
    tensor._node = tensor._grad = tensor._sink = None
    return tensor


class EarlyExchange:
    """Of a run's only optimiser. Lives as long as the run."""

    def __init__(self, sums: GradientSums, least_bytes: int | None = None) -> None:
        self._sums = sums
        self._groups: tuple[FlatGroup, ...] = tuple(sums.optimizer.groups)
        self.buckets = cut(self._groups, BUCKET_BYTES if least_bytes is None else least_bytes)
        self._places: dict[int, int] = {}
        """By a parameter's `id`: the number of its bucket."""
        for number, bucket in enumerate(self.buckets):
            for parameter in self._parameters(bucket):
                self._places[id(parameter)] = number
        self._usual: dict[int, int] | None = None
        """By a parameter's `id`, how often gradients arrived at it in the last shard of the step before; None: it is
        not known."""
        self._counts: dict[int, int] = {}
        self._missing: list[int] = []
        """By bucket, how many of its parameters are not complete."""
        self._sends = False
        """Whether anything of the shard at hand may be sent before it is over."""
        self._marks: dict[int, _Sent | None] = {}
        """By a parameter's `id`, what its gradient was made when it was sent; None: it had none."""
        self._folds: list[LastFold] = []
        self._watched: list[Leaf] = []
        self._communicator: Communicator | None = None
        self._num_shards = 0
        self.num_sent = 0
        """How many buckets have been handed to the exchange in this pass."""
        self.num_early = 0
        """How many of these before the shard was over."""
        self.redo = 0
        """How many have to be exchanged again for this worker's sake."""
        self._num_spoiled = 0

    @property
    def worthwhile(self) -> bool:
        """Whether there is something to send before the last bucket; the same on all workers."""
        return len(self.buckets) > 1 and all(isinstance(group.grad, np.ndarray) for group in self._groups)

    def _parameters(self, bucket: Bucket) -> Sequence[Any]:
        return self._groups[bucket.group].parameters[bucket.parameters.start : bucket.parameters.stop]

    # A shard

    def begin(self) -> None:
        """The shards are gone through from the first one on."""
        self.unwatch()
        self.num_sent = self.num_early = self.redo = 0
        self._marks.clear()
        self._folds = []

    def watch(self, communicator: Communicator, shard: int, num_shards: int) -> None:
        """This is the worker's last shard: sends what is complete as backward goes on."""
        self._communicator, self._num_shards = communicator, num_shards
        self._folds = self._sums.last_folds(shard)
        self._counts = dict.fromkeys(self._places, 0)
        self._sends = self._usual is not None and self._num_spoiled < _PATIENCE and communicator.beside
        usual = self._usual if self._sends else None
        if usual is None:
            self._missing = [len(bucket.parameters) for bucket in self.buckets]
        else:
            self._missing = [sum(usual[id(p)] > 0 for p in self._parameters(b)) for b in self.buckets]
        leaves = (parameter._node for bucket in self.buckets for parameter in self._parameters(bucket))
        self._watched = [leaf for leaf in leaves if isinstance(leaf, Leaf)]
        WATCHED.update(dict.fromkeys(self._watched, self._arrived))

    def unwatch(self) -> None:
        """The shard is over."""
        for leaf in self._watched:
            WATCHED.pop(leaf, None)
        self._watched.clear()

    def _arrived(self, parameter: Tensor) -> None:
        """Backward has added to this gradient."""
        key = id(parameter)
        count = self._counts[key] = self._counts[key] + 1
        if not self._sends or self._usual is None or count != self._usual[key]:
            return
        self._missing[self._places[key]] -= 1
        # The last one has to wait for its header, and there is nothing left to be computed beside it.
        while self.num_sent < len(self.buckets) - 1 and not self._missing[self.num_sent]:
            self._mark(self.buckets[self.num_sent])
            self._send(self.buckets[self.num_sent])
            self.num_early = self.num_sent

    def _mark(self, bucket: Bucket) -> None:
        group = self._groups[bucket.group]
        for index in bucket.parameters:
            parameter, sink = group.parameters[index], group.sink(index)
            held = parameter._grad
            if held is None:
                sink[...] = 0
                self._marks[id(parameter)] = None
            elif held.data is sink:
                parameter._grad = self._marks[id(parameter)] = mark = _sent(sink)
                if getrefcount(held) > _ALONE:  # a script or a hook has kept it, and may write into it
                    mark.remember()
            # Else it lies elsewhere, and is fetched when the shard is over: then it has changed.

    def _send(self, bucket: Bucket) -> None:
        assert self._communicator is not None
        self._folds[bucket.group].fold(bucket.where)
        partials, out = self._pieces(bucket)
        self._communicator.begin(partials, out, num_shards=self._num_shards)
        self.num_sent += 1

    def _pieces(self, bucket: Bucket) -> tuple[dict[Span, Buffer], Buffer]:
        """This worker's partial sums of a bucket, and where its sum is to land."""
        spans = self._folds[bucket.group].spans
        partials = {span: buffer[bucket.where] for span, buffer in spans.items()}
        return partials, self._groups[bucket.group].landing[bucket.where]

    def fold(self) -> None:
        """The last shard is over: what of it was sent is looked at, and the rest is folded."""
        self.unwatch()
        self._usual = dict(self._counts)
        for number, bucket in enumerate(self.buckets[: self.num_early]):
            for parameter in self._parameters(bucket):
                if not self._unchanged(parameter):
                    self.redo = number + 1
        self._num_spoiled += self.redo > 0

    def _unchanged(self, parameter: Any) -> bool:
        """Whether a gradient is still what was sent; afterwards it is an ordinary tensor again."""
        held, mark = parameter._grad, self._marks.get(id(parameter), False)
        if mark is None:
            return held is None
        if held is not mark or not isinstance(held, _Sent):
            return False
        parameter._grad = wrap(held._array)
        return not held.changed()

    # The exchange

    def exchange(self, communicator: Communicator, num_shards: int, header: bytes) -> list[bytes]:
        """Sends what has not been sent; all workers' headers. The sums are where they are to land (see `land`)."""
        if not self._folds:  # this worker has no shard
            self._folds = self._sums.last_folds(None)
        for fold in self._folds:
            fold.finish(again=self.redo > 0)
        for bucket in self.buckets[self.num_sent : -1]:
            self._exchange(communicator, bucket, num_shards, keep=True)
        return self._exchange(communicator, self.buckets[-1], num_shards, header=header)

    def again(self, communicator: Communicator, num_shards: int, number: int) -> None:
        """Exchanges the first `number` buckets once more: some worker had changed them since it sent them."""
        for bucket in self.buckets[:number]:
            self._exchange(communicator, bucket, num_shards)

    def _exchange(self, communicator: Communicator, bucket: Bucket, num_shards: int, **options: Any) -> list[bytes]:
        partials, out = self._pieces(bucket)
        return communicator.all_reduce(partials, out, num_shards=num_shards, **options)

    def land(self) -> None:
        """All is there: the sums are the groups' gradients from now on."""
        for group in self._groups:
            group.land()
