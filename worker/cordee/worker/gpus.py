"""How the GPUs of one world sum their vectors: by NCCL where all workers have it, one GPU each.

Before the GPUs exchange anything, the workers tell each other over TCP that they are there, what they sum, and, the
first time, what joins them: so nobody waits in NCCL for a worker that does something else. It has not yet run on a
device.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from cordee.trainer.elastic.protocols import Buffer
from cordee.trainer.elastic.tree import Span
from cordee.worker.device_reduction import make_moves, reduce
from cordee.worker.nccl import OFFER_BYTES, Call, Nccl, agree, offer
from cordee.worker.reduction import OutOfStepError

__all__ = ["Gpus", "GpusApartError"]

_HEAD: Final = struct.Struct("<Q8s")
"""Elements and dtype."""

Tell = Callable[[bytes], list[bytes]]
Watch = Callable[[Call, Callable[[], None]], Any]


class GpusApartError(Exception):
    """Nothing joins this world's GPUs. `headers`: what the workers have told all the same."""

    def __init__(self, headers: list[bytes]) -> None:
        super().__init__("nothing joins these GPUs")
        self.headers = headers


class Gpus:
    """One worker's part in it. Lives as long as the world."""

    def __init__(self, rank: int, size: int) -> None:
        self._rank, self._size = rank, size
        self._joined: Nccl | None = None
        self._scratch: Any = None
        self.apart = False
        """Whether nothing joins them, as all have agreed."""

    def all_reduce(
        self, partials: Mapping[Span, Buffer], out: Buffer, num_shards: int, header: bytes, tell: Tell, watch: Watch
    ) -> list[bytes]:
        """As `protocols.Communicator.all_reduce`. `tell` exchanges headers, `watch` waits for a call.

        Raises:
            GpusApartError: nothing joins the GPUs; from now on, either.
            OutOfStepError: a worker sums something else.
        """
        cupy: Any = importlib.import_module("cupy")
        first = self._joined is None
        head = _HEAD.pack(out.size, out.dtype.name.encode()[:8])
        heard = tell(head + (offer(self._rank) if first else b"") + header)
        for rank, each in enumerate(heard):
            if each[: _HEAD.size] != head:
                raise OutOfStepError(
                    f"rank {rank} sums other vectors (elements, dtype: {_HEAD.unpack(each[: _HEAD.size])}) than this "
                    f"worker ({_HEAD.unpack(head)}): the script must do the same on every worker"
                )
        headers = [each[_HEAD.size + (OFFER_BYTES if first else 0) :] for each in heard]
        if first:
            place = agree([each[_HEAD.size :][:OFFER_BYTES] for each in heard])
            if place is None or not self._join(place, cupy.cuda.Device().id, tell, watch):
                self.apart = True
                raise GpusApartError(headers)
        joined = self._joined
        assert joined is not None
        moves = make_moves(num_shards, self._size, out.size, out.itemsize, self._rank)
        scratch = self._memory(cupy, moves.scratch * out.itemsize, joined).view(out.dtype)
        ready = cupy.cuda.get_current_stream().record()
        call = Call(
            lambda: joined.run(
                lambda xp: reduce(xp, num_shards, self._size, self._rank, partials, out, scratch, joined), ready
            )
        )
        watch(call, joined.abort)
        return headers

    def _join(self, place: bytes, device: int, tell: Tell, watch: Watch) -> bool:
        """Whether all have come together."""
        try:
            self._joined = watch(Call(lambda: Nccl(self._size, self._rank, place, device)), lambda: None)
        except RuntimeError:  # NCCL's own: no network that it likes, no memory
            self._joined = None
        if all(each == b"\1" for each in tell(bytes([self._joined is not None]))):
            return True
        self.close()
        return False

    def _memory(self, cupy: Any, nbytes: int, joined: Nccl) -> Any:
        """Room for what comes in, kept for the next time: on the stream that uses it."""
        if self._scratch is None or self._scratch.nbytes < nbytes:
            with joined.stream:
                self._scratch = cupy.empty(nbytes, cupy.uint8)
        return self._scratch[:nbytes]

    def close(self) -> None:
        """Leaves NCCL's communicator, without waiting for anybody."""
        joined, self._joined, self._scratch = self._joined, None, None
        if joined is not None:
            joined.abort()
