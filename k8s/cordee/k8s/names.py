"""What things of ours are called in a cluster. The chart, the coordinator and the agents agree on these."""

from typing import Final

__all__ = [
    "CONTAINER",
    "HOME",
    "IDENTITY",
    "IDENTITY_PATH",
    "INSTANCE_LABEL",
    "JOB_LABEL",
    "OURS",
    "STORAGE_PATH",
    "WORKDIR",
    "WORKER_LABEL",
    "labels",
    "selector",
]

CONTAINER: Final = "worker"
WORKDIR: Final = "/var/lib/cordee/job"
HOME: Final = "/var/lib/cordee/home"
STORAGE_PATH: Final = "/var/lib/cordee/storage"
IDENTITY: Final = "cordee-identity"
IDENTITY_PATH: Final = "/var/run/secrets/cordee"
OURS: Final = "cordee-"
"""Names of volumes that begin so are ours."""

INSTANCE_LABEL: Final = "app.kubernetes.io/instance"
JOB_LABEL: Final = "cordee.dev/job"
WORKER_LABEL: Final = "cordee.dev/worker"


def labels(instance: str, job: str, worker: str | None = None) -> dict[str, str]:
    """The labels of a job's things; with a worker, of its pod."""
    own = {
        "app.kubernetes.io/managed-by": "cordee",
        "app.kubernetes.io/name": "cordee",
        INSTANCE_LABEL: instance,
        "app.kubernetes.io/component": "worker",
        JOB_LABEL: job,
    }
    return own if worker is None else {**own, WORKER_LABEL: worker}


def selector(instance: str) -> str:
    """All pods of one coordinator's jobs."""
    return f"app.kubernetes.io/managed-by=cordee,app.kubernetes.io/component=worker,{INSTANCE_LABEL}={instance}"
