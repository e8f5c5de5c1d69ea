"""What a coordinator does per second on Kubernetes, how soon pods are there, and what a thousand of them cost it.

    tests/cluster/tools/build                 # once: a real API server, with etcd, controllers and scheduler
    python benchmarks/cluster.py [--jobs 300] [--latency-jobs 40] [--pods 1000] [--watch-seconds 30]

Root and `iproute2` are needed (tests/cluster/README.md). Everything runs on this machine: the control plane, nodes
without processes (pods are told to be running at once), the coordinator as `cordee coordinator` with the launcher
`kubernetes`, and whoever submits. Three parts, one cluster:

admission   TrainingJob objects of one worker are created by 8 clients; a job is admitted when its pod has been created.
            The mark is Kueue's published 42 admissions per second (kueue.sigs.k8s.io, "performance": 15,000 workloads).
            Then what was asked of the API server per job, by anybody, until all statuses and events are written.
latency     jobs one at a time over REST, as `cordee submit` sends them, until the last of 4 pods has been created.
weight      the coordinator's CPU and memory while so many pods run, in jobs of 50: first the pods alone, then with an
            attached worker for each, whose stream beats and commits a step every second.
"""

from __future__ import annotations

import argparse
import json
import queue
import re
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from machine import print_machine, print_rows

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[0] = str(ROOT / "tests")  # in place of this folder, where `cluster` is this file
from cluster import binaries  # noqa: E402
from cluster.control_plane import ControlPlane  # noqa: E402
from cluster.kubelet.cluster import Cluster  # noqa: E402
from cluster.kubelet.network import Network, missing  # noqa: E402
from cluster.processes import Server, wait_until  # noqa: E402
from cordee.coordinator.client import Client, read_endpoint  # noqa: E402
from cordee.coordinator.config import Kubernetes  # noqa: E402
from cordee.k8s.api import Api  # noqa: E402
from cordee.k8s.watch import Change, Collection, Kind, Watcher  # noqa: E402

NAMESPACE, ACCOUNT, LABEL = "bench", "coordinator", "cordee.dev/job"
KUEUE_PER_SECOND = 42.0
CLIENTS = 8
JOB_SIZE = 50
SETTLE_SECONDS = 5.0
NUM_NODES, PODS_PER_NODE = 5, 400
JOBS = f"/apis/cordee.dev/v1alpha1/namespaces/{NAMESPACE}/trainingjobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
DEADLINE_SECONDS = 600.0
ASKED_BY = {
    "POST trainingjobs": "whoever submits",
    "PATCH trainingjobs": "the coordinator: takes it",
    "PATCH trainingjobs/status": "the coordinator",
    "POST pods": "the coordinator",
    "POST events": "the coordinator, the scheduler",
    "POST pods/binding": "the scheduler",
    "PATCH pods/status": "the node",
}
METRIC = re.compile(r"apiserver_request_total\{(.*)\} (\S+)")
NOT_OF_JOBS = ("leases", "nodes", "nodes/status")


def quantile(values: list[float], share: float) -> float:
    """The smallest value that so many are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class Pods:
    """When each pod was first seen, by job, and which there are now."""

    seen: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    alive: set[str] = field(default_factory=set)
    running: set[str] = field(default_factory=set)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def deliver(self, changes: Sequence[Change]) -> None:
        now = time.perf_counter()
        with self.changed:
            for change in changes:
                pod = change.object
                name = pod["metadata"]["name"]
                if change.kind is Kind.ADDED:
                    self.seen[pod["metadata"]["labels"][LABEL]].append(now)
                    self.alive.add(name)
                if change.kind is Kind.DELETED:
                    self.running.discard(name)
                    self.alive.discard(name)
                elif pod.get("status", {}).get("phase") == "Running":
                    self.running.add(name)
            self.changed.notify_all()

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        with self.changed:
            if not self.changed.wait_for(holds, DEADLINE_SECONDS):
                raise TimeoutError(f"{what}: not within {DEADLINE_SECONDS:g} s")


def document(name: str, workers: int) -> dict[str, Any]:
    return {
        "apiVersion": "cordee.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {
            "script": "train.py",
            "sourceFrom": {"image": {"path": "/workspace"}},
            "workers": {"min": workers, "max": workers},
        },
    }


@contextmanager
def coordinator(plane: ControlPlane, folder: Path) -> Iterator[tuple[Server, Client]]:
    """`cordee coordinator` with the launcher `kubernetes`, as a service account with the rights it needs."""
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create", "delete"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
        {"apiGroups": ["cordee.dev"], "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    ]
    reviews = [{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}]
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}
    group = "rbac.authorization.k8s.io"
    objects: list[dict[str, Any]] = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}}]
    for kind, wanted in (("Role", rules), ("ClusterRole", reviews)):
        reference = {"apiGroup": group, "kind": kind, "name": ACCOUNT}
        common = {"apiVersion": f"{group}/v1", "metadata": {"name": ACCOUNT}}
        objects.append({**common, "kind": kind, "rules": wanted})
        objects.append({**common, "kind": f"{kind}Binding", "roleRef": reference, "subjects": [subject]})
    plane.apply(*objects, namespace=NAMESPACE)
    kubeconfig = plane.kubeconfig_for_service_account(NAMESPACE, ACCOUNT)
    state = folder / "state"
    config = {
        "apiVersion": "cordee.dev/v1alpha1",
        "kind": "CoordinatorConfig",
        "state": str(state),
        "listen": {"restPort": 0, "grpcPort": 0},
        "launcher": "kubernetes",
        "kubernetes": {"namespace": NAMESPACE, "kubeconfig": str(kubeconfig), "image": "cordee:test"},
    }
    (folder / "coordinator.yaml").write_text(yaml.safe_dump(config))
    command = [
        sys.executable,
        "-m",
        "cordee.coordinator.cli",
        "coordinator",
        "--config",
        str(folder / "coordinator.yaml"),
    ]
    server = Server("coordinator", command, folder / "coordinator.log")
    server.start()
    try:
        wait_until(lambda: read_endpoint(state) is not None, "the coordinator does not come up", watched=[server])
        endpoint = read_endpoint(state)
        assert endpoint is not None
        with Client(endpoint) as client:
            yield server, client
    finally:
        server.stop()


def asked(plane: ControlPlane) -> Counter[str]:
    """How often the API server was asked for what until now, but for lists, watches and nodes' signs of life."""
    status, page = plane.request("GET", "/metrics")
    assert status == 200, page
    found = Counter[str]()
    for line in page.splitlines():
        if (match := METRIC.fullmatch(line)) is not None:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[1]))
            what = labels["resource"] + (f"/{labels['subresource']}" if labels["subresource"] else "")
            if labels["verb"] not in ("WATCH", "LIST") and what not in NOT_OF_JOBS:
                found[f"{labels['verb']} {what}"] += int(float(match[2]))
    return found


def requests(plane: ControlPlane, before: Counter[str], num_jobs: int) -> list[list[str]]:
    """What was asked for since then, per job."""
    time.sleep(SETTLE_SECONDS)  # the last statuses and events are written
    counts = {what: count / num_jobs for what, count in (asked(plane) - before).most_common()}
    rows = [[what, f"{count:.2f}", ASKED_BY.get(what, "")] for what, count in counts.items() if count >= 0.1]
    return [*rows, ["all", f"{sum(counts.values()):.2f}", ""]]


def admission(api: Api, pods: Pods, num_jobs: int, processes: Mapping[str, psutil.Process]) -> list[list[str]]:
    """Objects as fast as clients can make them, until each has its pod."""
    names = queue.SimpleQueue[str]()
    for k in range(num_jobs):
        names.put(f"admission-{k}")
    submitted: dict[str, float] = {}

    def submit() -> None:
        while True:
            try:
                name = names.get_nowait()
            except queue.Empty:
                return
            began = time.perf_counter()
            api.request("POST", JOBS, body=document(name, 1))
            submitted[name] = began

    before = len(pods.seen)
    spent = {name: cpu_seconds(process) for name, process in processes.items()}
    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        for each in [pool.submit(submit) for _ in range(CLIENTS)]:
            each.result()
    created = time.perf_counter()
    pods.wait(lambda: len(pods.seen) - before >= num_jobs, "every job has its pod")
    moments = sorted(times[0] for times in list(pods.seen.values())[before:])
    rate = num_jobs / (moments[-1] - began)
    spent = {name: (cpu_seconds(process) - spent[name]) / num_jobs for name, process in processes.items()}
    return [
        [f"objects created, {CLIENTS} clients", f"{num_jobs / (created - began):.1f} /s", "", ""],
        [
            "jobs admitted (pod created)",
            f"{rate:.1f} /s",
            f"{KUEUE_PER_SECOND:g} /s (Kueue)",
            f"{rate / KUEUE_PER_SECOND:.2f}",
        ],
        *([f"CPU per job: {name}", f"{1000 * seconds:.0f} ms", "", ""] for name, seconds in spent.items()),
    ]


def latency(client: Client, pods: Pods, num_jobs: int, workers: int = 4) -> list[list[str]]:
    """One job at a time, as `cordee submit` sends it."""
    first: list[float] = []
    last: list[float] = []
    for k in range(num_jobs):
        began = time.perf_counter()
        job = client.submit(document(f"latency-{k}", workers), b"", "")["id"]
        pods.wait(lambda job=job: len(pods.seen.get(job, ())) >= workers, f"the pods of {job}")
        first.append(pods.seen[job][0] - began)
        last.append(pods.seen[job][workers - 1] - began)
        client.cancel(job)
    return [
        [
            f"submit → {what} of {workers} pods created",
            f"p50 {quantile(times, 0.5):.3f} s",
            f"p99 {quantile(times, 0.99):.3f} s",
            "",
        ]
        for what, times in (("first", first), ("last", last))
    ]


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def usage(process: psutil.Process, seconds: float) -> list[str]:
    """CPU over some seconds, and memory then."""
    before, began = cpu_seconds(process), time.perf_counter()
    time.sleep(seconds)
    cores = (cpu_seconds(process) - before) / (time.perf_counter() - began)
    memory = process.memory_full_info()
    return [f"{cores:.3f} cores", f"{memory.rss / 2**20:.0f} MiB", f"{memory.uss / 2**20:.0f} MiB of its own"]


def measure(plane: ControlPlane, folder: Path, arguments: argparse.Namespace) -> None:
    plane.create_namespace(NAMESPACE)
    plane.apply((ROOT / "helm" / "cordee" / "files" / "crds" / "trainingjobs.yaml").read_text())
    plane.kubectl("wait", "--for=condition=Established", "crd/trainingjobs.cordee.dev", "--timeout=60s")
    api = Api.connect(Kubernetes(kubeconfig=str(plane.kubeconfig), namespace=NAMESPACE))
    pods = Pods()
    watcher = Watcher(api, Collection(PODS, labels=LABEL), pods.deliver)
    watcher.start()
    watcher.synced.wait()
    header = ["", "Cordee", "mark", "ratio"]
    try:
        with coordinator(plane, folder) as (server, client):
            assert server.pid is not None
            process = psutil.Process(server.pid)
            others = {name: psutil.Process(each.pid) for name, each in plane.servers.items()}
            mine = {"the coordinator": process, **others, "clients and nodes": psutil.Process()}
            before = asked(plane)
            print_rows(header, admission(api, pods, arguments.jobs, mine))
            print_rows(["requests", "per job", "by"], requests(plane, before, arguments.jobs))
            api.request("DELETE", JOBS)
            pods.wait(lambda: not pods.alive, "the pods of deleted jobs are gone")
            print_rows(header, latency(client, pods, arguments.latency_jobs))
            pods.wait(lambda: not pods.alive, "the pods of cancelled jobs are gone")
            print_rows(["", "CPU", "memory", ""], weight(plane, api, pods, process, client, arguments))
    finally:
        watcher.stop()
        api.close()


def weight(
    plane: ControlPlane, api: Api, pods: Pods, process: psutil.Process, client: Client, arguments: argparse.Namespace
) -> list[list[str]]:
    """The coordinator while nothing happens, while pods run, and while workers train in them."""
    rows = [["no job", *usage(process, arguments.watch_seconds / 3)]]
    for k in range(arguments.pods // JOB_SIZE):
        api.request("POST", JOBS, body=document(f"weight-{k}", JOB_SIZE))
    num_pods = arguments.pods // JOB_SIZE * JOB_SIZE
    pods.wait(lambda: len(pods.running) == num_pods, f"{num_pods} pods run")
    time.sleep(SETTLE_SECONDS)
    rows.append([f"{num_pods} pods run", *usage(process, arguments.watch_seconds)])
    command = [sys.executable, str(HERE / "workloads" / "cluster_workers.py"), str(plane.kubeconfig), NAMESPACE]
    endpoint = client.endpoint
    assert endpoint.state is not None
    address = json.loads((endpoint.state / "endpoint.json").read_text())["grpc"]
    workers = Server("workers", [*command, address], plane.folder / "workers.log")
    workers.start()
    try:
        wait_until(
            lambda: sum(job["state"] == "running" for job in client.jobs()) >= num_pods // JOB_SIZE,
            "all workers train",
            DEADLINE_SECONDS,
            [workers],
        )
        time.sleep(SETTLE_SECONDS)
        rows.append([f"{num_pods} workers train", *usage(process, arguments.watch_seconds)])
        states = {job["state"] for job in client.jobs() if job["name"].startswith("weight-")}
        assert states == {"running"}, f"workers were lost meanwhile: {states}"
    finally:
        workers.stop()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--latency-jobs", type=int, default=40)
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--watch-seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    if lacking := binaries.missing():
        raise SystemExit(binaries.HOW_TO_GET.format(missing=", ".join(lacking)))
    if why := missing():
        raise SystemExit(why)
    print_machine("kubernetes")
    print("# the control plane is Kubernetes 1.36.3; everything is on this machine")
    with tempfile.TemporaryDirectory(prefix="cordee-bench-") as name:
        network = Network.reserve()
        nodes = [f"node-{k}" for k in range(NUM_NODES)]
        capacity = {"pods": str(PODS_PER_NODE), "cpu": "10000", "memory": "100Ti"}
        with (
            ControlPlane(Path(name) / "plane", service_range=network.services) as plane,
            Cluster(plane, network, nodes=nodes, capacity=capacity, hollow=True),
        ):
            measure(plane, Path(name), arguments)


if __name__ == "__main__":
    main()
