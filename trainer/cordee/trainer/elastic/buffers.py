"""Buffers that a module's forward changes, such as batch normalisation's running statistics, kept the same everywhere.

Every shard starts from the buffers as they were before it, whoever computes it, and its worker keeps what the shard
made of them. These travel with the step's header, and every worker then takes their mean over the global batch,
weighted by the shards' samples and added up in shard order: so the buffers, too, do not depend on the world, and a
step moves running statistics once, as it does in a script that knows no shards. Whole-number buffers (counts of
batches) take the largest of the shards' values; flags are set when a shard sets them, and cleared when those that
change them clear them.

"Changed" is meant by the bit: a buffer of NaN is not changed by being NaN, and 0.0 that becomes -0.0 is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cordee.trainer.array import array_module, is_complex, is_float, to_numpy
from cordee.trainer.nested import same_bits
from cordee.trainer.nn.parameter import Buffer
from cordee.trainer.tensors import Tensor

if TYPE_CHECKING:
    from cordee.trainer.nn import Module

__all__ = ["ShardBuffers", "buffer_places"]

_SHARD = struct.Struct("<III")
_INDEX = struct.Struct("<I")
_SMALL_BYTES = 1 << 16
"""Up to here, comparing bytes is faster than comparing arrays."""

Place = tuple[Any, str]
"""A module and the name of one of its buffers."""

Changed = dict[int, Any]
"""By the number of a buffer: what a shard made of it."""


def buffer_places(model: Module) -> list[Place]:
    """Where a model's buffers are, in the order of its modules; also of those that are None so far."""
    places = []
    for module in model.modules():
        attributes = vars(module)
        names = dict.fromkeys(attributes.get("_buffers", ()))
        names |= dict.fromkeys(name for name, value in attributes.items() if isinstance(value, Buffer))
        places += [(module, name) for name in names]
    return places


@dataclass
class _Held:
    """One buffer as it was: which tensor, which array in it, and a copy of the values."""

    names: Any
    """The module's attributes."""
    name: str
    tensor: Tensor | None
    array: Any = None
    values: Any = None
    small: bytes | None = None
    """The same as bytes, where that is little."""

    @staticmethod
    def of(names: Any, name: str) -> _Held:
        tensor = names.get(name)
        if not isinstance(tensor, Tensor):
            return _Held(names, name, None)
        array = tensor.data
        is_small = isinstance(array, np.ndarray) and array.nbytes <= _SMALL_BYTES
        return _Held(names, name, tensor, array, array.copy(), array.tobytes() if is_small else None)

    def is_as_it_was(self) -> bool:
        tensor = self.names.get(self.name)
        return tensor is self.tensor and (tensor is None or (tensor.data is self.array and self.has_values(self.array)))

    def has_values(self, array: Any) -> bool:
        """Whether these are the values, by the bit."""
        if self.small is not None and array.shape == self.values.shape and array.dtype == self.values.dtype:
            return bool(array.tobytes() == self.small)
        return same_bits(array, self.values)

    def put_back(self) -> None:
        """The very tensor, with its array and its values: what a script has bound in its place may be anybody's."""
        self.names[self.name] = self.tensor
        if self.tensor is not None:
            self.tensor.data = self.array
            if not self.has_values(self.array):
                self.array[...] = self.values

    def check(self) -> None:
        """Raises `ValueError` when a buffer has come, gone or changed its shape or dtype."""
        now = self.names.get(self.name)
        if isinstance(now, Tensor) and self.tensor is not None:
            if now.data.shape == self.values.shape and now.data.dtype == self.values.dtype:
                return
        elif not isinstance(now, Tensor) and self.tensor is None:
            return
        before = "None" if self.tensor is None else f"{self.values.dtype}{list(self.values.shape)}"
        after = f"{now.data.dtype}{list(now.data.shape)}" if isinstance(now, Tensor) else "None"
        raise ValueError(
            f"the buffer {self.name!r} was {before} before this step, and is {after} now: buffers keep their shape and "
            "dtype in an elastic run (register it with the shape that it is to have)"
        )


class ShardBuffers:
    """A model's buffers during one step."""

    def __init__(self, places: Iterable[Place]) -> None:
        """`places`: whose attributes of which names are buffers; a forward may bind them to other tensors."""
        self._start = [_Held.of(vars(owner), name) for owner, name in places]
        self._before = list(self._start)
        self._shards: dict[int, tuple[int, Changed]] = {}

    def begin(self) -> None:
        """The shards are gone through from the first one on. What the script itself has done to buffers stays."""
        self._shards.clear()
        for i, held in enumerate(self._before):
            if not held.is_as_it_was():
                held.check()
                self._before[i] = _Held.of(held.names, held.name)

    def fold(self, shard: int, num_samples: int) -> None:
        """A shard has been computed: keep what it changed, and put back what was before."""
        changed: Changed = {}
        for i, held in enumerate(self._before):
            if held.is_as_it_was():
                continue
            held.check()
            array = held.names[held.name].data
            if not held.has_values(array):
                changed[i] = np.array(to_numpy(array), order="C", copy=True)
            held.put_back()
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
            held = self._before[i]
            held.array[...] = self._mean(held.values, parts, num_samples)
        self._shards.clear()

    def take_back(self) -> None:
        """The step is lost: everything is as before it, also what the script did to buffers outside of the shards."""
        for held in self._start:
            if not held.is_as_it_was():
                held.put_back()

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
                    like = self._before[i].values
                    if like is None:
                        raise ValueError(f"buffer {i} is None here")
                    changed[i] = np.frombuffer(data, like.dtype, like.size, at).reshape(like.shape)
                    at += like.nbytes
                found[shard] = (num_samples, changed)
        except (struct.error, ValueError, IndexError) as error:
            raise ValueError(f"another worker's buffers cannot be read: {error}: not the same script?") from error
        return found
