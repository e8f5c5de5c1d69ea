"""What has become of a pod, from what the cluster says of it: one word for decisions, one sentence for people.

Pure: a pod's JSON in, a finding out. The words come from many places (the scheduler's condition, the kubelet's reasons
for a container that waits or has ended, the `DisruptionTarget` condition of whoever took the pod, its deletion), and
the first that is known decides, in the order of who would know best.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from cordee.coordinator.core.model import ExitCause, Outlook
from cordee.k8s.api import Json
from cordee.k8s.names import CONTAINER

__all__ = ["Fate", "Finding", "diagnose", "diagnose_refusal"]


class Fate(StrEnum):
    """What has become of a pod."""

    # It does not run yet.
    PENDING = "pending"
    UNSCHEDULABLE = "unschedulable"
    STARTING = "starting"
    QUOTA = "quota"
    IMAGE = "image"
    CONFIG = "config"
    REFUSED = "refused"
    # It runs.
    RUNNING = "running"
    UNREACHABLE = "unreachable"
    # The platform takes it, or has taken it.
    PREEMPTED = "preempted"
    EVICTED = "evicted"
    TAINTED = "tainted"
    PRESSURE = "pressure"
    NODE_LOST = "node_lost"
    DELETED = "deleted"
    # It has ended by itself.
    OUT_OF_MEMORY = "out_of_memory"
    EXITED = "exited"


TAKEN: Final = frozenset(
    {Fate.PREEMPTED, Fate.EVICTED, Fate.TAINTED, Fate.PRESSURE, Fate.NODE_LOST, Fate.DELETED, Fate.UNREACHABLE}
)
"""The platform's doing: nobody's fault."""

OUTLOOKS: Final[dict[Fate, Outlook]] = {
    Fate.PENDING: Outlook.PASSING,
    Fate.UNSCHEDULABLE: Outlook.PASSING,
    Fate.STARTING: Outlook.PASSING,
    Fate.QUOTA: Outlook.PASSING,
    Fate.IMAGE: Outlook.DOUBTFUL,
    Fate.CONFIG: Outlook.DOUBTFUL,
    Fate.REFUSED: Outlook.HOPELESS,
}

_DISRUPTIONS: Final[dict[str, tuple[Fate, str]]] = {
    # https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions
    "PreemptionByScheduler": (Fate.PREEMPTED, "was preempted by a pod of higher priority"),
    "DeletionByTaintManager": (Fate.TAINTED, "was taken from its node, which was tainted or does not answer"),
    "EvictionByEvictionAPI": (Fate.EVICTED, "was evicted, as when a node is drained"),
    "DeletionByPodGC": (Fate.NODE_LOST, "was lost with its node, which is gone"),
    "TerminationByKubelet": (Fate.PRESSURE, "was ended by its node"),
}
_IMAGE_REASONS: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable"}
)
_BACK_OFF: Final = re.compile(r'^Back-off pulling image "[^"]*"(: )?(ErrImagePull: )?')
_NEVER_REASONS: Final = frozenset({"InvalidImageName"})
_CONFIG_REASONS: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_START_REASONS: Final = frozenset({"StartError", "ContainerCannotRun"})
"""A runtime that could not execute the container's command: it is not in the image, mostly."""
_LOST_REASONS: Final = frozenset({"NodeLost", "NodeAffinity"})
_ADMISSION_REASONS: Final = frozenset(
    {
        "UnexpectedAdmissionError",
        "OutOfcpu",
        "OutOfmemory",
        "OutOfpods",
        "OutOfephemeral-storage",
        "OutOfnvidia.com/gpu",
    }
)
"""The kubelet had no room after all: the scheduler and it saw different things for a moment."""
_MAX_WORDS: Final = 600


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found."""

    fate: Fate
    words: str = ""
    """A sentence that goes on from the pod's name: "was preempted by …"."""
    code: int | None = None
    """How the worker's container ended; negative: by this signal."""
    outlook: Outlook | None = None
    """It does not run yet; what is to be expected."""
    over: bool = False
    """Nothing of it runs any more."""

    @property
    def taken(self) -> bool:
        """It is the platform's doing."""
        return self.fate in TAKEN

    @property
    def cause(self) -> ExitCause | None:
        """Why it ended, where the cluster knows more than the exit code says."""
        return ExitCause(self.fate.value) if self.taken or self.fate is Fate.OUT_OF_MEMORY else None


def diagnose(pod: Json, *, gone: bool = False) -> Finding:
    """What has become of a pod; `gone`: the object has been deleted."""
    status: Json = pod.get("status") or {}
    ended = _ended(status)
    code = _code(ended) if ended is not None else None
    over = gone or status.get("phase") in ("Succeeded", "Failed") or ended is not None
    finding = _taken(pod, status, gone=gone, ended=ended is not None)
    if finding is not None:
        return Finding(finding.fate, finding.words, code, over=over)
    if ended is not None:
        return _exit(pod, ended)
    if over:
        if gone:
            return Finding(Fate.DELETED, "was deleted before it ran" if _waits(status) else "was deleted", over=True)
        return Finding(Fate.EXITED, f"has failed: {_said(status)}", over=True)
    return _waiting(status) or Finding(Fate.RUNNING)


def diagnose_refusal(status: int, reason: str, message: str) -> Finding:
    """What it means that the API server would not make a pod."""
    message = _cut(message)
    if status == 403 and "exceeded quota" in message:
        return Finding(Fate.QUOTA, f"waits for quota: {message}", outlook=Outlook.PASSING)
    if status == 403 and "violates PodSecurity" in message:
        return Finding(Fate.REFUSED, f"is refused by the namespace's Pod Security: {message}", outlook=Outlook.HOPELESS)
    if status in (400, 413, 422):
        return Finding(Fate.REFUSED, f"is refused by the API server: {message}", outlook=Outlook.HOPELESS)
    if status == 429 or status >= 500:
        return Finding(Fate.PENDING, f"waits for the API server: {message}", outlook=Outlook.PASSING)
    words = f"is refused by the API server ({reason or status}): {message}"
    return Finding(Fate.CONFIG, words, outlook=Outlook.DOUBTFUL)


# -- it was taken


def _taken(pod: Json, status: Json, *, gone: bool, ended: bool) -> Finding | None:
    condition = _condition(status, "DisruptionTarget")
    if condition is not None and condition.get("reason") == "TerminationByKubelet" and status.get("reason"):
        condition = None  # the pod's own reason says more: for want of memory, or because the node shuts down
    if condition is not None and condition.get("status") == "True":
        fate, words = _DISRUPTIONS.get(str(condition.get("reason")), (Fate.EVICTED, "was taken by the cluster"))
        return Finding(fate, _with(words, condition.get("message")))
    reason = status.get("reason")
    if reason == "Evicted":
        return Finding(Fate.PRESSURE, _with("was evicted by its node", status.get("message")))
    if reason in ("Preempting", "Preempted"):
        return Finding(Fate.PREEMPTED, _with("was preempted on its node", status.get("message")))
    if reason in ("Terminated", "Shutdown", "NodeShutdown"):
        return Finding(Fate.EVICTED, _with("was ended because its node shuts down", status.get("message")))
    if reason in _ADMISSION_REASONS or str(reason).startswith("OutOf"):
        return Finding(Fate.EVICTED, _with("was refused by its node, which has no room for it", status.get("message")))
    if reason in _LOST_REASONS or status.get("phase") == "Unknown":
        return Finding(Fate.NODE_LOST, "was lost with its node, which does not answer")
    if pod["metadata"].get("deletionTimestamp"):
        return Finding(Fate.DELETED, "was deleted by somebody")
    ready = _condition(status, "Ready")
    if not gone and not ended and ready is not None and ready.get("status") == "False":
        container = _container(status)
        # The node's controller says that it is not ready; the kubelet, which would know, says nothing.
        if container.get("ready") and "running" in (container.get("state") or {}):
            return Finding(Fate.UNREACHABLE, "is on a node that does not answer")
    return None


# -- it has ended


def _ended(status: Json) -> Json | None:
    """How the worker's container ended, if it has."""
    state = _container(status).get("state") or {}
    ended = state.get("terminated")
    return ended if isinstance(ended, dict) else None


def _code(ended: Json) -> int:
    code = int(ended.get("exitCode", 0))
    # A shell's and a runtime's way of saying "by a signal".
    return 128 - code if 128 < code < 128 + 65 else code


def _exit(pod: Json, ended: Json) -> Finding:
    code = _code(ended)
    if ended.get("reason") == "OOMKilled":
        limit = _memory_limit(pod)
        words = f"used more memory than its limit of {limit}" if limit else "used more memory than its node has"
        hint = "raise spec.pod.resources.memory" if limit else "give it spec.pod.resources.memory"
        return Finding(Fate.OUT_OF_MEMORY, f"{words}: {hint}", code, over=True)
    if ended.get("reason") == "ContainerStatusUnknown":
        return Finding(Fate.NODE_LOST, "was lost: its node does not know any more how it ended", None, over=True)
    last = str(ended.get("message") or "").strip().rsplit("\n", maxsplit=1)[-1].strip()
    if ended.get("reason") in _START_REASONS:
        last = _with("its container cannot be started", last)
    return Finding(Fate.EXITED, _cut(last), code, over=True)


def _memory_limit(pod: Json) -> str:
    for container in pod["spec"].get("containers") or ():
        if container.get("name") == CONTAINER:
            return str(((container.get("resources") or {}).get("limits") or {}).get("memory") or "")
    return ""


# -- it does not run yet


def _waiting(status: Json) -> Finding | None:
    if status.get("phase") not in (None, "Pending"):
        return None
    for container in (*_all(status, "initContainerStatuses"), *_all(status, "containerStatuses")):
        found = _container_waits(container)
        if found is not None:
            return found
    scheduled = _condition(status, "PodScheduled")
    if scheduled is not None and scheduled.get("status") == "False":
        if scheduled.get("reason") == "SchedulingGated":
            return Finding(Fate.PENDING, "is held back by a scheduling gate", outlook=Outlook.PASSING)
        words = _with("waits for a node", scheduled.get("message"))
        return Finding(Fate.UNSCHEDULABLE, words, outlook=Outlook.PASSING)
    if scheduled is None:
        return Finding(Fate.PENDING, "has been asked for", outlook=Outlook.PASSING)
    return Finding(Fate.STARTING, "is being started on its node", outlook=Outlook.PASSING)


def _container_waits(container: Mapping[str, Any]) -> Finding | None:
    waiting = (container.get("state") or {}).get("waiting")
    if not isinstance(waiting, dict):
        return None
    reason, said = str(waiting.get("reason") or ""), waiting.get("message")
    image = container.get("image") or "its image"
    if reason in _NEVER_REASONS:
        words = _with(f"can never run: {image!r} is no image's name", said)
        return Finding(Fate.REFUSED, words, outlook=Outlook.HOPELESS)
    if reason in _IMAGE_REASONS:
        # The kubelet says two sentences by turns, the reason, and that it waits (newer ones with the reason):
        # the reason is worth telling, and the same whichever of them is seen.
        told = _BACK_OFF.sub("", str(said or ""), count=1)
        return Finding(Fate.IMAGE, _with(f"cannot get its image {image}", told), outlook=Outlook.DOUBTFUL)
    if reason in _CONFIG_REASONS:
        return Finding(Fate.CONFIG, _with("cannot be started by its node", said), outlook=Outlook.DOUBTFUL)
    if reason == "CrashLoopBackOff":
        words = _with(f"waits for its container {container.get('name')}, which fails again and again", said)
        return Finding(Fate.CONFIG, words, outlook=Outlook.DOUBTFUL)
    return None


# -- small things


def _waits(status: Json) -> bool:
    return status.get("phase") in (None, "Pending")


def _all(status: Json, field: str) -> list[Json]:
    found = status.get(field)
    return found if isinstance(found, list) else []


def _container(status: Json) -> Json:
    return next((c for c in _all(status, "containerStatuses") if c.get("name") == CONTAINER), {})


def _condition(status: Json, kind: str) -> Json | None:
    return next((c for c in _all(status, "conditions") if c.get("type") == kind), None)


def _said(status: Json) -> str:
    return _cut(str(status.get("message") or status.get("reason") or "nobody says why"))


def _with(words: str, said: object) -> str:
    """The sentence, with what the cluster says itself."""
    return f"{words}: {_cut(str(said))}" if said else words


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_WORDS else text[: _MAX_WORDS - 1] + "…"
