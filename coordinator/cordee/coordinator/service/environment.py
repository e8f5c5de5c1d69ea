"""What an agent is told through its environment; the agent hands it on to its worker."""

import json
from collections.abc import Mapping

from cordee.coordinator.service.job import Job

__all__ = ["agent_environment"]


def agent_environment(
    job: Job, worker: str, *, place: Mapping[str, str], coordinator: str, orphan_seconds: float
) -> dict[str, str]:
    """The user's variables, and ours, which win. `place` is what the launcher adds: see `Launcher.environment`."""
    spec, policy = job.document.spec, job.machine.policy
    return {
        **spec.env,
        "CORDEE_JOB": job.id,
        "CORDEE_WORKER": worker,
        "CORDEE_COORDINATOR": coordinator,
        "CORDEE_THREADS": str(spec.threads),
        "CORDEE_DEVICE": spec.device,
        "CORDEE_SCRIPT": spec.script,
        "CORDEE_ARGS": json.dumps(list(spec.args)),
        "CORDEE_BUNDLE": job.bundle or "",
        "CORDEE_SOURCE": spec.source_from.image.path if spec.source_from and spec.source_from.image else "",
        "CORDEE_ORPHAN_SECONDS": f"{orphan_seconds:g}",
        "CORDEE_CHECKPOINT_SECONDS": f"{spec.checkpoint.interval_seconds:g}",
        "CORDEE_CHECKPOINT_STEPS": str(spec.checkpoint.interval_steps),
        "CORDEE_CHECKPOINT_KEEP": str(spec.checkpoint.keep),
        "CORDEE_CHECKPOINT_KEEP_SECONDS": f"{spec.checkpoint.keep_seconds:g}",
        "CORDEE_WARM_START": spec.warm_start or "",
        "CORDEE_LEDGER": "1" if spec.ledger else "0",
        "CORDEE_HEARTBEAT_TIMEOUT_SECONDS": f"{policy.heartbeat_timeout_seconds:g}",
        "CORDEE_RESTARTS": str(policy.restart_budget),
        "CORDEE_RESTART_WINDOW_SECONDS": f"{policy.restart_window_seconds:g}",
        "CORDEE_CHAOS": "1" if spec.chaos else "",
        **place,
    }
