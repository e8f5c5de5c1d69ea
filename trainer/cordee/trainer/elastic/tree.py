"""The one binary tree that every gradient sum follows, whatever the world.

Floating-point addition is not associative, so the same gradients summed in another order give other bits. Shards are
therefore summed in one fixed tree over their indices: the node `(level, place)` covers the shards
`[place * 2**level, (place + 1) * 2**level)` that exist, and its sum is its left child's plus its right child's (or
the left child's alone when the right one covers no shard). A worker that is dealt a contiguous range of shards can
sum every node that lies inside it; the maximal such nodes are its *cover*, at most about `2 * log2(num_shards)` of
them, and the workers need to exchange nothing but those.

Everything here is pure arithmetic on integers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

__all__ = ["Span", "combine_order", "cover", "deal", "parent", "root", "sibling"]


class Span(NamedTuple):
    """A node of the tree, by its place: it covers the existing shards in `[place << level, (place + 1) << level)`."""

    level: int
    place: int

    @property
    def start(self) -> int:
        return self.place << self.level

    @property
    def stop(self) -> int:
        """One past the last shard it would cover if all existed."""
        return (self.place + 1) << self.level


def root(num_shards: int) -> Span:
    """The node that covers every shard."""
    _check(num_shards)
    return Span((num_shards - 1).bit_length(), 0)


def parent(span: Span) -> Span:
    return Span(span.level + 1, span.place >> 1)


def sibling(span: Span) -> Span:
    return Span(span.level, span.place ^ 1)


@lru_cache(maxsize=4096)
def deal(num_shards: int, size: int) -> tuple[tuple[int, int], ...]:
    """The contiguous range `[start, stop)` of shards of each rank: as even as can be; empty when there are too few."""
    _check(num_shards)
    if size < 1:
        raise ValueError(f"a world has at least one worker, got {size}")
    return tuple((rank * num_shards // size, (rank + 1) * num_shards // size) for rank in range(size))


@lru_cache(maxsize=4096)
def cover(start: int, stop: int, num_shards: int) -> tuple[Span, ...]:
    """The fewest nodes that cover exactly the shards `[start, stop)`, from left to right."""
    _check(num_shards)
    if not 0 <= start <= stop <= num_shards:
        raise ValueError(f"no such range of shards: [{start}, {stop}) of {num_shards}")
    spans: list[Span] = []

    def visit(span: Span) -> None:
        covered_stop = min(span.stop, num_shards)
        if span.start >= stop or covered_stop <= start or span.start >= num_shards:
            return
        if start <= span.start and covered_stop <= stop:
            spans.append(span)
            return
        visit(Span(span.level - 1, span.place * 2))
        visit(Span(span.level - 1, span.place * 2 + 1))

    visit(root(num_shards))
    return tuple(spans)


@lru_cache(maxsize=4096)
def combine_order(num_shards: int, size: int) -> tuple[tuple[Span, Span], ...]:
    """The additions `(left, right)` that finish the tree from all workers' covers; each sum takes the left one's place.

    The result of an addition is named by its left operand: whoever carries them out adds `right` into the buffer of
    `left` in place, in this order, and finds the root's sum in the buffer of the very first span (shard 0's).
    """
    held: list[Span] = []
    for start, stop in deal(num_shards, size):
        held.extend(cover(start, stop, num_shards))
    # `names` maps a tree node to the span whose buffer holds its sum.
    names = {span: span for span in held}
    additions: list[tuple[Span, Span]] = []
    for level in range(root(num_shards).level):
        for span in sorted(node for node in names if node.level == level):
            if span.place % 2:
                continue
            right = sibling(span)
            left_name = names.pop(span)
            if right in names:
                additions.append((left_name, names.pop(right)))
            names[parent(span)] = left_name
    assert list(names) == [root(num_shards)]
    return tuple(additions)


def _check(num_shards: int) -> None:
    if num_shards < 1:
        raise ValueError(f"a global batch has at least one shard, got {num_shards}")
