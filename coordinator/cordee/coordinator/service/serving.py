"""REST beside the loop's real work: its port listens at once, its application is loaded later and in a thread.

Loading it is the heaviest import of all. Early requests wait in the kernel's queue meanwhile.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

__all__ = ["HttpServer", "readable"]

_log = logging.getLogger(__name__)

_GRACE_SECONDS: Final = 1


class HttpServer:
    """An ASGI application on a socket that listens already. `load` makes the application, in a thread."""

    def __init__(
        self,
        listener: socket.socket,
        load: Callable[[], Any],
        *,
        context: ssl.SSLContext | None = None,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.ready = asyncio.Event()
        self._listener = listener
        self._load = load
        self._context = context
        self._before = before
        self._uvicorn: Any = None
        self.task = asyncio.get_running_loop().create_task(self._serve())
        self.task.add_done_callback(_report)

    async def stop(self) -> None:
        """End it, with the connections that are open."""
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True
        else:
            self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def _serve(self) -> None:
        if self._before is not None:
            await self._before()
        # In a thread: a second of imports on the loop would look to the workers like a coordinator that hangs.
        app, uvicorn = await asyncio.to_thread(self._prepare)
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        config.load()
        config.ssl = self._context
        self._uvicorn = uvicorn.Server(config)
        self._uvicorn.capture_signals = contextlib.nullcontext  # signals are ours
        self.ready.set()
        await self._uvicorn.serve(sockets=[self._listener])

    def _prepare(self) -> tuple[Any, Any]:
        import uvicorn

        return self._load(), uvicorn


async def readable(listener: socket.socket) -> None:
    """Wait until somebody connects."""
    loop = asyncio.get_running_loop()
    connected = asyncio.Event()
    loop.add_reader(listener, connected.set)
    try:
        await connected.wait()
    finally:
        loop.remove_reader(listener)


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("a HTTP server failed", exc_info=task.exception())
