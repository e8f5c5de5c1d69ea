"""The gradient scaler: float16 has no numbers below 6e-8, where many gradients are, so the loss is scaled up.

The scale grows while all is finite and falls back when something is not; then the update is left out. It moves by
powers of two unless told otherwise, which is exact: scaling and unscaling round nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from cordee.trainer.amp.region import is_autocast_available
from cordee.trainer.array import array_module, float16, float32
from cordee.trainer.tensors import Tensor

if TYPE_CHECKING:
    from cordee.trainer.optim import Optimizer
    from cordee.trainer.optim.flat import FlatGroup

__all__ = ["GradScaler", "ScalerState"]

LEAST_SCALE = float(np.finfo(np.float32).tiny)
"""What the scale does not fall below: one over it is still a float32, by which gradients are unscaled. Gradients that
overflow at this scale are not finite at any other."""


class ScalerState(TypedDict, total=False):
    """What a scaler is at; empty of one that is not enabled."""

    scale: float
    growth_factor: float
    backoff_factor: float
    growth_interval: int
    _growth_tracker: int


class GradScaler:
    """Scales losses up and gradients down, and leaves out updates by gradients that are not finite.

        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)                   # only to clip: step does it otherwise
        scaler.step(optimizer)
        scaler.update()

    In an elastic run it is given to the run, `elastic.Run(…, scaler=scaler)`, whose steps do all of it.

    Args:
        device: PyTorch's; what this process computes on.
        init_scale: the scale to begin with.
        growth_factor: by how much the scale grows after `growth_interval` finite steps in a row.
        backoff_factor: by how much it falls after a step that was not.
        enabled: False: every method is as if there were no scaler.

    Raises:
        ValueError: a factor is out of its range, or the scale is not a positive, finite number.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        is_autocast_available(device)  # refuses names of no device
        if enabled and not growth_factor > 1.0:
            raise ValueError(f"growth_factor must be above 1, not {growth_factor}")
        if enabled and not 0.0 < backoff_factor < 1.0:
            raise ValueError(f"backoff_factor must be between 0 and 1, not {backoff_factor}")
        self.held_by: str | None = None
        """Who scales instead of the script, as a sentence; None: nobody does."""
        self._enabled = enabled
        self._scale = _checked(init_scale) if enabled else float(init_scale)
        self._growth_factor = float(growth_factor)
        self._backoff_factor = float(backoff_factor)
        self._growth_interval = int(growth_interval)
        self._growth_tracker = 0
        self._finite: dict[int, bool] = {}
        """By optimiser, once its gradients are unscaled: whether all of them are finite."""
        self._stepped: set[int] = set()

    # What a script does

    def scale(self, outputs: Any) -> Any:
        """A loss times the scale; or several, in lists or tuples."""
        self._free("scale")
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return outputs * self._scale
        if isinstance(outputs, (list, tuple)):
            return type(outputs)([self.scale(each) for each in outputs])
        raise TypeError(f"scale takes a tensor, or lists and tuples of them, not {type(outputs).__name__}")

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide an optimiser's gradients by the scale, in place: before they are clipped, say.

        Raises:
            RuntimeError: they were unscaled or applied already since the last `update`.
            ValueError: its parameters are float16, whose gradients would be lost again: keep them in float32.
        """
        self._free("unscale_")
        if self._enabled:
            self._unscale(optimizer)

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """`optimizer.step(…)`, unless one of its gradients is infinite or not a number; unscales them if need be.

        Returns what the step returned; None when it was left out.
        """
        self._free("step")
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs or (args and args[0] is not None):
            raise RuntimeError("a scaler's step takes no closure: its losses would not be scaled")
        key = id(optimizer)
        if key in self._stepped:
            raise RuntimeError("step() was called for this optimizer already since the last update()")
        if key not in self._finite:
            self._unscale(optimizer)
        self._stepped.add(key)
        return optimizer.step(*args, **kwargs) if self._finite[key] else None

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """The step is over: move the scale, or set it.

        Raises:
            FloatingPointError: gradients were not finite at any scale, down to the least.
            RuntimeError: there was no step.
            ValueError: `new_scale` is not a positive, finite number.
        """
        self._free("update")
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale = _checked(new_scale.item() if isinstance(new_scale, Tensor) else new_scale)
        elif not self._finite:
            raise RuntimeError("update() comes after step() or unscale_(): nothing is known of any gradient")
        finite = all(self._finite.values())
        self._finite.clear()
        self._stepped.clear()
        if new_scale is None:
            self.moved(finite)

    # What it is at

    def is_enabled(self) -> bool:
        return self._enabled

    def get_scale(self) -> float:
        """The scale; 1 if not enabled."""
        return self._scale if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        self._growth_factor = float(new_factor)

    def get_backoff_factor(self) -> float:
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        self._backoff_factor = float(new_factor)

    def get_growth_interval(self) -> int:
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        self._growth_interval = int(new_interval)

    def state_dict(self) -> ScalerState:
        """Scale, factors and interval, and for how many steps all was finite; between `update` and the next step."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            RuntimeError: it is empty, of a scaler that was not enabled.
            ValueError: its scale has fallen to 0, as PyTorch's can.
        """
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError("the state is of a scaler that was not enabled: there is no scale in it")
        self._scale = _checked(state_dict["scale"])
        self._growth_factor = float(state_dict["growth_factor"])
        self._backoff_factor = float(state_dict["backoff_factor"])
        self._growth_interval = int(state_dict["growth_interval"])
        self._growth_tracker = int(state_dict["_growth_tracker"])

    # What an elastic step does

    def moved(self, finite: bool) -> None:
        """A step is over: was everything finite?

        Raises:
            FloatingPointError: it was not, and the scale is as low as it goes.
        """
        if not finite:
            self._growth_tracker = 0
            if self._scale <= LEAST_SCALE:
                raise FloatingPointError(
                    f"the loss scale has fallen to its least, {self._scale:g}, and gradients are still infinite or not "
                    "a number: no scale helps, and such updates were left out. Is the loss finite, are the weights? "
                    "autograd.detect_anomaly() names the operation whose gradient is the first that is not a number; a "
                    "lower learning rate, clipping, or bfloat16 in place of float16 is the usual cure"
                )
            self._scale = max(self._scale * self._backoff_factor, LEAST_SCALE)
            return
        self._growth_tracker += 1
        if self._growth_tracker == self._growth_interval:
            grown = float(np.float32(self._scale * self._growth_factor))
            if math.isfinite(grown):
                self._scale = grown
            self._growth_tracker = 0

    def unscaled(self, optimizer: Optimizer) -> bool:
        """Divide an optimiser's gradients by the scale; whether all of them are finite."""
        groups: Sequence[FlatGroup] = optimizer.groups
        for group in groups:
            if group.dtype is float16:
                raise ValueError(
                    f"{group.names[0]!r} is float16, and so is its gradient, which is lost again without the scale: "
                    "keep parameters in float32 and compute under autocast, or train in bfloat16"
                )
        inverse = 1.0 / self._scale
        # All are unscaled, also once one is found that is not finite: as in PyTorch, they can be looked at.
        found = [_all_finite(part) for group in groups for part in _scaled(group, inverse)]
        return all(found)

    def _unscale(self, optimizer: Optimizer) -> None:
        if id(optimizer) in self._stepped:
            raise RuntimeError("unscale_() comes before step()")
        if id(optimizer) in self._finite:
            raise RuntimeError("unscale_() was called for this optimizer already since the last update()")
        if not any(p._grad is not None for group in optimizer.groups for p in group.parameters):
            raise RuntimeError("no parameter of this optimizer has a gradient; call backward() on the scaled loss")
        self._finite[id(optimizer)] = self.unscaled(optimizer)

    def _free(self, what: str) -> None:
        if self.held_by is not None:
            raise RuntimeError(f"scaler.{what}() is not called here: {self.held_by}")


def _checked(scale: Any) -> float:
    value = float(scale)
    if not (math.isfinite(value) and value > 0.0):
        raise ValueError(f"a scale is a positive, finite number, not {value:g}")
    return max(value, LEAST_SCALE)


def _scaled(group: FlatGroup, inverse: float) -> Iterator[Any]:
    """The stretches of a group's gradients that there are, multiplied."""
    group.adopt()
    xp = array_module(group.grad)
    for segment in group.segments():
        part = group.grad[segment.where]
        if part.dtype.itemsize == 2:  # NumPy's package of bfloat16 would round the factor
            part[...] = xp.multiply(part.astype(float32), inverse)
        else:
            xp.multiply(part, inverse, out=part)
        yield part


def _all_finite(part: Any) -> bool:
    return bool(array_module(part).isfinite(part).all())
