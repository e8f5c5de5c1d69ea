"""The launcher `kubernetes` against a real API server; the test does what a kubelet would say of pods."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from cordee.coordinator.config import Config, Kubernetes
from cordee.coordinator.core.model import Outlook
from cordee.coordinator.errors import InvalidError
from cordee.coordinator.service.home import HomeError
from cordee.coordinator.service.launchers.base import AgentExit, AgentNotice, AgentSpec
from cordee.coordinator.service.server import CoordinatorServer
from cordee.coordinator.spec import API_VERSION, KIND, JobSpec, parse_job
from cordee.k8s.api import Api
from cordee.k8s.launcher import KubernetesLauncher

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

PATIENCE = 20.0
Told = AgentExit | AgentNotice


class Hand:
    """A launcher, what it has told, and a hand that writes what a kubelet, a scheduler or a person would."""

    def __init__(self, plane: ControlPlane, namespace: str, launcher: KubernetesLauncher) -> None:
        self.plane, self.namespace, self.launcher = plane, namespace, launcher
        self._told = launcher.exits()

    async def told(self, kind: type[Told] = AgentExit, word: str = "") -> Any:
        """The next word of this kind, others passed over."""
        async with asyncio.timeout(PATIENCE):
            async for told in self._told:
                if isinstance(told, kind) and (not word or word == getattr(told, "kind", "")):
                    return told
        raise AssertionError("it never ends")

    async def start(self, worker: str = "j-w0", **pod: Any) -> None:
        spec = JobSpec.model_validate({"script": "train.py", "pod": pod})
        await self.launcher.start(AgentSpec(worker, worker.rpartition("-")[0], Path("/"), {"A": "1"}, spec))

    async def pod(self, name: str = "j-w0") -> dict[str, Any]:
        """The pod, once it is there."""
        async with asyncio.timeout(PATIENCE):
            while True:
                status, found = await asyncio.to_thread(self.plane.request, "GET", self._path(name))
                if status == 200:
                    return found
                await asyncio.sleep(0.02)

    async def gone(self, name: str = "j-w0") -> None:
        async with asyncio.timeout(PATIENCE):
            while (await asyncio.to_thread(self.plane.request, "GET", self._path(name)))[0] != 404:
                await asyncio.sleep(0.02)

    async def bind(self, node: str, name: str = "j-w0") -> None:
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"kind": "Node", "name": node},
        }
        status, said = await asyncio.to_thread(self.plane.request, "POST", f"{self._path(name)}/binding", body)
        assert status == 201, said

    async def says(self, status: dict[str, Any], name: str = "j-w0") -> None:
        await self.pod(name)
        path = f"{self._path(name)}/status"
        code, said = await asyncio.to_thread(self.plane.request, "PATCH", path, {"status": status})
        assert code == 200, said

    async def ends(self, code: int, name: str = "j-w0", **terminated: Any) -> None:
        ended = {"exitCode": code, "reason": "Completed" if code == 0 else "Error", **terminated}
        await self.says(
            {"phase": "Succeeded" if code == 0 else "Failed", "containerStatuses": [container({"terminated": ended})]},
            name,
        )

    def _path(self, name: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{name}"


def container(state: dict[str, Any], ready: bool = False) -> dict[str, Any]:
    return {"name": "worker", "image": "cordee", "imageID": "", "ready": ready, "restartCount": 0, "state": state}


def config(plane: ControlPlane, namespace: str, kubeconfig: Path | None = None, **settings: Any) -> Config:
    kubernetes = {"kubeconfig": str(kubeconfig or plane.kubeconfig), "namespace": namespace, "image": "cordee:test"}
    return Config(launcher="kubernetes", kubernetes=Kubernetes.model_validate(kubernetes | settings))


@asynccontextmanager
async def launching(plane: ControlPlane, namespace: str, **settings: Any) -> AsyncIterator[Hand]:
    found = config(plane, namespace, **settings)
    launcher = KubernetesLauncher(Api.connect(found.kubernetes), found)
    try:
        await launcher.list()
        yield Hand(plane, namespace, launcher)
    finally:
        await launcher.close()


@pytest.fixture
def team(api_server: ControlPlane) -> str:
    """A namespace that demands `restricted`, of the API server alone: nobody but the test moves in it."""
    import uuid

    name = f"team-{uuid.uuid4().hex[:8]}"
    api_server.create_namespace(name, {"pod-security.kubernetes.io/enforce": "restricted"})
    api_server.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}, namespace=name)
    return name


async def test_a_pod_is_made_once_and_its_end_is_told_and_it_is_removed(api_server: ControlPlane, team: str) -> None:
    async with launching(api_server, team) as hand:
        await hand.start()
        await hand.start()
        made = await hand.pod()
        await hand.start()
        assert [agent.worker for agent in await hand.launcher.list()] == ["j-w0"]
        await hand.ends(3, message="first line\nthe disk is full\n")
        assert await hand.told() == AgentExit("j-w0", "j", 3, "the disk is full")
        removed = asyncio.create_task(hand.told())  # whoever asks for the next has seen to this one
        await hand.gone()
        removed.cancel()
        await asyncio.gather(removed, return_exceptions=True)
        assert await hand.launcher.list() == []
        assert made["metadata"]["labels"]["cordee.dev/job"] == "j"


async def test_a_worker_starts_again_once_its_old_pod_is_gone(api_server: ControlPlane, team: str) -> None:
    async with launching(api_server, team) as hand:
        await hand.start()
        first = await hand.pod()
        await hand.ends(1)
        assert (await hand.told()).code == 1
        await hand.start()
        following = asyncio.create_task(hand.told())
        async with asyncio.timeout(PATIENCE):
            while (await hand.pod())["metadata"]["uid"] == first["metadata"]["uid"]:
                await asyncio.sleep(0.02)
        await hand.ends(71)
        assert (await following).code == 71


async def test_stopping_deletes_and_says_so_and_stopping_nobody_is_nothing(api_server: ControlPlane, team: str) -> None:
    async with launching(api_server, team) as hand:
        assert not await hand.launcher.stop("j-w9", grace_seconds=1)
        await hand.start()
        await hand.pod()
        assert await hand.launcher.stop("j-w0", grace_seconds=5)
        assert await hand.told() == AgentExit("j-w0", "j", None, "")  # nobody ran it: it is gone at once
        await hand.gone()


async def test_a_pod_whose_node_never_confirms_its_end_is_given_up(api_server: ControlPlane, team: str) -> None:
    async with launching(api_server, team) as hand:
        await hand.start()
        await hand.pod()
        await hand.bind("nowhere")
        await hand.says({"phase": "Running", "containerStatuses": [container({"running": {}}, ready=True)]})
        assert await hand.launcher.stop("j-w0", grace_seconds=0)
        told = await hand.told()
        assert told.taken
        assert told.message == "j-w0's pod is given up: its node has not said that it ended"
        await hand.gone()


async def test_a_new_coordinator_finds_what_runs_and_what_has_ended(api_server: ControlPlane, team: str) -> None:
    async with launching(api_server, team) as hand:
        for k in range(3):
            await hand.start(f"j-w{k}")
            await hand.pod(f"j-w{k}")
    await hand.ends(70, "j-w1")
    async with launching(api_server, team) as hand:
        assert {agent.worker for agent in await hand.launcher.list()} == {"j-w0", "j-w1", "j-w2"}
        assert await hand.told() == AgentExit("j-w1", "j", 70, "")
        await hand.start("j-w0")
        following = asyncio.create_task(hand.told())
        await hand.gone("j-w1")
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        assert {agent.worker for agent in await hand.launcher.list()} == {"j-w0", "j-w2"}
    async with launching(api_server, team, instance="another") as other:
        assert await other.launcher.list() == []


async def test_what_the_scheduler_and_the_kubelet_say_is_told(api_server: ControlPlane, team: str) -> None:
    async with launching(api_server, team) as hand:
        await hand.start()
        asked = await hand.told(AgentNotice)
        assert (asked.kind, asked.outlook) == ("", Outlook.PASSING)
        words = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
        unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
        await hand.says({"phase": "Pending", "conditions": [unscheduled]})
        told = await hand.told(AgentNotice, "unschedulable")
        assert (told.message, told.outlook) == (f"j-w0's pod waits for a node: {words}", Outlook.PASSING)
        scheduled = {"type": "PodScheduled", "status": "True"}
        waiting = {"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}}
        await hand.says({"phase": "Pending", "conditions": [scheduled], "containerStatuses": [container(waiting)]})
        told = await hand.told(AgentNotice, "image")
        assert (told.message, told.outlook) == (
            "j-w0's pod cannot get its image cordee: manifest unknown",
            Outlook.DOUBTFUL,
        )
        await hand.says({"phase": "Running", "containerStatuses": [container({"running": {}}, ready=True)]})
        told = await hand.told(AgentNotice, "running")
        assert (told.message, told.outlook) == ("", None)


async def test_an_eviction_is_told_and_is_nobodys_fault(api_server: ControlPlane, team: str) -> None:
    async with launching(api_server, team) as hand:
        await hand.start()
        await hand.pod()
        await hand.bind("a")
        await hand.says({"phase": "Running", "containerStatuses": [container({"running": {}}, ready=True)]})
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "j-w0", "namespace": team}}
        path = f"/api/v1/namespaces/{team}/pods/j-w0/eviction"
        assert (await asyncio.to_thread(api_server.request, "POST", path, body))[0] == 201
        told = await hand.told(AgentNotice, "evicted")
        assert told.message.startswith("j-w0's pod was evicted, as when a node is drained")
        await hand.ends(71)
        told = await hand.told()
        assert (told.code, told.taken) == (71, True)


async def test_a_used_up_quota_is_waited_for(api_server: ControlPlane, team: str) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}}
    api_server.apply(quota, namespace=team)
    async with asyncio.timeout(PATIENCE):  # the status, which admission counts by, is a controller's to write
        body = {"status": {"hard": {"pods": "1"}, "used": {"pods": "0"}}}
        path = f"/api/v1/namespaces/{team}/resourcequotas/q"
        await asyncio.to_thread(api_server.request, "PATCH", f"{path}/status", body)
    async with launching(api_server, team) as hand:
        await hand.start("j-w0")
        await hand.pod("j-w0")
        await hand.start("j-w1")
        told = await hand.told(AgentNotice, "quota")
        assert "exceeded quota: q" in told.message
        assert (told.worker, told.outlook) == ("j-w1", Outlook.PASSING)
        await asyncio.to_thread(api_server.request, "DELETE", path)
        await hand.pod("j-w1")


async def test_what_pod_security_refuses_is_hopeless(api_server: ControlPlane, team: str) -> None:
    async with launching(api_server, team) as hand:
        template = {
            "spec": {"containers": [{"name": "worker", "securityContext": {"seccompProfile": {"type": "Localhost"}}}]}
        }
        await hand.start(template=template)
        told = await hand.told(AgentNotice)
        assert told.outlook is Outlook.HOPELESS
        assert told.message.startswith("j-w0's pod is refused by")
        assert not await hand.launcher.stop("j-w0", grace_seconds=1)


async def test_a_field_that_no_pod_has_is_refused(api_server: ControlPlane, team: str) -> None:
    async with launching(api_server, team) as hand:
        await hand.start(template={"spec": {"hostnam": "x"}})
        told = await hand.told(AgentNotice)
        assert told.outlook is Outlook.HOPELESS
        assert 'unknown field "spec.hostnam"' in told.message


async def test_a_job_that_no_pod_can_be_made_of_is_refused_at_once(api_server: ControlPlane, team: str) -> None:
    async with launching(api_server, team) as hand:
        spec = JobSpec.model_validate({"script": "a.py", "pod": {"template": {"spec": {"hostPID": True}}}})
        with pytest.raises(InvalidError, match="hostPID"):
            hand.launcher.check(spec)


async def test_another_ones_pod_of_that_name_is_left_alone(api_server: ControlPlane, team: str) -> None:
    async with launching(api_server, team, instance="theirs") as other:
        await other.start()
        theirs = await other.pod()
        async with launching(api_server, team) as hand:
            await hand.start()
            told = await hand.told(AgentNotice)
            assert told.message == "j-w0's pod waits: there is a pod j-w0 that is not Cordee's"
            assert (await hand.pod())["metadata"]["uid"] == theirs["metadata"]["uid"]


async def test_a_pod_that_nobody_wants_is_deleted(api_server: ControlPlane, team: str) -> None:
    """Made by an answer that was lost, or by a coordinator that does not lead any more."""
    async with launching(api_server, team) as hand, launching(api_server, team) as late:
        await late.start("old-w0")
        assert (await hand.told()).worker == "old-w0"
        await hand.gone("old-w0")


async def test_each_job_has_a_network_policy_that_goes_with_it(api_server: ControlPlane, team: str) -> None:
    async with launching(api_server, team, networkPolicies=True) as hand:
        await hand.start()
        await hand.pod()
        path = f"/apis/networking.k8s.io/v1/namespaces/{team}/networkpolicies/j"
        status, policy = await asyncio.to_thread(api_server.request, "GET", path)
        assert status == 200
        assert policy["spec"]["ingress"] == [{"from": [{"podSelector": policy["spec"]["podSelector"]}]}]
        await hand.launcher.stop("j-w0", grace_seconds=1)
        async with asyncio.timeout(PATIENCE):
            while (await asyncio.to_thread(api_server.request, "GET", path))[0] != 404:
                await asyncio.sleep(0.02)


RULES = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create", "delete"]},
    {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["create", "delete"]},
    {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
]
"""All that the launcher needs."""


async def test_these_rights_are_enough(api_server: ControlPlane, team: str) -> None:
    role: dict[str, Any] = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "c", "namespace": team}}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "c"}
    who = [{"kind": "ServiceAccount", "name": "c", "namespace": team}]
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "c", "namespace": team}}
    for thing in (
        account,
        {**role, "kind": "Role", "rules": RULES},
        {**role, "kind": "RoleBinding", "roleRef": reference, "subjects": who},
    ):
        api_server.apply(thing, namespace=team)
    mine = api_server.kubeconfig_for_service_account(team, "c")
    async with launching(api_server, team, kubeconfig=str(mine), networkPolicies=True) as hand:
        assert (await hand.launcher.home()).uid == api_server.get("namespace", team)["metadata"]["uid"]
        await hand.start()
        await hand.pod()
        await hand.ends(0)
        assert (await hand.told()).code == 0
        following = asyncio.create_task(hand.told())
        await hand.gone()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_it_goes_on_over_a_restart_of_the_api_server(api_server: ControlPlane, team: str) -> None:
    async with launching(api_server, team) as hand:
        for k in range(2):
            await hand.start(f"j-w{k}")
            await hand.pod(f"j-w{k}")
        restart = asyncio.create_task(asyncio.to_thread(api_server.restart_api_server, 1.0, True))
        await asyncio.sleep(0)  # it goes down while this is asked for
        await hand.start("j-w2")
        assert await hand.launcher.stop("j-w1", grace_seconds=1)
        await restart
        assert (await hand.told()).worker == "j-w1"
        await hand.pod("j-w2")
        await hand.ends(1, "j-w0")
        assert (await hand.told()).worker == "j-w0"


async def test_a_coordinator_that_is_pointed_at_another_namespace_does_not_start_while_jobs_run(
    api_server: ControlPlane, team: str, tmp_path: Path
) -> None:
    def server(namespace: str, **settings: Any) -> CoordinatorServer:
        found = config(api_server, namespace, customResources=False, **settings)
        return CoordinatorServer(tmp_path / "state", config=found, eager_rest=False)

    elsewhere = f"{team}-other"
    await asyncio.to_thread(api_server.create_namespace, elsewhere)
    spec = {"script": "train.py", "sourceFrom": {"image": {"path": "/workspace"}}}
    job = parse_job({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "j"}, "spec": spec}, bundled=True)
    first = server(team)
    await first.start()
    submitted = (await first.controller.submit(job)).id
    await first.stop(stop_jobs=False)
    with pytest.raises(HomeError, match=f"{submitted} .* in the namespace {team}, .* pointed at {elsewhere}"):
        await server(elsewhere).start()
    assert api_server.kubectl("get", "pods", "--namespace", elsewhere, "--output", "name") == ""
    last = server(elsewhere, movedFrom=team)
    await last.start()
    try:
        taken_up = last.controller.find_id(submitted)
        assert taken_up is not None
        assert not taken_up.ended
    finally:
        await last.stop(stop_jobs=True)
