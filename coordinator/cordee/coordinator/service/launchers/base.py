"""What the coordinator needs from a substrate that runs agents.

A launcher is idempotent by worker id: starting an agent that runs, or stopping one that does not, changes nothing. It
keeps whatever it needs so that `list()` is right after the coordinator was killed and started again; the coordinator
asks it instead of trusting its own memory.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cordee.coordinator.errors import CoordinatorError

__all__ = ["AgentExit", "AgentSpec", "AgentStatus", "Launcher", "LauncherError"]


class LauncherError(CoordinatorError):
    """The substrate refused to start an agent."""

    code = "launcher"


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """An agent to start: who it is, what it is told, and where it works."""

    worker: str
    job: str
    folder: Path  # the job's folder
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """An agent that runs now."""

    worker: str
    job: str
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class AgentExit:
    """An agent that ended. The code is None where nobody could learn it; it is negative for a signal."""

    worker: str
    job: str
    code: int | None
    message: str = ""
    """The last line it wrote: why it gave up, or what it died of. Empty where there is none."""


class Launcher(Protocol):
    """Starts and stops agents."""

    name: str

    async def start(self, spec: AgentSpec) -> None:
        """Start the agent of `spec.worker`, unless one runs."""
        ...

    async def stop(self, worker: str, *, grace_seconds: float) -> bool:
        """Ask the agent to go, and kill it and all it started if it has not gone after `grace_seconds` (0: at once).

        Returns without waiting; the end is reported by `exits`. False: there is no such agent, and no end will come.
        """
        ...

    async def list(self) -> Sequence[AgentStatus]:
        """The agents that run now, including those started before this coordinator."""
        ...

    def capacity(self) -> int:
        """How many agents this substrate can run in all."""
        ...

    def exits(self) -> AsyncIterator[AgentExit]:
        """The ends of agents as they happen. One consumer."""
        ...

    async def close(self) -> None:
        """Let go of everything, leaving the agents running."""
        ...
