"""What an exact all-reduce of given dimensions consists of: who sends which bytes where. Pure, and computed once.

The flat vector is cut into one slice per worker. Every worker sends slice `j` of its partial sums to worker `j`, which
finishes the tree for it and sends the finished slice to everybody. A small vector is not worth two rounds: there every
worker's slice is the whole vector, everybody sends its partial sums to everybody, and each finishes the tree itself.
The additions and their order are the same either way, so the bits are too.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cordee.trainer.elastic import tree
from cordee.trainer.elastic.tree import Span

__all__ = ["Layout", "Plan", "make_plan"]

_ALIGN_BYTES: Final = 64
CHUNK_BYTES: Final = 1 << 20
"""At most this many bytes of a slice are summed and passed on together: few enough to stay in a core's cache."""
_MIN_CHUNK_BYTES: Final = 128 << 10
_CHUNKS: Final = 4
"""Into so many chunks a slice is cut if they are not too small or too large: while one is summed, others are moved."""
ONE_ROUND_BYTES: Final = 64 << 10
"""Up to this many bytes of vector, everybody sends everything to everybody."""
SHARED_BYTES: Final = 512 << 10
"""From this many bytes of vector on, shared memory is worth its announcements."""


@dataclass(frozen=True)
class Layout:
    """Where things lie in a worker's outbox, in bytes, for one all-reduce."""

    partials: tuple[int, ...]
    """By rank of the reader: where its slice of our partial sums begins."""
    result: int
    """Where the slice that we finish begins."""
    stop: int
    """The end of it all."""


@dataclass(frozen=True)
class Plan:
    """One all-reduce, as all its workers see it."""

    elements: int
    itemsize: int
    covers: tuple[tuple[Span, ...], ...]
    """By rank: the spans it holds, in the order in which they are sent."""
    additions: tuple[tuple[Span, Span], ...]
    """`tree.combine_order`: carried out in turn, each into its left operand."""
    root: Span
    """The span whose buffer holds the sum in the end."""
    slices: tuple[tuple[int, int], ...]
    """By rank: the elements it finishes."""
    one_round: bool
    """Whether every worker finishes every element, so that nothing needs to be passed on."""
    shared: bool
    """Whether workers that share memory use it."""
    chunk: int
    """Elements that are summed and passed on together."""

    def length(self, rank: int) -> int:
        """Elements of the slice that `rank` finishes."""
        start, stop = self.slices[rank]
        return stop - start

    def partials_bytes(self, sender: int, receiver: int) -> int:
        """Bytes of `sender`'s partial sums that `receiver` needs."""
        return self.length(receiver) * len(self.covers[sender]) * self.itemsize

    def layout(self, rank: int, begin: int) -> Layout:
        """The outbox of `rank`, whose first `begin` bytes are taken."""
        places: list[int] = []
        at = begin
        for peer in range(len(self.slices)):
            places.append(at)
            if peer != rank:
                at = _aligned(at + self.partials_bytes(rank, peer))
        return Layout(tuple(places), at, at + self.length(rank) * self.itemsize)


@lru_cache(maxsize=64)
def make_plan(num_shards: int, size: int, elements: int, itemsize: int) -> Plan:
    """The plan for a vector of `elements`, summed from `num_shards` by `size` workers."""
    covers = tuple(tree.cover(start, stop, num_shards) for start, stop in tree.deal(num_shards, size))
    additions = tree.combine_order(num_shards, size)
    root = min((span for cover in covers for span in cover), key=lambda span: span.start)
    one_round = elements * itemsize <= ONE_ROUND_BYTES
    align = max(1, _ALIGN_BYTES // itemsize)
    if one_round:
        slices = ((0, elements),) * size
    else:
        blocks = -(-elements // align)
        cuts = [min(rank * blocks // size * align, elements) for rank in range(size + 1)]
        slices = tuple(itertools.pairwise(cuts))
    shared = elements * itemsize >= SHARED_BYTES
    chunk_bytes = min(max(elements * itemsize // size // _CHUNKS, _MIN_CHUNK_BYTES), CHUNK_BYTES)
    chunk = max(elements, 1) if one_round else chunk_bytes // _ALIGN_BYTES * align
    return Plan(elements, itemsize, covers, additions, root, slices, one_round, shared, chunk)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGN_BYTES) * _ALIGN_BYTES
