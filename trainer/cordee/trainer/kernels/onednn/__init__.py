"""Kernels by oneDNN, Intel's library of convolutions and products, through its C interface and ctypes."""

from cordee.trainer.kernels.onednn.library import identity, lack

__all__ = ["identity", "lack"]
