"""Which namespace of which cluster this is: its name, and its uid, which no other has.

The uid needs a right (`get` on this one namespace, by the chart's Role). Without it the name alone has to do: that is
said, and is no reason not to start.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from cordee.coordinator.service.launchers.base import Home
from cordee.k8s.api import Json
from cordee.k8s.errors import ApiError, UnreachableError

__all__ = ["read_home"]

_log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 1.0
_TRIES: Final = 30
"""The server has just listed pods: what it does not answer now, it will."""
_UNKNOWABLE: Final = (401, 403, 404)


async def read_home(
    ask: Callable[..., Awaitable[Json]],
    namespace: str,
    *,
    moved_from: str = "",
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> Home:
    """The home that a namespace is. Raises KubernetesError when the API server does not answer for long."""
    for left in range(_TRIES - 1, -1, -1):
        try:
            found = await ask("GET", f"/api/v1/namespaces/{namespace}")
        except UnreachableError:
            if not left:
                raise
        except ApiError as error:
            if error.status in _UNKNOWABLE:
                _log.warning(
                    "the namespace %s is known by its name only: %s. A Role with the verb get for this namespace lets "
                    "the coordinator tell it from another cluster's",
                    namespace,
                    error.message,
                )
                return Home(namespace, moved_from=moved_from)
            if not left or error.status < 429:
                raise
        else:
            return Home(namespace, str(found["metadata"]["uid"]), moved_from)
        await sleep(_RETRY_SECONDS)
    raise AssertionError("the last try returns or raises")
