"""Muon: momentum whose matrix is made orthogonal before each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cordee.trainer.optim.block import Block
from cordee.trainer.optim.checks import at_least
from cordee.trainer.optim.per_parameter import PerParameter

if TYPE_CHECKING:
    from cordee.trainer.nn.parameter import Parameter

__all__ = ["Muon"]

_ADJUSTMENTS: dict[str | None, Callable[[float, float], float]] = {
    None: lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    "spectral_unclamped": lambda rows, columns: math.sqrt(rows / columns),
}
"""By what the learning rate is multiplied for a matrix of so many rows and columns."""


class Muon(PerParameter):
    """`m = momentum * m + (1 - momentum) * g`, then a step along about U Vᵀ, where m (or its look-ahead) is U S Vᵀ.

    For the matrices of hidden layers (Jordan et al. 2024; the learning rate for other shapes: Liu et al. 2025,
    Bernstein 2025). Train what is no matrix, embeddings and the last layer with another optimiser, such as `AdamW`.

    The Newton-Schulz iteration runs in the parameter's precision (16-bit parameters: float32), where PyTorch rounds it
    to bfloat16; so the two agree to about two digits per step.

    Args:
        params: see `Optimizer`; of two dimensions each.
        lr: the learning rate.
        weight_decay: decoupled, as in `AdamW`.
        momentum: how much of the mean stays.
        nesterov: make `g + momentum * (m - g)` orthogonal instead of m.
        ns_coefficients: those of the iteration's polynomial.
        eps: the least norm that a matrix is divided by.
        ns_steps: iterations.
        adjust_lr_fn: how the learning rate depends on the shape: "original" (the same as None), "match_rms_adamw" (so
            that AdamW's learning rate and weight decay can be taken), or "spectral_unclamped".
    """

    _state_names = ("momentum_buffer",)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": tuple(ns_coefficients),
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        super().__init__(params, defaults)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        at_least(options, 0.0, "lr", "weight_decay", "momentum")
        if options["adjust_lr_fn"] not in _ADJUSTMENTS:
            names = ", ".join(repr(name) for name in _ADJUSTMENTS)
            raise ValueError(f"adjust_lr_fn must be one of {names}, got {options['adjust_lr_fn']!r}")
        if len(options["ns_coefficients"]) != 3:
            raise ValueError(f"ns_coefficients must be three numbers, got {options['ns_coefficients']}")
        if not 0 <= options["ns_steps"] < 100:
            raise ValueError(f"ns_steps must be from 0 to 99, got {options['ns_steps']}")

    def _check_parameter(self, name: str, parameter: Parameter) -> None:
        super()._check_parameter(name, parameter)
        if parameter.data.ndim != 2:
            raise ValueError(
                f"Muon trains matrices; parameter {name!r} has shape {tuple(parameter.data.shape)}: give those that "
                "are none to another optimiser"
            )

    def _update_parameter(
        self, xp: Any, options: Mapping[str, Any], data: Any, grad: Any, state: Mapping[str, Any], count: int
    ) -> None:
        lr, momentum, mean = options["lr"], options["momentum"], state["momentum_buffer"]
        matrix, other = self._temporary(xp, data, 2)
        block = Block(xp, options, data, grad, (), (), count, {})
        block.average(mean, momentum, grad, other)
        if options["nesterov"]:
            xp.subtract(mean, grad, matrix)
            xp.multiply(matrix, momentum, matrix)
            xp.add(matrix, grad, matrix)
        else:
            matrix[...] = mean
        direction = _orthogonal(xp, matrix, other, options)
        xp.multiply(data, 1.0 - lr * options["weight_decay"], data)
        block.subtract(direction, lr * _ADJUSTMENTS[options["adjust_lr_fn"]](*data.shape), direction)


def _orthogonal(xp: Any, matrix: Any, other: Any, options: Mapping[str, Any]) -> Any:
    """Brings the singular values of `matrix` near 1, by the Newton-Schulz iteration `X = (a + b XXᵀ + c (XXᵀ)²) X`."""
    a, b, c = options["ns_coefficients"]
    tall = matrix.shape[0] > matrix.shape[1]
    if tall:  # the product of the shorter sides
        x, spare = other.reshape(matrix.shape[::-1]), matrix.reshape(matrix.shape[::-1])
        x[...] = matrix.T
    else:
        x, spare = matrix, other
    size = max(float(xp.sqrt(xp.vdot(x, x))), options["eps"])
    xp.divide(x, size, x)
    gram, polynomial = (xp.empty((x.shape[0], x.shape[0]), x.dtype) for _ in range(2))
    for _ in range(options["ns_steps"]):
        xp.matmul(x, x.T, out=gram)
        xp.matmul(gram, gram, out=polynomial)
        xp.multiply(polynomial, c, polynomial)
        xp.multiply(gram, b, gram)
        xp.add(polynomial, gram, polynomial)
        xp.matmul(polynomial, x, out=spare)
        xp.multiply(x, a, x)
        xp.add(x, spare, x)
    return x.T if tall else x
