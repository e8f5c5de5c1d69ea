"""A world of one: what the elastic step runs on when no worker process is around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from cordee.trainer.elastic.protocols import (
    Buffer,
    CheckpointPolicy,
    PeerLostError,
    ProgressReport,
    RunResult,
    World,
)
from cordee.trainer.elastic.tree import Span, root

__all__ = ["SoloCommunicator", "SoloMembership"]


class SoloCommunicator:
    """The exchange of a worker with nobody: its partial sum, the root's, is the whole sum."""

    rank = 0
    size = 1
    beside = False

    def all_reduce(
        self,
        partials: Mapping[Span, Buffer],
        out: Buffer,
        *,
        num_shards: int,
        header: bytes = b"",
        keep: bool = False,  # noqa: ARG002
    ) -> list[bytes]:
        total = partials[root(num_shards)]
        if total is not out:
            out[...] = total
        return [header]

    def begin(self, partials: Mapping[Span, Buffer], out: Buffer, *, num_shards: int) -> None:
        self.all_reduce(partials, out, num_shards=num_shards)

    def finish(self) -> None:
        """Nothing is ever under way here."""

    def send_states(self, ranks: Sequence[int], meta: bytes, buffers: Sequence[Buffer]) -> None:  # noqa: ARG002
        raise PeerLostError(f"a world of one has no ranks {list(ranks)}", ranks)

    def recv_states(self, ranks: Sequence[int]) -> list[tuple[bytes, list[memoryview]]]:
        raise PeerLostError(f"a world of one has no ranks {list(ranks)}", ranks)

    def abort(self, reason: str) -> None:
        """Nothing ever blocks here."""

    def close(self) -> None:
        """Nothing is open here."""


class SoloMembership:
    """Membership in a world of one: it is always at hand and never changes."""

    checkpoint_policy: CheckpointPolicy | None = None
    ledger_path: Path | None = None
    result_directory: Path | None = None
    grace_seconds: float = 30.0

    def ledger_arrived(self) -> int | None:
        return None

    def rendezvous(
        self,
        *,
        step: int | None,
        reason: Literal["join", "change", "lost"],  # noqa: ARG002
        suspects: Sequence[int] = (),  # noqa: ARG002
    ) -> World:
        return World(
            generation=1, rank=0, size=1, step=step or 0, member_steps=(step,), communicator=SoloCommunicator()
        )

    def change_pending(self) -> bool:
        return False

    def leaving(self) -> bool:
        return False

    def begun(self) -> None:
        """Nobody asks."""

    def outside(self) -> None:
        """Nobody waits."""

    def at_storage(self) -> None:
        """Nobody waits."""

    def report(self, progress: ProgressReport) -> None:
        """Nobody asks."""

    def checkpointed(self, step: int, where: str, size_bytes: int, seconds: float) -> None:
        """Nobody asks."""

    def note(self, kind: str, message: str, seconds: float = 0.0) -> None:
        """Nobody asks."""

    def finished(self, result: RunResult) -> None:
        """Nobody asks."""
