"""A pod in name only: it reports what a real one would, at once, and no process runs. For clusters of thousands."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

from cluster.kubelet.api import STRATEGIC, ApiError, Unreachable
from cluster.kubelet.host import Host
from cluster.kubelet.statuses import Running, Terminated, containers_of, pod_status

__all__ = ["HollowPod"]

Json = dict[str, Any]


class HollowPod:
    """Runs until it is deleted. Its initialising containers have done their work before anybody looks."""

    def __init__(self, host: Host, pod: Json) -> None:
        self.host, self.pod = host, pod
        self.name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        self._changed = asyncio.Event()
        self._gone = False

    def update(self, pod: Json) -> None:
        self.pod = pod
        self._changed.set()

    def gone(self) -> None:
        self._gone = True
        self._changed.set()

    async def run(self) -> None:
        meta = self.pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        now = self.host.clock()
        containers = [
            replace(c, state=Terminated(0, "Completed", now, now), container_id="cordee-test://hollow")
            if c.kind == "init"
            else replace(c, state=Running(now), started=True, ready=True, container_id="cordee-test://hollow")
            for c in containers_of(self.pod["spec"])
        ]
        address = self.host.network.next_address()
        status = pod_status(self.pod, containers, now=now, started=now, host_ip=self.host.address, pod_ip=address)
        body = {"metadata": {"uid": meta["uid"]}, "status": status}
        with contextlib.suppress(ApiError):
            await self._insist("PATCH", f"{path}/status", body)
            while not (self._gone or "deletionTimestamp" in self.pod["metadata"]):
                self._changed.clear()
                await self._changed.wait()
            if not self._gone:
                await self._insist("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}})

    async def _insist(self, method: str, path: str, body: Json) -> None:
        content_type = STRATEGIC if method == "PATCH" else "application/json"
        while True:
            try:
                await self.host.api.request(method, path, body, content_type=content_type)
                return
            except Unreachable:
                await asyncio.sleep(0.5)
