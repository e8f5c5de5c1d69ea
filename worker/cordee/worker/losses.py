"""Peers that are gone, as their connections show; also while this worker waits for something else."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable
from typing import Any, Final

from cordee.trainer.elastic.protocols import PeerLostError
from cordee.worker.abort import Abort
from cordee.worker.link import Link
from cordee.worker.nccl import Call

__all__ = ["broken", "watch"]

_LAST_WORDS_SECONDS: Final = 0.5
"""A peer that has all it wants may go while the last of it is still under way to us."""
_GONE: Final = select.POLLHUP | select.POLLERR | select.POLLRDHUP


def broken(links: Iterable[Link]) -> list[int]:
    """The ranks of the peers whose connection is broken by now."""
    by_fd = {link.fd: link.rank for link in links}
    poll = select.poll()
    for fd in by_fd:
        poll.register(fd, select.POLLRDHUP)
    return [by_fd[fd] for fd, events in poll.poll(0) if events & _GONE]


def watch(call: Call, abort: Abort, links: Iterable[Link], break_off: Callable[[], None]) -> Any:
    """What a call returns; if a peer is lost in the meantime, or somebody aborts, it is broken off.

    Raises:
        PeerLostError: it was.
    """
    named = {link.rank: link for link in links}
    poll, lost = select.poll(), list[int]()
    poll.register(call.fileno(), select.POLLIN)
    poll.register(abort.fileno(), select.POLLIN)
    for link in named.values():
        poll.register(link.fd, select.POLLRDHUP)
    while True:
        ready = {fd for fd, _ in poll.poll(1000 * _LAST_WORDS_SECONDS if lost else None)}
        if call.fileno() in ready:
            return call.result()
        if lost or abort.is_set():
            break_off()
            reason = abort.reason or f"lost {' and '.join(named[rank].name for rank in lost)}"
            raise PeerLostError(reason, abort.ranks or lost)
        lost = broken(named.values())
        for rank in lost:
            poll.unregister(named[rank].fd)
