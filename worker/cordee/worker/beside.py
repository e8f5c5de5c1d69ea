"""A thread for exchanges that go on beside training: one after the other, in the order in which they were begun."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Beside"]


class Beside:
    """Started with the first task. After a failure nothing more is done."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._tasks: deque[Callable[[], object]] = deque()
        self._busy = False
        self._failure: BaseException | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, task: Callable[[], object]) -> None:
        """To be done after all that was put before."""
        with self._changed:
            if self._closed or self._failure is not None:
                return  # whoever waits is told
            self._tasks.append(task)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="cordee-exchange", daemon=True)
                self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether all is done, and nothing has failed."""
        return not self._busy and not self._tasks and self._failure is None

    def wait(self) -> None:
        """Returns when all is done; raises what went wrong."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy and (not self._tasks or self._failure is not None))
            if self._failure is not None:
                raise self._failure

    def close(self) -> None:
        """Forgets what has not begun, and waits for what has: make it fail first, where it may take long."""
        with self._changed:
            self._closed = True
            self._tasks.clear()
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._tasks or self._closed)
                if self._closed:
                    return
                task = self._tasks.popleft()
                self._busy = True
            try:
                task()
            except BaseException as error:
                with self._changed:
                    self._failure, self._busy = error, False
                    self._tasks.clear()
                    self._changed.notify_all()
                return
