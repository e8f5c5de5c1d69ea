"""How gradients are clipped in an elastic step: the exact sum over all shards, between the exchange and the update.

A shard's gradient is a part of the sum, so clipping it would clip something else, and depend on how many shards there
are. The script says in its step what is to be done; it is done when the sum is there, on every worker alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cordee.trainer.nn.utils import clip_grad_norm_, clip_grad_value_
from cordee.trainer.tensors import Tensor

__all__ = ["Clip", "by_norm", "by_value"]

Clip = Callable[[list[Tensor]], float | None]
"""Clips the gradients of those parameters that are about to be updated; returns their norm where it is known."""


def by_norm(
    max_norm: float, norm_type: float, parameters: Tensor | Iterable[Tensor] | None, error_if_nonfinite: bool
) -> Clip:
    """See `Step.clip_grad_norm_`."""
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    chosen = _chosen(parameters)

    def clip(updated: list[Tensor]) -> float:
        norm = clip_grad_norm_(_both(chosen, updated), max_norm, norm_type, error_if_nonfinite)
        return float(norm.item())

    return clip


def by_value(clip_value: float, parameters: Tensor | Iterable[Tensor] | None) -> Clip:
    """See `Step.clip_grad_value_`."""
    if not clip_value > 0:
        raise ValueError(f"clip_value must be positive, got {clip_value}")
    chosen = _chosen(parameters)

    def clip(updated: list[Tensor]) -> None:
        clip_grad_value_(_both(chosen, updated), clip_value)

    return clip


def _chosen(parameters: Tensor | Iterable[Tensor] | None) -> frozenset[int] | None:
    if parameters is None:
        return None
    return frozenset(id(each) for each in ([parameters] if isinstance(parameters, Tensor) else parameters))


def _both(chosen: frozenset[int] | None, updated: list[Tensor]) -> list[Tensor]:
    return updated if chosen is None else [each for each in updated if id(each) in chosen]
