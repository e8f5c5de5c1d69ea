"""Two coordinators on PostgreSQL, with mutual TLS: neither kills nor a rolling upgrade touch the training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.postgres_server import PostgresServer, postgres_server

from cluster.control_plane import ControlPlane
from cluster.kubelet.cluster import Cluster
from cluster.processes import wait_until
from cluster.release import SCRIPTS, Platform, undisturbed

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(400)]

DIGITS = SCRIPTS / "digits_slowly.py"


@pytest.fixture
def database(cluster: Cluster) -> Iterator[PostgresServer]:
    with postgres_server(cluster.network.gateway, 25432) as server:
        yield server


@pytest.fixture
def platform(cluster: Cluster, control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Platform]:
    made = Platform(control_plane, namespace, tmp_path)
    yield made
    print(made.said())
    made.close()


def test_a_rolling_upgrade_and_the_leaders_death_do_not_touch_the_training(
    platform: Platform, database: PostgresServer
) -> None:
    epochs = "60"
    wanted = undisturbed(DIGITS, "--epochs", epochs)
    platform.kubectl("create", "secret", "generic", "postgres", f"--from-literal=url={database.remote_database()}")
    values = {
        "coordinator.replicas": 2,
        "database.existingSecret": "postgres",
        "persistence.accessModes": ["ReadWriteMany"],
        "tls.mutual.enabled": True,
        "leaderElection.durationSeconds": 8,
        "leaderElection.renewSeconds": 6,
        "leaderElection.retrySeconds": 0.5,
        "networkPolicy.database.ports": [25432],
    }
    platform.install(**values)
    platform.connect(client_secret=f"{platform.name}-client")

    def leader() -> str:
        """The pod that the Service leads to."""
        selector = f"app.kubernetes.io/instance={platform.release},cordee.dev/leader=true"
        names = [pod["metadata"]["name"] for pod in platform.selected_pods(selector)]
        return names[0] if len(names) == 1 else ""

    wait_until(lambda: leader() != "", "a leader")
    words = ["--epochs", epochs, "--pause", "0.05", "--until-workers", "3"]
    job = platform.submit(DIGITS, "--workers", "2", arguments=words)
    platform.wait_for_workers(job, 2)
    pods = {name: pod["metadata"]["uid"] for name, pod in platform.pods(job).items()}
    refused = dict(platform.environment)
    for variable in ("CORDEE_CERT", "CORDEE_KEY"):
        platform.environment.pop(variable)
    with pytest.raises(RuntimeError, match="--cert FILE"):
        platform.cordee("jobs", patience_seconds=0)
    platform.environment = refused

    first = leader()
    platform.kubectl("delete", "pod", first, "--grace-period=0", "--force")
    wait_until(lambda: leader() not in ("", first), "another leader")
    step = int(platform.thing(job)["status"]["step"])
    platform.wait_for_step(job, step + 20)

    second = leader()
    platform.kubectl("rollout", "restart", f"deployment/{platform.name}")
    platform.kubectl("rollout", "status", f"deployment/{platform.name}", "--timeout=120s")
    wait_until(lambda: leader() not in ("", first, second), "a leader of the new pods")
    step = int(platform.thing(job)["status"]["step"])
    platform.wait_for_step(job, step + 20)
    seen = platform.status(job)
    assert (seen["generations"], seen["recoveries"]) == (1, 0)  # the training saw nothing of it
    assert {name: pod["metadata"]["uid"] for name, pod in platform.pods(job).items()} == pods

    # A third one comes, for whom nobody has to be slow any more.
    platform.kubectl("scale", f"trainingjob/{job}", "--replicas=3")
    wait_until(lambda: platform.thing(job)["status"]["state"] == "succeeded", "the end", 120)
    ended = platform.status(job)
    assert (ended["weights_sha256"], ended["recoveries"]) == (wanted, 0)
