"""LAMB: Adam's direction, with a step size of its own for every parameter, for very large batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cordee.trainer.optim.block import Block
from cordee.trainer.optim.checks import at_least, check_betas
from cordee.trainer.optim.per_parameter import PerParameter

__all__ = ["LAMB"]


class LAMB(PerParameter):
    """`r = m̂ / (√v̂ + eps) + weight_decay * p`, `p -= lr * ‖p‖ / ‖r‖ * r` (You et al. 2020, algorithm 2).

    The norms are those of the whole parameter; where one of them is 0, their quotient counts as 1.

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        betas: those of Adam's means.
        eps: keeps the quotient finite.
        weight_decay: how much of the parameter is in its direction.
        maximize: go up instead of down.
    """

    _state_names = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        at_least(options, 0.0, "lr", "eps", "weight_decay")
        check_betas(options)

    def _update_parameter(
        self, xp: Any, options: Mapping[str, Any], data: Any, grad: Any, state: Mapping[str, Any], count: int
    ) -> None:
        beta1, beta2 = options["betas"]
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        first, second = self._temporary(xp, data, 2)
        block = Block(xp, options, data, grad, (), (), count, {})
        if options["maximize"]:
            grad = xp.negative(grad, first)
        block.average(mean, beta1, grad, second)
        block.average_square(square, beta2, grad, second)
        xp.divide(square, 1.0 - beta2 ** (count + 1), second)
        xp.sqrt(second, second)
        xp.add(second, options["eps"], second)
        xp.multiply(second, 1.0 - beta1 ** (count + 1), second)
        direction = xp.divide(mean, second, second)
        if options["weight_decay"]:
            xp.multiply(data, options["weight_decay"], first)
            xp.add(direction, first, direction)
        sizes = [float(xp.sqrt(xp.vdot(each, each))) for each in (data, direction)]
        ratio = sizes[0] / sizes[1] if sizes[0] and sizes[1] else 1.0
        block.subtract(direction, options["lr"] * ratio, first)
