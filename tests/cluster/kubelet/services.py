"""What Services there are, under which names, and which addresses stand behind them: as watches of the API tell it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from cluster.kubelet.api import Api

__all__ = ["Front", "Place", "Services", "hosts_file", "targets"]

Json = dict[str, Any]
Place = tuple[str, int]
"""An address and a port."""
Front = tuple[str, str, int]
"""A Service's address, protocol and port."""
DOMAIN = "cluster.local"


class Services:
    """The cluster's Services and EndpointSlices, kept up to date; whoever listens is told of each change."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._services: dict[str, Json] = {}
        self._slices: dict[str, Json] = {}
        self._listeners: list[Callable[[], None]] = []
        self._synced = {"services": asyncio.Event(), "slices": asyncio.Event()}

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls it after each change; what is returned ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow("services", "/api/v1/services", self._services))
            group.create_task(self._follow("slices", "/apis/discovery.k8s.io/v1/endpointslices", self._slices))

    async def synced(self) -> None:
        for event in self._synced.values():
            await event.wait()

    async def _follow(self, name: str, path: str, table: dict[str, Json]) -> None:
        async for kind, found in self._api.watch(path):
            if kind == "SYNC":
                table.clear()
                table.update({_key(item): item for item in found})
                self._synced[name].set()
            elif kind == "DELETED":
                table.pop(_key(found), None)
            else:
                table[_key(found)] = found
            for listener in tuple(self._listeners):
                listener()

    def all(self) -> list[Json]:
        return list(self._services.values())

    def slices_of(self, service: Json) -> list[Json]:
        meta = service["metadata"]
        return [
            s
            for s in self._slices.values()
            if s["metadata"]["namespace"] == meta["namespace"]
            and (s["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == meta["name"]
        ]

    def fronts(self, api_server: Place) -> dict[Front, list[Place]]:
        """Who is behind every port of every Service with an address of its own; behind `kubernetes`, the API server."""
        found: dict[Front, list[Place]] = {}
        for service in self.all():
            meta, spec = service["metadata"], service["spec"]
            if spec.get("clusterIP") in {None, "", "None"}:
                continue
            itself = (meta["namespace"], meta["name"]) == ("default", "kubernetes")
            slices = self.slices_of(service)
            for port in spec.get("ports") or []:
                front = (spec["clusterIP"], port.get("protocol") or "TCP", port["port"])
                found[front] = [api_server] if itself else targets(port, slices)
        return found


def _key(item: Json) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def targets(port: Json, slices: list[Json]) -> list[tuple[str, int]]:
    """The ready addresses behind a Service's port; where none is ready, those that still serve while they end."""
    ready: list[tuple[str, int]] = []
    ending: list[tuple[str, int]] = []
    for piece in slices:
        numbers = [p["port"] for p in piece.get("ports") or [] if (p.get("name") or "") == (port.get("name") or "")]
        for endpoint in piece.get("endpoints") or []:
            state = endpoint.get("conditions") or {}
            found = [(address, number) for address in endpoint["addresses"][:1] for number in numbers]
            if state.get("ready", True):
                ready += found
            elif state.get("serving") and state.get("terminating"):
                ending += found
    return sorted(ready or ending)


def hosts_file(services: Services, *, namespace: str, address: str, hostname: str, aliases: list[Json]) -> str:
    """A pod's /etc/hosts: itself, its aliases, and every Service, by the names that a cluster's DNS would know."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback", f"{address} {hostname}"]
    lines += [f"{alias['ip']} {' '.join(alias.get('hostnames') or [])}" for alias in aliases]
    for service in sorted(services.all(), key=_key):
        meta, spec = service["metadata"], service["spec"]
        full = f"{meta['name']}.{meta['namespace']}.svc.{DOMAIN}"
        names = [full, f"{meta['name']}.{meta['namespace']}.svc", f"{meta['name']}.{meta['namespace']}"]
        if meta["namespace"] == namespace:
            names.append(meta["name"])
        if spec.get("clusterIP") not in {None, "", "None"}:
            lines.append(f"{spec['clusterIP']} {' '.join(names)}")
            continue
        for piece in services.slices_of(service):
            for endpoint in piece.get("endpoints") or []:
                if not spec.get("publishNotReadyAddresses") and not (endpoint.get("conditions") or {}).get(
                    "ready", True
                ):
                    continue
                own = [f"{endpoint['hostname']}.{name}" for name in names] if endpoint.get("hostname") else []
                lines += [f"{address} {' '.join([*own, *names])}" for address in endpoint["addresses"]]
    return "\n".join(lines) + "\n"
