"""Requests of an event loop to the API server, on threads; and the tasks that wait for them."""

import asyncio
import functools
import logging
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from cordee.k8s.api import Api, Json
from cordee.k8s.errors import ApiError, KubernetesError

__all__ = ["Requests"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS: Final = 16
"""So many requests run at once."""


class Requests:
    """Used on one event loop."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._threads = ThreadPoolExecutor(_THREADS, "cordee-kubernetes")
        self._tasks: set[asyncio.Task[Any]] = set()

    async def ask(self, method: Any, path: str, **options: Any) -> Json:
        """One answer, as `Api.request` gives it."""
        loop = asyncio.get_running_loop()
        request = functools.partial(self._api.request, method, path, **options)
        return await loop.run_in_executor(self._threads, request)

    async def look(self, path: str) -> Json | None:
        """The object at this path; None: there is none."""
        try:
            return await self.ask("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work that goes on beside, until `stop`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_report)
        return task

    async def stop(self) -> None:
        """End all work that goes on beside."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """Ask no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._api.close()


def _report(task: "asyncio.Task[Any]") -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, KubernetesError):  # those are told to whoever asked
        _log.error("a task of the launcher failed", exc_info=task.exception())
