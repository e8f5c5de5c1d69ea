"""Adadelta: the gradient, scaled to the size that recent steps have had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cordee.trainer.optim.block import Block
from cordee.trainer.optim.checks import at_least, how_it_is_computed
from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["Adadelta"]


class Adadelta(Optimizer):
    """`v = ρ v + (1 - ρ) g²`, `d = √(u + eps) / √(v + eps) * g`, `u = ρ u + (1 - ρ) d²`, `p -= lr * d` (Zeiler 2012).

    Args:
        params: see `Optimizer`.
        lr: scales the step.
        rho: ρ, from 0 to 1.
        eps: keeps the quotient finite, and the first step from being none.
        weight_decay: this times the parameter is added to its gradient.
        maximize: go up instead of down.
        foreach, capturable, differentiable: see `checks.how_it_is_computed`.
    """

    _state_names = ("square_avg", "acc_delta")
    _num_scratch = 3

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        how_it_is_computed(foreach=foreach, capturable=capturable, differentiable=differentiable)
        defaults = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        at_least(options, 0.0, "lr", "rho", "eps", "weight_decay")
        if options["rho"] > 1:
            raise ValueError(f"rho must be at most 1, got {options['rho']}")

    def _update(self, block: Block) -> None:
        xp, options, (square, steps), (first, second, third) = block.xp, block.options, block.state, block.scratch
        rho, eps = options["rho"], options["eps"]
        grad = block.gradient(first)
        block.average_square(square, rho, grad, second)
        xp.add(square, eps, second)
        xp.sqrt(second, second)
        xp.add(steps, eps, third)
        xp.sqrt(third, third)
        xp.divide(third, second, third)
        xp.multiply(third, grad, third)
        block.average_square(steps, rho, third, second)
        block.subtract(third, options["lr"], third)
