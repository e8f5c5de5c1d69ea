"""Kernels on NVIDIA GPUs that CuPy compiles while it runs, by NVRTC. They have not yet run on a device.

Their arithmetic has: the tests compile the same sources for the CPU.
"""

from __future__ import annotations

import importlib

from cordee.trainer.array import device_lack

__all__ = ["identity", "lack"]


def lack() -> str:
    """What keeps these kernels from working here; "" if nothing does."""
    return device_lack()


def identity() -> str:
    """The versions of CuPy and NVRTC, and the kind of GPU: each decides bits."""
    cupy = importlib.import_module("cupy")
    major, minor = cupy.cuda.nvrtc.getVersion()
    return f"cupy {cupy.__version__}, nvrtc {major}.{minor}, sm_{cupy.cuda.Device().compute_capability}"
