"""What a node lends to its pods: the API, images, network, storage, the Services it knows of, room for their things."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.kubelet.api import Api, ApiError, Unreachable
from cluster.kubelet.decisions import Backoff
from cluster.kubelet.firewall import Firewall
from cluster.kubelet.images import Image, Layers
from cluster.kubelet.network import Network
from cluster.kubelet.services import Services
from cluster.kubelet.statuses import moment
from cluster.kubelet.volumes import Claims

__all__ = ["Events", "Host", "ObjectCache"]

Json = dict[str, Any]


class ObjectCache:
    """ConfigMaps and Secrets, asked for anew when they are older than a moment, whoever wants them."""

    def __init__(self, api: Api, seconds: float = 1.0) -> None:
        self._api, self._seconds = api, seconds
        self._known: dict[tuple[str, str, str], tuple[float, Json | None]] = {}

    async def find(self, kind: str, namespace: str, name: str) -> Json | None:
        key = (kind, namespace, name)
        then, found = self._known.get(key, (0.0, None))
        if time.monotonic() - then < self._seconds and found is not None:
            return found
        try:
            found = await self._api.get(f"/api/v1/namespaces/{namespace}/{kind}/{name}")
        except ApiError as error:
            if error.status not in {403, 404}:
                raise
            found = None
        self._known[key] = (time.monotonic(), found)
        return found


class Events:
    """Tells the API server what happened to pods, in order, beside the work; the same thing again is counted."""

    def __init__(self, api: Api, node: str) -> None:
        self._api, self._node = api, node
        self._queue: asyncio.Queue[tuple[Json, str, str, str]] = asyncio.Queue()
        self._told: dict[tuple[str, str, str], tuple[str, str, int]] = {}

    def tell(self, pod: Json, kind: str, reason: str, message: str) -> None:
        """`kind` is Normal or Warning."""
        self._queue.put_nowait((pod, kind, reason, message))

    async def run(self) -> None:
        while True:
            pod, kind, reason, message = await self._queue.get()
            with contextlib.suppress(ApiError, Unreachable):
                await self._send(pod, kind, reason, message)

    async def _send(self, pod: Json, kind: str, reason: str, message: str) -> None:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/events"
        key = (meta["uid"], reason, message)
        now = moment(time.time())
        if key in self._told:
            name, _, count = self._told[key]
            self._told[key] = (name, now, count + 1)
            await self._api.patch(f"{path}/{name}", {"count": count + 1, "lastTimestamp": now})
            return
        name = f"{meta['name']}.{time.time_ns():x}"
        event = {
            "metadata": {"name": name, "namespace": meta["namespace"]},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": meta["name"],
                "namespace": meta["namespace"],
                "uid": meta["uid"],
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": "kubelet", "host": self._node},
            "reportingComponent": "kubelet",
            "reportingInstance": self._node,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        await self._api.create(path, event)
        self._told[key] = (name, now, 1)


@dataclass(slots=True)
class Host:
    """Everything that a pod's worker needs of its node. `images`: by name; None, or no entry: the pull fails."""

    name: str
    address: str
    api: Api
    folder: Path
    images: dict[str, Image]
    layers: Layers
    network: Network
    claims: Claims
    services: Services
    objects: ObjectCache
    events: Events
    capacity: Mapping[str, str]
    backoff: Backoff
    firewall: Firewall | None = None
    devices: tuple[str, ...] = ()
    unpullable: set[str] = field(default_factory=set)
    clock: Callable[[], float] = time.time
    plugged: bool = True
