"""Which membership a run takes part through: the worker's, or a world of one.

`cordee.worker` installs its membership before it runs the user's script; under plain `python` nobody does, and the
script trains alone, to the same bits.
"""

from __future__ import annotations

from typing import Protocol

from cordee.trainer.elastic.protocols import Membership
from cordee.trainer.elastic.solo import SoloMembership

__all__ = ["Claimant", "claim", "conclude", "current", "install", "saving"]


class Claimant(Protocol):
    """The run that a membership belongs to."""

    def conclude(self) -> None:
        """The script has ended."""
        ...

    @property
    def saving(self) -> bool:
        """Whether it writes to storage in the background."""
        ...


_installed: Membership | None = None
_claimed_by: Claimant | None = None


def install(membership: Membership | None) -> None:
    """Makes every later `elastic.Run` of this process take part through `membership`; None: alone again."""
    global _installed, _claimed_by
    _installed, _claimed_by = membership, None


def current() -> Membership:
    """The membership that a new run takes part through."""
    return SoloMembership() if _installed is None else _installed


def conclude() -> None:
    """The script has ended: what its run holds now is the job's result, be its loop at its end or left by `break`."""
    if _claimed_by is not None:
        _claimed_by.conclude()


def saving() -> bool:
    """Whether this process's run writes to storage in the background: whoever ends the process may wait for that."""
    return _claimed_by is not None and _claimed_by.saving


def claim(membership: Membership, run: Claimant) -> None:
    """Makes `membership` that of `run` alone, if it is the installed one; a world of one is its run's own anyway.

    A worker that joins runs the script from its first line: were there a second run, it would offer the first one for
    the state of the second, and a checkpoint would not say whose it is.

    Raises:
        RuntimeError: another run has claimed it.
    """
    global _claimed_by
    if membership is not _installed:
        return
    if _claimed_by not in (None, run):
        raise RuntimeError(
            "a job trains one elastic.Run, and this is the script's second: go on with the first one (its steps() may "
            "be called again, with more epochs), or make the second training a job of its own"
        )
    _claimed_by = run
