"""Training state on its way from peer to peer: a frame that says what follows, then the bytes as they lie in memory."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import numpy as np

from cordee.worker.link import Link
from cordee.worker.reduction import OutOfStepError

__all__ = ["StateReceipt", "state_frame"]

_KIND: Final = b"STA1"
_FRAME: Final = struct.Struct("<4sIQ")
"""Kind, number of buffers, bytes of meta; then the buffers' sizes, and the meta."""


def state_frame(meta: bytes, sizes: Sequence[int]) -> memoryview:
    """What goes before the buffers."""
    return memoryview(_FRAME.pack(_KIND, len(sizes), len(meta)) + struct.pack(f"<{len(sizes)}Q", *sizes) + meta)


class StateReceipt:
    """What one peer sends, as it comes in: queues memory on the link for each part once the part before it says how
    much that is."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._frame = bytearray(_FRAME.size)
        self._rest = bytearray()
        self._count = 0
        self._meta = b""
        self._buffers: list[memoryview] | None = None
        link.fill(memoryview(self._frame))

    def advance(self) -> None:
        """Bytes have come in. Raises `OutOfStepError` when they are no state."""
        while not self.link.receiving and self._buffers is None:
            if not self._rest:
                kind, self._count, meta_bytes = _FRAME.unpack(self._frame)
                if kind != _KIND:
                    raise OutOfStepError(
                        f"{self.link.name} sends something else than its state: workers are out of step"
                    )
                self._rest = bytearray(8 * self._count + meta_bytes)
                self.link.fill(memoryview(self._rest))
                if self._rest:
                    continue
            self._meta = bytes(self._rest[8 * self._count :])
            sizes = struct.unpack_from(f"<{self._count}Q", self._rest)
            self._buffers = [np.empty(size, np.uint8).data for size in sizes]  # not zeroed first, unlike a bytearray
            for buffer in self._buffers:
                self.link.fill(buffer)

    def received(self) -> tuple[bytes, list[memoryview]]:
        """The meta, and each buffer's bytes. Once everything has come in."""
        assert self._buffers is not None
        return self._meta, self._buffers
