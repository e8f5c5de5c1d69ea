"""Worlds for tests: workers as threads of this process, joined by the real mesh over the loopback interface.

Nothing here is a mock; only the processes and the coordinator are left out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from cordee.worker.activity import Activity
from cordee.worker.communicator import TcpCommunicator, connect
from cordee.worker.handshake import mesh_key
from cordee.worker.listener import Listener
from cordee.worker.mesh import Peer

__all__ = ["KEY", "connected", "in_threads", "listeners", "successes"]

KEY = mesh_key("the job's worker token")
TIMEOUT_SECONDS = 20.0


@contextmanager
def listeners(size: int) -> Iterator[tuple[list[Listener], list[Peer]]]:
    """The listeners of so many workers, and the members of their world."""
    with ExitStack() as stack:
        opened = [stack.enter_context(Listener("127.0.0.1")) for _ in range(size)]
        yield opened, [Peer(rank, f"job-w{rank}", f"i{rank}", opened[rank].address) for rank in range(size)]


def in_threads(size: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work(rank)` returns, or the exception it raises, by rank; all at the same time."""
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(rank)
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
        assert not thread.is_alive(), f"a worker still waits; so far: {results}"
    return results


def successes(results: Sequence[Any]) -> list[Any]:
    """The results, when no worker raised anything."""
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)


@contextmanager
def connected(size: int, *, sharing: Sequence[int] | None = None) -> Iterator[list[TcpCommunicator]]:
    """The communicators of a world of so many workers; the ranks that offer shared memory, if not all do."""
    with listeners(size) as (opened, members):
        activities = [Activity() for _ in members]
        for activity in activities:
            activity.members = tuple(member.worker for member in members)
        world = successes(
            in_threads(
                size,
                lambda rank: connect(
                    opened[rank],
                    generation=1,
                    rank=rank,
                    members=members,
                    key=KEY,
                    timeout_seconds=TIMEOUT_SECONDS,
                    activity=activities[rank],
                    shared_memory=sharing is None or rank in sharing,
                ),
            )
        )
        try:
            yield world
        finally:
            for communicator in world:
                communicator.close()
