"""What every worker tells every other with a step's exchange, beside gradients.

It rides on the exchange's first message, so it costs no round trip, and all members of a world see the same headers
at the same step: that is how they agree on the loss and on what was measured, and on when to meet for a membership
change.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["StepHeader", "exact_sum"]

_FIXED = struct.Struct("<QBIIH")
_NAME = struct.Struct("<H")


@dataclass(frozen=True)
class StepHeader:
    """One worker's header of one step."""

    step: int
    change_pending: bool
    losses: tuple[float, ...]
    """The weighted loss of each shard this worker computed, in shard order; NaN where none was given."""
    touched: npt.NDArray[np.bool_]
    """Which parameters have a gradient from any of its shards, over all groups in order."""
    measures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """What the script measured, by name: the weighted value of each shard, like the losses."""
    buffers: bytes = b""
    """What the shards made of the model's buffers (see `elastic.buffers`)."""

    def pack(self) -> bytes:
        return b"".join(
            (
                _FIXED.pack(self.step, self.change_pending, len(self.losses), len(self.touched), len(self.measures)),
                struct.pack(f"<{len(self.losses)}d", *self.losses),
                np.packbits(self.touched).tobytes(),
                *(
                    part
                    for name, values in self.measures.items()
                    for part in (
                        _NAME.pack(len(name.encode())),
                        name.encode(),
                        struct.pack(f"<{len(self.losses)}d", *values),
                    )
                ),
                self.buffers,
            )
        )

    @staticmethod
    def unpack(data: bytes) -> StepHeader:
        """Raises `ValueError` when `data` is not a header."""
        try:
            step, pending, num_losses, num_touched, num_measures = _FIXED.unpack_from(data)
            doubles = struct.Struct(f"<{num_losses}d")
            losses = doubles.unpack_from(data, _FIXED.size)
            at, num_bytes = _FIXED.size + doubles.size, -(-num_touched // 8)
            bits = np.frombuffer(data, np.uint8, num_bytes, at) if num_bytes else np.empty(0, np.uint8)
            touched = np.unpackbits(bits, count=num_touched).astype(np.bool_)
            at += num_bytes
            measures = {}
            for _ in range(num_measures):
                (length,) = _NAME.unpack_from(data, at)
                at += _NAME.size
                name = data[at : at + length].decode()
                measures[name] = doubles.unpack_from(data, at + length)
                at += length + doubles.size
        except (struct.error, ValueError) as error:
            raise ValueError(f"a step header of {len(data)} bytes cannot be read: {error}") from error
        return StepHeader(step, bool(pending), losses, touched, measures, bytes(data[at:]))


def exact_sum(values: Iterable[float]) -> float:
    """The sum, rounded once, so that it does not depend on the order; also of values that are not finite."""
    values = list(values)
    try:
        return math.fsum(values)
    except (ValueError, OverflowError):  # infinities of both signs, or a sum too large
        return sum(values)
