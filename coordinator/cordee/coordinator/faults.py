"""The faults that can be injected into a job: their names, and what each needs to be told.

They are carried out by the workers themselves (`cordee.worker.faults`), so that they work wherever a worker runs; a
test holds the two tables together. Here is what a coordinator, a director (`cordee chaos`) and a reader need to know.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cordee.coordinator.errors import InvalidError

__all__ = ["FAULTS", "MAX_SECONDS", "Fault", "FaultKind", "check_fault"]

MAX_SECONDS: Final = 3600.0
"""A fault that lasts longer is an operation, not an experiment."""
_MAX_AMOUNT: Final = 1e6

Peer = Literal["none", "optional", "both"]


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One kind of fault."""

    name: str
    summary: str
    """What happens, in a sentence without a subject."""
    seconds: float = 0.0
    """How long it lasts unless told otherwise; 0: it has no length."""
    amount: float = 0.0
    """How much, unless told otherwise; 0: it has no measure."""
    peer: Peer = "none"
    """Whether it concerns a connection: with a peer that may be named, or that must be, and hears of it as well."""
    ends: bool = False
    """Whether the worker's process ends by it, at once or soon."""
    fails_job: bool = False
    """Whether the job is to fail by it: nothing to inject at random."""


FAULTS: Final[Mapping[str, FaultKind]] = {
    kind.name: kind
    for kind in (
        FaultKind("kill", "kills the process (SIGKILL)", ends=True),
        FaultKind("stop", "stops the process (SIGSTOP), and lets it go on afterwards", seconds=5.0),
        FaultKind("term", "a preemption notice: SIGTERM to the agent", ends=True),
        FaultKind("exit", "the process exits with code 3, without a word", ends=True),
        FaultKind("exit0", "the process exits with code 0 in the middle of its work", ends=True),
        FaultKind("segfault", "the process reads from nowhere (SIGSEGV)", ends=True),
        FaultKind("abort", "a library gives up (SIGABRT)", ends=True),
        FaultKind("memory", "no more memory: allocations fail for real", seconds=5.0, ends=True),
        FaultKind("exception", "an OSError (EIO) in the training thread: a disk's fault", ends=True),
        FaultKind("bug", "a RuntimeError in the training thread: the script's fault", ends=True, fails_job=True),
        FaultKind("gil", "C code holds the interpreter's lock", seconds=5.0),
        FaultKind("hang", "the training thread never comes back from its next step", ends=True),
        FaultKind("slow", "every step takes so many times as long", seconds=10.0, amount=3.0),
        FaultKind("drop", "the connection to a peer is shut", peer="optional"),
        FaultKind(
            "half-open", "nothing from a peer arrives, and the connection stays open", seconds=10.0, peer="optional"
        ),
        FaultKind("partition", "two workers do not reach each other any more", seconds=5.0, peer="both"),
        FaultKind("cut-off", "the worker does not reach the coordinator, nor the other way round", seconds=5.0),
        FaultKind("disk-full", "what this process writes to files fails", seconds=10.0),
        FaultKind("damage", "flips bytes in the newest checkpoint"),
        FaultKind("kill-agent", "kills the worker's agent (SIGKILL), and so the worker", ends=True),
    )
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, to be injected now."""

    kind: str
    worker: str
    seconds: float = 0.0
    peer: str = ""
    amount: float = 0.0

    def __str__(self) -> str:
        words = f"{self.kind} on {self.worker}"
        if self.peer:
            words += f" towards {self.peer}"
        if self.seconds:
            words += f" for {self.seconds:g} s"
        return words + (f", amount {self.amount:g}" if self.amount else "")

    @property
    def targets(self) -> tuple[tuple[str, str], ...]:
        """Who is to carry it out, and who is at the other end for it: both, where both ends must know."""
        if FAULTS[self.kind].peer == "both":
            return (self.worker, self.peer), (self.peer, self.worker)
        return ((self.worker, self.peer),)


def check_fault(kind: str, worker: str, seconds: float | None, peer: str, amount: float | None) -> Fault:
    """A fault with what was left open filled in; `InvalidError` says what is wrong."""
    known = FAULTS.get(kind)
    if known is None:
        raise InvalidError(f"there is no fault {kind!r}", hint=f"the kinds are: {', '.join(FAULTS)}")
    for name, given, default, most in (
        ("seconds", seconds, known.seconds, MAX_SECONDS),
        ("amount", amount, known.amount, _MAX_AMOUNT),
    ):
        if given is not None and not 0.0 <= given <= most:
            raise InvalidError(f"{name} is {given:g}; it must be from 0 to {most:g}")
        if given and not default:
            raise InvalidError(f"the fault {kind!r} has no {name}")
    if peer and known.peer == "none":
        raise InvalidError(f"the fault {kind!r} has no peer")
    if known.peer == "both" and not peer:
        raise InvalidError(f"the fault {kind!r} needs a peer: the worker at the other end")
    if peer == worker:
        raise InvalidError(f"{worker} is not its own peer")
    return Fault(
        kind,
        worker,
        seconds=known.seconds if seconds is None else seconds,
        peer=peer,
        amount=known.amount if amount is None else amount,
    )
