"""Formulas as ufuncs, compiled when they are first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cordee.trainer.kernels.llvm.elements import can_compute, loop
from cordee.trainer.kernels.llvm.ufuncs import family
from cordee.trainer.kernels.terms import listing

__all__ = ["fused"]


def fused(name: str, kinds: str, symbols: Sequence[str], term: Any) -> Any:
    """A ufunc of operands named by `symbols`, of the types `kinds`, whose result is the term; None: not known here."""
    if not can_compute(term):
        return None
    letters = kinds.replace("->", "_")
    return family(f"{name}-{letters}", [loop(name, kinds, symbols, term)], f"{symbols} {listing(term)}")[name]
