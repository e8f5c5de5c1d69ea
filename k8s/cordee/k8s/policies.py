"""A job's NetworkPolicy: its workers reach each other on any port, and no other job's do.

A policy cannot say "whoever has the same label as I", so each job has one of its own. What all workers need beside
(the coordinator, names, storage) is one policy for all, which the chart makes.
"""

from cordee.k8s.api import Json
from cordee.k8s.names import INSTANCE_LABEL, JOB_LABEL, labels

__all__ = ["network_policy"]


def network_policy(instance: str, job: str, namespace: str, owner: Json | None = None) -> Json:
    """The policy of one job; it is deleted with its owner."""
    pods = {"podSelector": {"matchLabels": {INSTANCE_LABEL: instance, JOB_LABEL: job}}}
    metadata: Json = {"name": job, "namespace": namespace, "labels": labels(instance, job)}
    if owner is not None:
        metadata["ownerReferences"] = [owner]
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
