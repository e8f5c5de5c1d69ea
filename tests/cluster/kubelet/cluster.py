"""Nodes under a control plane, in a thread of their own, for tests that call and wait as tests do.

with Cluster(plane, network, folder, nodes=("a", "b", "c")) as cluster:
    cluster.vanish("b")
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from cluster.control_plane import ControlPlane
from cluster.kubelet.api import Access, Api
from cluster.kubelet.decisions import Backoff
from cluster.kubelet.firewall import Firewall
from cluster.kubelet.firewall import missing as firewall_missing
from cluster.kubelet.host import Events, Host, ObjectCache
from cluster.kubelet.images import CORDEE, Image, Layers, shell_image, this_checkout
from cluster.kubelet.network import Network
from cluster.kubelet.node import Node
from cluster.kubelet.proxy import Proxy
from cluster.kubelet.server import NodeServer
from cluster.kubelet.services import Services
from cluster.kubelet.storage import STORAGE_CLASS, Storage
from cluster.kubelet.volumes import Claims

__all__ = ["IMPATIENT", "SHELL", "STORAGE_CLASS", "Cluster"]

T = TypeVar("T")
SHELL = "busybox:test"
IMPATIENT = Backoff(first=0.5, most=8.0, forgotten=60.0)
API_SERVER_PORT = 6443  # of the machine, as pods see it
_libc = ctypes.CDLL(None, use_errno=True)
_NEWNS, _REC_PRIVATE = 0x00020000, 16384 | (1 << 18)


class Cluster:
    """`images`: beside this checkout's (`cordee:test`) and a shell's (`busybox:test`). `capacity` is each node's.
    NetworkPolicies are in force where `nft` is (`firewall.missing`).

    Everything runs in one thread, whose mounts nobody else sees: nothing is left of them when it ends, however it ends.
    """

    def __init__(
        self,
        plane: ControlPlane,
        network: Network,
        *,
        nodes: Sequence[str] = ("a", "b", "c"),
        images: Mapping[str, Image] | None = None,
        capacity: Mapping[str, str] | None = None,
        backoff: Backoff = IMPATIENT,
        heartbeat_seconds: float = 1.0,
        hollow: bool = False,
    ) -> None:
        self.plane, self.network = plane, network
        self.nodes: dict[str, Node] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="cordee-nodes-"))
        self._names = tuple(nodes)
        self._images = dict(images or {})
        self._servers: dict[str, NodeServer] = {}
        self._capacity = {"cpu": "8", "memory": "16Gi", "pods": "110", "ephemeral-storage": "20Gi", **(capacity or {})}
        self._backoff, self._heartbeat_seconds, self._hollow = backoff, heartbeat_seconds, hollow
        self._firewall: Firewall | None = None
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="nodes", daemon=True)
        self._stop = asyncio.Event()

    # Its life

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            self._thread.join()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise self._failed
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._failed is not None:
            raise self._failed

    def _main(self) -> None:
        try:
            # A mount namespace is a thread's own, and its children's.
            if _libc.unshare(_NEWNS) or _libc.mount(b"none", b"/", None, _REC_PRIVATE, None):
                raise OSError(ctypes.get_errno(), f"no mount namespace: {os.strerror(ctypes.get_errno())}")
            self._loop.run_until_complete(self._run())
        except BaseException as error:
            self._failed = error
        finally:
            self._ready.set()
            self._loop.close()

    async def _run(self) -> None:
        self._prepare_folders()
        self.network.open()
        admin = Api(Access.from_kubeconfig(self.plane.kubeconfig), agent="cordee-test-proxy")
        services = Services(admin)
        storage = Storage(admin, self.folder / "claims")
        # Pods in name only need no rules.
        if firewall_missing() is None and not self._hollow:
            door = (self.network.gateway, API_SERVER_PORT)
            self._firewall = Firewall(admin, services, self.network, door)
            work = [Proxy(services, self.plane.url, door).run(), self._firewall.run()]
        else:
            work = [Proxy(services, self.plane.url).run()]
        work += [services.run(), storage.run()]
        tasks = [asyncio.create_task(each) for each in work]
        self._services, self._layers = services, Layers(self.folder / "layers")
        self._images = {SHELL: shell_image(), CORDEE: this_checkout(self._layers), **self._images}
        try:
            await services.synced()
            if self._firewall:
                await self._firewall.synced()
            for name in self._names:
                await self._add(name, {}, hollow=self._hollow)
            self._ready.set()
            stop = asyncio.create_task(self._stop.wait())
            done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stop}:
                task.result()
        finally:
            for name in tuple(self.nodes):
                await self._take_away(name)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await admin.close()
            self.network.close()

    def _prepare_folders(self) -> None:
        for name in ("layers", "claims", "nodes"):
            (self.folder / name).mkdir()
        # An overlay's layer must not lie in a folder that is a layer itself: these lie on a file system of their own.
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(self.folder / "layers")], check=True)
        # `ip netns` keeps names of namespaces as mounts, and expects its folder to be one.
        namespaces = Path("/run/netns")
        namespaces.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(namespaces)], check=True)

    async def _add(self, name: str, capacity: Mapping[str, str], **settings: Any) -> None:
        host = self._host(name, capacity)
        node = Node(host, heartbeat_seconds=self._heartbeat_seconds, **settings)
        pair = self.plane.authority.issue(f"system:node:{name}", hosts=[name, host.address])
        self._servers[name] = NodeServer(node, (pair.certificate, pair.key))
        await self._servers[name].start()
        await node.start()
        self.nodes[name] = node

    async def _take_away(self, name: str) -> None:
        node = self.nodes.pop(name)
        self._servers.pop(name).close()
        await node.stop()
        await node.host.api.close()

    def _host(self, name: str, capacity: Mapping[str, str]) -> Host:
        kubeconfig = self.plane.kubeconfig_for(f"system:node:{name}", ["system:nodes"])
        api = Api(Access.from_kubeconfig(kubeconfig))
        folder = self.folder / "nodes" / name
        folder.mkdir(exist_ok=True)
        devices = (*(f"nvidia{k}" for k in range(8)), "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
        return Host(
            name=name,
            address=self.network.add_host_address(),
            api=api,
            folder=folder,
            images=self._images,
            layers=self._layers,
            network=self.network,
            claims=Claims(self.folder / "claims"),
            services=self._services,
            objects=ObjectCache(api),
            events=Events(api, name),
            capacity={**self._capacity, **capacity},
            backoff=self._backoff,
            firewall=self._firewall,
            devices=devices,
        )

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine among the nodes, and returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    # What tests do to it

    def add_node(self, name: str, *, capacity: Mapping[str, str] | None = None, **settings: Any) -> None:
        """One more node; `settings` are `Node`'s: `hollow`, `labels`, `taints`."""
        self.call(self._add(name, capacity or {}, **settings))

    def take_away(self, name: str) -> None:
        """Stops a node for good, as if it had never been."""
        self.call(self._take_away(name))
        self.remove(name)

    def vanish(self, node: str) -> None:
        """The power of a node is gone."""
        self.call(self.nodes[node].vanish())

    def come_back(self, node: str) -> None:
        self.call(self.nodes[node].come_back())

    def partition(self, node: str) -> None:
        """A node's network is gone; its processes run on."""
        self.call(self.nodes[node].partition())

    def heal(self, node: str) -> None:
        self.call(self.nodes[node].heal())

    def restart(self, node: str) -> None:
        """A node's kubelet restarts; its containers do not."""
        self.call(self.nodes[node].restart())

    def remove(self, node: str) -> None:
        """What a cloud does after a machine was lost: its object is deleted, and its pods with it."""
        self.plane.kubectl("delete", "node", node, "--wait=false")

    def repair(self) -> None:
        """Brings back what was lost, mends networks, and lifts what was forbidden."""
        for name, node in self.nodes.items():
            if not node.running:
                self.come_back(name)
            elif not node.host.plugged:
                self.heal(name)
            node.host.unpullable.clear()
            self.uncordon(name)

    def fail_pulls(self, image: str, failing: bool = True) -> None:
        """No node can pull this image, or can again."""
        for node in self.nodes.values():
            node.fail_pulls(image, failing)

    def crash(self, namespace: str, pod: str, container: str | None = None) -> None:
        """Kills a container's processes; its pod stays."""
        node = self.node_of(namespace, pod)

        async def kill() -> None:
            node.worker(namespace, pod).kill(container)

        self.call(kill())

    def fail(
        self, namespace: str, pod: str, reason: str = "Evicted", message: str = "The node was low on resource: memory."
    ) -> None:
        """The node's own verdict on a pod, as when it runs short of something."""
        node = self.node_of(namespace, pod)

        async def fail() -> None:
            node.worker(namespace, pod).fail(reason, message)

        self.call(fail())

    def evict(self, namespace: str, pod: str, grace_seconds: int | None = None) -> int:
        """Asks for an eviction, as a drain does; returns the answer's status: 201, or 429 for a disruption budget."""
        body: dict[str, Any] = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
        }
        if grace_seconds is not None:
            body["deleteOptions"] = {"gracePeriodSeconds": grace_seconds}
        return self.plane.request("POST", f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction", body)[0]

    def drain(self, node: str) -> None:
        """`kubectl drain`: no new pods, and evictions of those that are there, until none is left."""
        self.plane.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s")

    def uncordon(self, node: str) -> None:
        self.plane.kubectl("uncordon", node)

    def node_of(self, namespace: str, pod: str) -> Node:
        found = self.plane.get("pod", pod, "--namespace", namespace)
        return self.nodes[found["spec"]["nodeName"]]
