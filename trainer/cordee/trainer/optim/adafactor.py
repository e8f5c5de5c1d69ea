"""Adafactor: mean squares kept as one factor per row and one per column, so that a matrix has next to no state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cordee.trainer.array import array_module
from cordee.trainer.optim.checks import at_least, how_it_is_computed
from cordee.trainer.optim.flat import FlatGroup
from cordee.trainer.optim.per_parameter import PerParameter

__all__ = ["Adafactor"]

_PRECISION = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


class Adafactor(PerParameter):
    """Shazeer and Stern 2018, as PyTorch has it: steps relative to the parameter's size, clipped, without momentum.

    Args:
        params: see `Optimizer`.
        lr: the most that the relative step size is; it falls as 1 / √t.
        beta2_decay: the weight of the newest square is t to the power of this.
        eps: the least mean square, as its root (None: the dtype's precision), and the least size of a parameter.
        d: a step is not larger than this, as a root mean square before scaling.
        weight_decay: decoupled, as in `AdamW`.
        maximize: go up instead of down.
        foreach: see `checks.how_it_is_computed`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        how_it_is_computed(foreach=foreach)
        defaults = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": tuple(eps),
            "d": d,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        at_least(options, 0.0, "lr", "weight_decay")
        at_least(options, 1.0, "d")
        if not options["beta2_decay"] <= 0:
            raise ValueError(f"beta2_decay must be at most 0, got {options['beta2_decay']}")
        first, second = options["eps"]
        if not (first is None or first >= 0) or not second >= 0:
            raise ValueError(f"eps must be two numbers that are at least 0, the first or None, got {options['eps']}")

    def array_shapes(
        self, options: Mapping[str, Any], extra: Mapping[str, Any], group: FlatGroup, index: int
    ) -> dict[str, tuple[int, ...]]:
        del options, extra
        shape = group.parameters[index].data.shape
        if len(shape) < 2:
            return {"variance": shape}
        return {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}

    def allocate(self, group: FlatGroup, options: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        if group.parts:
            return
        xp = array_module(group.data)
        for index in range(len(group.parameters)):
            for name, shape in self.array_shapes(options, extra, group, index).items():
                group.parts.setdefault(name, {})[index] = xp.zeros(shape, group.dtype)

    def _update_group(self, group: FlatGroup) -> None:
        self._precision = _PRECISION[group.dtype.name]  # its own, also when an update sees it in 32 bits
        super()._update_group(group)

    def _update_parameter(
        self, xp: Any, options: Mapping[str, Any], data: Any, grad: Any, state: Mapping[str, Any], count: int
    ) -> None:
        lr, (least, least_size) = options["lr"], options["eps"]
        count += 1
        if least is None:
            least = self._precision
        share = float(count) ** options["beta2_decay"]
        size = float(xp.sqrt(xp.vdot(data, data))) / data.size**0.5
        factor = max(least_size, size) * min(lr, 1.0 / count**0.5)
        if options["weight_decay"]:
            xp.multiply(data, 1.0 - lr * options["weight_decay"], data)
        (step,) = self._temporary(xp, data)
        xp.multiply(grad, grad, step)
        if data.ndim > 1:
            rows, columns = state["row_var"], state["col_var"]
            rows += (step.mean(axis=-1, keepdims=True) - rows) * share
            columns += (step.mean(axis=-2, keepdims=True) - columns) * share
            xp.multiply(rows / xp.maximum(rows.mean(axis=-2, keepdims=True), least), columns, step)
        else:
            variance = state["variance"]
            variance += (step - variance) * share
            step[...] = variance
        xp.maximum(step, least * least, out=step)
        xp.sqrt(step, step)
        xp.divide(grad, step, step)
        clip = max(1.0, float(xp.sqrt(xp.vdot(step, step))) / (data.size**0.5 * options["d"]))
        factor = -factor / clip if options["maximize"] else factor / clip
        xp.multiply(step, factor, step)
        xp.subtract(data, step, data)
