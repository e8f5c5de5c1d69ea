"""One exact all-reduce in flight, from the point of view of one worker.

To each peer goes one stream: a frame, our header, our partial sums of the slice that the peer finishes, then chunk by
chunk the slice that we finish. The partial sums travel chunk by chunk too (all spans' first chunk, then all spans'
second one): so a chunk can be summed, still warm in the cache, and passed on, while the next ones are on their way.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from cordee.trainer.elastic.tree import Span
from cordee.worker.abort import Abort
from cordee.worker.link import Link, drive
from cordee.worker.plan import Plan

__all__ = ["OutOfStepError", "Reduction"]

_FRAME: Final = struct.Struct("<4sIQQI4s")
"""Kind, bytes of header, number of the operation, elements, shards, dtype."""
_KIND: Final = b"RED1"

Array = np.ndarray[Any, Any]


class OutOfStepError(RuntimeError):
    """Workers of one world are not doing the same thing: the script does something else on one of them."""


@dataclass(slots=True)
class _Inbox:
    """What has come in from one peer, and what is expected."""

    source: Array
    """Its partial sums of our slice, as they come: chunk by chunk, span by span."""
    num_spans: int
    frame: bytearray = field(default_factory=lambda: bytearray(_FRAME.size))
    header: bytearray | None = None
    """None: the frame, which tells its size, is not complete."""
    payload: int = -_FRAME.size
    """Bytes received after the frame and the header; negative: those are not complete."""


class Reduction:
    """`scratch` has room for what the others send: `plan.incoming(rank)` elements."""

    def __init__(
        self,
        plan: Plan,
        *,
        rank: int,
        links: Mapping[int, Link],
        partials: Mapping[Span, Array],
        out: Array,
        scratch: memoryview,
    ) -> None:
        self._plan = plan
        self._rank = rank
        self._links = links
        self._partials = partials
        self._out = out
        self._out_bytes = bytes_of(out)
        self._start, stop = plan.slices[rank]
        self._length = stop - self._start
        self._done = 0
        """Elements of our slice that are finished."""
        self._inboxes: dict[int, _Inbox] = {}
        elements = np.frombuffer(scratch, out.dtype)
        offset = 0
        for peer in links:
            num_spans = len(plan.covers[peer])
            size = num_spans * self._length
            self._inboxes[peer] = _Inbox(elements[offset : offset + size], num_spans)
            offset += size

    def run(self, operation: int, num_shards: int, header: bytes, abort: Abort) -> list[bytes]:
        """Carries it out; every worker's header, by rank."""
        self._expected = (_KIND, operation, self._out.size, num_shards, self._out.dtype.str.encode())
        kind, *rest = self._expected
        frame = memoryview(_FRAME.pack(kind, len(header), *rest) + header)
        for peer, link in self._links.items():
            link.send(frame)
            self._send_partials(peer, link)
            link.fill(memoryview(self._inboxes[peer].frame))
        if not self._plan.one_round:
            self._advance()
        drive(self._links.values(), abort, self._received)
        if self._plan.one_round:
            # Only now: the sums are made in the very buffers that were being sent.
            self._sum(0, self._length)
        headers = {peer: bytes(inbox.header or b"") for peer, inbox in self._inboxes.items()}
        return [header if rank == self._rank else headers[rank] for rank in range(len(self._plan.covers))]

    def _send_partials(self, peer: int, link: Link) -> None:
        start, stop = self._plan.slices[peer]
        itemsize, cover = self._out.itemsize, self._plan.covers[self._rank]
        pieces = [bytes_of(self._partials[span]) for span in cover]
        chunk = self._plan.chunk if len(pieces) > 1 else max(stop - start, 1)
        for at in range(start, stop, chunk):
            for piece in pieces:
                link.send(piece[at * itemsize : min(at + chunk, stop) * itemsize])

    def _received(self, link: Link, nbytes: int) -> None:
        inbox = self._inboxes[link.rank]
        inbox.payload += nbytes
        if inbox.header is None:
            if link.receiving:
                return
            inbox.header = self._open(link, inbox.frame)
            inbox.payload -= len(inbox.header)
            link.fill(memoryview(inbox.header))
            link.fill(bytes_of(inbox.source))
            if not self._plan.one_round:
                start, stop = self._plan.slices[link.rank]
                link.fill(self._out_bytes[start * self._out.itemsize : stop * self._out.itemsize])
            inbox.payload += link.pull()
        if not self._plan.one_round:
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
        chunk, itemsize = self._plan.chunk, self._out.itemsize
        ready = self._length
        for inbox in self._inboxes.values():
            payload = max(inbox.payload, 0)
            if payload < inbox.source.nbytes:
                ready = min(ready, payload // (inbox.num_spans * chunk * itemsize) * chunk)
        while self._done < ready:
            start, self._done = self._done, min(self._done + chunk, ready)
            self._sum(start, self._done)
            result = self._out_bytes[(self._start + start) * itemsize : (self._start + self._done) * itemsize]
            for link in self._links.values():
                link.send(result)

    def _sum(self, start: int, stop: int) -> None:
        """Finishes the tree for the elements `[start, stop)` of our slice, which lie within one chunk."""
        own = slice(self._start + start, self._start + stop)
        terms = {span: partial[own] for span, partial in self._partials.items()}
        for peer, inbox in self._inboxes.items():
            for i, span in enumerate(self._plan.covers[peer]):
                offset = start * inbox.num_spans + i * (stop - start)
                terms[span] = inbox.source[offset : offset + stop - start]
        result = self._out[own]
        if not self._plan.additions:
            if terms[self._plan.root] is not self._out:
                np.copyto(result, terms[self._plan.root])
            return
        *before, (left, right) = self._plan.additions
        for term, other in before:
            np.add(terms[term], terms[other], out=terms[term])
        np.add(terms[left], terms[right], out=result)


def bytes_of(array: Array) -> memoryview:
    """The array's memory, as bytes."""
    return array.data.cast("B") if array.size else memoryview(bytearray())
