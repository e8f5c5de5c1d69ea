"""Which worker a pod is, by the service-account token that the kubelet put into it.

No secret stands in a pod's specification. The kubelet projects a token that is good for one audience (one job) and
bound to one pod; the API server says whose it is, and this says whether that is the pod that the launcher started for
that worker: the same namespace, service account, name and uid. A token of another job, of another namespace, or of a
pod that is gone though its name came back, opens nothing.
"""

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cordee.coordinator.service.identity import Worker
from cordee.k8s.reviews import Asker, Identity, Reviews

__all__ = ["AUDIENCE", "KnownPod", "ServiceAccountVerifier", "audience_of", "check_worker", "claimed_pod"]

AUDIENCE: Final = "cordee.dev/job/"
_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_MAX_TOKEN_LENGTH: Final = 16384
# A thousand pods of a job begin at once, and each token is asked about once a minute at most.
_PER_SECOND: Final = 200.0
_BURST: Final = 2000.0


@dataclass(frozen=True, slots=True)
class KnownPod:
    """A worker's pod, as the launcher knows it."""

    job: str
    uid: str
    service_account: str


def audience_of(job: str) -> str:
    """The audience of a job's tokens."""
    return AUDIENCE + job


def claimed_pod(token: str) -> tuple[str, str] | None:
    """The pod's name and uid that a token claims, not verified: enough to ask nobody about what is plain nonsense."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > _MAX_TOKEN_LENGTH:
        return None
    try:
        claims: Any = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        pod = claims["kubernetes.io"]["pod"]
        name, uid = pod["name"], pod["uid"]
    except (ValueError, binascii.Error, KeyError, TypeError, RecursionError):
        return None
    return (name, uid) if isinstance(name, str) and isinstance(uid, str) else None


def check_worker(identity: Identity, pod: str, known: KnownPod, namespace: str) -> Worker | None:
    """The worker of whom the API server vouches for, if it is in the very pod that is known; None: it is not."""
    mine = (
        audience_of(known.job) in identity.audiences
        and identity.username == f"system:serviceaccount:{namespace}:{known.service_account}"
        and identity.only(_POD_NAME) == pod
        and identity.only(_POD_UID) == known.uid
        and bool(known.uid)
    )
    return Worker(known.job, pod) if mine else None


class ServiceAccountVerifier:
    """A `WorkerVerifier` for pods; `pods` gives the launcher's pod of a worker id, if one is alive."""

    def __init__(self, asker: Asker, *, namespace: str, pods: Callable[[str], KnownPod | None]) -> None:
        self._reviews = Reviews(asker, namespace, per_second=_PER_SECOND, burst=_BURST)
        self._namespace = namespace
        self._pods = pods

    async def identify(self, token: str) -> Worker | None:
        """The worker in whose pod the token lies. What is known of the pod is looked up anew for every call."""
        claim = claimed_pod(token)
        known = self._pods(claim[0]) if claim is not None else None
        if claim is None or known is None or claim[1] != known.uid:
            return None
        identity = await self._reviews.identify(token, (audience_of(known.job),))
        now = self._pods(claim[0])  # it may have been replaced while the API server was asked
        return check_worker(identity, claim[0], now, self._namespace) if identity is not None and now else None

    def close(self) -> None:
        """Ask nothing more."""
        self._reviews.close()
