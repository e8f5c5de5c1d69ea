"""Adagrad: the gradient, divided by the root of the sum of all its squares so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cordee.trainer.optim.block import Block
from cordee.trainer.optim.checks import at_least, how_it_is_computed
from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["Adagrad"]


class Adagrad(Optimizer):
    """`s += g²`, `p -= lr / (1 + (t - 1) lr_decay) * g / (√s + eps)` (Duchi et al. 2011).

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        lr_decay: how fast it falls with the updates t.
        weight_decay: this times the parameter is added to its gradient.
        initial_accumulator_value: what s starts from.
        eps: keeps the quotient finite.
        maximize: go up instead of down.
        foreach, differentiable, fused: see `checks.how_it_is_computed`.
    """

    _state_names = ("sum",)
    _num_scratch = 2

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        how_it_is_computed(foreach=foreach, differentiable=differentiable, fused=fused)
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        at_least(options, 0.0, "lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")

    def start(self, name: str, options: Mapping[str, Any]) -> float:
        del name
        return float(options["initial_accumulator_value"])

    def _update(self, block: Block) -> None:
        xp, options, (total,), (first, second) = block.xp, block.options, block.state, block.scratch
        grad = block.gradient(first)
        xp.multiply(grad, grad, second)
        xp.add(total, second, total)
        xp.sqrt(total, second)
        xp.add(second, options["eps"], second)
        xp.divide(grad, second, second)
        block.subtract(second, options["lr"] / (1.0 + block.count * options["lr_decay"]), second)
