"""What every worker tells every other with a step's exchange, beside gradients.

It rides on the exchange's first message, so it costs no round trip, and all members of a world see the same headers
at the same step: that is how they agree on the loss, and on when to meet for a membership change.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["StepHeader"]

_FIXED = struct.Struct("<QBII")


@dataclass(frozen=True)
class StepHeader:
    """One worker's header of one step."""

    step: int
    change_pending: bool
    losses: tuple[float, ...]
    """The weighted loss of each shard this worker computed, in shard order; NaN where none was given."""
    touched: npt.NDArray[np.bool_]
    """Which parameters have a gradient from any of its shards, over all groups in order."""

    def pack(self) -> bytes:
        return b"".join(
            (
                _FIXED.pack(self.step, self.change_pending, len(self.losses), len(self.touched)),
                struct.pack(f"<{len(self.losses)}d", *self.losses),
                np.packbits(self.touched).tobytes(),
            )
        )

    @staticmethod
    def unpack(data: bytes) -> StepHeader:
        """Raises `ValueError` when `data` is not a header."""
        try:
            step, pending, num_losses, num_touched = _FIXED.unpack_from(data)
            losses = struct.unpack_from(f"<{num_losses}d", data, _FIXED.size)
            bits = np.frombuffer(data, np.uint8, offset=_FIXED.size + 8 * num_losses)
            touched = np.unpackbits(bits, count=num_touched).astype(np.bool_)
        except (struct.error, ValueError) as error:
            raise ValueError(f"a step header of {len(data)} bytes cannot be read: {error}") from error
        return StepHeader(step, bool(pending), losses, touched)
