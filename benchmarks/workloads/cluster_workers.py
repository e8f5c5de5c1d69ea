"""The workers of all pods of a namespace, in name only, for benchmarks/cluster.py: to the coordinator they are real.

    python cluster_workers.py KUBECONFIG NAMESPACE HOST:PORT

Each has a connection of its own, its pod's token (as the kubelet would project it: bound to the pod, for its job's
audience), attaches, takes part in the worlds of its job, is heard as often as asked, and commits a step a second.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import grpc.aio

from cordee.coordinator.config import Kubernetes
from cordee.k8s.api import Api
from cordee.k8s.identity import audience_of
from cordee.rpc.v1 import worker_pb2 as pb
from cordee.rpc.v1 import worker_pb2_grpc as rpc

JOB, WORKER = "cordee.dev/job", "cordee.dev/worker"
STEP_SECONDS = 1.0
STARTING = 16
"""So many fetch their tokens and attach at once."""


def token_of(api: Api, pod: dict[str, Any]) -> str:
    metadata = pod["metadata"]
    bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
    audiences = [audience_of(metadata["labels"][JOB])]
    account = f"/api/v1/namespaces/{api.namespace}/serviceaccounts/{pod['spec']['serviceAccountName']}"
    body = {"spec": {"audiences": audiences, "expirationSeconds": 3600, "boundObjectRef": bound}}
    return str(api.request("POST", f"{account}/token", body=body)["status"]["token"])


class Worker:
    """One worker: a stream, and the world that it is in."""

    def __init__(self, pod: dict[str, Any], number: int) -> None:
        labels = pod["metadata"]["labels"]
        self.pod, self.number = pod, number
        self.job, self.name = labels[JOB], labels[WORKER]
        self.generation = self.step = 0
        self.training = False
        self.phase_began = time.monotonic()

    async def run(self, api: Api, address: str, gate: asyncio.Semaphore) -> None:
        async with gate:
            token = await asyncio.to_thread(token_of, api, self.pod)
            channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
            call = rpc.WorkerServiceStub(channel).Attach(metadata=(("authorization", f"Bearer {token}"),))
            hello = pb.Hello(
                job=self.job, worker=self.name, incarnation="bench", address=f"127.0.0.1:{self.number}", pid=self.number
            )
            await call.write(pb.WorkerMessage(hello=hello))
            welcome = (await call.read()).welcome
            joined = pb.Arrived(reason=pb.ARRIVAL_REASON_JOIN)
            await call.write(pb.WorkerMessage(arrived=joined))
        beating = asyncio.create_task(self.beat(call, welcome.heartbeat_seconds))
        while (message := await call.read()) is not grpc.aio.EOF:
            kind = message.WhichOneof("kind")
            if kind == "world":
                self.generation, self.step, self.training = message.world.generation, message.world.step, True
            elif kind in ("change_pending", "abort"):
                self.training = False
                reason = pb.ARRIVAL_REASON_CHANGE if kind == "change_pending" else pb.ARRIVAL_REASON_PEER_LOST
                arrived = pb.Arrived(generation=self.generation, step=self.step, has_state=True, reason=reason)
                await call.write(pb.WorkerMessage(arrived=arrived))
            elif kind == "stop":
                break
        beating.cancel()
        await channel.close()

    async def beat(self, call: Any, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            now = time.monotonic()
            if self.training and now - self.phase_began >= STEP_SECONDS:
                self.step, self.phase_began = self.step + 1, now
            phase = pb.PHASE_COMPUTING if self.training else pb.PHASE_MEETING
            activity = pb.Activity(phase=phase, step=self.step + 1, seconds=now - self.phase_began)
            heartbeat = pb.Heartbeat(generation=self.generation, step=self.step, activity=activity)
            await call.write(pb.WorkerMessage(heartbeat=heartbeat))


async def main(kubeconfig: str, namespace: str, address: str) -> None:
    api = Api.connect(Kubernetes(kubeconfig=kubeconfig, namespace=namespace))
    pods = api.request("GET", f"/api/v1/namespaces/{namespace}/pods", query={"labelSelector": JOB})["items"]
    gate = asyncio.Semaphore(STARTING)
    await asyncio.gather(*(Worker(pod, 1 + number).run(api, address, gate) for number, pod in enumerate(pods)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
