"""A job's NetworkPolicy: its workers reach each other on any port, and no other job's do.

A policy cannot say "whoever has the same label as I", so each job has one of its own. What all workers need beside
(the coordinator, names, storage) is one policy for all, which the chart makes.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from cordee.k8s.api import Json
from cordee.k8s.errors import ApiError, KubernetesError
from cordee.k8s.names import INSTANCE_LABEL, JOB_LABEL, labels
from cordee.k8s.owners import Owner

__all__ = ["Policies", "network_policy"]


def network_policy(instance: str, job: str, namespace: str, owner: Owner | None = None) -> Json:
    """The policy of one job; it is deleted with its owner."""
    pods = {"podSelector": {"matchLabels": {INSTANCE_LABEL: instance, JOB_LABEL: job}}}
    metadata: Json = {"name": job, "namespace": namespace, "labels": labels(instance, job)}
    if owner is not None:
        metadata["ownerReferences"] = [owner.reference()]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {
            **pods,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [pods]}],
            "egress": [{"to": [pods]}],
        },
    }


class Policies:
    """Makes a job's policy before its first pod, and removes it after its last. Used on one event loop."""

    def __init__(self, ask: Callable[..., Awaitable[Json]], instance: str, namespace: str) -> None:
        self._ask = ask
        self._instance, self._namespace = instance, namespace
        self._path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
        self._made: set[str] = set()
        self._one_by_one = asyncio.Lock()

    async def make(self, job: str, owner: Owner | None) -> None:
        """See to it that the job has one. Raises what the API server says."""
        async with self._one_by_one:
            if job in self._made:
                return
            policy = network_policy(self._instance, job, self._namespace, owner)
            try:
                await self._ask("POST", self._path, body=policy)
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
            self._made.add(job)

    async def drop(self, job: str, *, unless: Callable[[], bool]) -> None:
        """Remove it, unless the job has pods again."""
        async with self._one_by_one:
            if not unless():
                self._made.discard(job)
                with contextlib.suppress(KubernetesError):
                    await self._ask("DELETE", f"{self._path}/{job}")
