"""Adam, and AdamW: steps scaled by running means of the gradient and of its square."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cordee.trainer.optim.checks import at_least, check_betas
from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """`m = β₁ m + (1 - β₁) g`, `v = β₂ v + (1 - β₂) g²`, `p -= lr * m̂ / (√v̂ + eps)`.

    m̂ and v̂ are m and v made up for their start at zero, as in PyTorch.

    Args:
        params: see `Optimizer`.
        lr: the learning rate.
        betas: β₁ and β₂.
        eps: keeps the quotient finite.
        weight_decay: this times the parameter is added to its gradient (see `AdamW` for the decoupled kind).
    """

    _state_names = ("exp_avg", "exp_avg_sq")
    _decoupled = False

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    def _check_options(self, options: Mapping[str, Any]) -> None:
        at_least(options, 0.0, "lr", "eps", "weight_decay")
        check_betas(options)

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
        lr, (beta1, beta2), weight_decay = options["lr"], options["betas"], options["weight_decay"]
        mean, square = state
        count = past_updates + 1
        if weight_decay and self._decoupled:
            xp.multiply(data, 1.0 - lr * weight_decay, data)
        elif weight_decay:
            grad = xp.add(xp.multiply(data, weight_decay, scratch), grad, scratch)
        # One scratch holds the share of g in m, and of that is made the share of g² in v.
        rest = 1.0 - beta1
        xp.multiply(grad, rest, scratch)
        xp.multiply(mean, beta1, mean)
        xp.add(mean, scratch, mean)
        xp.multiply(scratch, scratch, scratch)
        xp.multiply(scratch, (1.0 - beta2) / (rest * rest), scratch)
        xp.multiply(square, beta2, square)
        xp.add(square, scratch, square)
        # m̂ / (√v̂ + eps), with the corrections pulled out into the two scalars.
        root_correction = (1.0 - beta2**count) ** 0.5
        xp.sqrt(square, scratch)
        xp.add(scratch, options["eps"] * root_correction, scratch)
        xp.divide(mean, scratch, scratch)
        xp.multiply(scratch, lr * root_correction / (1.0 - beta1**count), scratch)
        xp.subtract(data, scratch, data)


class AdamW(Adam):
    """Adam with decoupled weight decay: the parameter shrinks by `lr * weight_decay`, its gradient is left alone."""

    _decoupled = True

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)
