"""The cluster that the tests here share: one control plane for the session, a fresh namespace for each test."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from cluster import binaries
from cluster.control_plane import API_ONLY, ControlPlane
from cluster.kubelet.cluster import Cluster
from cluster.kubelet.firewall import missing as firewall_missing
from cluster.kubelet.network import Network
from cluster.kubelet.network import missing as network_missing

NEEDED = "CORDEE_CLUSTER_TESTS"  # `required`: missing programs are an error, as in continuous integration


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `cluster` are skipped, saying why, where the programs are missing."""
    marked = [item for item in items if "cluster" in item.keywords]
    if not marked or not (lacking := binaries.missing()):
        return
    reason = binaries.HOW_TO_GET.format(missing=", ".join(entry.split("/")[1] for entry in lacking))
    if os.environ.get(NEEDED) == "required":
        raise pytest.UsageError(reason)
    for item in marked:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def network() -> Network | None:
    """The addresses of pods and Services of this session's cluster; None where this user cannot make a network."""
    return None if network_missing() else Network.reserve()


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory, network: Network | None) -> Iterator[ControlPlane]:
    """A whole control plane, without nodes. Tests share it, each in its `namespace`."""
    services = network.services if network else None
    with ControlPlane(tmp_path_factory.mktemp("control-plane"), service_range=services) as plane:
        yield plane


@pytest.fixture(scope="session")
def three_nodes(control_plane: ControlPlane, network: Network | None) -> Iterator[Cluster]:
    """The control plane with nodes a, b and c; what the fixture `cluster` repairs after each test."""
    required = os.environ.get(NEEDED) == "required"
    if network is None:
        reason = str(network_missing())
        if required:
            pytest.fail(reason)
        pytest.skip(reason)
    if required and (lacking := firewall_missing()):
        pytest.fail(lacking)
    with Cluster(control_plane, network) as found:
        yield found


@pytest.fixture
def cluster(three_nodes: Cluster) -> Iterator[Cluster]:
    """A cluster of three nodes that run pods (tests/cluster/kubelet). After the test they are as they were."""
    yield three_nodes
    three_nodes.repair()


@pytest.fixture(scope="session")
def api_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server alone, for dry runs and questions of authorisation: ready sooner, and nothing moves in it."""
    with ControlPlane(tmp_path_factory.mktemp("api-server"), API_ONLY) as plane:
        yield plane


@pytest.fixture
def make_namespace(control_plane: ControlPlane) -> Iterator[Callable[..., str]]:
    """Makes namespaces with service accounts in them; they are removed after the test."""
    made: list[str] = []

    def make(labels: dict[str, str] | None = None) -> str:
        name = f"test-{uuid.uuid4().hex[:8]}"
        control_plane.create_namespace(name, labels)
        made.append(name)
        return name

    yield make
    for name in made:
        control_plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def namespace(make_namespace: Callable[..., str]) -> str:
    """A fresh namespace, in which `restricted` pod security is enforced, as a careful administrator does."""
    return make_namespace({"pod-security.kubernetes.io/enforce": "restricted"})


@pytest.fixture(autouse=True)
def _last_words(request: pytest.FixtureRequest) -> Iterator[Any]:
    """When a test fails, what the control plane said last is part of its report."""
    yield
    report = getattr(request.node, "_cluster_report", None)
    for name in {"control_plane", "api_server"} & set(request.fixturenames):
        if report is not None and report.failed:
            plane: ControlPlane = request.getfixturevalue(name)
            for server in plane.servers.values():
                print(f"--- {server.log}\n{server.last_words(10)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.when == "call":
        item._cluster_report = report  # type: ignore[attr-defined]
    return report
