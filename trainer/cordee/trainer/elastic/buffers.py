"""Buffers that a module's forward changes, such as batch normalisation's running statistics, kept the same everywhere.

Every shard starts from the buffers as they were before the step, whoever computes it, and its worker keeps what the
shard made of them. These travel with the step's header, and every worker then takes their mean over the global batch,
weighted by the shards' samples and added up in shard order: so the buffers, too, do not depend on the world, and a
step moves running statistics once, as it does in a script that knows no shards. Whole-number buffers (counts of
batches) take the largest of the shards' values.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cordee.trainer.array import array_module, is_complex, is_float, to_numpy
from cordee.trainer.tensors import Tensor

if TYPE_CHECKING:
    from cordee.trainer.nn import Module

__all__ = ["ShardBuffers", "buffer_places"]

_SHARD = struct.Struct("<III")
_INDEX = struct.Struct("<I")

Place = tuple[Any, str]
"""A module and the name of one of its buffers."""

Changed = dict[int, Any]
"""By the number of a buffer: what a shard made of it."""


def buffer_places(model: Module) -> list[Place]:
    """Where a model's buffers are: each once, in the order of its modules."""
    return [
        (module, name)
        for module in model.modules()
        for name in vars(module).get("_buffers", ())
        if isinstance(vars(module).get(name), Tensor)
    ]


class ShardBuffers:
    """A model's buffers during one step."""

    def __init__(self, places: Iterable[Place]) -> None:
        """`places`: whose attributes of which names are buffers; a forward may bind them to other tensors."""
        held = [(vars(owner), name) for owner, name in places]
        self._places = [
            (names, name) for names, name in held if names[name].data.size and names[name].data.dtype.kind != "b"
        ]
        self._before = [names[name].data.copy() for names, name in self._places]
        self._shards: dict[int, tuple[int, Changed]] = {}

    def fold(self, shard: int, num_samples: int) -> None:
        """A shard has been computed: keep what it changed, and put back what was before."""
        changed: Changed = {}
        for i, ((names, name), before) in enumerate(zip(self._places, self._before, strict=True)):
            buffer = names[name]
            if buffer.shape != before.shape or buffer.dtype != before.dtype:
                raise ValueError(
                    f"the buffer {name!r} was {before.dtype}{list(before.shape)} before this step, and forward made it "
                    f"{buffer.dtype}{list(buffer.shape)}: buffers keep their shape and dtype in an elastic run"
                )
            if bool((buffer.data != before).any()):
                changed[i] = np.array(to_numpy(buffer.data), order="C", copy=True)
                buffer.data[...] = before
        if changed:
            self._shards[shard] = (num_samples, changed)

    def pack(self) -> bytes:
        """What this worker's shards changed, for the others."""
        parts = []
        for shard, (num_samples, changed) in self._shards.items():
            parts.append(_SHARD.pack(shard, num_samples, len(changed)))
            for i, value in changed.items():
                parts += [_INDEX.pack(i), value.tobytes()]
        return b"".join(parts)

    def apply(self, packed: Sequence[bytes], num_samples: int) -> None:
        """Take the mean of what all workers' shards made of the buffers.

        Raises:
            ValueError: what came from another worker is of other buffers.
        """
        shards: dict[int, tuple[int, Changed]] = {}
        for data in packed:
            shards.update(self._unpack(data))
        for i in sorted({i for _, changed in shards.values() for i in changed}):
            parts = [(n, shards[s][1][i]) for s in sorted(shards) if i in shards[s][1] for n in (shards[s][0],)]
            names, name = self._places[i]
            names[name].data[...] = self._mean(self._before[i], parts, num_samples)

    def _mean(self, before: Any, parts: list[tuple[int, Any]], num_samples: int) -> Any:
        xp, before = array_module(before), to_numpy(before)
        if not (is_float(before.dtype) or is_complex(before.dtype)):
            largest = parts[0][1]
            for _, value in parts[1:]:
                largest = np.maximum(largest, value)
            return xp.asarray(largest)
        wide = np.complex128 if is_complex(before.dtype) else np.float64
        unchanged = num_samples - sum(n for n, _ in parts)
        total = before.astype(wide) * unchanged if unchanged else np.zeros(before.shape, wide)
        for n, value in parts:
            total += value.astype(wide) * n
        return xp.asarray((total / num_samples).astype(before.dtype))

    def _unpack(self, data: bytes) -> dict[int, tuple[int, Changed]]:
        found: dict[int, tuple[int, Changed]] = {}
        at = 0
        try:
            while at < len(data):
                shard, num_samples, count = _SHARD.unpack_from(data, at)
                at += _SHARD.size
                changed: Changed = {}
                for _ in range(count):
                    (i,) = _INDEX.unpack_from(data, at)
                    at += _INDEX.size
                    like = self._before[i]
                    changed[i] = np.frombuffer(data, like.dtype, like.size, at).reshape(like.shape)
                    at += like.nbytes
                found[shard] = (num_samples, changed)
        except (struct.error, ValueError, IndexError) as error:
            raise ValueError(f"another worker's buffers cannot be read: {error}: not the same script?") from error
        return found
