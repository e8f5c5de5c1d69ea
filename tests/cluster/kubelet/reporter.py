"""Carries a pod's status to the API server: always the newest, until it has arrived, beside the work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from cluster.kubelet.api import STRATEGIC, Api, ApiError, Unreachable
from cluster.kubelet.statuses import OWN_CONDITIONS

__all__ = ["RETRY_SECONDS", "Reporter", "path_of"]

log = logging.getLogger(__name__)
Json = dict[str, Any]
RETRY_SECONDS = 0.5


def path_of(pod: Json) -> str:
    meta = pod["metadata"]
    return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"


class Reporter:
    """`gone` is called when the API server says that there is no such pod any more."""

    def __init__(self, api: Api, pod: Json, gone: Callable[[], None]) -> None:
        self._api, self._path, self._uid, self._gone = api, path_of(pod), pod["metadata"]["uid"], gone
        self._status: Json | None = None
        self._waiting = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def report(self, status: Json) -> None:
        self._status = status
        self._idle.clear()
        self._waiting.set()

    async def flush(self) -> None:
        """Until what was reported has arrived."""
        await self._idle.wait()

    async def run(self) -> None:
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            try:
                await self._send()
            except ApiError as error:
                if error.status in {404, 409}:
                    self._gone()
                else:
                    log.warning("the status of a pod was refused: %s: %s", self._path, error)
                    self._waiting.set()
                    await asyncio.sleep(RETRY_SECONDS)
            except Unreachable:
                self._waiting.set()
                await asyncio.sleep(RETRY_SECONDS)
            if not self._waiting.is_set():
                self._idle.set()

    async def _send(self) -> None:
        assert self._status is not None
        # Others' conditions (an eviction's) are theirs to write.
        own = [c for c in self._status["conditions"] if c["type"] in OWN_CONDITIONS]
        status = {**self._status, "conditions": own}
        for key in {"podIPs", "hostIPs"} & set(status):
            # They would be merged with those of a life before the node's restart.
            status[key] = [{"$patch": "replace"}, *status[key]]
        body = {"metadata": {"uid": self._uid}, "status": status}
        await self._api.patch(f"{self._path}/status", body, STRATEGIC)

    async def delete(self) -> None:
        """Tells the API server that nothing is left of the pod: its object goes."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        while True:
            try:
                await self._api.delete(self._path, {**body, "preconditions": {"uid": self._uid}})
                return
            except ApiError as error:
                if error.status in {404, 409}:
                    return
            except Unreachable:
                pass
            await asyncio.sleep(RETRY_SECONDS)
