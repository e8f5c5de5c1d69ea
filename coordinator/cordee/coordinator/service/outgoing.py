"""What is said to workers: what the jobs' machines decide, and the faults that `cordee chaos` asks for."""

from collections.abc import Callable
from dataclasses import dataclass

from cordee.coordinator.core import actions
from cordee.coordinator.faults import Fault

__all__ = ["Mailbox", "Outgoing", "SendFault"]


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
