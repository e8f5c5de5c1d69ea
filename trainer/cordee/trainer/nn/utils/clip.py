"""Clipping of gradients, in place: all of them by their common norm, or each number by its size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.ops.axes import wide_sum
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The norm of all numbers of these tensors together (the norm of the tensors' norms), without dimensions.

    Raises:
        ValueError: with `error_if_nonfinite`, it is infinite or not a number; says which tensor is the first to be.
    """
    del foreach  # among PyTorch's implementations
    arrays = [tensor.data for tensor in ([tensors] if isinstance(tensors, Tensor) else tensors)]
    if not arrays:
        return Tensor(0.0)
    norms = [_norm(array, float(norm_type)) for array in arrays]
    xp = array_module(arrays[0])
    total = xp.asarray(_norm(xp.stack(norms) if xp.__name__ != "numpy" else xp.array(norms), float(norm_type)))
    if error_if_nonfinite and not math.isfinite(float(total)):
        first = next(i for i, norm in enumerate(norms) if not math.isfinite(float(norm)))
        raise ValueError(
            f"the gradients' norm of order {norm_type} is {float(total)}, so they cannot be clipped by it; the first "
            f"such one is number {first}, of shape {arrays[first].shape} (error_if_nonfinite=False lets it pass)"
        )
    return wrap(total)


def _norm(array: Any, order: float) -> Any:
    """The norm of all of an array's numbers."""
    flat = array.reshape(-1)
    xp = array_module(array)
    if not flat.size:
        return xp.zeros((), array.dtype)
    if order == 2.0:
        if xp is np:
            return xp.sqrt(flat.dot(flat))
        wide = flat.astype(np.float32) if flat.dtype.itemsize == 2 else flat
        return xp.sqrt(wide_sum(wide * wide, None, False)).astype(array.dtype, copy=False)
    if math.isinf(order):
        return xp.abs(flat).max() if order > 0 else xp.abs(flat).min()
    if order == 0:
        return (flat != 0).sum().astype(array.dtype)
    return (xp.abs(flat) ** order).sum() ** (1.0 / order)


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Scales the gradients by `max_norm / total_norm`, where that is less than 1."""
    del foreach
    factor: Any = float(max_norm) / (total_norm.data + 1e-6)
    factor = array_module(factor).minimum(factor, 1.0)
    for grad in _grads(parameters):
        grad.data *= factor.astype(grad.data.dtype)


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scales all gradients together so that their common norm is at most `max_norm`; returns what it was before.

    Args:
        norm_type: its order; `math.inf` for the largest absolute value.
        error_if_nonfinite: refuse (ValueError) a norm that is infinite or not a number, before anything is changed.
        foreach: taken for PyTorch's sake, where it chooses among implementations.
    """
    held = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    total = get_total_norm(_grads(held), norm_type, error_if_nonfinite, foreach)
    clip_grads_with_norm_(held, max_norm, total, foreach)
    return total


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Brings every number of every gradient between `-clip_value` and `clip_value`."""
    del foreach
    bound = float(clip_value)
    for grad in _grads(parameters):
        grad.data.clip(-bound, bound, out=grad.data)


def _grads(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    held = [parameters] if isinstance(parameters, Tensor) else parameters
    return [parameter._grad for parameter in held if parameter._grad is not None]
