"""A network of a chosen speed between workers of one machine, for benchmarks: an exchange takes as long as its bytes
would on it, without taking a processor's time meanwhile."""

from __future__ import annotations

import time
from typing import Any

from cordee.worker.communicator import TcpCommunicator

__all__ = ["slow_down"]


def slow_down(bytes_per_second: float) -> None:
    """From now on every exchange of this process is as slow as that (0: as it is), and overlaps with backward."""
    TcpCommunicator.beside = True  # type: ignore[assignment, method-assign]
    if not bytes_per_second:
        return
    reduce = TcpCommunicator._reduce

    def slowly(self: TcpCommunicator, partials: Any, out: Any, *rest: Any) -> list[bytes]:
        started = time.monotonic()
        headers = reduce(self, partials, out, *rest)
        # What every worker sends: its partial sums of the others' slices, and its finished slice to each of them.
        num_bytes = out.nbytes * (len(partials) + 1) * (self.size - 1) / self.size
        time.sleep(max(0.0, num_bytes / bytes_per_second - (time.monotonic() - started)))
        return headers

    TcpCommunicator._reduce = slowly  # type: ignore[method-assign]
