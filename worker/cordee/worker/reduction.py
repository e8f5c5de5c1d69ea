"""One exact all-reduce in flight, from the point of view of one worker.

To each peer goes one stream: a frame, our header, our partial sums of the slice that the peer finishes, then chunk by
chunk the slice that we finish (`streams` says by which way). As soon as a chunk of our slice is here from everybody, it
is summed in the tree's order and passed on.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from cordee.worker.abort import Abort
from cordee.worker.link import Link, drive
from cordee.worker.streams import Array, Stream, Task

__all__ = ["OutOfStepError", "Reduction"]

_FRAME: Final = struct.Struct("<4sIQQI4s")
"""Kind, bytes of header, number of the operation, elements, shards, dtype."""
_KIND: Final = b"RED1"


class OutOfStepError(RuntimeError):
    """Workers of one world are not doing the same thing: the script does something else on one of them."""


@dataclass(slots=True)
class _Inbox:
    """What has come in from one peer."""

    stream: Stream
    frame: bytearray = field(default_factory=lambda: bytearray(_FRAME.size))
    header: bytearray | None = None
    """None: the frame, which tells its size, is not complete."""


class Reduction:
    """`result` is a second place for our finished slice, where the peers of this host find it."""

    def __init__(self, task: Task, streams: Mapping[int, Stream], result: Array | None) -> None:
        self._task = task
        self._plan = task.plan
        self._inboxes = {peer: _Inbox(stream) for peer, stream in streams.items()}
        self._result = result
        self._start, stop = task.plan.slices[task.rank]
        self._length = stop - self._start
        root = task.partials.get(task.plan.root)
        self._in_place = root is not None and _address(root) == _address(task.out)
        """Whether `out` is the buffer in which the tree's first sum is."""
        self._finished = 0
        """Elements of our slice that are finished."""

    def run(self, operation: int, num_shards: int, header: bytes, abort: Abort) -> list[bytes]:
        """Carries it out; every worker's header, by rank."""
        dtype = self._task.out.dtype.str.encode()
        self._expected = (_KIND, operation, self._plan.elements, num_shards, dtype)
        frame = memoryview(_FRAME.pack(_KIND, len(header), *self._expected[1:]) + header)
        for inbox in self._inboxes.values():
            inbox.stream.link.send(frame)
            inbox.stream.link.fill(memoryview(inbox.frame))
            inbox.stream.begin()
        self._advance()
        drive([inbox.stream.link for inbox in self._inboxes.values()], abort, self._received, self._work)
        if self._plan.one_round:
            # Only now: the sums are made in the very buffers that were being sent.
            self._sum(0, self._length)
        headers = {peer: bytes(inbox.header or b"") for peer, inbox in self._inboxes.items()}
        return [header if rank == self._task.rank else headers[rank] for rank in range(len(self._plan.covers))]

    def awaited(self) -> list[tuple[int, float]]:
        """The peers that are waited for, and when a byte last moved on their links; from any thread.

        Those whose partial sums are missing, if there are any: what comes after these may be late for the sake of
        others.
        """
        inboxes = [(inbox, inbox.stream) for inbox in self._inboxes.values()]
        missing = [s.link for inbox, s in inboxes if inbox.header is None or s.available < s.source.nbytes]
        links = missing or [stream.link for _, stream in inboxes if stream.link.receiving or stream.link.sending]
        return [(link.rank, link.moved_at) for link in links]

    def _work(self) -> bool:
        return sum(inbox.stream.work() for inbox in self._inboxes.values()) > 0  # a turn for each

    def _received(self, link: Link) -> None:
        inbox = self._inboxes[link.rank]
        if inbox.header is None:
            if link.receiving:
                return
            inbox.header = self._open(link, inbox.frame)
            link.fill(memoryview(inbox.header))
            inbox.stream.expect()
            link.pull()
        inbox.stream.received()
        self._advance()

    def _open(self, link: Link, frame: bytearray) -> bytearray:
        """Checks the frame; room for the header that it announces."""
        kind, header_bytes, *rest = _FRAME.unpack(frame)
        told = (kind, *rest[:-1], rest[-1].rstrip(b"\0"))
        if told != self._expected:
            raise OutOfStepError(
                f"{link.name} is at another exchange (kind, number, elements, shards, dtype: {told}) than this worker "
                f"({self._expected}): the script must do the same on every worker"
            )
        return bytearray(header_bytes)

    def _advance(self) -> None:
        """Sums the chunks of our slice of which everything is here, and passes them on."""
        if self._plan.one_round:
            return
        chunk = self._plan.chunk
        ready = self._length
        for peer, inbox in self._inboxes.items():
            if inbox.header is None:
                # Not before everybody is in this exchange: until then our outbox may still be read for the last one.
                return
            if inbox.stream.available < inbox.stream.source.nbytes:
                per_element = len(self._plan.covers[peer]) * self._plan.itemsize
                ready = min(ready, inbox.stream.available // (per_element * chunk) * chunk)
        while self._finished < ready:
            start, self._finished = self._finished, min(self._finished + chunk, ready)
            self._sum(start, self._finished)
            for inbox in self._inboxes.values():
                inbox.stream.pass_on(start, self._finished)

    def _sum(self, start: int, stop: int) -> None:
        """Finishes the tree for the elements `[start, stop)` of our slice, which lie within one chunk."""
        plan = self._plan
        own = slice(self._start + start, self._start + stop)
        terms = {span: partial[own] for span, partial in self._task.partials.items()}
        for peer, inbox in self._inboxes.items():
            cover = plan.covers[peer]
            for i, span in enumerate(cover):
                offset = start * len(cover) + i * (stop - start)
                terms[span] = inbox.stream.source[offset : offset + stop - start]
        places = [self._task.out[own]]
        if self._result is not None:
            places.insert(0, self._result[start:stop])
        if plan.additions:
            *before, (left, right) = plan.additions
            for term, other in before:
                if self._task.keep and term in self._task.partials:
                    terms[term] = np.add(terms[term], terms[other])
                else:
                    np.add(terms[term], terms[other], out=terms[term])
            np.add(terms[left], terms[right], out=places[0])
        elif self._result is not None or not self._in_place:
            np.copyto(places[0], terms[plan.root])
        for place in places[1:]:
            np.copyto(place, places[0])


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
