"""How a run's losses and gradients are scaled: by a factor that all workers have, decided on by the sum that all have.

A shard's gradients are scaled, and so is their sum. Whether it is finite is asked once it is there, on every worker of
the same bits; so all leave the same update out, and all move the scale alike. The scale is training state: a joiner is
handed it, a checkpoint holds it, and a step that is lost takes it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cordee.trainer.elastic.registered import Registered, Thing
from cordee.trainer.nested import References

if TYPE_CHECKING:
    from cordee.trainer.amp import GradScaler
    from cordee.trainer.elastic.sums import GradientSums

__all__ = ["Scaling"]

_HELD = "the elastic run that it was given to scales losses in step.backward() and does the rest in step.commit()"


class Scaling:
    """Of one run; without a scaler, or with one that is not enabled, it does nothing."""

    def __init__(self, scaler: GradScaler | None, registered: Registered) -> None:
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self._finite: list[bool] = []
        """What the sums of the step at hand were."""
        if self._scaler is not None:
            ways = Thing(self._scaler.state_dict, self._scaler.load_state_dict, References({}))
            registered.add("scaler:", ways)

    @property
    def factor(self) -> float:
        """What losses are multiplied by."""
        return 1.0 if self._scaler is None else self._scaler.get_scale()

    def hold(self, held: bool) -> None:
        """A step is at hand, or over: meanwhile the script scales nothing itself."""
        self._finite.clear()
        if self._scaler is not None:
            self._scaler.held_by = _HELD if held else None

    def finite(self, chosen: Sequence[GradientSums]) -> list[GradientSums]:
        """Scale the sums back. Returns those of finite gradients; the others' updates are left out."""
        if self._scaler is None:
            return list(chosen)
        found = [self._scaler.unscaled(sums.optimizer) for sums in chosen]
        self._finite += found
        return [sums for sums, finite in zip(chosen, found, strict=True) if finite]

    def committed(self) -> None:
        """The step is over."""
        if self._scaler is not None and self._finite:
            self._scaler.moved(all(self._finite))
        self._finite.clear()
