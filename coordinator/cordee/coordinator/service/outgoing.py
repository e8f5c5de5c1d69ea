"""What is said to workers: what the jobs' machines decide, and the faults that `cordee chaos` asks for."""

from collections.abc import Callable
from dataclasses import dataclass

from cordee.coordinator.core import actions
from cordee.coordinator.errors import ConflictError, InvalidError
from cordee.coordinator.faults import Fault
from cordee.coordinator.service.job import Job

__all__ = ["Mailbox", "Outgoing", "SendFault", "faults_for"]


@dataclass(frozen=True, slots=True)
class SendFault:
    """Injects a fault into this incarnation of a worker."""

    worker: str
    incarnation: str
    fault: Fault
    peer: str
    """The other end, as this worker sees it."""


Outgoing = (
    actions.SendWorld | actions.SendChangePending | actions.SendAbort | actions.SendProbe | actions.SendStop | SendFault
)
"""What is said to one incarnation of a worker."""

Mailbox = Callable[[Outgoing], None]
"""Delivers it, or drops it when that incarnation's stream is gone."""


def faults_for(job: Job, fault: Fault) -> list[SendFault]:
    """What is said to whoever is to suffer a fault. Refuses what the job does not allow, or nobody is there for."""
    if not job.document.spec.chaos:
        raise ConflictError(
            f"no faults may be injected into the job {job.id}",
            hint="submit it with --allow-chaos, or with 'chaos: true' in its job file",
        )
    workers = {view.worker: view for view in job.machine.workers()}
    for worker, _ in fault.targets:
        if worker not in workers:
            raise InvalidError(f"the job {job.id} has no worker {worker!r}", hint=f"it has: {', '.join(workers)}")
        if not workers[worker].pid:
            raise ConflictError(f"{worker} is not attached now ({workers[worker].state})")
    return [SendFault(worker, workers[worker].incarnation, fault, peer) for worker, peer in fault.targets]
