"""The test kubelet's pure parts: what it decides, and how it tells it. No cluster is needed for these."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.kubelet.api import Access, Api
from cluster.kubelet.decisions import Backoff, decide
from cluster.kubelet.environment import ConfigError, command_of, environment_of, expand, quantity, resource_of
from cluster.kubelet.images import Image
from cluster.kubelet.probes import Verdicts
from cluster.kubelet.proxy import Proxy
from cluster.kubelet.runtime import user_of
from cluster.kubelet.services import Services, targets
from cluster.kubelet.statuses import Container, Running, Terminated, Waiting, containers_of, phase, pod_status, resumed
from cluster.kubelet.volumes import File, Owner, write_atomically

POLICIES = ("Always", "OnFailure", "Never")
BACKOFF = Backoff(first=1.0, most=8.0, forgotten=60.0)


def spec(num_inits: int = 0, num_mains: int = 1, policy: str = "Always") -> dict[str, Any]:
    one = {"image": "i"}
    return {
        "restartPolicy": policy,
        "initContainers": [{"name": f"init-{k}", **one} for k in range(num_inits)],
        "containers": [{"name": f"main-{k}", **one} for k in range(num_mains)],
    }


class Life:
    """A pod whose containers run and end as it is told, on a clock of its own: `pod.py` without processes."""

    def __init__(self, pod_spec: dict[str, Any]) -> None:
        self.spec, self.now = pod_spec, 0.0
        self.policy = pod_spec["restartPolicy"]
        self.containers = containers_of(pod_spec)
        self.strikes: dict[str, int] = {}
        self.runs: list[str] = []
        self.over = False

    def step(self) -> None:
        """Carries out what is decided; lets time pass when everything waits."""
        decision = decide(
            self.policy, self.containers, now=self.now, strikes=self.strikes, not_before={}, backoff=BACKOFF
        )
        self.over = decision.over
        for name in decision.start:
            self.runs.append(name)
            self._change(name, state=Running(self.now), started=True, ready=True)
        if not decision.start and decision.wake is not None and not self.running:
            assert decision.wake > self.now
            self.now = decision.wake

    def end(self, name: str, code: int) -> None:
        self.now += 0.5
        container = next(c for c in self.containers if c.name == name)
        self.strikes[name] = self.strikes.get(name, 0) + 1
        ended = Terminated(code, "Completed" if code == 0 else "Error", self.now - 0.5, self.now)
        self._change(
            name, state=ended, last=container.last, restarts=container.restarts + 1, ready=False, started=False
        )

    @property
    def running(self) -> list[str]:
        return [c.name for c in self.containers if isinstance(c.state, Running)]

    @property
    def phase(self) -> str:
        return phase(self.policy, self.containers)

    def _change(self, name: str, **changes: Any) -> None:
        self.containers = [replace(c, **changes) if c.name == name else c for c in self.containers]


@given(
    policy=st.sampled_from(POLICIES),
    num_inits=st.integers(0, 2),
    num_mains=st.integers(1, 3),
    codes=st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0, 0, 1, 137])), max_size=25),
)
def test_lives_of_pods(policy: str, num_inits: int, num_mains: int, codes: list[tuple[int, int]]) -> None:
    life = Life(spec(num_inits, num_mains, policy))
    failed: set[str] = set()
    for pick, code in codes:
        for _ in range(3):
            life.step()
        if life.over:
            break
        # Somebody runs, always: nothing is forgotten.
        assert life.running
        # Initialising containers run alone, one after the other.
        inits = [name for name in life.running if name.startswith("init")]
        assert not inits or life.running == inits[:1]
        assert life.phase == ("Pending" if inits or not any(r.startswith("main") for r in life.runs) else "Running")
        name = life.running[pick % len(life.running)]
        life.end(name, code)
        if code:
            failed.add(name)
    for name in set(life.runs):
        again = life.runs.count(name) > 1
        assert not (again and policy == "Never")
        assert not (again and policy == "OnFailure" and name not in failed)
    if life.over:
        assert policy != "Always"
        assert life.phase == ("Failed" if policy == "Never" and failed else "Succeeded")
        # It stays over.
        life.step()
        assert life.over


def test_restarts_wait_longer_each_time_up_to_a_limit() -> None:
    life = Life(spec())
    gaps = []
    for _ in range(7):
        life.step()
        while not life.running:
            life.step()
        life.end("main-0", 1)
        before = life.now
        while not life.running:
            life.step()
        gaps.append(life.now - before)
    assert gaps == [0.0, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_a_start_that_failed_is_tried_again_when_its_time_has_come() -> None:
    containers = [Container("a", "i", state=Waiting("ErrImagePull"))]
    known: dict[str, Any] = {"strikes": {}, "not_before": {"a": 5.0}, "backoff": BACKOFF}
    assert decide("Always", containers, now=4.0, **known).wake == 5.0
    assert decide("Always", containers, now=5.0, **known).start == ("a",)


def test_a_sidecar_comes_before_and_does_not_keep_a_pod_alive() -> None:
    pod_spec = spec(policy="Never")
    pod_spec["initContainers"] = [{"name": "side", "image": "i", "restartPolicy": "Always"}]
    life = Life(pod_spec)
    life.step()
    life.step()
    assert life.runs == ["side", "main-0"]
    life.end("main-0", 0)
    life.step()
    assert life.over
    assert life.phase == "Succeeded"


def status_of(containers: list[Container], pod: dict[str, Any], now: float = 100.0) -> dict[str, Any]:
    return pod_status(pod, containers, now=now, started=90.0, host_ip="10.0.0.1", pod_ip="10.0.0.2")


def ready(status: dict[str, Any]) -> dict[str, Any]:
    return next(c for c in status["conditions"] if c["type"] == "Ready")


def test_transition_times_are_kept_and_readiness_gates_count() -> None:
    pod: dict[str, Any] = {"spec": {**spec(), "readinessGates": [{"conditionType": "cordee.dev/open"}]}}
    running = [Container("main-0", "i", state=Running(95.0), ready=True, started=True, container_id="x")]
    pod["status"] = status_of(running, pod)
    assert (ready(pod["status"])["status"], ready(pod["status"])["reason"]) == ("False", "ReadinessGatesNotReady")
    pod["status"] = status_of(running, pod, now=200.0)
    assert ready(pod["status"])["lastTransitionTime"] == "1970-01-01T00:01:40Z"
    pod["status"]["conditions"].append({"type": "cordee.dev/open", "status": "True"})
    pod["status"] = status_of(running, pod, now=300.0)
    assert (ready(pod["status"])["status"], ready(pod["status"])["lastTransitionTime"]) == (
        "True",
        "1970-01-01T00:05:00Z",
    )
    # Another's condition is still there.
    assert {"type": "cordee.dev/open", "status": "True"} in pod["status"]["conditions"]


def test_what_a_lost_node_ran_has_ended_when_it_is_back() -> None:
    pod = {"spec": spec()}
    running = [Container("main-0", "i", state=Running(95.0), restarts=2, container_id="x")]
    (found,) = resumed(containers_of(pod["spec"]), status_of(running, pod), now=300.0)
    assert isinstance(found.state, Terminated)
    assert (found.state.exit_code, found.restarts) == (255, 2)


def test_a_container_s_end_is_told_with_its_reason() -> None:
    ended = [Container("main-0", "i", state=Terminated(137, "OOMKilled", 95.0, 99.0), container_id="x", restarts=1)]
    status = status_of(ended, {"spec": spec(policy="Never")})
    assert status["phase"] == "Failed"
    told = status["containerStatuses"][0]["state"]["terminated"]
    assert (told["exitCode"], told["reason"], told["finishedAt"]) == (137, "OOMKilled", "1970-01-01T00:01:39Z")


@given(st.integers(1, 4), st.integers(1, 4), st.lists(st.booleans(), max_size=40))
def test_probes_change_their_mind_at_their_thresholds_only(successes: int, failures: int, answers: list[bool]) -> None:
    verdicts = Verdicts(successes, failures, None)
    for index, answer in enumerate(answers):
        before = verdicts.good
        changed = verdicts.hear(answer)
        assert changed == (verdicts.good != before)
        row = answers[max(0, index + 1 - (successes if answer else failures)) : index + 1]
        if changed:
            assert set(row) == {answer}
            assert len(row) == (successes if answer else failures)


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", "0.5"), ("1Gi", str(1 << 30)), ("1.5Ki", "1536"), ("2e3", "2000"), ("1E", str(10**18)), (3, "3")],
)
def test_quantities(text: str | int, value: str) -> None:
    assert str(quantity(text).normalize().__format__("f")) == value


def test_references_in_text() -> None:
    known = {"A": "1", "B": "$(A)"}
    assert expand("$(A) $(B) $(C) $$(A) $A $(", known) == "1 $(A) $(C) $(A) $A $("


def test_command_and_arguments_replace_the_image_s() -> None:
    image = Image(entrypoint=("run",), command=("this",))
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["run", "this"]),
        ({"args": ["$(A)"]}, ["run", "1"]),
        ({"command": ["other"]}, ["other"]),
        ({"command": ["other"], "args": ["x"]}, ["other", "x"]),
    ]
    for container, argv in cases:
        assert command_of(container, image, {"A": "1"}) == argv


class Nothing:
    async def find(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return None


def test_a_missing_reference_is_an_error_unless_it_is_optional() -> None:
    pod = {"metadata": {"namespace": "n", "name": "p"}, "spec": spec()}

    def env(optional: bool) -> dict[str, str]:
        reference = {"name": "s", "key": "k", "optional": optional}
        container = {"env": [{"name": "X", "valueFrom": {"secretKeyRef": reference}}]}
        work = environment_of(pod, container, Image(), objects=Nothing(), facts={}, capacity={}, services=[])
        return asyncio.run(work)

    assert env(True) == {}
    with pytest.raises(ConfigError, match='secret "s" not found'):
        env(False)


def test_a_limit_that_is_not_set_is_the_node_s() -> None:
    own = {"resources": {"limits": {"cpu": "1500m"}}}
    capacity = {"memory": "1Gi"}
    assert resource_of({"spec": spec()}, {"resource": "limits.cpu"}, own, capacity) == "2"
    memory = {"resource": "limits.memory", "divisor": "1Mi"}
    assert resource_of({"spec": spec()}, memory, own, capacity) == "1024"


def test_users_and_rights() -> None:
    pod = {"spec": {"securityContext": {"runAsUser": 7, "fsGroup": 9, "supplementalGroups": [8]}}}
    user = user_of(
        pod,
        {"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}},
        image_user=1,
        image_group=2,
    )
    assert (user.uid, user.gid, user.groups, user.capabilities) == (7, 0, (8, 9), (10,))
    assert user_of({"spec": {}}, {}, image_user=1, image_group=2).gid == 2
    assert user_of(
        pod, {"securityContext": {"allowPrivilegeEscalation": False}}, image_user=1, image_group=2
    ).no_new_privileges


def test_a_service_s_connections_go_to_ready_pods_or_to_those_that_still_serve() -> None:
    def endpoint(address: str, **conditions: bool) -> dict[str, Any]:
        return {"addresses": [address], "conditions": conditions}

    going = endpoint("10.0.0.1", ready=False, serving=True, terminating=True)
    sick = endpoint("10.0.0.2", ready=False, serving=False)
    well = endpoint("10.0.0.3", ready=True)
    ports = [{"name": "web", "port": 8080}, {"name": "other", "port": 1}]
    assert targets({"name": "web"}, [{"ports": ports, "endpoints": [going, sick, well]}]) == [("10.0.0.3", 8080)]
    assert targets({"name": "web"}, [{"ports": ports, "endpoints": [going, sick]}]) == [("10.0.0.1", 8080)]
    assert targets({"name": "web"}, [{"ports": ports, "endpoints": [sick]}]) == []


def test_files_change_all_at_once(tmp_path: Any) -> None:
    first = {"a": File(b"1", 0o644), "deep/b": File(b"2", 0o600)}
    assert write_atomically(tmp_path, first, Owner())
    assert not write_atomically(tmp_path, first, Owner())
    old = (tmp_path / "..data").resolve()
    assert write_atomically(tmp_path, {"a": File(b"3", 0o644), "c": File(b"4", 0o644)}, Owner())
    assert not old.exists()
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("..")) == ["a", "c"]
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "c").read_bytes()) == (b"3", b"4")
    assert (tmp_path / "a").readlink().parts[0] == "..data"


async def test_a_proxy_that_ends_ends_its_connections_and_has_nothing_to_say_about_it() -> None:
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: said.append(context))
    came: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    behind = await asyncio.start_server(lambda _reader, writer: came.put_nowait(writer), "127.0.0.1", 0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        door = free.getsockname()
    host, port = behind.sockets[0].getsockname()
    server = f"http://{host}:{port}"
    proxy = Proxy(Services(Api(Access(server, ssl.create_default_context()))), server, door)
    running = asyncio.create_task(proxy.run())
    async with asyncio.timeout(10):
        while True:
            try:
                reader, writer = await asyncio.open_connection(*door)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0)
        theirs = await came.get()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        for end in (writer, theirs):
            end.close()
            with contextlib.suppress(ConnectionError):
                await end.wait_closed()
    behind.close()
    assert said == []
