"""What a training by `fit` remembers beside weights and optimiser: it travels with the module (see `optim.attached`).

A worker that joins in the script's third call of `fit` comes through the first two as well, without training. It is
given their histories, so that a script that prints them finds them, and the memory of the third call when it gets
there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cordee.trainer.array import Array
from cordee.trainer.fit.callbacks import Callback
from cordee.trainer.fit.history import History
from cordee.trainer.optim.attached import attach
from cordee.trainer.optim.plain import from_json, to_json

if TYPE_CHECKING:
    from cordee.trainer.elastic import Step
    from cordee.trainer.nn import Module

__all__ = ["Memory", "Remembered"]


class Remembered(Protocol):
    """What of a `fit.Model` is remembered, and by which module it travels."""

    net: Module
    history: History
    stop_training: bool


class Memory:
    """Of one `fit.Model`."""

    def __init__(self, model: Remembered) -> None:
        self._model = model
        self.callbacks: list[Callback] = []
        self.sums: dict[str, float] = {}
        """Of the epoch at hand: by figure the sum over its steps, times their samples. Added up step by step, which is
        the same order on every worker."""
        self._call_number = 0
        self._past: dict[int, Any] = {}
        """The histories of calls that are over, by their numbers."""
        attach(model.net, self)

    def begin(self, callbacks: Sequence[Callback]) -> None:
        """A call of `fit` begins."""
        self._call_number += 1
        self.callbacks = sorted(callbacks, key=lambda callback: callback.last)
        self.sums = {}
        self._model.history = History()
        self._model.stop_training = False
        self._remember()

    def end(self) -> None:
        """A call of `fit` is over."""
        self._past[self._call_number] = self._model.history.to_json()

    def add(self, step: Step) -> dict[str, float]:
        """Take note of a committed step; the epoch's means so far."""
        values = {"loss": step.loss, **step.measures, "": 1.0}
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * step.num_samples
        return {name: total / self.sums[""] for name, total in self.sums.items() if name}

    def _remember(self) -> None:
        """Others have this call behind them already."""
        if self._call_number in self._past:
            self._model.history.load_json(self._past[self._call_number])

    # What travels.

    def scalars(self) -> dict[str, Any]:
        return {
            "call": self._call_number,
            "history": self._model.history.to_json(),
            "past": {str(number): history for number, history in self._past.items()},
            "stop": self._model.stop_training,
            # Copied: a callback may return what it goes on to change, and a step that is lost takes it back.
            "callbacks": [to_json(callback.state_dict()) for callback in self.callbacks],
            "sums": {name: repr(value) for name, value in self.sums.items()},
        }

    def fits(self, scalars: Mapping[str, Any]) -> bool:
        """Whether this is of the call at hand. A later call's comes again when the script gets there."""
        return bool(scalars["call"] == self._call_number)

    def pass_over(self, scalars: Mapping[str, Any]) -> None:
        """What is of use in a state of another call: how the calls before it went."""
        self._past = {int(number): history for number, history in scalars["past"].items()}
        self._remember()

    def load_scalars(self, scalars: Any) -> None:
        self._past = {int(number): history for number, history in scalars.get("past", {}).items()}
        self._model.history.load_json(scalars["history"])
        self._model.stop_training = bool(scalars["stop"])
        for callback, state in zip(self.callbacks, scalars["callbacks"], strict=False):
            callback.load_state_dict(from_json(state))
        self.sums = {name: float(value) for name, value in scalars["sums"].items()}

    def arrays(self) -> dict[str, Array]:
        return {
            f"{i}/{name}": value
            for i, callback in enumerate(self.callbacks)
            for name, value in callback.arrays().items()
        }
