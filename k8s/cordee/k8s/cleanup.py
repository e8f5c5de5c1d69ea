"""Takes along what a release has made in its namespace, before it is uninstalled: jobs' objects and their pods.

    python -P -m cordee.k8s.cleanup --config FILE [--seconds N]

The chart's pre-delete hook runs it, while the coordinator is still there: it sees that its objects are deleted, cancels
what runs, and lets go of them. Where no coordinator answers within the time, their finalizer is removed here, and the
garbage collector takes pods and policies with their owner. Ends with 1 and a sentence when something is left.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cordee.coordinator.config import load_config
from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.spec_problems import SpecError
from cordee.k8s.api import MERGE_PATCH, Api, Json
from cordee.k8s.errors import ApiError
from cordee.k8s.names import JOB_LABEL
from cordee.k8s.reconcile import COORDINATOR_LABEL, FINALIZER

__all__ = ["clean", "main"]

SECONDS: Final = 90.0
_POLL_SECONDS: Final = 0.5
_LAST_SECONDS: Final = 30.0
"""For what is left after the time: pods that end, and objects without their finalizer."""
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409


def clean(
    api: Api,
    instance: str,
    seconds: float = SECONDS,
    *,
    last_seconds: float = _LAST_SECONDS,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Deletes the jobs and workers of a coordinator; what is still there at the end."""
    jobs = f"/apis/cordee.dev/v1alpha1/namespaces/{api.namespace}/trainingjobs"
    pods = f"/api/v1/namespaces/{api.namespace}/pods"
    policies = f"/apis/networking.k8s.io/v1/namespaces/{api.namespace}/networkpolicies"
    ours = f"{COORDINATOR_LABEL}={instance}"
    workers = f"app.kubernetes.io/managed-by=cordee,app.kubernetes.io/instance={instance}"

    def wait(seconds: float) -> bool:
        end = now() + seconds
        while _list(api, jobs, ours) or _list(api, pods, workers):
            if now() >= end:
                return False
            sleep(_POLL_SECONDS)
        return True

    names = {_name(pod, JOB_LABEL) for pod in _list(api, pods, workers)}
    for job in _list(api, jobs, ours):
        names.add(_name(job, JOB_LABEL))
        _delete(api, f"{jobs}/{job['metadata']['name']}", {"propagationPolicy": "Background"})
    if not wait(seconds):
        for job in _list(api, jobs, ours):
            _release(api, f"{jobs}/{job['metadata']['name']}")
        for pod in _list(api, pods, workers):  # those without an owner; the others are being deleted
            _delete(api, f"{pods}/{pod['metadata']['name']}")
    for name in sorted(names - {""}):  # an owner takes its policy along
        _delete(api, f"{policies}/{name}")
    wait(last_seconds)
    left = [("training job", o) for o in _list(api, jobs, ours)] + [("pod", o) for o in _list(api, pods, workers)]
    return [f"{what} {o['metadata']['name']}" for what, o in left]


def _name(o: Json, label: str) -> str:
    return str((o["metadata"].get("labels") or {}).get(label, ""))


def _list(api: Api, path: str, labels: str) -> list[Json]:
    """What is there; nothing, where the kind itself is not."""
    try:
        return list(api.request("GET", path, query={"labelSelector": labels}).get("items") or ())
    except ApiError as error:
        if error.status != _NOT_FOUND:
            raise
        return []


def _delete(api: Api, path: str, body: Json | None = None) -> None:
    try:
        api.request("DELETE", path, body=body)
    except ApiError as error:
        if error.status != _NOT_FOUND:
            raise


def _release(api: Api, path: str) -> None:
    """Removes our finalizer, and nobody else's."""
    try:
        metadata = api.request("GET", path)["metadata"]
        kept = [each for each in metadata.get("finalizers") or () if each != FINALIZER]
        patch = {"metadata": {"finalizers": kept, "resourceVersion": metadata["resourceVersion"]}}
        api.request("PATCH", path, body=patch, content_type=MERGE_PATCH)
    except ApiError as error:
        if error.status not in (_NOT_FOUND, _CONFLICT):  # somebody else was quicker
            raise


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m cordee.k8s.cleanup", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="the coordinator's configuration file")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for the coordinator to let go (default: 90)")
    arguments = parser.parse_args()
    try:
        settings = load_config(arguments.config).kubernetes
        api = Api.connect(settings)
        left = clean(api, settings.instance, arguments.seconds)
    except (CoordinatorError, SpecError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    if left:
        print(f"error: still there: {', '.join(left)}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
