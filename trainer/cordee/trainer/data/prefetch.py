"""Loading ahead: a cache of batches and shards that are likely to be asked for next, filled by data workers.

It is a cache and nothing else: what is not in it is loaded directly, with the same bits. So the world of an elastic run
may change at any time; what was loaded for shards that are another worker's now is dropped.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from cordee.trainer.data.fetch import Fetched, Task
from cordee.trainer.data.process import Runner, WorkerDiedError

__all__ = ["Ahead", "Key", "MakeTask", "Pool"]

Key = Hashable
MakeTask = Callable[[], Task]


class _Board:
    """What is to be loaded, what is being loaded, and what has been."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.waiting: deque[tuple[Key, MakeTask]] = deque()
        self.known: set[Key] = set()
        """What is waiting, being loaded or loaded, and still wanted."""
        self.outcomes: dict[Key, Fetched | BaseException] = {}
        self.broken: BaseException | None = None
        """Why no worker can be relied on any more."""
        self.closed = False
        self.runners: list[Runner] = []

    def next_task(self) -> tuple[Key, MakeTask] | None:
        """Waits for something to be loaded; None when there is nothing more to come."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.closed)
            return None if self.closed else self.waiting.popleft()

    def tell(self, key: Key, outcome: Fetched | BaseException) -> None:
        with self.changed:
            if key in self.known:
                self.outcomes[key] = outcome
            if isinstance(outcome, WorkerDiedError) and not self.closed:
                self.broken = outcome
            self.changed.notify_all()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.waiting.clear()
            self.outcomes.clear()
            self.known.clear()
            runners = list(self.runners)
            self.changed.notify_all()
        for runner in runners:
            runner.close()


class Pool:
    """Some data workers. They end when the pool is closed or forgotten, and when Python ends.

    Args:
        start: makes worker number so and so; called on the thread that will drive it.
        num_workers: how many.
        finish: what is done to every result there and then, such as pinning its memory.
    """

    def __init__(
        self, start: Callable[[int], Runner], num_workers: int, finish: Callable[[Any], Any] | None = None
    ) -> None:
        self._board = _Board()
        self._close = weakref.finalize(self, self._board.close)
        self.threads = [
            threading.Thread(
                target=_drive, args=(self._board, start, number, finish), name=f"data worker {number}", daemon=True
            )
            for number in range(num_workers)
        ]
        for thread in self.threads:
            thread.start()

    @property
    def closed(self) -> bool:
        return self._board.closed

    def submit(self, key: Key, make_task: MakeTask) -> None:
        """To be loaded, after all that was submitted before; nothing happens when that is on its way already."""
        board = self._board
        with board.changed:
            if key not in board.known and not board.closed:
                board.known.add(key)
                board.waiting.append((key, make_task))
                board.changed.notify()

    def take(self, key: Key, timeout: float | None) -> Fetched:
        """Waits for what was submitted as `key`. Raises what went wrong with it; `RuntimeError` after `timeout`."""
        board = self._board
        with board.changed:
            there = board.changed.wait_for(
                lambda: key in board.outcomes or board.broken is not None or board.closed, timeout
            )
            if not there:
                raise RuntimeError(
                    f"DataLoader: nothing came from the data workers for {timeout:g} seconds (its timeout): a sample "
                    "takes longer than that, or hangs"
                )
            outcome: Fetched | BaseException | None = board.outcomes.pop(key, None)
            board.known.discard(key)
            if outcome is None:
                outcome = board.broken or RuntimeError("the data workers of this loader were closed")
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def keep(self, wanted: Callable[[Key], bool]) -> None:
        """Drops what is not wanted; what is being loaded is dropped when it comes."""
        board = self._board
        with board.changed:
            board.known = {key for key in board.known if wanted(key)}
            board.waiting = deque(entry for entry in board.waiting if entry[0] in board.known)
            for key in [key for key in board.outcomes if key not in board.known]:
                del board.outcomes[key]

    def close(self) -> None:
        """Ends the workers."""
        self._close()
        deadline = time.monotonic() + 2  # one that hangs in a sample is left to itself
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join(timeout=max(0.0, deadline - time.monotonic()))


def _drive(board: _Board, start: Callable[[int], Runner], number: int, finish: Callable[[Any], Any] | None) -> None:
    """What a thread does: one worker's tasks, one after the other."""
    runner: Runner | None = None
    failure: BaseException | None = None
    try:
        runner = start(number)
    except BaseException as error:
        failure = error
    with board.changed:
        if runner is not None and not board.closed:
            board.runners.append(runner)
    while (entry := board.next_task()) is not None:
        key, make_task = entry
        try:
            if runner is None:
                assert failure is not None
                raise failure
            with np.errstate(all="ignore"):  # infinities and NaNs are values here too; threads start with NumPy's own
                result = runner.run(make_task())
            board.tell(key, result if finish is None else result._replace(fields=finish(result.fields)))
        except BaseException as error:
            board.tell(key, error)
            if isinstance(error, WorkerDiedError):
                break
    dispose = getattr(runner, "dispose", None)
    if dispose is not None:
        dispose()


class Ahead:
    """Keeps a pool busy with what comes next in one known order.

    Args:
        pool: loads.
        upcoming: what will be asked for, in order: keys, and how to make their tasks.
        depth: how much is loaded ahead of what was asked for last.
    """

    def __init__(self, pool: Pool, upcoming: Iterator[tuple[Key, MakeTask]], depth: int) -> None:
        self._pool = pool
        self._upcoming = upcoming
        self._depth = depth
        self._expected: deque[Key] = deque()
        self._fill()

    def _fill(self) -> None:
        for key, make_task in islice(self._upcoming, self._depth - len(self._expected)):
            self._expected.append(key)
            self._pool.submit(key, make_task)

    def expects(self, key: Key) -> bool:
        """Whether `key` is on its way."""
        return key in self._expected

    def take(self, key: Key, timeout: float | None) -> Fetched:
        """What is on its way as `key`; the next ones are started before it is waited for."""
        self._expected.remove(key)
        self._fill()
        return self._pool.take(key, timeout)

    def turn_to(self, upcoming: Iterator[tuple[Key, MakeTask]]) -> None:
        """From now on this comes next. What is on its way, or there, and still wanted is kept."""
        before = set(self._expected)
        self._expected.clear()
        self._upcoming = upcoming
        self._fill()
        stale = before.difference(self._expected)
        if stale:
            self._pool.keep(lambda key: key not in stale)

    @property
    def closed(self) -> bool:
        """Whether its workers have ended."""
        return self._pool.closed

    def close(self) -> None:
        """Ends its workers."""
        self._pool.close()

    def stop(self) -> None:
        """Forgets what is on its way."""
        self.turn_to(iter(()))
