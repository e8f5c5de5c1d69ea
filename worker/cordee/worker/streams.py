"""How partial sums and finished slices get from one worker to another, in one all-reduce: two ways, one behaviour.

Either way the partial sums travel chunk by chunk (all spans' first chunk, then all spans' second one): so a chunk can
be summed, still warm in the cache, and passed on, while the next ones are on their way.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from cordee.trainer.elastic.tree import Span
from cordee.worker.link import Link
from cordee.worker.plan import Plan
from cordee.worker.shared import HEAD_BYTES, Outbox, Window

__all__ = ["Array", "SharedStream", "Stream", "Task", "TcpStream", "bytes_of"]

Array = np.ndarray[Any, Any]

_BELL: Final = struct.Struct("<QQ")
"""How much of the partial sums, and of the finished slice, is in the outbox by now, in bytes."""


@dataclass(frozen=True)
class Task:
    """The all-reduce that all streams of a worker serve."""

    plan: Plan
    rank: int
    partials: Mapping[Span, Array]
    out: Array
    keep: bool = False
    """Whether the partial sums are to stay as they are."""

    def slice_bytes(self, rank: int) -> memoryview:
        """The memory of `out` that `rank` finishes."""
        start, stop = self.plan.slices[rank]
        return bytes_of(self.out[start:stop])


class Stream(Protocol):
    """From and to one peer, after both frames and headers. Never blocks."""

    link: Link
    source: Array
    """The peer's partial sums of our slice: chunk by chunk, span by span."""
    available: int
    """How many bytes of `source` are there."""

    def begin(self) -> None:
        """Our frame is queued: the partial sums follow."""
        ...

    def expect(self) -> None:
        """The peer's frame is here: queues what follows it for receiving."""
        ...

    def received(self) -> None:
        """More has come in."""
        ...

    def work(self) -> bool:
        """Copies a little of what has to be copied; whether there was anything."""
        ...

    def pass_on(self, start: int, stop: int) -> None:
        """The elements `[start, stop)` of our slice are finished."""
        ...


class TcpStream:
    """All bytes through the socket, straight from and to where they belong."""

    def __init__(self, task: Task, link: Link, scratch: memoryview) -> None:
        self.link = link
        self.source = np.frombuffer(scratch, task.out.dtype)
        self.available = 0
        self._task = task
        self._begun = 0
        self._result = task.slice_bytes(task.rank)

    def begin(self) -> None:
        plan = self._task.plan
        start, stop = (cut * plan.itemsize for cut in plan.slices[self.link.rank])
        pieces = [bytes_of(self._task.partials[span])[start:stop] for span in plan.covers[self._task.rank]]
        chunk = plan.chunk * plan.itemsize if len(pieces) > 1 else max(stop - start, 1)
        for at in range(0, stop - start, chunk):
            for piece in pieces:
                self.link.send(piece[at : at + chunk])

    def expect(self) -> None:
        self._begun = self.link.received + self.link.expected
        self.link.fill(bytes_of(self.source))
        if not self._task.plan.one_round:
            self.link.fill(self._task.slice_bytes(self.link.rank))

    def received(self) -> None:
        self.available = min(max(self.link.received - self._begun, 0), self.source.nbytes)

    def work(self) -> bool:
        return False

    def pass_on(self, start: int, stop: int) -> None:
        itemsize = self._task.plan.itemsize
        self.link.send(self._result[start * itemsize : stop * itemsize])


class SharedStream:
    """Bytes through the outboxes; through the socket only how many are there."""

    def __init__(self, task: Task, link: Link, outbox: Outbox, window: Window) -> None:
        plan, dtype = task.plan, task.out.dtype
        self.link = link
        self.available = 0
        self._task = task
        self._window = window
        self._layout = plan.layout(task.rank, HEAD_BYTES)
        place, nbytes = self._layout.partials[link.rank], plan.partials_bytes(task.rank, link.rank)
        self._outgoing = outbox.memory(self._layout.stop)[place : place + nbytes].view(dtype)
        self._copied = 0
        """Elements of the peer's slice of which our partial sums are in the outbox."""
        self._passed_on = 0
        """Elements of our finished slice that are in the outbox."""
        self.source = np.empty(0, dtype)
        self._results = np.empty(0, dtype)
        self._taken = 0
        """Elements of the peer's finished slice that we have."""
        self._bell = bytearray(_BELL.size)

    def begin(self) -> None:
        pass

    def work(self) -> bool:
        plan, cover = self._task.plan, self._task.plan.covers[self._task.rank]
        start, stop = plan.slices[self.link.rank]
        if start + self._copied >= stop or not cover:
            return False
        begin = start + self._copied
        end = min(begin + plan.chunk, stop)
        at = self._copied * len(cover)
        for span in cover:
            self._outgoing[at : at + end - begin] = self._task.partials[span][begin:end]
            at += end - begin
        self._copied += end - begin
        self._ring()
        return True

    def pass_on(self, start: int, stop: int) -> None:
        assert start == self._passed_on
        self._passed_on = stop
        self._ring()

    def _ring(self) -> None:
        itemsize, num_spans = self._task.plan.itemsize, len(self._task.plan.covers[self._task.rank])
        self.link.send(memoryview(_BELL.pack(self._copied * num_spans * itemsize, self._passed_on * itemsize)))
        self.link.push()

    def expect(self) -> None:
        task, peer = self._task, self.link.rank
        layout = task.plan.layout(peer, HEAD_BYTES)
        memory = self._window.memory(layout.stop)
        place = layout.partials[task.rank]
        self.source = memory[place : place + task.plan.partials_bytes(peer, task.rank)].view(task.out.dtype)
        self._results = memory[layout.result : layout.stop].view(task.out.dtype)
        self._listen()

    def _listen(self) -> None:
        if self.available < self.source.nbytes or self._taken < self._results.size:
            self.link.fill(memoryview(self._bell))

    def received(self) -> None:
        while not self.link.receiving and (self.available < self.source.nbytes or self._taken < self._results.size):
            self.available, results = _BELL.unpack(self._bell)
            taken, self._taken = self._taken, results // self._task.plan.itemsize
            if self._taken > taken:
                start, _ = self._task.plan.slices[self.link.rank]
                self._task.out[start + taken : start + self._taken] = self._results[taken : self._taken]
            self._listen()
            self.link.pull()


def bytes_of(array: Array) -> memoryview:
    """The array's memory, as bytes."""
    return array.data.cast("B") if array.size else memoryview(bytearray())
