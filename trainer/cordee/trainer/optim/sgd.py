"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cordee.trainer.optim.checks import at_least
from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["SGD"]


class SGD(Optimizer):
    """`v = momentum * v + (1 - dampening) * g`, `p -= lr * v`; as in PyTorch, the first step's v is g.

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        momentum: how much of the last direction `v` stays.
        dampening: how much of the gradient is kept out of it.
        weight_decay: this times the parameter is added to its gradient.
        nesterov: step along `g + momentum * v` instead of `v`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        super().__init__(params, defaults)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        at_least(options, 0.0, "lr", "momentum", "weight_decay")
        if options["nesterov"] and (options["momentum"] <= 0 or options["dampening"] != 0):
            raise ValueError("nesterov needs a momentum above 0 and no dampening")

    def _needed_state(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if options["momentum"] else ()

    def _update(
        self,
        options: Mapping[str, Any],
        xp: Any,
        data: Any,
        grad: Any,
        state: Sequence[Any],
        scratch: Any,
        past_updates: int,
    ) -> None:
        lr, momentum, weight_decay = options["lr"], options["momentum"], options["weight_decay"]
        if weight_decay:
            xp.multiply(data, weight_decay, scratch)
            grad = xp.add(scratch, grad, scratch)
        if momentum:
            (velocity,) = state
            if past_updates == 0:
                velocity[...] = grad
            else:
                xp.multiply(velocity, momentum, velocity)
                if options["dampening"]:
                    grad = xp.multiply(grad, 1.0 - options["dampening"], scratch)
                xp.add(velocity, grad, velocity)
            if options["nesterov"]:
                # One scratch holds one product at a time: the step along g, then the one along momentum * v.
                xp.subtract(data, xp.multiply(grad, lr, scratch), data)
                lr *= momentum
            grad = velocity
        xp.subtract(data, xp.multiply(grad, lr, scratch), data)
