"""What stands around the REST application, as plain ASGI, so that streams stay streams."""

from collections.abc import Collection

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["OnlyPages"]


class OnlyPages:
    """An application of which a few pages are served: the port for metrics shows nothing else."""

    def __init__(self, app: ASGIApp, pages: Collection[str]) -> None:
        self._app = app
        self._pages = frozenset(pages)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in self._pages:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            error = {"code": "not_found", "message": "this port has no such page", "hint": ""}
            await JSONResponse({"error": error}, status_code=404)(scope, receive, send)
