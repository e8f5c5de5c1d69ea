"""Lion: the sign of a running mean of gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cordee.trainer.optim.block import Block
from cordee.trainer.optim.checks import at_least, check_betas
from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["Lion"]


class Lion(Optimizer):
    """`p -= lr * (sign(β₁ m + (1 - β₁) g) + weight_decay * p)`, then `m = β₂ m + (1 - β₂) g` (Chen et al. 2023).

    Every element moves by lr: take a learning rate 3 to 10 times smaller than for AdamW, and a weight decay as many
    times larger.

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        betas: β₁ and β₂.
        weight_decay: decoupled, as in `AdamW`.
        maximize: go up instead of down.
    """

    _state_names = ("exp_avg",)
    _num_scratch = 3

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay, "maximize": maximize})

    def _check_options(self, options: Mapping[str, Any]) -> None:
        at_least(options, 0.0, "lr", "weight_decay")
        check_betas(options)

    def _update(self, block: Block) -> None:
        xp, options, (mean,) = block.xp, block.options, block.state
        first, second, third = block.scratch
        beta1, beta2 = options["betas"]
        grad = block.gradient_decoupled(first)
        xp.multiply(mean, beta1, second)
        xp.multiply(grad, 1.0 - beta1, third)
        xp.add(second, third, second)
        xp.sign(second, second)
        block.subtract(second, options["lr"], second)
        block.average(mean, beta2, grad, third)
