"""Formulas as ufuncs, compiled when they are first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cordee.trainer.kernels.llvm.elements import can_compute, loop
from cordee.trainer.kernels.llvm.ufuncs import family
from cordee.trainer.kernels.terms import listing

__all__ = ["fused"]


def fused(name: str, kinds: str, symbols: Sequence[str], terms: Sequence[Any]) -> Any:
    """A ufunc of operands named by `symbols`, of the types `kinds`, with the terms as results; None: not known here."""
    if not all(map(can_compute, terms)):
        return None
    letters = kinds.replace("->", "_")
    loops, formula = [loop(name, kinds, symbols, terms)], f"{symbols} {listing(*terms)}"
    return family(f"{name}-{letters}", loops, formula, together=True)[name]
