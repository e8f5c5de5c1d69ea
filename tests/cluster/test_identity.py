"""Who a worker is and what people may do, by a real API server: its TokenReviews, its tokens, its RBAC."""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cluster.control_plane import ControlPlane
from cordee.coordinator.client import Client, ClientError, Endpoint
from cordee.coordinator.config import Auth, Config, Kubernetes, TokenReview
from cordee.coordinator.errors import UnavailableError
from cordee.coordinator.service.identity import Worker
from cordee.coordinator.service.server import CoordinatorServer
from cordee.k8s.api import Api
from cordee.k8s.identity import KnownPod, ServiceAccountVerifier, audience_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

JOB, POD = "digits-abc234", "digits-abc234-w0"


@pytest.fixture
def space(api_server: ControlPlane) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    api_server.create_namespace(name)
    for account in ("workers", "other"):
        api_server.kubectl("create", "serviceaccount", account, "-n", name)
    yield name
    api_server.kubectl("delete", "namespace", name, "--wait=false")


def make_pod(plane: ControlPlane, namespace: str, name: str = POD, account: str = "workers") -> str:
    """A pod, as far as the API server is concerned; its uid."""
    container = {"name": "worker", "image": "none"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"serviceAccountName": account, "automountServiceAccountToken": False, "containers": [container]},
    }
    plane.apply(pod)
    uid: str = plane.get("pod", name, "-n", namespace)["metadata"]["uid"]
    return uid


def token(plane: ControlPlane, namespace: str, account: str = "workers", *, audience: str, pod: str = "") -> str:
    bound = ["--bound-object-kind", "Pod", "--bound-object-name", pod] if pod else []
    made = plane.kubectl("create", "token", account, "-n", namespace, "--audience", audience, *bound)
    return (made if isinstance(made, str) else made.stdout).strip()


@pytest.fixture
def verify(api_server: ControlPlane, space: str) -> Iterator[Callable[..., Any]]:
    api = Api.connect(Kubernetes(kubeconfig=str(api_server.kubeconfig), namespace=space))
    made: list[ServiceAccountVerifier] = []

    def check(given: str, pods: dict[str, KnownPod]) -> Any:
        async def ask() -> Any:
            verifier = ServiceAccountVerifier(api, namespace=space, pods=pods.get)
            made.append(verifier)
            return await verifier.identify(given)

        return asyncio.run(ask())

    yield check
    for verifier in made:
        verifier.close()
    api.close()


def test_a_pods_own_token_makes_it_its_worker(api_server: ControlPlane, space: str, verify: Any) -> None:
    uid = make_pod(api_server, space)
    given = token(api_server, space, audience=audience_of(JOB), pod=POD)
    assert verify(given, {POD: KnownPod(JOB, uid, "workers")}) == Worker(JOB, POD)
    assert verify(given, {POD: KnownPod(JOB, uid, "other")}) is None
    assert verify(given, {POD: KnownPod("another", uid, "workers")}) is None
    # One letter of the signature, and nobody vouches for it.
    forged = given[:-10] + ("A" if given[-10] != "A" else "B") + given[-9:]
    assert verify(forged, {POD: KnownPod(JOB, uid, "workers")}) is None


def test_a_token_for_another_job_or_bound_to_no_pod_opens_nothing(
    api_server: ControlPlane, space: str, verify: Any
) -> None:
    uid = make_pod(api_server, space)
    known = {POD: KnownPod(JOB, uid, "workers")}
    for given in (
        token(api_server, space, audience=audience_of("another"), pod=POD),
        token(api_server, space, audience=audience_of(JOB)),
        token(api_server, space, audience="https://kubernetes.default.svc.cluster.local", pod=POD),
    ):
        assert verify(given, known) is None


def test_the_token_of_a_pod_that_is_gone_opens_nothing_though_the_name_came_back(
    api_server: ControlPlane, space: str, verify: Any
) -> None:
    make_pod(api_server, space)
    stale = token(api_server, space, audience=audience_of(JOB), pod=POD)
    api_server.kubectl("delete", "pod", POD, "-n", space, "--force", "--grace-period=0")
    again = make_pod(api_server, space)
    assert verify(stale, {POD: KnownPod(JOB, again, "workers")}) is None
    fresh = token(api_server, space, audience=audience_of(JOB), pod=POD)
    assert verify(fresh, {POD: KnownPod(JOB, again, "workers")}) == Worker(JOB, POD)


def test_a_pod_of_the_same_name_in_another_namespace_is_another(
    api_server: ControlPlane, space: str, verify: Any
) -> None:
    elsewhere = f"{space}-b"
    api_server.create_namespace(elsewhere)
    api_server.kubectl("create", "serviceaccount", "workers", "-n", elsewhere)
    uid = make_pod(api_server, elsewhere)
    given = token(api_server, elsewhere, audience=audience_of(JOB), pod=POD)
    assert verify(given, {POD: KnownPod(JOB, uid, "workers")}) is None
    api_server.kubectl("delete", "namespace", elsewhere, "--wait=false")


def test_without_the_right_to_ask_nobody_comes_in(api_server: ControlPlane, space: str) -> None:
    uid = make_pod(api_server, space)
    given = token(api_server, space, audience=audience_of(JOB), pod=POD)
    kubeconfig = api_server.kubeconfig_for_service_account(space, "other")
    api = Api.connect(Kubernetes(kubeconfig=str(kubeconfig), namespace=space))

    async def ask() -> None:
        verifier = ServiceAccountVerifier(api, namespace=space, pods={POD: KnownPod(JOB, uid, "workers")}.get)
        with pytest.raises(UnavailableError) as caught:
            await verifier.identify(given)
        assert "may not create it" in caught.value.hint
        verifier.close()

    asyncio.run(ask())
    api.close()


ROLE = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: {name}, namespace: {namespace}}}
rules:
- apiGroups: [cordee.dev]
  resources: [trainingjobs]
  verbs: {verbs}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {name}, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {name}}}
subjects: [{{kind: ServiceAccount, name: {name}, namespace: {namespace}}}]
"""


async def test_people_may_do_over_rest_what_rbac_lets_them_do_with_training_jobs(
    api_server: ControlPlane, space: str, tmp_path: Path
) -> None:
    for name, verbs in (("viewer", "[get, list]"), ("submitter", "[create]"), ("nobody", "[watch]")):
        api_server.kubectl("create", "serviceaccount", name, "-n", space)
        api_server.apply(ROLE.format(name=name, namespace=space, verbs=verbs))
    config = Config(
        kubernetes=Kubernetes(kubeconfig=str(api_server.kubeconfig), namespace=space),
        auth=Auth(token_review=TokenReview(audiences=("cordee",))),
    )
    server = CoordinatorServer(tmp_path, config=config)
    await server.start()
    try:
        async with httpx2.AsyncClient(base_url=server.rest_url, trust_env=False, timeout=60) as http:

            async def status(account: str, method: str, path: str, audience: str = "cordee") -> int:
                given = token(api_server, space, account, audience=audience)
                answer = await http.request(method, path, headers={"Authorization": f"Bearer {given}"}, json={})
                return answer.status_code

            assert await status("viewer", "GET", "/v1/jobs") == 200
            assert await status("viewer", "GET", "/v1/jobs/x") == 404
            assert await status("viewer", "GET", "/metrics") == 200
            assert await status("viewer", "POST", "/v1/jobs") == 403
            assert await status("viewer", "POST", "/v1/jobs/x/scale") == 403
            assert await status("viewer", "POST", "/v1/jobs/x/cancel") == 403
            assert await status("viewer", "DELETE", "/v1/jobs/x") == 403
            assert await status("viewer", "GET", "/no/such/page") == 403
            assert await status("submitter", "POST", "/v1/jobs") == 422  # taken in, and found to be no job
            assert await status("submitter", "GET", "/v1/jobs") == 403
            assert await status("nobody", "GET", "/v1/jobs") == 403

            async def refused(given: str) -> ClientError:
                with Client(Endpoint(server.rest_url, given)) as client, pytest.raises(ClientError) as caught:
                    await asyncio.to_thread(client.jobs)
                return caught.value

            error = await refused(token(api_server, space, "nobody", audience="cordee"))
            who = f"system:serviceaccount:{space}:nobody"
            assert error.message == f"{who} may not list trainingjobs in the namespace {space}"
            assert "rbac.aggregate=true" in error.hint
            assert "CORDEE_TOKEN" not in error.hint  # another token of theirs would not help
            error = await refused("not-a-token-of-the-cluster")
            assert "kubectl create token NAME --audience cordee" in error.hint
            # Made for somebody else, it opens nothing here, whoever it is.
            assert await status("viewer", "GET", "/v1/jobs", audience="vault") == 401
            assert await status("viewer", "GET", "/v1/jobs", audience=audience_of(JOB)) == 401
            # The administrator's own token is good beside it.
            own = {"Authorization": f"Bearer {server.token}"}
            assert (await http.get("/v1/jobs", headers=own)).status_code == 200
    finally:
        await server.stop(stop_jobs=True)
