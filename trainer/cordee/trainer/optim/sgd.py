"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cordee.trainer.optim.block import Block
from cordee.trainer.optim.checks import at_least, how_it_is_computed
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
        maximize: go up instead of down.
        master_weights: for parameters of 16 bits: update them in float32, see `cordee.trainer.optim.masters`.
        foreach, differentiable, fused: see `checks.how_it_is_computed`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        master_weights: bool = False,
    ) -> None:
        how_it_is_computed(foreach=foreach, differentiable=differentiable, fused=fused)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "master_weights": master_weights,
        }
        super().__init__(params, defaults)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        at_least(options, 0.0, "lr", "momentum", "weight_decay")
        if options["nesterov"] and (options["momentum"] <= 0 or options["dampening"] != 0):
            raise ValueError("nesterov needs a momentum above 0 and no dampening")

    def _needed_state(self, options: Mapping[str, Any], extra: Mapping[str, Any]) -> tuple[str, ...]:
        del extra
        return ("momentum_buffer",) if options["momentum"] else ()

    def _update(self, block: Block) -> None:
        xp, options, data, (scratch,) = block.xp, block.options, block.data, block.scratch
        lr, momentum = options["lr"], options["momentum"]
        grad = block.gradient(scratch)
        if momentum:
            (velocity,) = block.state
            if block.count == 0:
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
