"""A coordinator that stands by: what its metrics port says until it leads.

It is alive and ready (a rollout must not wait for it to lead, which may never happen), and says who leads. Once it does
itself, the same port shows the coordinator's own pages.
"""

import json
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from cordee.coordinator.service.metrics.families import STANDBY

__all__ = ["StandbyPages"]

_PAGES: Final = frozenset({"/healthz", "/readyz", "/metrics"})


class StandbyPages:
    """The pages of one that stands by; or `app`'s, from when that is set. `holder` tells who leads."""

    def __init__(self, holder: Callable[[], str], version: str) -> None:
        self.app: ASGIApp | None = None
        self._holder = holder
        self._version = version

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.app is not None:
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        found = scope["method"] in ("GET", "HEAD") and scope["path"] in _PAGES
        kind = b"application/json"
        if found and scope["path"] == "/metrics":  # it is scraped as the others are, and is not down; no secret in it
            kind = b"text/plain; version=0.0.4; charset=utf-8"
            content = f"# HELP {STANDBY.name} {STANDBY.help}\n# TYPE {STANDBY.name} gauge\n{STANDBY.name} 1\n".encode()
            await _answer(scope, send, 200, kind, content)
            return
        if found:
            body: dict[str, object] = {"status": "standby", "leader": self._holder(), "version": self._version}
        else:
            error = {
                "code": "standby",
                "message": f"this coordinator stands by; {self._holder() or 'nobody yet'} leads",
                "hint": "ask through the Service, which leads to the one that leads",
            }
            body = {"error": error}
        await _answer(scope, send, 200 if found else 503, kind, json.dumps(body).encode())


async def _answer(scope: Scope, send: Send, status: int, kind: bytes, content: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})
