"""What is taken back when a step is lost: whatever the loop's body has done to the run, before the loss and after it.

Nothing was applied, so nothing has happened: no learning rate was changed, no number drawn. A script need not ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cordee.trainer.autograd.casting import forget_casts

if TYPE_CHECKING:
    from cordee.trainer.elastic.buffers import ShardBuffers
    from cordee.trainer.elastic.state import TrainingState
    from cordee.trainer.nn import Parameter

__all__ = ["Undo"]


class Undo:
    """Of one step. Made before the body runs."""

    def __init__(self, state: TrainingState, buffers: ShardBuffers) -> None:
        self._state = state
        self._buffers = buffers
        self._moment = state.moment()
        self._parameters: list[tuple[Parameter, Any, Any]] = []
        """Where they live, and their values at the loss."""

    def lost(self) -> None:
        """The body runs on, and may go on to change weights by hand. (Before the loss only updates change them, and
        those are taken back by the step.)"""
        parameters = self._state.model.parameters()
        self._parameters = [(parameter, parameter.data, parameter.data.copy()) for parameter in parameters]

    def take_back(self) -> None:
        """The body has come to its end."""
        for parameter, array, values in self._parameters:
            parameter.data = array  # where it lives, whatever the script has bound there
            array[...] = values
        forget_casts()
        self._buffers.take_back()
        self._state.take_back(self._moment)
