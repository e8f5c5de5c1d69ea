"""Which of the script's loops over steps a worker is in, and how one that has joined late catches up.

It runs the script from its first line, and so comes through all earlier loops, without training, and through what the
script does between them. The state that it was given has all that in it already: that state counts, and is put back
when the script begins the loop that the others are in.

A loop may be left early. The state tells in which steps the earlier ones were left, so that a worker which is given it
leaves them there as well, be it a new one, or one that has lost the very step after which the others left.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cordee.trainer.elastic.position import Position
from cordee.trainer.elastic.state import TrainingState

if TYPE_CHECKING:
    from cordee.trainer.elastic.protocols import NumberedStep

__all__ = ["Loops", "LostStepError"]


class LostStepError(OSError):
    """The script has left its loop in a step that was lost, and would have come again.

    Only a new process can do that step: a machine's fault by its number, so that one is started.
    """

    def __init__(self, step: int) -> None:
        super().__init__(
            errno.EREMOTEIO,
            f"the script left its loop in step {step}, which was lost with a worker and would have come again; ask "
            "first whether it is committed: if step.commit() and …: break",
        )

    def __str__(self) -> str:
        return str(self.args[1])


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
        self.at_hand: NumberedStep | None = None
        """The step that the script is in, or has left its loop in."""
        self.has_left = False
        """Which of the two, as far as the end of its loop can be seen."""

    @property
    def behind(self) -> bool:
        """Whether the loop at hand, or what comes after it, is behind the others already."""
        return self._later is not None

    def check_left(self) -> None:
        """Raises `LostStepError` when the script has left its loop in a step that was to come again."""
        if self.at_hand is not None and self.at_hand.lost:
            raise LostStepError(self.at_hand.number)

    def check_ended(self) -> None:
        """The script has ended. Raises `LostStepError`, or `RuntimeError` when the others go through more loops."""
        self.check_left()
        if self._later is not None:
            raise RuntimeError(
                f"the script has ended after {self._state.loop} loops over run.steps(), and the other workers are in "
                f"loop {self._later.loop}: the script is to go through the same loops on every worker"
            )

    def enter(self, position: Position) -> Position:
        """The script begins a loop. Returns where the run stands."""
        self.check_left()
        self.has_left = False
        state, later = self._state, self._later
        if later is None:
            if state.loop:
                before = state.left[: state.loop - 1]  # of which a state of an older release does not tell
                state.left = before + (position.step,) * (state.loop - len(before))
            state.loop += 1
            return position
        state.loop += 1
        if state.loop < later.loop:
            return self._passed_by(later)
        state.restore(later.arrays, later.scalars)
        self._later = None
        return later.position

    def took(self, position: Position, last: int) -> Position:
        """A state was taken over in the loop at hand, which ends with step `last`. Returns where the run stands."""
        state = self._state
        given, state.given = state.given, None
        if given is None:
            return position
        arrays, scalars = given
        loop = int(scalars["loop"])
        if position.step < last and len(state.left) < state.loop:  # an older release's: so the loop is this one
            state.loop = loop
            return position
        state.left += (position.step,) * (loop - 1 - len(state.left))
        kept = {name: np.array(array) for name, array in arrays.items()}
        self._later = later = _Later(loop, position, kept, scalars)
        return self._passed_by(later)

    def _passed_by(self, later: _Later) -> Position:
        """The others have left the loop at hand: the step tells where, as it did to them, whose script may have asked
        for it."""
        return replace(later.position, step=self._state.left[self._state.loop - 1])
