"""Master weights: for parameters of 16 bits, the same numbers in float32, which are what is updated.

A small update is lost on a weight of 8 significant bits; on its master it adds up. The masters are state like any
other, a twin in the flat storage, and with them all other state is in float32, too. After each update the parameters
are the masters, rounded.

A parameter that is not its master rounded was written to by somebody since: loaded, averaged, clamped, or it has had no
update yet. Then its master follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cordee.trainer.array import float32, is_float
from cordee.trainer.optim.block import Block
from cordee.trainer.optim.flat import FlatGroup, Segment

__all__ = ["MASTER", "has_masters", "update_masters"]

MASTER = "master"
"""The state's name."""


def has_masters(group: FlatGroup, options: Mapping[str, Any]) -> bool:
    """Whether these parameters are to have them."""
    return bool(options.get("master_weights")) and group.dtype.itemsize == 2 and is_float(group.dtype)


def update_masters(
    xp: Any,
    update: Callable[[Block], None],
    group: FlatGroup,
    segment: Segment,
    names: Sequence[str],
    scratch: Sequence[Any],
) -> None:
    """Update a part of the buffers, in blocks as long as `scratch`, whose first is for the gradient in float32."""
    where, count, numbers, _ = segment
    block = scratch[0].size
    for start in range(where.start, where.stop, block):
        part = slice(start, min(start + block, where.stop))
        data, master = group.data[part], group.state[MASTER][part]
        size = data.size
        _follow(xp, data, master)
        grad, *rest = [each[:size] for each in scratch]
        grad[...] = group.grad[part]
        state = [group.state[name][part] for name in names]
        wide = [each if each.dtype is float32 else each.astype(float32) for each in state]
        update(Block(xp, group.options, master, grad, wide, rest, count, numbers))
        data[...] = master
        for each, widened in zip(state, wide, strict=True):
            if widened is not each:  # of an optimiser that had no masters when it was made
                each[...] = widened


def _follow(xp: Any, data: Any, master: Any) -> None:
    """Have the masters be what the parameters are, where these are not those rounded."""
    differs = data.view(np.uint16) != master.astype(data.dtype).view(np.uint16)
    if differs.any():
        xp.copyto(master, data.astype(float32), where=differs)
