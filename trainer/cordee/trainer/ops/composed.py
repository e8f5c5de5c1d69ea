"""The gradient of a gradient for ops whose own rule is a hand-written loop over arrays.

Such a rule is fast and says nothing about its own derivative. Where a graph of the gradient is wanted, the same op is
written once more as a composition of ordinary ones, and that composition is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cordee.trainer.autograd.backward import grad
from cordee.trainer.ops.elementwise import clone

__all__ = ["composed_vjp"]


def composed_vjp(function: Callable[..., Any], g: Any, inputs: tuple[Any, ...], needs: tuple[bool, ...]) -> Any:
    """The gradients of `function(*inputs)`, made of ordinary ops, by those inputs that need one (None for others).

    `g` is the gradient of the output, or a tuple of gradients (None where there is none) of several.
    """
    # Each input gets a place of its own in the graph, or one tensor in two places would get the sum of both gradients.
    through = tuple(clone(x) if need else x for x, need in zip(inputs, needs, strict=True))
    results = function(*through)
    pairs = (
        [(out, each) for out, each in zip(results, g, strict=True) if each is not None and out.requires_grad]
        if isinstance(results, tuple)
        else [(results, g)]
    )
    wanted = [x for x, need in zip(through, needs, strict=True) if need]
    if not pairs:
        return (None,) * len(inputs)
    outputs, gradients = zip(*pairs, strict=True)
    found = iter(grad(outputs, wanted, gradients, create_graph=True, allow_unused=True))
    return tuple(next(found) if need else None for need in needs)
