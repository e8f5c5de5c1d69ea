"""Enforces NetworkPolicies and leads to Services, by rules of the kernel in each pod's network namespace.

What a network plug-in and kube-proxy do on a real node. `policies.py` says what is allowed, `rules.py` how the kernel
is told; this sees what changes, and brings it there. A pod has its rules before its first container starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from cluster.kubelet.api import Api, ApiError, Unreachable
from cluster.kubelet.network import Network, PodNetwork
from cluster.kubelet.policies import Doors, Opening, PodFacts, Ports, doors, facts
from cluster.kubelet.rules import ruleset
from cluster.kubelet.services import Place, Services

__all__ = ["Firewall", "load", "missing"]

Json = dict[str, Any]
T = TypeVar("T")
POLICIES = "/apis/networking.k8s.io/v1"


@functools.cache
def missing() -> str | None:
    """Why there can be none here; None when there can."""
    if shutil.which("nft") is None or shutil.which("nsenter") is None:
        return "the test kubelet enforces NetworkPolicies by `nft`: apt-get install nftables"
    # Rules of every kind, in a namespace that ends with the command: not every kernel knows them.
    rules = ruleset(
        Doors((), (Opening(("10.0.0.0/8",), ("10.0.0.2/32",), (Ports("TCP", 80, 81),)),)),
        address="10.0.0.2",
        node=("10.0.0.1",),
        service_range="10.1.0.0/16",
        fronts={("10.1.0.1", "TCP", 80): [("10.0.0.3", 80), ("10.0.0.4", 81)]},
    )
    command = ["unshare", "--net", "nft", "-f", "-"]
    tried = subprocess.run(command, input=rules, capture_output=True, text=True, check=False)
    return f"this kernel cannot enforce NetworkPolicies: {tried.stderr}" if tried.returncode else None


@dataclass(slots=True)
class _Guarded:
    """A pod that runs here. `loaded`: the rules that are in force."""

    uid: str
    facts: PodFacts
    network: PodNetwork
    node: str
    loaded: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class _Table(Generic[T]):
    """All objects of a kind, as a watch tells of them; `read` takes from them what is wanted."""

    def __init__(self, api: Api, path: str, read: Callable[[Json], T], changed: Callable[[], None]) -> None:
        self._api, self._path, self._read, self._changed = api, path, read, changed
        self._known: dict[str, tuple[int, T]] = {}
        self._gone: set[str] = set()
        self.synced = asyncio.Event()

    def get(self, uid: str, default: T) -> T:
        return self._known[uid][1] if uid in self._known else default

    def all(self) -> list[T]:
        """In the order of their uids, which changes with nothing else."""
        return [self._known[uid][1] for uid in sorted(self._known)]

    async def follow(self) -> None:
        async for kind, found in self._api.watch(self._path):
            if kind == "SYNC":
                # Not for good: what was heard from elsewhere may be newer than this list.
                self._drop(set(self._known) - {item["metadata"]["uid"] for item in found})
                self.hear(found)
                self.synced.set()
            elif kind == "DELETED":
                self._gone.add(found["metadata"]["uid"])
                self._drop({found["metadata"]["uid"]})
            else:
                self.hear([found])

    def hear(self, items: list[Json]) -> None:
        """Of objects, from whatever source: older versions and objects that are gone are known better."""
        for item in items:
            uid, version = item["metadata"]["uid"], int(item["metadata"]["resourceVersion"])
            before = self._known.get(uid)
            if uid in self._gone or (before is not None and before[0] >= version):
                continue
            self._known[uid] = (version, self._read(item))
            if before is None or before[1] != self._known[uid][1]:
                self._changed()

    def _drop(self, uids: set[str]) -> None:
        for uid in uids & set(self._known):
            del self._known[uid]
            self._changed()


class Firewall:
    """All nodes' together. `api_server`: where pods reach what is behind the Service `kubernetes`."""

    def __init__(self, api: Api, services: Services, network: Network, api_server: Place) -> None:
        self._api, self._services, self._network, self._api_server = api, services, network, api_server
        self._changed = asyncio.Event()
        change = self._changed.set
        self._policies: _Table[Json] = _Table(api, f"{POLICIES}/networkpolicies", _policy, change)
        self._pods: _Table[PodFacts] = _Table(api, "/api/v1/pods", facts, change)
        self._namespaces: _Table[Json] = _Table(api, "/api/v1/namespaces", _namespace, change)
        self._guarded: dict[str, _Guarded] = {}

    async def run(self) -> None:
        unlisten = self._services.listen(self._changed.set)
        try:
            async with asyncio.TaskGroup() as group:
                for table in (self._policies, self._pods, self._namespaces):
                    group.create_task(table.follow())
                group.create_task(self._keep())
        finally:
            unlisten()

    async def synced(self) -> None:
        for table in (self._policies, self._pods, self._namespaces):
            await table.synced.wait()

    async def protect(self, pod: Json, network: PodNetwork, node: str) -> None:
        """Before its containers start. `node`: its node's address."""
        # A policy that was made before the pod counts from the pod's first moment, though the watch may not have told
        # of it yet. Where the API server is away, what is known has to do.
        meta = pod["metadata"]
        with contextlib.suppress(ApiError, Unreachable):
            found = await self._api.get(f"{POLICIES}/namespaces/{meta['namespace']}/networkpolicies")
            self._policies.hear(found.get("items") or [])
        guarded = _Guarded(meta["uid"], replace(facts(pod), address=network.address), network, node)
        self._guarded[network.namespace] = guarded
        await self._load(guarded)

    def forget(self, network: PodNetwork) -> None:
        """Its namespace is about to be removed, and its rules with it."""
        self._guarded.pop(network.namespace, None)

    async def _keep(self) -> None:
        await self.synced()
        while True:
            await self._changed.wait()
            self._changed.clear()
            await asyncio.gather(*(self._load(guarded) for guarded in tuple(self._guarded.values())))

    async def _load(self, guarded: _Guarded) -> None:
        async with guarded.lock:
            text = self._rules(guarded)
            if text == guarded.loaded:
                return
            try:
                await load(guarded.network, text)
            except RuntimeError:
                # It may have gone in the meantime.
                if guarded.network.namespace in self._guarded:
                    raise
            guarded.loaded = text

    def _rules(self, guarded: _Guarded) -> str:
        # Its labels may change; its address is known here before anybody is told.
        known = self._pods.get(guarded.uid, guarded.facts)
        pod = replace(known, address=guarded.network.address)
        namespaces = {item["name"]: item.get("labels") or {} for item in self._namespaces.all()}
        return ruleset(
            doors(pod, self._policies.all(), self._pods.all(), namespaces),
            address=guarded.network.address,
            node=(self._network.gateway, guarded.node),
            service_range=self._network.services,
            fronts=self._services.fronts(self._api_server),
        )


async def load(network: PodNetwork, text: str) -> None:
    """Puts rules in force in a pod's namespace: all of them at once, or none."""
    process = await asyncio.create_subprocess_exec(
        "nsenter",
        f"--net={network.path}",
        *("nft", "-f", "-"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate(text.encode())
    if process.returncode:
        raise RuntimeError(f"nft in {network.namespace}: {output.decode().strip()}\n{text}")


def _policy(item: Json) -> Json:
    """Without what changes for nothing."""
    return {"metadata": {"namespace": item["metadata"]["namespace"]}, "spec": item["spec"]}


def _namespace(item: Json) -> Json:
    return {name: item["metadata"].get(name) for name in ("name", "labels")}
