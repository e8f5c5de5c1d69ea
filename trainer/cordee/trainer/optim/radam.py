"""RAdam: Adam that waits with its scaling until the mean square can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cordee.trainer.optim.block import Block
from cordee.trainer.optim.checks import at_least, check_betas, how_it_is_computed
from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["RAdam"]


class RAdam(Optimizer):
    """Adam, its step size corrected for the variance of v; as long as that is unknown, plain momentum.

    Liu et al. 2020.

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        betas: β₁ and β₂.
        eps: keeps the quotient finite.
        weight_decay: this times the parameter is added to its gradient.
        decoupled_weight_decay: shrink the parameter by `lr * weight_decay` instead (RAdamW).
        maximize: go up instead of down.
        foreach, capturable, differentiable: see `checks.how_it_is_computed`.
    """

    _state_names = ("exp_avg", "exp_avg_sq")
    _num_scratch = 2

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        how_it_is_computed(foreach=foreach, capturable=capturable, differentiable=differentiable)
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        at_least(options, 0.0, "lr", "eps", "weight_decay")
        check_betas(options)

    def _update(self, block: Block) -> None:
        xp, options, (mean, square), (first, second) = block.xp, block.options, block.state, block.scratch
        beta1, beta2 = options["betas"]
        count = block.count + 1
        if options["decoupled_weight_decay"]:
            grad = block.gradient_decoupled(first)
        else:
            grad = block.gradient(first)
        block.average(mean, beta1, grad, second)
        block.average_square(square, beta2, grad, second)
        factor = options["lr"] / (1.0 - beta1**count)
        correction = 1.0 - beta2**count
        # How many samples the mean square is worth: in the long run, and by now.
        longest = 2.0 / (1.0 - beta2) - 1.0
        length = longest - 2.0 * count * beta2**count / correction
        direction = mean
        if length > 5.0:
            rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            factor *= (rectified * correction) ** 0.5
            xp.sqrt(square, second)
            xp.add(second, options["eps"], second)
            direction = xp.divide(mean, second, second)
        block.subtract(direction, factor, second)
