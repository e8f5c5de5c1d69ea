"""Adam, and AdamW: steps scaled by running means of the gradient and of its square."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cordee.trainer.optim.block import Block
from cordee.trainer.optim.checks import at_least, check_betas, how_it_is_computed
from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """`m = β₁ m + (1 - β₁) g`, `v = β₂ v + (1 - β₂) g²`, `p -= lr * m̂ / (√v̂ + eps)`.

    m̂ and v̂ are m and v made up for their start at zero, as in PyTorch (Kingma and Ba 2015; amsgrad: Reddi et al. 2018).

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        betas: β₁ and β₂.
        eps: keeps the quotient finite.
        weight_decay: this times the parameter is added to its gradient (see `AdamW` for the decoupled kind).
        amsgrad: divide by the largest v so far instead of the current one.
        maximize: go up instead of down.
        decoupled_weight_decay: decay as `AdamW` does.
        master_weights: for parameters of 16 bits: update them in float32, see `cordee.trainer.optim.masters`.
        foreach, capturable, differentiable, fused: see `checks.how_it_is_computed`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        master_weights: bool = False,
    ) -> None:
        how_it_is_computed(foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused)
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
            "master_weights": master_weights,
        }
        super().__init__(params, defaults)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        at_least(options, 0.0, "lr", "eps", "weight_decay")
        check_betas(options)

    def _needed_state(self, options: Mapping[str, Any], extra: Mapping[str, Any]) -> tuple[str, ...]:
        del extra
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if options["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def _update(self, block: Block) -> None:
        xp, options, data, (scratch,) = block.xp, block.options, block.data, block.scratch
        lr, (beta1, beta2) = options["lr"], options["betas"]
        mean, square, *largest = block.state
        count = block.count + 1
        if options["decoupled_weight_decay"]:
            grad = block.gradient_decoupled(scratch)
        else:
            grad = block.gradient(scratch)
        # One scratch holds the share of g in m, and of that is made the share of g² in v.
        rest = 1.0 - beta1
        xp.multiply(grad, rest, scratch)
        xp.multiply(mean, beta1, mean)
        xp.add(mean, scratch, mean)
        xp.multiply(scratch, scratch, scratch)
        xp.multiply(scratch, (1.0 - beta2) / (rest * rest), scratch)
        xp.multiply(square, beta2, square)
        xp.add(square, scratch, square)
        for most in largest:
            square = xp.maximum(most, square, out=most)
        # m̂ / (√v̂ + eps), with the corrections pulled out into the two scalars.
        root_correction = (1.0 - beta2**count) ** 0.5
        xp.sqrt(square, scratch)
        xp.add(scratch, options["eps"] * root_correction, scratch)
        xp.divide(mean, scratch, scratch)
        xp.multiply(scratch, lr * root_correction / (1.0 - beta1**count), scratch)
        xp.subtract(data, scratch, data)


class AdamW(Adam):
    """Adam with decoupled weight decay: the parameter shrinks by `lr * weight_decay`, its gradient is left alone.

    Loshchilov and Hutter 2019. The arguments are `Adam`'s.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        master_weights: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            master_weights=master_weights,
        )
