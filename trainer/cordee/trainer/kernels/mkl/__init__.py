"""Kernels by MKL, Intel's library of linear algebra, through the bindings of nvmath-python."""

from cordee.trainer.kernels.mkl.library import identity, lack

__all__ = ["identity", "lack"]
