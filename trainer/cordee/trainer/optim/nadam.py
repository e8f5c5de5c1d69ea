"""NAdam: Adam that looks ahead, as Nesterov's momentum does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from cordee.trainer.optim.block import Block
from cordee.trainer.optim.checks import at_least, check_betas, how_it_is_computed
from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["NAdam"]


class NAdam(Optimizer):
    """Adam whose step mixes the gradient at hand into the mean, by a momentum μ that grows with the updates.

    `μ_t = β₁ (1 - 0.96^(t momentum_decay) / 2)`; PyTorch's formulation of Dozat 2016.

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        betas: β₁ and β₂.
        eps: keeps the quotient finite.
        weight_decay: this times the parameter is added to its gradient.
        momentum_decay: how fast μ grows.
        decoupled_weight_decay: shrink the parameter by `lr * weight_decay` instead (NAdamW).
        maximize: go up instead of down.
        foreach, capturable, differentiable: see `checks.how_it_is_computed`.
    """

    _state_names = ("exp_avg", "exp_avg_sq")
    _num_scratch = 2
    _numbers: ClassVar[Mapping[str, float]] = {"mu_product": 1.0}

    def __init__(
        self,
        params: Any,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
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
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        at_least(options, 0.0, "lr", "eps", "weight_decay", "momentum_decay")
        check_betas(options)

    def _next_numbers(
        self, options: Mapping[str, Any], count: int, numbers: Mapping[str, float]
    ) -> Mapping[str, float]:
        return {"mu_product": numbers["mu_product"] * _momentum(options, count + 1)}

    def _update(self, block: Block) -> None:
        xp, options, (mean, square), (first, second) = block.xp, block.options, block.state, block.scratch
        lr, (beta1, beta2) = options["lr"], options["betas"]
        count = block.count + 1
        if options["decoupled_weight_decay"]:
            grad = block.gradient_decoupled(first)
        else:
            grad = block.gradient(first)
        block.average(mean, beta1, grad, second)
        block.average_square(square, beta2, grad, second)
        xp.divide(square, 1.0 - beta2**count, second)
        xp.sqrt(second, second)
        xp.add(second, options["eps"], second)
        now, following = _momentum(options, count), _momentum(options, count + 1)
        product = block.numbers["mu_product"] * now
        xp.divide(grad, second, first)
        block.subtract(first, lr * (1.0 - now) / (1.0 - product), first)
        xp.divide(mean, second, first)
        block.subtract(first, lr * following / (1.0 - product * following), first)


def _momentum(options: Mapping[str, Any], count: int) -> float:
    momentum: float = options["betas"][0] * (1.0 - 0.5 * 0.96 ** (count * options["momentum_decay"]))
    return momentum
