"""ASGD: stochastic gradient descent that also keeps the mean of where it has been."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from cordee.trainer.optim.block import Block
from cordee.trainer.optim.checks import at_least, how_it_is_computed
from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["ASGD"]


class ASGD(Optimizer):
    """`p = (1 - lambd η) p - η g`, η falling; `ax` in the state is the mean of p from update `t0` on.

    Polyak and Juditsky 1992, with PyTorch's step sizes: `η = lr / (1 + lambd lr t)^alpha`.

    Args:
        params: see `Optimizer`.
        lr: the learning rate, and η at first.
        lambd: how much the parameters shrink.
        alpha: how fast η falls.
        t0: the update after which the mean begins.
        weight_decay: this times the parameter is added to its gradient.
        maximize: go up instead of down.
        foreach, differentiable, capturable: see `checks.how_it_is_computed`.
    """

    _state_names = ("ax",)
    _num_scratch = 2
    _numbers: ClassVar[Mapping[str, float]] = {"eta": -1.0, "mu": 1.0}  # no η yet: it starts as lr

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        how_it_is_computed(foreach=foreach, differentiable=differentiable, capturable=capturable)
        defaults = {
            "lr": lr,
            "lambd": lambd,
            "alpha": alpha,
            "t0": t0,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        at_least(options, 0.0, "lr", "lambd", "alpha", "weight_decay")

    def _next_numbers(
        self, options: Mapping[str, Any], count: int, numbers: Mapping[str, float]
    ) -> Mapping[str, float]:
        del numbers
        lr, count = options["lr"], count + 1
        eta = lr / ((1.0 + options["lambd"] * lr * count) ** options["alpha"])
        return {"eta": eta, "mu": 1.0 / max(1.0, count - options["t0"])}

    def _update(self, block: Block) -> None:
        xp, options, data, (mean,), (first, second) = (
            block.xp,
            block.options,
            block.data,
            block.state,
            block.scratch,
        )
        eta, mu = block.numbers["eta"], block.numbers["mu"]
        if eta < 0:
            eta = options["lr"]
        grad = block.gradient(first)
        xp.multiply(data, 1.0 - options["lambd"] * eta, data)
        block.subtract(grad, eta, second)
        if mu == 1:
            mean[...] = data
        else:
            xp.subtract(data, mean, second)
            xp.multiply(second, mu, second)
            xp.add(mean, second, mean)
