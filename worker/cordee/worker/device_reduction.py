"""An exact all-reduce of vectors that lie on GPUs: the plan of `plan`, moved by whatever joins the GPUs.

Two rounds, as over TCP: everybody gets everybody's partial sums of the slice that it finishes, then everybody's
finished slice; a small vector takes one. What is sent, received and added, and in which order, depends on the plan
alone, so the bits are those of the CPU's way. `Lines` carries it out on a stream, in the order in which it is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from cordee.trainer.elastic.protocols import Buffer
from cordee.trainer.elastic.tree import Span
from cordee.worker.plan import Plan, make_plan

__all__ = ["Lines", "Moves", "make_moves", "reduce"]


@dataclass(frozen=True)
class Moves:
    """What one worker sends and receives. Between two workers, the k-th that is sent is the k-th that is received."""

    partials_sent: tuple[tuple[int, Span, int, int], ...]
    """To whom, of which partial sum, and its elements from where to where."""
    partials_received: tuple[tuple[int, Span, int, int], ...]
    """From whom, which partial sum, and from where to where in the scratch memory."""
    scratch: int
    """Elements of scratch memory."""
    sums_sent: tuple[int, ...]
    """To whom goes the slice that this worker finishes."""
    sums_received: tuple[tuple[int, int, int], ...]
    """From whom, and its elements from where to where."""


class Lines(Protocol):
    """What joins this worker's GPU with its peers'."""

    def exchange(self, sent: Sequence[tuple[int, Buffer]], received: Sequence[tuple[int, Buffer]]) -> None:
        """Sends and receives all of this at once, after all that was told before."""
        ...


@lru_cache(maxsize=64)
def make_moves(num_shards: int, size: int, elements: int, itemsize: int, rank: int) -> Moves:
    """The moves of worker `rank` in the plan of these dimensions."""
    plan = make_plan(num_shards, size, elements, itemsize)
    peers = [peer for peer in range(size) if peer != rank]
    sent = tuple((peer, span, *plan.slices[peer]) for peer in peers if plan.length(peer) for span in plan.covers[rank])
    received, at, length = [], 0, plan.length(rank)
    for peer in peers if length else ():
        for span in plan.covers[peer]:
            received.append((peer, span, at, at + length))
            at += length
    if plan.one_round:
        return Moves(sent, tuple(received), at, (), ())
    finished = tuple((peer, *plan.slices[peer]) for peer in peers if plan.length(peer))
    return Moves(sent, tuple(received), at, tuple(peers) if length else (), finished)


def reduce(
    xp: Any, num_shards: int, size: int, rank: int, partials: Mapping[Span, Buffer], out: Buffer, scratch: Buffer,
    lines: Lines,
) -> None:  # fmt: skip
    """The whole sum into `out`, on every worker; `scratch` is as long as the moves say."""
    plan = make_plan(num_shards, size, out.size, out.itemsize)
    moves = make_moves(num_shards, size, out.size, out.itemsize, rank)
    lines.exchange(
        [(peer, partials[span][start:stop]) for peer, span, start, stop in moves.partials_sent],
        [(peer, scratch[start:stop]) for peer, _, start, stop in moves.partials_received],
    )
    first, last = plan.slices[rank]
    terms = {span: partial[first:last] for span, partial in partials.items()}
    terms |= {span: scratch[start:stop] for _, span, start, stop in moves.partials_received}
    if first < last:
        _finish(xp, plan, terms, out[first:last], in_place=partials.get(plan.root) is out)
    lines.exchange(
        [(peer, out[first:last]) for peer in moves.sums_sent],
        [(peer, out[start:stop]) for peer, start, stop in moves.sums_received],
    )


def _finish(xp: Any, plan: Plan, terms: dict[Span, Buffer], place: Buffer, *, in_place: bool) -> None:
    """Adds in the tree's order, each into its left operand, the last into its place."""
    if plan.additions:
        *before, (left, right) = plan.additions
        for term, other in before:
            xp.add(terms[term], terms[other], out=terms[term])
        xp.add(terms[left], terms[right], out=place)
    elif not in_place:
        place[...] = terms[plan.root]
