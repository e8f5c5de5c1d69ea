"""What an update sees of the flat buffers: one block of each, and what goes for all its elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Block"]


@dataclass(slots=True)
class Block:
    """Equally long one-dimensional arrays, of float32 or float64, to be updated in place.

    Parameters of 16 bits come as float32 and are rounded once, when the update is done; complex ones as pairs of reals.
    """

    xp: Any
    options: Mapping[str, Any]
    data: Any
    grad: Any
    """Not to be written."""
    state: Sequence[Any]
    """The blocks of `Optimizer._needed_state`, in its order."""
    scratch: Sequence[Any]
    """`Optimizer._num_scratch` arrays for what has to be kept for a moment."""
    count: int
    """How many updates these parameters have had before this one."""
    numbers: Mapping[str, float]
    """The numbers these parameters have each (`Optimizer._numbers`), as they were before this update."""

    def gradient(self, out: Any) -> Any:
        """The direction of ascent, with `maximize` and a weight decay worked in; written to `out` where need be."""
        decay, maximize = self.options["weight_decay"], self.options["maximize"]
        if decay:
            self.xp.multiply(self.data, decay, out)
            return (self.xp.subtract if maximize else self.xp.add)(out, self.grad, out)
        return self.xp.negative(self.grad, out) if maximize else self.grad

    def gradient_decoupled(self, out: Any) -> Any:
        """The same, but the decay shrinks the parameters now, by `lr * weight_decay`."""
        lr, decay = self.options["lr"], self.options["weight_decay"]
        if decay:
            self.xp.multiply(self.data, 1.0 - lr * decay, self.data)
        return self.xp.negative(self.grad, out) if self.options["maximize"] else self.grad

    def average(self, mean: Any, beta: float, value: Any, scratch: Any) -> None:
        """`mean = beta * mean + (1 - beta) * value`."""
        xp = self.xp
        xp.multiply(value, 1.0 - beta, scratch)
        xp.multiply(mean, beta, mean)
        xp.add(mean, scratch, mean)

    def average_square(self, mean: Any, beta: float, value: Any, scratch: Any) -> None:
        """`mean = beta * mean + (1 - beta) * value²`."""
        xp = self.xp
        xp.multiply(value, value, scratch)
        xp.multiply(scratch, 1.0 - beta, scratch)
        xp.multiply(mean, beta, mean)
        xp.add(mean, scratch, mean)

    def subtract(self, direction: Any, factor: float, scratch: Any) -> None:
        """`data -= factor * direction`; `scratch` may be `direction`."""
        self.xp.multiply(direction, factor, scratch)
        self.xp.subtract(self.data, scratch, self.data)
