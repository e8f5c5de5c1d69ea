"""What stands around the REST application, as plain ASGI, so that streams stay streams.

Everything is closed that is not opened here, pages that do not exist included: the check comes before the router, so
that a route cannot be forgotten. There are two doors. Behind `/v1/workers/<worker>/` is what that worker does, with its
own token and nobody else's; behind the other one are people, with theirs, and what they may do there.
"""

import re
from collections.abc import Collection
from typing import Annotated, Final, Protocol, cast

from fastapi import Depends, HTTPException, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cordee.coordinator.errors import CoordinatorError, ForbiddenError, NotFoundError, UnauthorizedError
from cordee.coordinator.service import auth
from cordee.coordinator.service.identity import Worker, WorkerVerifier
from cordee.coordinator.service.people import Principal, verb_of
from cordee.coordinator.service.rest.refusals import refusal

__all__ = ["Guard", "OnlyPages", "Who", "worker_identity"]

_MAX_BODY_BYTES: Final = 2 << 20
_OPEN: Final = frozenset({("GET", "/healthz"), ("HEAD", "/healthz"), ("GET", "/readyz"), ("HEAD", "/readyz")})
_WORKERS: Final = "/v1/workers"
_WORKER_PATH: Final = re.compile(r"/v1/workers/([a-z0-9-]{1,128})/.*", re.DOTALL)


class _People(Protocol):
    @property
    def hint(self) -> str: ...

    async def identify(self, token: str) -> Principal | None: ...


def _who(request: Request) -> str:
    return cast("Principal", request.scope["cordee.principal"]).name


Who = Annotated[str, Depends(_who)]
"""In a route for people: the name of whoever asks; empty where there is none."""


def worker_identity(request: Request) -> Worker:
    """In a route under `/v1/workers/{worker}`: the worker of its path, whose token the guard has seen."""
    return cast("Worker", request.scope["cordee.worker"])


class Guard:
    """Lets nobody in without a token, and no body in that is too large."""

    def __init__(self, app: ASGIApp, people: _People, workers: WorkerVerifier) -> None:
        self._app = app
        self._people = people
        self._workers = workers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        if (scope["method"], scope["path"]) not in _OPEN:
            try:
                await self._admit(scope)
            except CoordinatorError as error:
                await refusal(error)(scope, receive, send)
                return
        await self._app(scope, receive if scope["method"] == "PUT" else _limited(receive), send)

    async def _admit(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        token = auth.bearer(headers.get(b"authorization", b"").decode("latin-1"))
        path = scope["path"]
        if path == _WORKERS or path.startswith(_WORKERS + "/"):
            scope["cordee.worker"] = await self._worker(token, path)
        else:
            scope["cordee.principal"] = await self._principal(token, scope["method"], path)

    async def _worker(self, token: str, path: str) -> Worker:
        found = await self._workers.identify(token) if token else None
        if found is None:
            raise UnauthorizedError("this needs the token of a worker")
        named = _WORKER_PATH.fullmatch(path)
        if named is None or not found.is_named(named[1]):
            raise ForbiddenError("the token is not this worker's")
        return Worker(found.job, named[1])

    async def _principal(self, token: str, method: str, path: str) -> Principal:
        if not token:
            raise UnauthorizedError("this needs a token of the coordinator's", hint=self._people.hint)
        principal = await self._people.identify(token)
        if principal is None:
            raise UnauthorizedError("the token is not this coordinator's, or has expired", hint=self._people.hint)
        verb = verb_of(method, path)
        if not await principal.rights.allow(verb):
            what, hint = principal.rights.refused(verb)
            raise ForbiddenError(f"{principal.name or 'this token'} may not {what or f'{method} {path[:200]}'}", hint)
        return principal


class OnlyPages:
    """An application of which a few pages are served: the port for metrics shows nothing else."""

    def __init__(self, app: ASGIApp, pages: Collection[str]) -> None:
        self._app = app
        self._pages = frozenset(pages)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in self._pages:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await refusal(NotFoundError("this port has no such page"))(scope, receive, send)


def _limited(receive: Receive) -> Receive:
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > _MAX_BODY_BYTES:
            raise HTTPException(413, f"the request is larger than {_MAX_BODY_BYTES >> 20} MiB")
        return message

    return counted
