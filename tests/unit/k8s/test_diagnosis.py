"""What has become of a pod: statuses as clusters write them, and the word and the sentence for each."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.coordinator.core.model import Outlook
from cordee.k8s.diagnosis import Fate, diagnose, diagnose_refusal

PASSING, DOUBTFUL, HOPELESS = Outlook.PASSING, Outlook.DOUBTFUL, Outlook.HOPELESS
SCHEDULED = {"type": "PodScheduled", "status": "True"}
READY = [SCHEDULED, {"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}]
DELETED = {"deletionTimestamp": "2026-11-22T08:00:00Z", "deletionGracePeriodSeconds": 30}


def pod(status: dict[str, Any], *, memory: str = "2Gi", **metadata: Any) -> dict[str, Any]:
    resources = {"limits": {"memory": memory}} if memory else {}
    return {
        "metadata": {"name": "j-w0", "uid": "u", **metadata},
        "spec": {"nodeName": "a", "containers": [{"name": "worker", "image": "cordee:1", "resources": resources}]},
        "status": status,
    }


def worker(ready: bool = False, **state: Any) -> dict[str, Any]:
    return {"name": "worker", "image": "cordee:1", "ready": ready, "restartCount": 0, "state": state}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    state = {"reason": reason} | ({"message": message} if message else {})
    return {"phase": "Pending", "conditions": [SCHEDULED], "containerStatuses": [worker(waiting=state)]}


def ended(code: int, reason: str = "Error", message: str = "", **status: Any) -> dict[str, Any]:
    state = {"exitCode": code, "reason": reason} | ({"message": message} if message else {})
    phase = "Succeeded" if code == 0 else "Failed"
    return {"phase": phase, "containerStatuses": [worker(terminated=state)], **status}


def disrupted(reason: str, message: str, **status: Any) -> dict[str, Any]:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    running = {"phase": "Running", "containerStatuses": [worker(ready=True, running={})]}
    return {**running, **status, "conditions": [condition, *READY]}


RUNNING = {"phase": "Running", "conditions": READY, "containerStatuses": [worker(ready=True, running={})]}
NOT_READY = {**RUNNING, "conditions": [SCHEDULED, {"type": "Ready", "status": "False"}]}
LOW = disrupted("TerminationByKubelet", "The node was low on resource: memory.")
GPU = "0/5 nodes are available: 2 Insufficient nvidia.com/gpu, 3 node(s) had untolerated taint(s). preemption: 0/5."

CASES: list[tuple[str, dict[str, Any], Fate, str, Outlook | None]] = [
    ("created", pod({"phase": "Pending"}), Fate.PENDING, "has been asked for", PASSING),
    (
        "unschedulable",
        pod(
            {
                "phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": GPU}],
            }
        ),
        Fate.UNSCHEDULABLE,
        f"waits for a node: {GPU}",
        PASSING,
    ),
    (
        "gated",
        pod(
            {
                "phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}],
            }
        ),
        Fate.PENDING,
        "is held back by a scheduling gate",
        PASSING,
    ),
    ("scheduled", pod(waiting("ContainerCreating")), Fate.STARTING, "is being started on its node", PASSING),
    (
        "pull failed",
        pod(waiting("ErrImagePull", 'rpc error: code = NotFound desc = "cordee:1": not found')),
        Fate.IMAGE,
        'cannot get its image cordee:1: rpc error: code = NotFound desc = "cordee:1": not found',
        DOUBTFUL,
    ),
    (
        "pull backs off",
        pod(waiting("ImagePullBackOff", 'Back-off pulling image "cordee:1"')),
        Fate.IMAGE,
        "cannot get its image cordee:1",
        DOUBTFUL,
    ),
    (
        "pull backs off, for a reason",
        pod(waiting("ImagePullBackOff", 'Back-off pulling image "cordee:1": ErrImagePull: rpc error: not found')),
        Fate.IMAGE,
        "cannot get its image cordee:1: rpc error: not found",
        DOUBTFUL,
    ),
    (
        "invalid name",
        pod(waiting("InvalidImageName", "couldn't parse image name")),
        Fate.REFUSED,
        "can never run: 'cordee:1' is no image's name: couldn't parse image name",
        HOPELESS,
    ),
    (
        "secret missing",
        pod(waiting("CreateContainerConfigError", 'secret "database" not found')),
        Fate.CONFIG,
        'cannot be started by its node: secret "database" not found',
        DOUBTFUL,
    ),
    ("running", pod(RUNNING), Fate.RUNNING, "", None),
    ("not ready by itself", pod({**NOT_READY, "containerStatuses": [worker(running={})]}), Fate.RUNNING, "", None),
    ("node silent", pod(NOT_READY), Fate.UNREACHABLE, "is on a node that does not answer", None),
    (
        "preempted",
        pod(disrupted("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod")),
        Fate.PREEMPTED,
        "was preempted by a pod of higher priority: default-scheduler: preempting to accommodate a higher priority pod",
        None,
    ),
    (
        "evicted by the API",
        pod(disrupted("EvictionByEvictionAPI", "Eviction API: evicting"), **DELETED),
        Fate.EVICTED,
        "was evicted, as when a node is drained: Eviction API: evicting",
        None,
    ),
    (
        "taint",
        pod(disrupted("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"), **DELETED),
        Fate.TAINTED,
        "was taken from its node, which was tainted or does not answer: Taint manager: deleting due to NoExecute taint",
        None,
    ),
    (
        "pod collected",
        pod(disrupted("DeletionByPodGC", "PodGC: node no longer exists", phase="Failed"), **DELETED),
        Fate.NODE_LOST,
        "was lost with its node, which is gone: PodGC: node no longer exists",
        None,
    ),
    (
        "node pressure",
        pod({**ended(137), "reason": "Evicted", "message": "The node was low on resource: memory."}),
        Fate.PRESSURE,
        "was evicted by its node: The node was low on resource: memory.",
        None,
    ),
    (
        "evicted by the kubelet",
        pod(LOW | {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
        Fate.PRESSURE,
        "was evicted by its node: The node was low on resource: memory.",
        None,
    ),
    (
        "ended as its node shuts down",
        pod(LOW | {"reason": "Terminated", "message": "Pod was terminated in response to node shutdown."}),
        Fate.EVICTED,
        "was ended because its node shuts down: Pod was terminated in response to node shutdown.",
        None,
    ),
    (
        "ended by the kubelet",
        pod(
            {
                **disrupted("TerminationByKubelet", "The node was low on resource: ephemeral-storage."),
                **ended(143),
                "conditions": [
                    {
                        "type": "DisruptionTarget",
                        "status": "True",
                        "reason": "TerminationByKubelet",
                        "message": "The node was low on resource: ephemeral-storage.",
                    }
                ],
            }
        ),
        Fate.PRESSURE,
        "was ended by its node: The node was low on resource: ephemeral-storage.",
        None,
    ),
    (
        "node lost",
        pod({**RUNNING, "reason": "NodeLost"}),
        Fate.NODE_LOST,
        "was lost with its node, which does not answer",
        None,
    ),
    (
        "unknown",
        pod({**RUNNING, "phase": "Unknown"}),
        Fate.NODE_LOST,
        "was lost with its node, which does not answer",
        None,
    ),
    (
        "shutdown",
        pod(
            {
                **ended(143),
                "reason": "Terminated",
                "message": "Pod was terminated in response to imminent node shutdown.",
            }
        ),
        Fate.EVICTED,
        "was ended because its node shuts down: Pod was terminated in response to imminent node shutdown.",
        None,
    ),
    (
        "no room after all",
        pod({"phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu"}),
        Fate.EVICTED,
        "was refused by its node, which has no room for it: Node didn't have enough resource: cpu",
        None,
    ),
    (
        "out of memory",
        pod(ended(137, "OOMKilled")),
        Fate.OUT_OF_MEMORY,
        "used more memory than its limit of 2Gi: raise spec.pod.resources.memory",
        None,
    ),
    (
        "out of memory, no limit",
        pod(ended(137, "OOMKilled"), memory=""),
        Fate.OUT_OF_MEMORY,
        "used more memory than its node has: give it spec.pod.resources.memory",
        None,
    ),
    ("deleted while it runs", pod(RUNNING, **DELETED), Fate.DELETED, "was deleted by somebody", None),
    ("ended well", pod(ended(0, "Completed")), Fate.EXITED, "", None),
    (
        "ended",
        pod(ended(74, message="12:00 agent\nthe last time it was killed by SIGSEGV\n")),
        Fate.EXITED,
        "the last time it was killed by SIGSEGV",
        None,
    ),
    (
        "unknown to its node",
        pod(ended(137, "ContainerStatusUnknown")),
        Fate.NODE_LOST,
        "was lost: its node does not know any more how it ended",
        None,
    ),
]


@pytest.mark.parametrize(("thing", "fate", "words", "outlook"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_each_status_has_its_word_and_its_sentence(
    thing: dict[str, Any], fate: Fate, words: str, outlook: Outlook | None
) -> None:
    found = diagnose(thing)
    assert (found.fate, found.words, found.outlook) == (fate, words, outlook)


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 1), (70, 70), (74, 74), (137, -9), (139, -11), (143, -15)])
def test_a_code_above_128_is_a_signal(code: int, expected: int) -> None:
    assert diagnose(pod(ended(code))).code == expected


@pytest.mark.parametrize(("status", "taken"), [
    (disrupted("PreemptionByScheduler", ""), True),
    (disrupted("SomethingNew", ""), True),
    ({**ended(137), "reason": "Evicted"}, True),
    (ended(1), False),
    (ended(137, "OOMKilled"), False),
])  # fmt: skip
def test_who_is_to_blame(status: dict[str, Any], taken: bool) -> None:
    assert diagnose(pod(status)).taken is taken


def test_an_eviction_keeps_what_the_agent_ended_with() -> None:
    status = {**ended(71), "conditions": disrupted("EvictionByEvictionAPI", "")["conditions"]}
    found = diagnose(pod(status, **DELETED))
    assert (found.code, found.taken, found.over) == (71, True, True)


def test_what_is_gone_is_over_and_what_terminates_is_not() -> None:
    assert not diagnose(pod(RUNNING, **DELETED)).over
    assert diagnose(pod(RUNNING, **DELETED), gone=True).over
    assert diagnose(pod(RUNNING), gone=True).words == "was deleted"
    assert diagnose(pod({"phase": "Pending"}), gone=True).words == "was deleted before it ran"


def test_a_sidecar_that_runs_on_does_not_hide_that_the_worker_ended() -> None:
    both = [{"name": "side", "state": {"running": {}}, "ready": True}, worker(terminated={"exitCode": 0})]
    assert diagnose(pod({"phase": "Running", "containerStatuses": both})).over


REFUSALS = [
    (
        403,
        "Forbidden",
        'pods "j-w0" is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3',
        Fate.QUOTA,
        PASSING,
    ),
    (
        403,
        "Forbidden",
        'pods "j-w0" is forbidden: violates PodSecurity "restricted:latest": privileged',
        Fate.REFUSED,
        HOPELESS,
    ),
    (403, "Forbidden", 'pods is forbidden: User "u" cannot create resource "pods"', Fate.CONFIG, DOUBTFUL),
    (403, "Forbidden", 'pods "j-w0" is forbidden: error looking up service account n/a', Fate.CONFIG, DOUBTFUL),
    (404, "NotFound", 'namespaces "n" not found', Fate.CONFIG, DOUBTFUL),
    (422, "Invalid", 'Pod "j-w0" is invalid: spec.containers[0].image: Required value', Fate.REFUSED, HOPELESS),
    (400, "BadRequest", "strict decoding error", Fate.REFUSED, HOPELESS),
    (429, "TooManyRequests", "the server is busy", Fate.PENDING, PASSING),
    (500, "InternalError", "failed calling webhook", Fate.PENDING, PASSING),
]


@pytest.mark.parametrize(("status", "reason", "message", "fate", "outlook"), REFUSALS)
def test_what_it_means_that_no_pod_is_made(
    status: int, reason: str, message: str, fate: Fate, outlook: Outlook
) -> None:
    found = diagnose_refusal(status, reason, message)
    assert (found.fate, found.outlook) == (fate, outlook)
    assert message in found.words


STATES = st.fixed_dictionaries(
    {},
    optional={
        "waiting": st.fixed_dictionaries(
            {}, optional={"reason": st.text(max_size=20), "message": st.none() | st.text()}
        ),
        "running": st.just({}),
        "terminated": st.fixed_dictionaries(
            {"exitCode": st.integers(0, 255)}, optional={"reason": st.text(max_size=9)}
        ),
    },
)
CONTAINERS = st.fixed_dictionaries(
    {"name": st.sampled_from(["worker", "x"])}, optional={"state": STATES, "ready": st.booleans()}
)
CONDITIONS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["Ready", "PodScheduled", "DisruptionTarget"]),
        "status": st.sampled_from(["True", "False", "Unknown"]),
    },
    optional={"reason": st.text(max_size=9), "message": st.none() | st.text()},
)
STATUSES = st.fixed_dictionaries({}, optional={
    "phase": st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
    "reason": st.text(max_size=9), "message": st.none() | st.text(),
    "conditions": st.none() | st.lists(CONDITIONS, max_size=3),
    "containerStatuses": st.none() | st.lists(CONTAINERS, max_size=2),
    "initContainerStatuses": st.none() | st.lists(CONTAINERS, max_size=1),
})  # fmt: skip


@given(STATUSES, st.booleans(), st.booleans())
def test_whatever_a_cluster_says_has_a_meaning(status: dict[str, Any], gone: bool, deleted: bool) -> None:
    found = diagnose(pod(status, **(DELETED if deleted else {})), gone=gone)
    assert found.over or not gone
    assert (found.outlook is None) or not (found.over or found.taken)
    assert found.words or found.fate in (Fate.RUNNING, Fate.EXITED)
    assert "\n" not in found.words


@pytest.mark.parametrize("reason", ["StartError", "ContainerCannotRun"])
def test_a_command_that_cannot_be_executed_is_told_as_what_it_is(reason: str) -> None:
    said = 'failed to create containerd task: exec: "python": executable file not found in $PATH: unknown'
    found = diagnose(pod(ended(128, reason, said)))
    assert (found.fate, found.code) == (Fate.EXITED, 128)
    assert found.words == f"its container cannot be started: {said}"
