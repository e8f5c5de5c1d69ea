"""Several coordinators on one database: one decides, another takes over, and the training does not notice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.postgres_server import PostgresServer, postgres_server

from cluster.control_plane import ControlPlane
from cluster.processes import wait_until
from cordee.coordinator.config import Kubernetes
from cordee.k8s.api import Api
from cordee.k8s.election import Times
from cordee.k8s.leadership import LEADER_LABEL, LeaseLeadership

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SCRIPT = Path(__file__).parents[1] / "integration" / "scripts" / "train.py"


@pytest.fixture
def candidate(api_server: ControlPlane) -> Callable[..., LeaseLeadership]:
    def make(name: str, pod: str = "", times: Times | None = None) -> LeaseLeadership:
        api = Api.connect(Kubernetes(kubeconfig=str(api_server.kubeconfig), namespace="default"))
        return LeaseLeadership(api, name=name, times=times or Times(4.0, 3.0, 0.3), pod=pod)

    return make


def lease(plane: ControlPlane, name: str) -> Any:
    return plane.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{name}")[1]["spec"]


async def test_one_leads_and_what_it_gives_back_is_taken_at_once(
    api_server: ControlPlane, candidate: Callable[..., LeaseLeadership]
) -> None:
    times = Times(60.0, 40.0, 0.3)  # nobody waits for so long here: it is given back
    candidates = [candidate("handed-on", times=times) for _ in range(3)]
    waiting = {asyncio.ensure_future(one.acquire()): one for one in candidates}
    leaders = []
    for round_ in range(3):
        done, _ = await asyncio.wait(waiting, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        leader = waiting.pop(done.pop())
        leaders.append(leader.identity)
        assert lease(api_server, "handed-on")["holderIdentity"] == leader.identity
        assert lease(api_server, "handed-on")["leaseTransitions"] == round_
        await leader.release()
    assert lease(api_server, "handed-on").get("holderIdentity", "") == ""
    assert len(set(leaders)) == 3


async def test_a_leader_outlives_a_short_absence_of_the_api_server_and_not_a_long_one(
    api_server: ControlPlane, candidate: Callable[..., LeaseLeadership]
) -> None:
    patient, hasty = candidate("patient", times=Times(120.0, 90.0, 0.3)), candidate("hasty")
    await asyncio.wait_for(asyncio.gather(patient.acquire(), hasty.acquire()), 20)
    await asyncio.to_thread(api_server.restart_api_server, down_seconds=3.0)
    await asyncio.wait_for(hasty.lost.wait(), 20)
    before = lease(api_server, "patient")["renewTime"]
    await asyncio.to_thread(wait_until, lambda: lease(api_server, "patient")["renewTime"] > before, "a renewal")
    assert not patient.lost.is_set()
    follower = candidate("hasty")
    await asyncio.wait_for(follower.acquire(), 30)
    await hasty.release()  # of what it lost it gives nothing back
    assert lease(api_server, "hasty")["holderIdentity"] == follower.identity
    await asyncio.gather(follower.release(), patient.release())


async def test_the_leaders_pod_is_the_one_with_the_label(
    api_server: ControlPlane, candidate: Callable[..., LeaseLeadership]
) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    api_server.apply(account, namespace="default")  # nobody else makes it here
    for name in ("a", "b"):
        labels = {"app.kubernetes.io/instance": "cordee", **({LEADER_LABEL: "true"} if name == "a" else {})}
        api_server.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": labels},
                "spec": {"containers": [{"name": "main", "image": "none"}]},
            },
            namespace="default",
        )
    leader = candidate("marked", pod="b")
    await asyncio.wait_for(leader.acquire(), 20)

    def label(name: str) -> Any:
        return api_server.request("GET", f"/api/v1/namespaces/default/pods/{name}")[1]["metadata"]["labels"].get(
            LEADER_LABEL
        )

    await asyncio.to_thread(wait_until, lambda: (label("a"), label("b")) == (None, "true"), "the label to move")
    await leader.release()


# -- whole coordinators


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


class Coordinators:
    """Coordinators that share a state folder, a database and a Lease, as replicas do."""

    def __init__(self, folder: Path, plane: ControlPlane, url: str) -> None:
        self.state = folder / "state"
        self._folder = folder
        self._kubeconfig = str(plane.kubeconfig)
        (folder / "url").write_text(url)
        self._rest, self._grpc = free_port(), free_port()
        self.running: list[tuple[subprocess.Popen[bytes], int]] = []

    def start(self) -> tuple[subprocess.Popen[bytes], int]:
        metrics = free_port()
        config = {
            "apiVersion": "cordee.dev/v1alpha1",
            "kind": "CoordinatorConfig",
            "state": str(self.state),
            "listen": {"restPort": self._rest, "grpcPort": self._grpc, "metricsPort": metrics},
            "kubernetes": {"kubeconfig": self._kubeconfig, "namespace": "default"},
            "database": {"urlFile": str(self._folder / "url")},
            "leaderElection": {
                "lease": "whole",
                "durationSeconds": 4.0,
                "renewSeconds": 3.0,
                "retrySeconds": 0.3,
            },
        }
        path = self._folder / f"config{len(self.running)}.yaml"
        path.write_text(yaml.safe_dump(config))
        with (self._folder / f"coordinator{len(self.running)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "cordee.coordinator.cli", "coordinator", "--config", str(path)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "NO_COLOR": "1"},
            )
        self.running.append((process, metrics))
        return self.running[-1]

    def status(self, job: str) -> Any:
        """The job as whoever leads shows it; nothing while nobody does."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._rest}/v1/jobs/{job}")
        request.add_header("Authorization", f"Bearer {(self.state / 'token').read_text().strip()}")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return {"step": 0, "members": [], "state": "running"}

    def said(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self._folder.glob("*.log")))

    def stop(self) -> None:
        for process, _ in self.running:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ready(port: int) -> Any:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
            return json.load(answer)
    except OSError:
        return {}


def test_a_standby_takes_over_and_the_job_ends_with_the_same_weights(
    tmp_path: Path, api_server: ControlPlane, server: PostgresServer
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    subprocess.run(
        [sys.executable, str(SCRIPT), "--log", str(alone), "--epochs", "12"],
        check=True,
        capture_output=True,
        timeout=100,
    )
    wanted = (alone / "alone.sha256").read_text()

    log = tmp_path / "log"
    log.mkdir()
    (log / "slow").write_text("0.2")
    coordinators, job = Coordinators(tmp_path, api_server, server.database()), "none"
    try:
        first, first_port = coordinators.start()
        wait_until(lambda: ready(first_port).get("status") == "ok", "the first to lead", timeout_seconds=60)
        second, second_port = coordinators.start()
        wait_until(lambda: ready(second_port).get("status") == "standby", "the second to stand by", timeout_seconds=60)
        command = ["submit", str(SCRIPT), "--workers", "2", "--state", str(coordinators.state), "-o", "json"]
        command += ["--", "--log", str(log), "--epochs", "12"]
        job = json.loads(
            subprocess.run(
                [sys.executable, "-m", "cordee.coordinator.cli", *command],
                capture_output=True, text=True, timeout=60, check=True,
            ).stdout
        )["id"]  # fmt: skip
        wait_until(lambda: coordinators.status(job)["step"] > 3, "training", timeout_seconds=60)

        def members() -> set[int]:
            return {worker["pid"] for worker in coordinators.status(job)["members"]}

        pids = members()
        assert len(pids) == 2
        first.send_signal(signal.SIGKILL)
        first.wait()
        killed_at = time.monotonic()
        wait_until(lambda: ready(second_port).get("status") == "ok", "the second to lead", timeout_seconds=30)
        print(f"the second led {time.monotonic() - killed_at:.1f} s after the first was killed")
        _, third_port = coordinators.start()
        wait_until(lambda: ready(third_port).get("status") == "standby", "a third to stand by", timeout_seconds=60)
        wait_until(lambda: members() == pids, "the same processes, attached again")

        second.send_signal(signal.SIGTERM)  # a rolling upgrade: what it holds is given back
        assert second.wait(20) == 0
        wait_until(lambda: ready(third_port).get("status") == "ok", "the third to lead", timeout_seconds=30)
        wait_until(lambda: members() == pids, "the same processes, attached again")
        (log / "slow").unlink()
        wait_until(
            lambda: coordinators.status(job)["state"] not in ("running", "recovering"),
            "the end",
            timeout_seconds=90,
        )
        ended = coordinators.status(job)
        assert ended["state"] == "succeeded", ended
        assert ended["weights_sha256"] == wanted
    except BaseException:
        print(coordinators.said(), coordinators.status(job))
        raise
    finally:
        coordinators.stop()
