"""What the coordinator needs from a substrate that runs agents.

A launcher is idempotent by worker id: starting an agent that runs, or stopping one that does not, changes nothing. It
keeps whatever it needs so that `list()` is right after the coordinator was killed and started again; the coordinator
asks it instead of trusting its own memory.

What becomes of agents it tells by itself: that one has ended (`AgentExit`), and, where a substrate knows more than
"it runs" and "it has ended", what one waits for or what is about to happen to it (`AgentNotice`).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cordee.coordinator.core.model import ExitCause, Outlook
from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.spec import JobSpec

__all__ = ["AgentExit", "AgentNotice", "AgentSpec", "AgentStatus", "Home", "Launcher", "LauncherError"]


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
    job_spec: JobSpec | None = None
    """What the job asks for; None: nothing in particular."""


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
    taken: bool = False
    """The substrate took it (evicted, preempted, its machine lost): nobody's fault, and `message` says it whole, as
    what follows "the agent"."""
    cause: ExitCause | None = None
    """Why, in a word, where the substrate knows more than the code says."""


@dataclass(frozen=True, slots=True)
class AgentNotice:
    """What is known of an agent that has not ended."""

    worker: str
    job: str
    kind: str
    """A word for the history; empty: it is worth no line there."""
    message: str
    """A sentence for people. Empty: what was told before is over, and the agent runs."""
    outlook: Outlook | None = None
    """It does not run yet, and what is to be expected. None: it runs."""


@dataclass(frozen=True, slots=True)
class Home:
    """A place beyond the state folder in which agents live: on Kubernetes, a namespace."""

    name: str
    uid: str = ""
    """What tells it from another one of the same name. Empty: it may not be known."""
    moved_from: str = ""
    """The name or uid of an earlier place: whoever configured this says that its jobs are to be taken up here."""


class Launcher(Protocol):
    """Starts and stops agents."""

    name: str
    """As in `spec.launcher`."""
    where: str
    """Where agents run, for sentences: "this machine"."""

    def check(self, spec: JobSpec) -> Sequence[str]:
        """What of a job's wishes has no effect here, a sentence each. Raises InvalidError when it could never run."""
        ...

    def environment(self, job: str, folder: Path, token: str, spec: JobSpec) -> Mapping[str, str]:
        """What an agent is told that depends on where it runs: its folder and its address, where checkpoints lie, and
        how it proves who it is; `token` is the job's."""
        ...

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

    async def home(self) -> Home | None:
        """Where agents live, if a coordinator of the same store could be pointed elsewhere; None: with the store."""
        ...

    def capacity(self) -> int:
        """How many agents this substrate can run in all."""
        ...

    def exits(self) -> AsyncIterator[AgentExit | AgentNotice]:
        """The ends of agents as they happen, and what is known of the others. One consumer.

        An end counts as told when the next one is asked for: before that it is told again to a later coordinator.
        """
        ...

    async def close(self) -> None:
        """Let go of everything, leaving the agents running."""
        ...
