"""Cuts flat buffers into the blocks that an update sees: whole, or in parts that stay in the processor's caches.

What is cut the same way every time (a group that is one block) is cut once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.optim.block import Block
from cordee.trainer.optim.flat import FlatGroup, Segment
from cordee.trainer.optim.fusing import LEAST, FusedUpdate
from cordee.trainer.optim.masters import has_masters, update_masters

__all__ = ["Cutter"]

_BLOCK_ELEMENTS = 131072
_WIDENED_ELEMENTS = 4 << 20
"""On a GPU, 16-bit parameters are updated in stretches of so many, because they are widened to 32 bits meanwhile."""

Update = Callable[[Block], None]


class Cutter:
    """Of one optimiser: the memory for what an update keeps for a moment, and the blocks that stay as they are."""

    def __init__(self, name: str, num_scratch: int) -> None:
        self._name = name
        self._fused = FusedUpdate(name, num_scratch)
        self._num_scratch = num_scratch
        self._scratch: dict[Any, list[Any]] = {}
        self._whole: dict[tuple[int, int], tuple[tuple[str, ...], Block]] = {}
        """By group and its gradients' buffer, of which there may be two in turn."""

    def forget(self) -> None:
        """The arrays may have become others."""
        self._whole.clear()

    def update(self, update: Update, group: FlatGroup, segment: Segment, names: tuple[str, ...]) -> None:
        """Hands a part of the buffers to `update`, block by block; `names` are those of the state that it needs."""
        where, count, numbers, _ = segment
        options, data, size = group.options, group.data, group.size
        is_whole = where.stop - where.start == size
        known = self._whole.get((id(group), id(group.grad))) if is_whole else None
        if known is not None and known[0] == names:
            whole = known[1]
            whole.count, whole.numbers = count, numbers
            update(whole)
            return
        if (size >= LEAST or type(data) is not np.ndarray) and not has_masters(group, options):
            buffers = [data, group.grad, *[group.state[name] for name in names]]
            if self._fused.run(update, options, [buffer[where] for buffer in buffers], count, numbers):
                return
        xp = array_module(data)
        dtype = data.dtype
        if has_masters(group, options):
            block = _BLOCK_ELEMENTS if xp is np else _WIDENED_ELEMENTS
            memory = self.scratch(xp, np.dtype(np.float32), min(block, size), 1 + self._num_scratch)
            update_masters(xp, update, group, segment, names, memory)
            return
        state = [group.state[name] for name in names]
        if dtype.kind not in "fc" or dtype.itemsize == 2:
            self._update_widened(update, group.options, [data, group.grad, *state], segment)
            return
        buffers = [data, group.grad, *state]
        if dtype.kind == "c":  # as pairs of reals
            buffers = [buffer.view(buffer.real.dtype) for buffer in buffers]
            dtype, size, where = buffers[0].dtype, 2 * size, slice(2 * where.start, 2 * where.stop)
        block = _BLOCK_ELEMENTS if xp is np else size
        scratch = self.scratch(xp, dtype, min(block, size), self._num_scratch)
        if is_whole and size <= block:  # nothing to cut, this time and the next
            scratch = [each[:size] for each in scratch]
            whole = Block(xp, options, buffers[0], buffers[1], buffers[2:], scratch, count, numbers)
            self._whole[id(group), id(group.grad)] = names, whole
            update(whole)
            return
        for start in range(where.start, where.stop, block):
            part = slice(start, min(start + block, where.stop))
            data, grad, *state = [buffer[part] for buffer in buffers]
            part_scratch = [each[: data.size] for each in scratch]
            update(Block(xp, options, data, grad, state, part_scratch, count, numbers))

    def _update_widened(
        self, update: Update, options: Mapping[str, Any], buffers: Sequence[Any], segment: Segment
    ) -> None:
        """The same in float32, for parameters of 16 bits."""
        where, count, xp = segment.where, len(buffers), array_module(buffers[0])
        block = _BLOCK_ELEMENTS if xp is np else _WIDENED_ELEMENTS
        memory = self.scratch(xp, np.dtype(np.float32), min(block, buffers[0].size), count + self._num_scratch)
        for start in range(where.start, where.stop, block):
            parts = [buffer[start : min(start + block, where.stop)] for buffer in buffers]
            data, grad, *rest = wide = [each[: parts[0].size] for each in memory]
            for widened, part in zip(wide, parts, strict=False):
                widened[...] = part
            state, scratch = rest[: count - 2], rest[count - 2 :]
            update(Block(xp, options, data, grad, state, scratch, segment.updates, segment.numbers))
            parts[0][...] = data
            for part, widened in zip(parts[2:], state, strict=True):
                part[...] = widened

    def scratch(self, xp: Any, dtype: Any, size: int, count: int) -> list[Any]:
        """Memory for `count` blocks, shared by the groups of a dtype."""
        held = self._scratch.get((dtype, count))
        if held is None or held[0].size < size:
            self._scratch[dtype, count] = held = [xp.empty(size, dtype) for _ in range(count)]
        return held

    def __deepcopy__(self, memo: dict[int, Any]) -> Cutter:
        """An empty one: the copied optimiser's buffers are others."""
        return Cutter(self._name, self._num_scratch)
