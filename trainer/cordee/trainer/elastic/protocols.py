"""What the elastic step needs from below, and from nobody in particular.

The trainer knows no network. `cordee.worker` supplies a *membership* (how this process and its peers agree on the next
world) and, with every world, a *communicator* (how the members of one world exchange bytes). Without a worker, a
world of one supplies both (`cordee.trainer.elastic.solo`), so that the same script runs unchanged under plain
`python`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from cordee.trainer.elastic.tree import Span

__all__ = [
    "Buffer",
    "CheckpointPolicy",
    "Communicator",
    "Membership",
    "NumberedStep",
    "PeerLostError",
    "ProgressReport",
    "RunResult",
    "World",
]

Buffer = Any
"""A one-dimensional, C-contiguous array (NumPy or CuPy)."""


class PeerLostError(Exception):
    """The exchange with a peer broke; the communicator that raised it is dead and every later call raises it again.

    `ranks` are the peers whose connection this worker saw break. They may be alive: who is lost is for the coordinator
    to say.
    """

    def __init__(self, message: str, ranks: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.ranks = tuple(ranks)


class NumberedStep(Protocol):
    """Which step it is, and what became of it: what others than the script ask of a `Step`."""

    number: int
    epoch: int
    index: int
    seconds: float
    lost: bool


class Communicator(Protocol):
    """One world's exchange. Every method blocks, is called by one thread, and raises `PeerLostError` when a peer is
    gone.

    Only `abort` may be called from another thread: it makes a blocked call raise `PeerLostError` at once. All workers
    make the same exchanges in the same order, each begun or carried out at once as it suits them.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_reduce(
        self,
        partials: Mapping[Span, Buffer],
        out: Buffer,
        *,
        num_shards: int,
        header: bytes = b"",
        keep: bool = False,
    ) -> list[bytes]:
        """Sums the shards' gradients of all workers in the fixed tree over shard indices, into `out`, on every worker.

        `partials` holds this worker's partial sums: exactly the spans of
        `tree.cover(*tree.deal(num_shards, size)[rank], num_shards)`, each a buffer shaped like `out` (which may be one
        of them; the partials' contents are undefined afterwards, unless `keep` says that they are to stay: then it is
        none of them). The bits of `out` depend on the shards' gradients alone, never on the world. Returns every
        worker's `header`, by rank. When it returns, the whole sum is in `out`; when it raises, `out` is undefined. What
        has been begun comes first.
        """
        ...

    @property
    def beside(self) -> bool:
        """Whether what is begun leaves the processor to the caller while it is under way, as a network does."""
        ...

    def begin(self, partials: Mapping[Span, Buffer], out: Buffer, *, num_shards: int) -> None:
        """Begins an `all_reduce` that keeps its partials, without a header, and returns at once.

        It goes on beside what the caller does, which leaves `out` alone until `finish` or an `all_reduce` has returned;
        those raise what went wrong.
        """
        ...

    def finish(self) -> None:
        """Waits until all that has been begun is done."""
        ...

    def send_states(self, ranks: Sequence[int], meta: bytes, buffers: Sequence[Buffer]) -> None:
        """Sends the same to all of these peers, at once; each of them calls `recv_states` with this worker's rank."""
        ...

    def recv_states(self, ranks: Sequence[int]) -> list[tuple[bytes, list[memoryview]]]:
        """Receives what `send_states` of all of these peers sends, at once: by peer, its meta and each buffer's
        bytes."""
        ...

    def abort(self, reason: str) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class World:
    """The workers training together from now on, as seen by one of them."""

    generation: int
    rank: int
    size: int
    step: int
    """The furthest committed step among the members: where this world starts from."""
    member_steps: tuple[int | None, ...]
    """By rank: the committed step each member arrived with; None: it holds no state and is healed by a peer."""
    communicator: Communicator
    members: tuple[str, ...] = ()
    """By rank: which process it is, called the same in every world; empty where nobody can be told from another."""


@dataclass(frozen=True)
class ProgressReport:
    """How far training is, after a committed step. Counts are totals since the job's first step."""

    step: int
    steps_total: int
    epoch: int
    epochs: int
    loss: float
    samples: int
    seconds: float
    """Wall time of this step."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    shard_seconds: tuple[float, ...] = ()
    """By rank: how long each member computed per shard in this step; NaN: it had no shard."""
    data_seconds: tuple[float, ...] = ()
    """By rank: how long each member waited for data in this step."""


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves behind."""

    step: int
    samples: int
    weights_sha256: str
    metrics: Mapping[str, float]
    weights_path: Path | None


@dataclass(frozen=True)
class CheckpointPolicy:
    """Where and how often a run saves itself. Saving never changes a weight."""

    storage: str
    """A folder's path, or the URL of a bucket and a prefix."""
    interval_seconds: float = 30.0
    interval_steps: int = 0
    """0: by time alone."""
    keep: int = 3
    keep_seconds: float = 0.0
    """Beyond the newest `keep` those stay that are not this old."""
    warm_start: str = ""
    """Where the weights are that the job begins with: a checkpoint or a file of weights; empty: the script's own."""


class Membership(Protocol):
    """How this process takes part in the job. Called by the training thread only."""

    def rendezvous(
        self, *, step: int | None, reason: Literal["join", "change", "lost"], suspects: Sequence[int] = ()
    ) -> World:
        """Waits at a step boundary until the next world is agreed on, and returns it with a connected communicator.

        `step` is the last step committed here; None: this process holds no state yet. `suspects` are ranks of the
        world that is left. The old communicator must have been closed. Does not return when this process is to leave:
        it raises a `BaseException` (not an `Exception`) that the worker's entry point turns into its exit code.
        """
        ...

    def change_pending(self) -> bool:
        """Whether the coordinator has asked this world to meet at the next step boundary. Cheap: asked at every
        step."""
        ...

    def leaving(self) -> bool:
        """Whether this process was asked to go (a preemption notice, a drain). Cheap: asked at every step."""
        ...

    @property
    def grace_seconds(self) -> float:
        """How long a process that was asked to go is left alive."""
        ...

    def begun(self) -> None:
        """The script begins a loop over steps: once more, after `finished`, if it has several."""
        ...

    def outside(self) -> None:
        """The script has left its loop early: until it begins another, what it does may take as long as it likes."""
        ...

    def at_storage(self) -> None:
        """From here to the next step or rendezvous this process reads or writes storage, and others may wait for it:
        that is no sign of being stuck, however long it takes."""
        ...

    def report(self, progress: ProgressReport) -> None:
        """Tells the coordinator how far training is. Cheap: called by every worker at every committed step."""
        ...

    def checkpointed(self, step: int, where: str, size_bytes: int, seconds: float) -> None:
        """A checkpoint is committed at the path or URL `where`; without a size: another member did it, and may not have
        said so. Called from any thread, like `note`."""
        ...

    def note(self, kind: str, message: str, seconds: float = 0.0) -> None:
        """A sentence for the job's events: a heal and how long it took, a damaged checkpoint that was passed over."""
        ...

    def finished(self, result: RunResult) -> None:
        """The run has committed its last step. The script may go on (evaluate, report more metrics)."""
        ...

    @property
    def checkpoint_policy(self) -> CheckpointPolicy | None: ...

    @property
    def ledger_path(self) -> Path | None:
        """Where it is noted which samples every step consumed; None: nowhere."""
        ...

    def ledger_arrived(self) -> int | None:
        """How many bytes of that file are where they outlive this machine; None: in the file they do. Cheap: asked at
        every step."""
        ...

    @property
    def result_directory(self) -> Path | None:
        """Where the final weights go; None: nowhere."""
        ...
