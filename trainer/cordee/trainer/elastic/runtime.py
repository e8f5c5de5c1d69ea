"""Which membership a run takes part through: the worker's, or a world of one.

`cordee.worker` installs its membership before it runs the user's script; under plain `python` nobody does, and the
script trains alone, to the same bits.
"""

from __future__ import annotations

from cordee.trainer.elastic.protocols import Membership
from cordee.trainer.elastic.solo import SoloMembership

__all__ = ["current", "install"]

_installed: Membership | None = None


def install(membership: Membership | None) -> None:
    """Makes every later `elastic.Run` of this process take part through `membership`; None: alone again."""
    global _installed
    _installed = membership


def current() -> Membership:
    """The membership that a new run takes part through."""
    return SoloMembership() if _installed is None else _installed
