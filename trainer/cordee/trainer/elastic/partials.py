"""This worker's share of the tree: shard gradients folded into partial sums as they come.

A worker computes its shards from left to right. As soon as both children of a node of the tree are there, they are
added and only the sum is kept, like the carries of a binary counter, so that at most about `log2(shards)` buffers are
alive. What remains after the last shard is exactly `tree.cover` of the range.
"""

from __future__ import annotations

from cordee.trainer.elastic.protocols import Buffer
from cordee.trainer.elastic.tree import Span, parent, root, sibling

__all__ = ["PartialSums"]


class PartialSums:
    """Partial sums of one flat gradient buffer. Buffers are kept and used again by the next step."""

    def __init__(self, num_shards: int) -> None:
        self._num_shards = num_shards
        self._root = root(num_shards)
        self._spans: dict[Span, Buffer] = {}
        self._free: list[Buffer] = []

    def clear(self, working: Buffer) -> None:
        """Forgets all sums. `working` is the buffer that backward writes into; it is never handed out as a spare."""
        self._free.extend(buffer for buffer in self._spans.values() if buffer is not working)
        self._spans.clear()

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

    @property
    def spans(self) -> dict[Span, Buffer]:
        """The partial sums so far."""
        return self._spans
