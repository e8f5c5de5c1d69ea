"""Kernels as loops that LLVM compiles, through llvmlite: a small language, its mathematics, and the loops."""

from __future__ import annotations

import sys

__all__ = ["identity", "lack"]


def lack() -> str:
    """What keeps these kernels from working here; "" if nothing does."""
    if sys.byteorder != "little":
        return "the generated loops are for little-endian machines"
    try:
        from cordee.trainer.kernels.llvm import compiler
    except (ImportError, OSError) as error:
        return f"llvmlite does not load: {error}"
    return "" if compiler.version() else "llvmlite has no LLVM"


def identity() -> str:
    """LLVM's version. Not the CPU: the loops say themselves in which order they add, and round the same everywhere."""
    from cordee.trainer.kernels.llvm import compiler

    return f"llvm {compiler.version()}"
