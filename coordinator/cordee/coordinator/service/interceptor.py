"""Before any call's handler runs: whether the caller is a worker at all. Whose, the handler looks at."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.service import auth
from cordee.coordinator.service.identity import WorkerVerifier

__all__ = ["TokenInterceptor", "token_of"]

_log = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[Any, Any]


class TokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Turns away every call that does not carry the token of some worker, whatever its method."""

    def __init__(self) -> None:
        self.verifier: WorkerVerifier | None = None
        """Without one nobody comes in."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The call's handler, or one that refuses."""
        given = token_of(handler_call_details.invocation_metadata)
        if given and self.verifier is not None:
            try:
                if await self.verifier.identify(given) is not None:
                    return await continuation(handler_call_details)
            except CoordinatorError as error:
                _log.warning("whether a caller is a worker cannot be found out: %s", error)
                return grpc.stream_stream_rpc_method_handler(_not_now)
        return grpc.stream_stream_rpc_method_handler(_refuse)


def token_of(metadata: Any) -> str:
    """The bearer token that a call carries; empty when there is none."""
    for name, value in metadata or ():
        if name == "authorization" and isinstance(value, str):
            return auth.bearer(value)
    return ""


async def _not_now(_requests: object, context: _Context) -> None:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "who calls cannot be found out now: ask again")


async def _refuse(_requests: object, context: _Context) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this call needs the token of a worker")
