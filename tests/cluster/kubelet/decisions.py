"""What a kubelet does next for a pod: pure. Which containers to start, what to wait for, and when the pod is over.

A container that ended is started again as the pod's restart policy has it, after a delay that doubles with each restart
(CrashLoopBackOff) and is forgotten after a while of running well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.kubelet.statuses import Container, Running, Terminated, Waiting, initialised

__all__ = ["Backoff", "Decision", "decide"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Kubernetes': 10 s, doubled up to 300 s, forgotten after 600 s. Tests have less patience."""

    first: float = 10.0
    most: float = 300.0
    forgotten: float = 600.0

    def after(self, restarts: int) -> float:
        """How long to wait before the restart number `restarts` + 1; the first restart is at once."""
        return 0.0 if restarts == 0 else min(self.most, self.first * 2.0 ** (restarts - 1))


@dataclass(frozen=True, slots=True)
class Decision:
    """`start`: now. `hold`: those that wait for their next start, and until when. `over`: nothing is left to do."""

    start: tuple[str, ...] = ()
    hold: Mapping[str, float] = field(default_factory=dict)
    over: bool = False

    @property
    def wake(self) -> float | None:
        return min(self.hold.values(), default=None)


def decide(
    policy: str,
    containers: Sequence[Container],
    *,
    now: float,
    strikes: Mapping[str, int],
    not_before: Mapping[str, float],
    backoff: Backoff,
) -> Decision:
    """`strikes`: how often each container ended in a row, without a long good run in between. `not_before`: when a
    start that failed (an image that is not to be had, a Secret that is missing) may be tried again."""
    inits = [c for c in containers if c.kind != "main"]
    mains = [c for c in containers if c.kind == "main"]
    start: list[str] = []
    hold: dict[str, float] = {}

    def begin(name: str, due: float) -> bool:
        if due <= now:
            start.append(name)
        else:
            hold[name] = due
        return True

    def again(container: Container, wanted: bool) -> bool:
        """Whether the container runs, will, or needs nothing; starts it when its time has come."""
        match container.state:
            case Running():
                return True
            case Waiting() if container.last is None:
                due = not_before.get(container.name, now)
                return begin(container.name, due)
        ended = container.state if isinstance(container.state, Terminated) else container.last
        assert ended is not None
        if not wanted:
            return False
        due = ended.finished + backoff.after(strikes.get(container.name, 1) - 1)
        return begin(container.name, max(due, not_before.get(container.name, due)))

    def ended_badly(container: Container) -> bool:
        ended = container.state if isinstance(container.state, Terminated) else container.last
        return ended is not None and not ended.succeeded

    over = bool(mains) and all(
        isinstance(c.state, Terminated) and policy != "Always" and (c.state.succeeded or policy == "Never")
        for c in mains
    )
    if over:
        return Decision(over=True)
    for container in inits:
        if container.kind == "sidecar":
            again(container, True)
            if not container.started:
                return Decision(tuple(start), hold)
        elif not (isinstance(container.state, Terminated) and container.state.succeeded):
            if isinstance(container.state, Terminated) and policy == "Never":
                return Decision(over=True)
            again(container, True)
            return Decision(tuple(start), hold)
    if initialised(containers):
        for container in mains:
            again(container, policy == "Always" or (policy == "OnFailure" and ended_badly(container)))
    return Decision(tuple(start), hold)
