"""How the C library hands out memory: large arrays that are freed are kept for the next ones.

NumPy allocates every intermediate result anew. By default, glibc takes a large one straight from the kernel and gives
it back when it is freed, so that each write into it is a page fault first: a quarter of the time of a training step of
a transformer or of a convolutional net. With these two settings the memory stays in the process's heap, where the next
step finds it; the peak is the same. Who sets glibc's own variables decides, and other C libraries are left alone.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_TRIM_BYTES = 512 << 20
_MMAP_BYTES = 32 << 20  # the most that glibc accepts


def keep_freed_memory() -> bool:
    """Applies the settings; whether they were applied."""
    if sys.platform != "linux" or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES) and library.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES))
