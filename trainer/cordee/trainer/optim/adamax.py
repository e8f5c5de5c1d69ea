"""Adamax: Adam with the largest recent gradient in place of the root of their mean square."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cordee.trainer.optim.block import Block
from cordee.trainer.optim.checks import at_least, check_betas, how_it_is_computed
from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["Adamax"]


class Adamax(Optimizer):
    """`m = β₁ m + (1 - β₁) g`, `u = max(β₂ u, |g| + eps)`, `p -= lr * m̂ / u` (Kingma and Ba 2015, section 7).

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        betas: β₁ and β₂.
        eps: keeps the quotient finite.
        weight_decay: this times the parameter is added to its gradient.
        maximize: go up instead of down.
        foreach, differentiable, capturable: see `checks.how_it_is_computed`.
    """

    _state_names = ("exp_avg", "exp_inf")
    _num_scratch = 2

    def __init__(
        self,
        params: Any,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        how_it_is_computed(foreach=foreach, differentiable=differentiable, capturable=capturable)
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        at_least(options, 0.0, "lr", "eps", "weight_decay")
        check_betas(options)

    def _update(self, block: Block) -> None:
        xp, options, (mean, largest), (first, second) = block.xp, block.options, block.state, block.scratch
        beta1, beta2 = options["betas"]
        grad = block.gradient(first)
        block.average(mean, beta1, grad, second)
        xp.absolute(grad, second)
        xp.add(second, options["eps"], second)
        xp.multiply(largest, beta2, largest)
        xp.maximum(largest, second, out=largest)
        xp.divide(mean, largest, second)
        block.subtract(second, options["lr"] / (1.0 - beta1 ** (block.count + 1)), second)
