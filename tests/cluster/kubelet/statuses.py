"""A pod's status from what its containers did: pure, and as kubelets tell it (`kubelet_pods.go`, `generate.go`).

Times are seconds since the epoch; what is written has whole seconds, as Kubernetes' times have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

__all__ = [
    "OWN_CONDITIONS",
    "Container",
    "Running",
    "State",
    "Terminated",
    "Waiting",
    "conditions",
    "containers_of",
    "moment",
    "phase",
    "pod_status",
    "resumed",
]

Json = dict[str, Any]
# What a kubelet writes; other conditions are others'.
OWN_CONDITIONS = frozenset(
    {"PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready", "PodScheduled", "DisruptionTarget"}
)
Kind = Literal["init", "sidecar", "main"]


@dataclass(frozen=True, slots=True)
class Waiting:
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    since: float


@dataclass(frozen=True, slots=True)
class Terminated:
    exit_code: int
    reason: str
    started: float
    finished: float
    message: str = ""

    @property
    def succeeded(self) -> bool:
        return self.exit_code == 0


State = Waiting | Running | Terminated


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod, now. `started` and `ready` are what its probes say."""

    name: str
    image: str
    kind: Kind = "main"
    state: State = Waiting("PodInitializing")
    last: Terminated | None = None
    restarts: int = 0
    ready: bool = False
    started: bool = False
    container_id: str = ""


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def containers_of(spec: Json) -> list[Container]:
    """A pod's containers before any ran, the initialising ones first."""
    inits = spec.get("initContainers") or []
    waiting = Waiting("PodInitializing" if inits else "ContainerCreating")
    found = [
        Container(c["name"], c["image"], "sidecar" if c.get("restartPolicy") == "Always" else "init", waiting)
        for c in inits
    ]
    return found + [Container(c["name"], c["image"], "main", waiting) for c in spec["containers"]]


def initialised(containers: Sequence[Container]) -> bool:
    """Whether all that comes before the main containers is done, or has started."""
    return all(
        (c.kind == "init" and isinstance(c.state, Terminated) and c.state.succeeded)
        or (c.kind == "sidecar" and (c.started or isinstance(c.state, Terminated)))
        for c in containers
        if c.kind != "main"
    )


def phase(policy: str, containers: Sequence[Container]) -> str:
    inits = [c for c in containers if c.kind == "init"]
    mains = [c for c in containers if c.kind == "main"]
    if policy == "Never" and any(isinstance(c.state, Terminated) and not c.state.succeeded for c in inits):
        return "Failed"
    if not initialised(containers) and not any(_ran(c) for c in mains):
        return "Pending"
    if any(isinstance(c.state, Waiting) and c.last is None for c in mains):
        return "Pending"
    ended = [c.state for c in mains if isinstance(c.state, Terminated)]
    if len(ended) == len(mains):
        if policy != "Always" and all(s.succeeded for s in ended):
            return "Succeeded"
        if policy == "Never":
            return "Failed"
    return "Running"


def _ran(container: Container) -> bool:
    return not isinstance(container.state, Waiting) or container.last is not None


def conditions(
    current_phase: str, containers: Sequence[Container], gates: Mapping[str, bool]
) -> dict[str, tuple[bool, str, str]]:
    """Condition → (true?, reason, message). `gates` are the pod's readiness gates, and whether each is true."""
    done, over = current_phase == "Succeeded", current_phase in {"Succeeded", "Failed"}
    serving = [c for c in containers if c.kind != "init"]
    unready = [c.name for c in serving if not c.ready]
    pending = [c.name for c in containers if c.kind == "init" and not _completed(c)]
    initial = initialised(containers) or done
    found: dict[str, tuple[bool, str, str]] = {
        "PodReadyToStartContainers": (not over, "", ""),
        "Initialized": (
            initial,
            "PodCompleted" if done else "" if initial else "ContainersNotInitialized",
            "" if initial else f"containers with incomplete status: [{' '.join(pending)}]",
        ),
    }
    if over:
        reason = "PodCompleted" if done else "PodFailed"
        found["ContainersReady"] = found["Ready"] = (False, reason, "")
        return found
    message = f"containers with unready status: [{' '.join(unready)}]" if unready else ""
    reason = "ContainersNotReady" if unready else ""
    found["ContainersReady"] = (not unready, reason, message)
    closed = sorted(name for name, true in gates.items() if not true)
    if unready or not closed:
        found["Ready"] = found["ContainersReady"]
    else:
        found["Ready"] = (
            False,
            "ReadinessGatesNotReady",
            f'corresponding condition of pod readiness gate "{closed[0]}"',
        )
    return found


def _completed(container: Container) -> bool:
    return isinstance(container.state, Terminated) and container.state.succeeded


def pod_status(
    pod: Json,
    containers: Sequence[Container],
    *,
    now: float,
    started: float,
    host_ip: str,
    pod_ip: str | None,
    reason: str = "",
    message: str = "",
    failed: bool = False,
    disrupted: bool = False,
) -> Json:
    """The `status` of the pod; transition times of conditions that stay are kept from the status that it has.

    `failed` is the kubelet's own verdict (evicted, deadline exceeded), whatever containers say; `disrupted`: it is one
    that is no fault of the pod's.
    """
    spec, before = pod["spec"], pod.get("status") or {}
    current = "Failed" if failed else phase(spec.get("restartPolicy", "Always"), containers)
    old = {c["type"]: c for c in before.get("conditions") or []}
    gates = {
        gate["conditionType"]: old.get(gate["conditionType"], {}).get("status") == "True"
        for gate in spec.get("readinessGates") or []
    }
    written = []
    found = conditions(current, containers, gates)
    if disrupted:
        found["DisruptionTarget"] = (True, "TerminationByKubelet", message)
    for kind, (true, why, sentence) in found.items():
        status = "True" if true else "False"
        was = old.get(kind, {})
        since = was["lastTransitionTime"] if was.get("status") == status else moment(now)
        condition = {"type": kind, "status": status, "lastTransitionTime": since, "reason": why, "message": sentence}
        written.append({key: value or None for key, value in condition.items()})
    written += [condition for kind, condition in old.items() if kind not in found]
    if "PodScheduled" not in old:
        written.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": moment(now)})
    status: Json = {
        "phase": current,
        "conditions": written,
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "startTime": before.get("startTime") or moment(started),
        "containerStatuses": [_container(c) for c in containers if c.kind == "main"],
    }
    if inits := [_container(c) for c in containers if c.kind != "main"]:
        status["initContainerStatuses"] = inits
    if pod_ip:
        status["podIP"] = pod_ip
        status["podIPs"] = [{"ip": pod_ip}]
    if reason:
        status["reason"] = reason
    if message:
        status["message"] = message
    return status


def _container(container: Container) -> Json:
    status: Json = {
        "name": container.name,
        "image": container.image,
        "imageID": f"cordee.test/{container.image}" if container.container_id else "",
        "ready": container.ready or (container.kind == "init" and _completed(container)),
        "started": container.started and isinstance(container.state, Running),
        "restartCount": container.restarts,
        "state": _state(container.state, container.container_id),
    }
    if container.container_id:
        status["containerID"] = container.container_id
    if container.last:
        status["lastState"] = _state(container.last, container.container_id)
    return status


def _state(state: State, container_id: str) -> Json:
    match state:
        case Waiting(reason, message):
            return {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        case Running(since):
            return {"running": {"startedAt": moment(since)}}
        case Terminated(exit_code, reason, started, finished, message):
            ended: Json = {
                "exitCode": exit_code,
                "reason": reason,
                "startedAt": moment(started),
                "finishedAt": moment(finished),
                "containerID": container_id or None,
            }
            if message:
                ended["message"] = message
            return {"terminated": ended}


def resumed(containers: Sequence[Container], status: Json, now: float) -> list[Container]:
    """The containers of a pod that ran here before its node lost them: what ran has ended, and nobody saw how."""
    known = {c["name"]: c for key in ("initContainerStatuses", "containerStatuses") for c in status.get(key) or []}

    def one(container: Container) -> Container:
        was = known.get(container.name) or {}
        state, restarts = was.get("state") or {}, was.get("restartCount", 0)
        if ended := state.get("terminated"):
            over = Terminated(ended["exitCode"], ended.get("reason") or "", now, now, ended.get("message") or "")
            return replace(container, state=over, restarts=restarts)
        if "running" in state:
            return replace(container, state=Terminated(255, "Unknown", now, now), restarts=restarts)
        if before := (was.get("lastState") or {}).get("terminated"):
            last = Terminated(before["exitCode"], before.get("reason") or "", now, now)
            return replace(container, last=last, restarts=restarts)
        return container

    return [one(container) for container in containers]
