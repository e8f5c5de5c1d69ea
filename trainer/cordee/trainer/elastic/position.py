"""How far a run is: the few numbers that, with the arrays of its state, are all a joiner or a checkpoint needs.

There is no loader state and no epoch among them: what a step reads follows from its number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cordee.trainer.elastic.header import Agreement
from cordee.trainer.elastic.protocols import NumberedStep, ProgressReport

__all__ = ["Position"]


@dataclass(frozen=True)
class Position:
    """Where a run stands after its last committed step."""

    step: int = 0
    samples: int = 0
    """Consumed by committed steps."""
    loss: float = math.nan
    """Mean loss of the last committed step; NaN where none was given."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What the script reported."""

    def reporting(self, metrics: Mapping[str, float]) -> Position:
        """With these metrics more; the newest value of a name counts. Raises `TypeError` when one is no number."""
        checked = dict(self.metrics)
        for name, value in metrics.items():
            try:
                checked[name] = float(value)
            except (TypeError, ValueError) as error:
                raise TypeError(f"metric {name!r} is to be a number, not {value!r}") from error
        return replace(self, metrics=checked)

    def progress(
        self, step: NumberedStep, agreement: Agreement, *, epochs: int, steps_per_epoch: int
    ) -> ProgressReport:
        """As the job is told of `step`, which ends here: what its members agree on, and that it is one of `epochs`."""
        return ProgressReport(
            step=self.step,
            steps_total=epochs * steps_per_epoch,
            epoch=step.epoch,
            epochs=epochs,
            loss=self.loss,
            samples=self.samples,
            seconds=step.seconds,
            metrics=self.metrics,
            shard_seconds=agreement.shard_seconds,
            data_seconds=agreement.data_seconds,
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON has it, which knows no NaN."""
        loss = self.loss if math.isfinite(self.loss) else str(self.loss)
        metrics = {name: value if math.isfinite(value) else str(value) for name, value in self.metrics.items()}
        return {"step": self.step, "samples": self.samples, "loss": loss, "metrics": metrics}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Position:
        """Raises `KeyError`, `TypeError` or `ValueError` when `data` is no position."""
        metrics = {str(name): float(value) for name, value in data["metrics"].items()}
        return Position(int(data["step"]), int(data["samples"]), float(data["loss"]), metrics)
