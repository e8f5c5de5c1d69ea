"""Counts and times REST requests, by route: a job's id is no label, and who is turned away at the door is counted too.

Time is measured to the begin of the answer: how long a followed log is read says nothing of the coordinator.
"""

import time
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["NO_ROUTE", "Measured"]

NO_ROUTE: Final = "none"
"""What was refused before a route was looked for, and pages that do not exist."""
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Measured:
    """Around the whole application. `observe` is given method, route, status and seconds."""

    def __init__(self, app: ASGIApp, observe: Callable[[str, str, int, float], None]) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, answered = time.perf_counter(), False

        def answer(status: int) -> None:
            nonlocal answered
            answered = True
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            self._observe(method, route, status, time.perf_counter() - began)

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, told)
        except BaseException:
            if not answered:
                answer(500)
            raise
