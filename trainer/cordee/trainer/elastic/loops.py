"""Which of the script's loops over steps a worker is in, and how one that has joined late catches up.

It runs the script from its first line, and so comes through all earlier loops, without training, and through what the
script does between them. The state that it was given has all that in it already: that state counts, and is put back
when the script begins the loop that the others are in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cordee.trainer.elastic.position import Position
from cordee.trainer.elastic.state import TrainingState

__all__ = ["Loops"]


@dataclass(frozen=True)
class _Later:
    """A state of a later loop than the one at hand."""

    loop: int
    position: Position
    arrays: Mapping[str, Any]
    scalars: Mapping[str, Any]


class Loops:
    """Of one run."""

    def __init__(self, state: TrainingState) -> None:
        self._state = state
        self._later: _Later | None = None

    @property
    def behind(self) -> bool:
        """Whether the loop at hand, or what comes after it, is behind the others already."""
        return self._later is not None

    def enter(self) -> Position | None:
        """The script begins a loop. Returns where the run stands, if that was put back."""
        self._state.loop += 1
        later = self._later
        if later is None or self._state.loop < later.loop:
            return None
        self._state.restore(later.arrays, later.scalars)
        self._later = None
        return later.position

    def took(self, position: Position, last: int) -> None:
        """A state was taken over in the loop at hand, which ends with step `last`."""
        given, self._state.given = self._state.given, None
        if given is None:
            return
        arrays, scalars = given
        loop = int(scalars["loop"])
        if position.step < last:  # the loops are not counted alike: this one is where the others are
            self._state.loop = loop
        else:
            self._later = _Later(loop, position, {name: np.array(array) for name, array in arrays.items()}, scalars)
