"""A node: registers itself, says that it is alive, and runs the pods that the scheduler gives it.

Besides what every kubelet does it can be told to misbehave: to lose its power (`vanish`), its network (`partition`),
its registry (`fail_pulls`), or a container (`crash`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any

from cluster.kubelet.api import STRATEGIC, ApiError, Unreachable
from cluster.kubelet.hollow import HollowPod
from cluster.kubelet.host import Host
from cluster.kubelet.pod import PodWorker
from cluster.kubelet.remote import EXEC_FEATURE
from cluster.kubelet.statuses import moment

__all__ = ["Node"]

Json = dict[str, Any]
log = logging.getLogger(__name__)
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


class Node:
    """One node. `hollow`: pods run in name only, for clusters of thousands of them."""

    def __init__(
        self,
        host: Host,
        *,
        heartbeat_seconds: float = 1.0,
        labels: dict[str, str] | None = None,
        taints: Sequence[dict[str, str]] = (),
        port: int = 10250,
        hollow: bool = False,
    ) -> None:
        self.host, self.name, self.port, self.hollow = host, host.name, port, hollow
        self.workers: dict[str, PodWorker | HollowPod] = {}
        self._heartbeat_seconds = heartbeat_seconds
        self._labels, self._taints = labels or {}, list(taints)
        self._tasks: list[asyncio.Task[None]] = []
        self._pods: dict[str, asyncio.Task[None]] = {}

    # Its life

    async def start(self) -> None:
        """Registers the node and begins to take pods."""
        self.host.api.cut = False
        await self._register()
        for work in (self._heartbeat(), self._follow(), self.host.events.run()):
            task = asyncio.create_task(work)
            task.add_done_callback(self._complain)
            self._tasks.append(task)

    @property
    def running(self) -> bool:
        return bool(self._tasks)

    async def stop(self) -> None:
        """Ends the kubelet and kills what it ran, without a word to the API server."""
        await self._cancel(self._tasks)
        tasks = list(self._pods.values())
        await self._cancel(tasks)
        self._pods.clear()
        self.workers.clear()

    async def restart(self) -> None:
        """The kubelet's own restart: containers run on, and are found again."""
        await self._cancel(self._tasks)
        await self.start()

    async def vanish(self) -> None:
        """The power is gone: nothing is said, nothing is reset, nothing runs any more."""
        await self._unplug()
        await self.stop()

    async def come_back(self) -> None:
        """The machine is on again: its pods' containers start as after a restart."""
        self.host.plugged = True
        await self.start()

    async def partition(self) -> None:
        """The cable is out: processes run on and reach nobody."""
        await self._unplug()

    async def heal(self) -> None:
        self.host.plugged = True
        await self._plug(True)
        self.host.api.cut = False

    async def _unplug(self) -> None:
        self.host.api.cut = True
        self.host.plugged = False
        await self._plug(False)

    async def _plug(self, connected: bool) -> None:
        for worker in self.workers.values():
            if isinstance(worker, PodWorker) and worker.home and worker.home.network:
                await self.host.network.plug(worker.home.network, connected, check=False)

    # What tests tell it

    def fail_pulls(self, image: str, failing: bool = True) -> None:
        (self.host.unpullable.add if failing else self.host.unpullable.discard)(image)

    def worker(self, namespace: str, pod: str) -> PodWorker:
        """What runs a pod here."""
        for worker in self.workers.values():
            if worker.name == f"{namespace}/{pod}" and isinstance(worker, PodWorker):
                return worker
        raise LookupError(f"no pod {namespace}/{pod} on node {self.name}")

    # The node's object

    async def _register(self) -> None:
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": self.name,
                "labels": {
                    "kubernetes.io/hostname": self.name,
                    "kubernetes.io/os": "linux",
                    "kubernetes.io/arch": "amd64",
                    **self._labels,
                },
            },
            "spec": {"taints": self._taints} if self._taints else {},
        }
        await self.host.api.apply("/api/v1/nodes", node)
        await self.host.api.apply(LEASES, self._lease())
        await self._status()

    def _lease(self) -> Json:
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name, "namespace": "kube-node-lease"},
            "spec": {
                "holderIdentity": self.name,
                "leaseDurationSeconds": 40,
                "renewTime": time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime()),
            },
        }

    async def _status(self) -> None:
        now = moment(time.time())
        bad = ("MemoryPressure", "DiskPressure", "PIDPressure")
        conditions = [_condition(kind, "False", f"KubeletHasNo{kind}", now) for kind in bad]
        conditions.append(_condition("Ready", "True", "KubeletReady", now))
        status = {
            "addresses": [
                {"type": "InternalIP", "address": self.host.address},
                {"type": "Hostname", "address": self.name},
            ],
            "capacity": dict(self.host.capacity),
            "allocatable": dict(self.host.capacity),
            "conditions": conditions,
            # Else the API server speaks SPDY for `kubectl exec`.
            "declaredFeatures": [EXEC_FEATURE],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": "",
                "containerRuntimeVersion": "cordee-test://1",
                "kernelVersion": "test",
                "kubeProxyVersion": "",
                "kubeletVersion": "v1.36.0",
                "machineID": self.name,
                "operatingSystem": "linux",
                "osImage": "Cordee's test kubelet",
                "systemUUID": self.name,
            },
        }
        await self.host.api.patch(f"/api/v1/nodes/{self.name}/status", {"status": status}, STRATEGIC)

    async def _heartbeat(self) -> None:
        """The lease each time, the node's status now and then; an object that is gone is made anew."""
        beats = 0
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            beats += 1
            try:
                renewed = {"spec": {"renewTime": self._lease()["spec"]["renewTime"]}}
                await self.host.api.patch(f"{LEASES}/{self.name}", renewed)
                if beats % 10 == 0 or (beats % 3 == 0 and not await self._ready()):
                    await self._status()
            except ApiError as error:
                if error.status == 404:
                    with contextlib.suppress(ApiError, Unreachable):
                        await self._register()
            except Unreachable:
                pass

    async def _ready(self) -> bool:
        """Whether the node's object says so: the controller manager writes Unknown when leases stopped."""
        node = await self.host.api.get(f"/api/v1/nodes/{self.name}")
        found = (node.get("status") or {}).get("conditions") or []
        return any(c["type"] == "Ready" and c["status"] == "True" for c in found)

    # Its pods

    async def _follow(self) -> None:
        async for kind, found in self.host.api.watch("/api/v1/pods", fieldSelector=f"spec.nodeName={self.name}"):
            if kind == "SYNC":
                present = {pod["metadata"]["uid"] for pod in found}
                for uid in set(self.workers) - present:
                    self.workers[uid].gone()
                for pod in found:
                    self._take(pod)
            elif kind == "DELETED":
                if worker := self.workers.get(found["metadata"]["uid"]):
                    worker.gone()
            else:
                self._take(found)

    def _take(self, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        if worker := self.workers.get(uid):
            worker.update(pod)
            return
        worker = HollowPod(self.host, pod) if self.hollow else PodWorker(self.host, pod)
        self.workers[uid] = worker
        self._pods[uid] = asyncio.create_task(self._run(uid, worker))

    async def _run(self, uid: str, worker: PodWorker | HollowPod) -> None:
        try:
            await worker.run()
        except Exception:
            # A mistake of ours, not of the pod's: who runs the tests must see it.
            log.exception("node %s: the worker of pod %s failed", self.name, worker.name)
        finally:
            if self.workers.get(uid) is worker:
                del self.workers[uid]
            self._pods.pop(uid, None)

    def _complain(self, task: asyncio.Task[None]) -> None:
        """None of them should end by itself."""
        if not task.cancelled() and (error := task.exception()):
            log.error("node %s: its kubelet broke", self.name, exc_info=error)

    @staticmethod
    async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        tasks.clear()


def _condition(kind: str, status: str, reason: str, now: str) -> Json:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": reason,
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
