"""Checks of options that several optimisers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["at_least", "check_betas", "how_it_is_computed"]


def at_least(options: Mapping[str, Any], least: float, *names: str) -> None:
    """Raises ValueError unless each of these options is at least so large (a NaN is not)."""
    for name in names:
        if not options[name] >= least:
            raise ValueError(f"{name} must be at least {least:g}, got {options[name]}")


def check_betas(options: Mapping[str, Any]) -> None:
    betas = options["betas"]
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers from 0 to below 1, got {betas}")


def how_it_is_computed(**flags: bool | None) -> None:
    """Takes PyTorch's `foreach`, `fused` and `capturable`, which ask for speed: there is one way here, the fast one.

    Raises ValueError for `differentiable=True`, which asks for other results: a step that backward goes through.
    """
    if flags.get("differentiable"):
        raise ValueError("differentiable=True is not supported: a step writes in place, backward cannot go through it")
