"""What the shards of a step amount to in numbers: their losses, and what the script measures.

A worker notes a weighted value for each of its shards; they travel in the header of the step's exchange, and the sum
over all shards, which is rounded once, is the mean over the global batch on every worker.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from cordee.trainer.elastic.header import StepHeader, mean

__all__ = ["ShardFigures"]


class ShardFigures:
    """Of one worker's shards in one step, in their order."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._measured: dict[str, list[float]] = {}
        self._loss = math.nan
        self._measures: dict[str, float] = {}
        self.weighted = False
        """Whether a loss was noted for the shard at hand."""

    def begin(self) -> None:
        """The shards are gone through from the first one on."""
        self._losses.clear()
        self._measured.clear()

    def begin_shard(self) -> None:
        self._loss, self._measures, self.weighted = math.nan, {}, False

    def note_loss(self, value: float) -> None:
        """A weighted loss of the shard at hand, which may have several."""
        self.weighted = True
        self._loss = value if math.isnan(self._loss) else self._loss + value

    def note(self, name: str, value: float) -> None:
        """A weighted value of the shard at hand."""
        self._measures[name] = value

    def fold(self) -> None:
        """The shard at hand is over."""
        for name in self._measures:  # in the order of measuring, which is that of the history's columns
            self._measured.setdefault(name, [math.nan] * len(self._losses))
        for name, values in self._measured.items():
            values.append(self._measures.get(name, math.nan))
        self._losses.append(self._loss)

    @property
    def losses(self) -> tuple[float, ...]:
        """By shard; NaN where none was noted."""
        return tuple(self._losses)

    @property
    def measures(self) -> Mapping[str, tuple[float, ...]]:
        """By name, and by shard."""
        return {name: tuple(values) for name, values in self._measured.items()}

    @staticmethod
    def means(headers: Sequence[StepHeader], num_values: int) -> tuple[float, dict[str, float]]:
        """The loss and what was measured, over the global batch, of which `num_values` shards have samples.

        Ranks hold ascending ranges, so this is shard order; fsum's result does not depend on the order anyway.
        """
        names = {name: None for header in headers for name in header.measures}
        measures = {name: mean([header.measures.get(name, ()) for header in headers], num_values) for name in names}
        return mean([header.losses for header in headers], num_values), measures
