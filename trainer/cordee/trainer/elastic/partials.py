"""This worker's share of the tree: shard gradients folded into partial sums as they come.

A worker computes its shards from left to right. As soon as both children of a node of the tree are there, they are
added and only the sum is kept, like the carries of a binary counter, so that at most about `log2(shards)` buffers are
alive. What remains after the last shard is exactly `tree.cover` of the range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cordee.trainer.array import array_module
from cordee.trainer.elastic.protocols import Buffer
from cordee.trainer.elastic.tree import Span, parent, root, sibling

__all__ = ["LastFold", "PartialSums"]


class LastFold:
    """A worker's last shard, folded piece by piece as its gradient becomes complete, from the end on. What is added up
    stays as it is, so that it can be done again."""

    def __init__(self, spans: Mapping[Span, Buffer], lefts: Sequence[Buffer], gradient: Buffer, out: Buffer) -> None:
        self.spans = spans
        """All of the worker's partial sums, of which one is complete where it has been folded."""
        self._lefts = lefts
        self._gradient = gradient
        self._out = out
        self._begun = 0 if gradient is None else gradient.size

    def fold(self, where: slice) -> None:
        """This piece of the gradient is complete."""
        self._begun = min(self._begun, where.start)
        right = self._gradient
        for left in self._lefts:
            array_module(left).add(left[where], right[where], out=self._out[where])
            right = self._out

    def finish(self, *, again: bool) -> None:
        """All of it is complete; `again`: and has changed."""
        if self._gradient is not None:
            self.fold(slice(0, self._gradient.size if again else self._begun))


class PartialSums:
    """Partial sums of one flat gradient buffer. Buffers are kept and used again by the next step."""

    def __init__(self, num_shards: int) -> None:
        self._num_shards = num_shards
        self._root = root(num_shards)
        self._spans: dict[Span, Buffer] = {}
        self._free: list[Buffer] = []
        self._lefts: list[Buffer] = []
        """What the last shard's gradient is added to, where that is done piece by piece."""

    def clear(self, *working: Buffer) -> None:
        """Forgets all sums. `working` are the buffers that backward writes into; these are never handed out as
        spares."""
        held = (*self._spans.values(), *self._lefts)
        self._free.extend(buffer for buffer in held if not any(buffer is other for other in working))
        self._spans.clear()
        self._lefts.clear()

    def fold(self, shard: int, gradient: Buffer, *, last: bool) -> None:
        """Adds the gradient of `shard`, which must be the one after the shard folded before.

        `gradient` is the working buffer: the next backward overwrites it, so what has to outlive this call is copied,
        but for the last shard's.
        """
        span = Span(0, shard)
        buffer = gradient
        while span != self._root:
            neighbour = sibling(span)
            if span.place % 2:
                left = self._spans.pop(neighbour, None)
                if left is None:  # another worker's shard stands to the left
                    break
                left += buffer  # in place: the sum takes the left operand's buffer
                if buffer is not gradient:
                    self._free.append(buffer)
                buffer = left
            elif neighbour.start < self._num_shards:
                break  # its right neighbour is still to come, here or elsewhere
            span = parent(span)
        if buffer is gradient and not last:
            if self._free:
                buffer = self._free.pop()
                buffer[...] = gradient
            else:
                buffer = gradient.copy()
        self._spans[span] = buffer

    def last(self, shard: int | None, gradient: Buffer) -> LastFold:
        """The last shard, to be folded piece by piece instead of by `fold`; None: this worker has no shard."""
        if shard is None:
            return LastFold({}, (), None, None)
        span = Span(0, shard)
        while span != self._root:
            if span.place % 2:
                left = self._spans.pop(sibling(span), None)
                if left is None:
                    break
                self._lefts.append(left)
            elif sibling(span).start < self._num_shards:
                break
            span = parent(span)
        out = gradient
        if self._lefts:
            out = self._free.pop() if self._free else array_module(gradient).empty_like(gradient)
        self._spans[span] = out
        return LastFold(self._spans, self._lefts, gradient, out)

    @property
    def spans(self) -> dict[Span, Buffer]:
        """The partial sums so far."""
        return self._spans
