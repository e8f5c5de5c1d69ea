"""The times and budgets of one job: the coordinator's own, and what the job's file says instead."""

from dataclasses import replace
from typing import Any, Final

from cordee.coordinator.core.model import Policy, StragglerPolicy
from cordee.coordinator.spec import FailurePolicy

__all__ = ["job_policy"]

_HEARTBEATS: Final = 4.0
"""So many heartbeats fit into the time after which their absence is a loss."""


def job_policy(base: Policy, spec: FailurePolicy) -> Policy:
    """What a job is run by."""
    said: dict[str, Any] = {
        "restart_budget": spec.restarts,
        "restart_window_seconds": spec.window_seconds,
        "heartbeat_timeout_seconds": spec.heartbeat_timeout_seconds,
        "stuck_seconds": spec.stuck_seconds,
    }
    policy = replace(
        base,
        **{name: value for name, value in said.items() if value is not None},
        stuck_alone=base.stuck_alone or bool(spec.stuck_seconds),
        minimum_timeout_seconds=spec.minimum_timeout_seconds,
        stragglers=StragglerPolicy(spec.stragglers),
    )
    often_enough = policy.heartbeat_timeout_seconds / _HEARTBEATS
    # Ticks as well: what the coordinator was not run for is told from its workers' silence by a tick that comes late.
    return replace(
        policy,
        heartbeat_seconds=min(policy.heartbeat_seconds, often_enough),
        tick_seconds=min(policy.tick_seconds, often_enough),
    )
