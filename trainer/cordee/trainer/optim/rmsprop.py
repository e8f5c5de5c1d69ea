"""RMSprop: the gradient, divided by the root of its mean square."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cordee.trainer.optim.block import Block
from cordee.trainer.optim.checks import at_least, how_it_is_computed
from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["RMSprop"]


class RMSprop(Optimizer):
    """`v = α v + (1 - α) g²`, `p -= lr * g / (√v + eps)` (Hinton 2012; centered: Graves 2013).

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        alpha: how much of the mean square stays.
        eps: keeps the quotient finite; added outside the root, as in PyTorch.
        weight_decay: this times the parameter is added to its gradient.
        momentum: how much of the last step is repeated.
        centered: divide by the standard deviation, √(v - mean²), instead of √v.
        maximize: go up instead of down.
        capturable, foreach, differentiable: see `checks.how_it_is_computed`.
    """

    _num_scratch = 2

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        how_it_is_computed(capturable=capturable, foreach=foreach, differentiable=differentiable)
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        at_least(options, 0.0, "lr", "alpha", "eps", "weight_decay", "momentum")

    def _needed_state(self, options: Mapping[str, Any], extra: Mapping[str, Any]) -> tuple[str, ...]:
        del extra
        centered = ("grad_avg",) if options["centered"] else ()
        return ("square_avg", *centered, *(("momentum_buffer",) if options["momentum"] else ()))

    def _update(self, block: Block) -> None:
        xp, options, (first, second) = block.xp, block.options, block.scratch
        square, *rest = block.state
        grad = block.gradient(first)
        block.average_square(square, options["alpha"], grad, second)
        if options["centered"]:
            mean, *rest = rest
            block.average(mean, options["alpha"], grad, second)
            xp.multiply(mean, mean, second)
            square = xp.subtract(square, second, second)
        xp.sqrt(square, second)
        xp.add(second, options["eps"], second)
        direction = xp.divide(grad, second, second)
        for velocity in rest:
            xp.multiply(velocity, options["momentum"], velocity)
            direction = xp.add(velocity, direction, velocity)
        block.subtract(direction, options["lr"], second)
