"""What decides the bits of a worker's numbers beside its script, in words: who trains together has to agree on it.

A script gives the same weights in every world of workers that compute alike. What computes differently rounds
differently, and two workers that apply "the same" update differently no longer have the same weights. So every worker
says it when it asks to join, and a checkpoint keeps what it was written with.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

import numpy as np
import threadpoolctl  # type: ignore[import-untyped]

from cordee.trainer import devices, kernels
from cordee.trainer.array import default_module, get_num_threads, get_tf32

__all__ = ["computes_with"]

_VERSION = importlib.metadata.version("cordee")
"""Of the code that is loaded: what is installed may be upgraded under a process that trains for weeks."""


def computes_with() -> tuple[str, ...]:
    """Versions, the CPU's (or GPU's) kind as far as libraries choose by it, and the number of threads."""
    threads = get_num_threads()
    parts = [
        f"Cordee {_VERSION}",
        f"Python {sys.version_info.major}.{sys.version_info.minor}",
        f"{_libc()} {platform.machine()}",
        f"NumPy {np.__version__} {_simd()}".rstrip(),
        _blas(),
        f"kernels {kernels.identity()}",
        f"{threads} thread" + ("s" if threads != 1 else ""),
    ]
    if devices.is_available():
        tf32 = " with TF32" if get_tf32() else ""
        parts.append(f"CuPy {default_module().__version__} on {devices.get_device_name()}{tf32}")
    return tuple(parts)


def _libc() -> str:
    """Logarithms and powers in double precision are its."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").strip() or "libc"
    except (OSError, ValueError):
        return "libc"


def _simd() -> str:
    """Which of its own loops NumPy chooses on this CPU."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return " ".join(found)


def _blas() -> str:
    """The library that NumPy's products go to: another one may be loaded by another package, in one worker only."""
    loaded = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    own = [pool for pool in loaded if "numpy" in pool["filepath"]] or loaded
    return ", ".join(
        sorted({f"{b['internal_api']} {b['version']} {b.get('architecture') or ''}".rstrip() for b in own})
    )
