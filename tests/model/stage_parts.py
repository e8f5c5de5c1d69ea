"""The players on the stage: streams, worker processes, agents. What they do is in `stage` and `stage_elastic`."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from cordee.rpc.v1 import worker_pb2 as pb
from cordee.worker import session_state as ss

__all__ = ["Agent", "Process", "Stream"]


@dataclass(eq=False)
class Stream:
    """One Attach call: what either side said and the other has not read. None in `down` is its end in good order."""

    up: deque[pb.WorkerMessage] = field(default_factory=deque)
    down: deque[pb.CoordinatorMessage | None] = field(default_factory=deque)
    half_closed: bool = False
    error: str = ""
    """Why it broke, for the worker's end, after what is in `down`."""
    gone: bool = False
    """For the coordinator: broken, after what is in `up`."""
    key: tuple[str, str] | None = None
    """Whose it is, once the coordinator has read its Hello."""
    served: bool = True


@dataclass(eq=False)
class Process:
    worker: str
    incarnation: str
    session: ss.SessionState
    mode: str = "importing"  # importing | meeting | training | outside | finished | dead
    world: pb.World | None = None
    healed: bool = False
    step: int | None = None
    weights: int = 0
    deed_at: float = 0.0
    header: bool = False
    sent: set[int] = field(default_factory=set)
    got: dict[int, dict[int, tuple[tuple[int, int], bool, int]]] = field(default_factory=dict)
    abort: tuple[str, ...] | None = None
    frozen: bool = False
    suspect: bool = False
    vanished: bool = False
    stream: Stream | None = None

    @property
    def alive(self) -> bool:
        return self.mode != "dead"

    @property
    def generation(self) -> int:
        return 0 if self.world is None else self.world.generation

    @property
    def rank(self) -> int:
        assert self.world is not None
        return [m.incarnation for m in self.world.members].index(self.incarnation)


@dataclass
class Agent:
    worker: str
    process: Process | None = None
