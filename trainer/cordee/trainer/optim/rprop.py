"""Rprop: steps whose size follows from how often the gradient's sign changes, not from the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cordee.trainer.optim.block import Block
from cordee.trainer.optim.checks import at_least, how_it_is_computed
from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["Rprop"]


class Rprop(Optimizer):
    """Every element has a step size: it grows while the gradient keeps its sign, and shrinks when that turns.

    Riedmiller and Braun 1993, in PyTorch's variant: after a turn there is no step. For whole batches; the noise of
    small ones turns signs.

    Args:
        params: see `Optimizer`.
        lr: the step size at first.
        etas: the factors by which a step size shrinks, and grows.
        step_sizes: the smallest and the largest step size.
        maximize: go up instead of down.
        capturable, foreach, differentiable: see `checks.how_it_is_computed`.
    """

    _state_names = ("prev", "step_size")
    _num_scratch = 3

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        how_it_is_computed(capturable=capturable, foreach=foreach, differentiable=differentiable)
        super().__init__(params, {"lr": lr, "etas": tuple(etas), "step_sizes": tuple(step_sizes), "maximize": maximize})

    def _check_options(self, options: Mapping[str, Any]) -> None:
        at_least(options, 0.0, "lr")
        shrink, grow = options["etas"]
        if not 0 < shrink < 1 < grow:
            raise ValueError(f"etas must be a number from 0 to 1 and one above 1, got {options['etas']}")

    def _update(self, block: Block) -> None:
        xp, options, (before, sizes) = block.xp, block.options, block.state
        factor, grad, third = block.scratch
        marked = third.view(xp.bool_)[: factor.size]
        shrink, grow = options["etas"]
        if block.count == 0:
            sizes[...] = options["lr"]
        (xp.negative if options["maximize"] else xp.positive)(block.grad, grad)
        xp.multiply(grad, before, before)
        factor[...] = 1.0
        xp.greater(before, 0.0, marked)
        xp.copyto(factor, grow, where=marked)
        xp.less(before, 0.0, marked)
        xp.copyto(factor, shrink, where=marked)
        xp.copyto(grad, 0.0, where=marked)  # where the sign has turned, this step is left out
        xp.multiply(sizes, factor, sizes)
        xp.clip(sizes, *options["step_sizes"], out=sizes)
        before[...] = grad
        xp.sign(grad, factor)
        xp.multiply(factor, sizes, factor)
        xp.subtract(block.data, factor, block.data)
