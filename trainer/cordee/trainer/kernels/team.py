"""The one team of threads that kernels run on: OpenMP's, by GCC's library, which oneDNN uses as well.

Two pools in one process wait for each other on busy cores, so there is one. Its size is the number of threads that
Cordee was told to use (`set_num_threads`, one by default), and at most what the machine, the process' affinity and the
container's quota allow. Where the library is not there, kernels run on one thread.

A team does not survive a fork, and GCC's would hang in the child: there everything runs on one thread.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import math
import os
import sys
from pathlib import Path

from cordee.trainer.array import get_num_threads

__all__ = ["available_cores", "library", "quota", "size", "start_address"]


_LIBRARY = "libgomp.so.1"
_TURNS = "2000"
"""That a thread which waits looks for work before it sleeps: some 50 µs, and waking one takes 20 to 50."""


class _State:
    owner: int | None = None  # the process that the team was started in


def available_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """How many threads can run at once: by affinity, and by the container's quota (cgroup v2, then v1)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = quota(cgroup)
    return cores if limit is None else max(1, min(cores, math.ceil(limit)))


def quota(cgroup: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The container's CPU quota in cores; None: it has none."""
    try:
        text, period = (cgroup / "cpu.max").read_text().split()
        return None if text == "max" else int(text) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
        return None if limit <= 0 else limit / int((cgroup / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None


@functools.cache
def library() -> ctypes.CDLL | None:
    """GCC's OpenMP library, the system's or one in the virtual environment's `lib`; None where neither is there."""
    # It reads these when it is loaded. Threads that wait by spinning take the cores from BLAS' own and from neighbours;
    # so they do it for about as long as waking one takes, and then sleep.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _TURNS
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for name in (_LIBRARY, str(Path(sys.prefix, "lib", _LIBRARY))):
        try:
            found = ctypes.CDLL(name)
        except OSError:
            continue
        if hasattr(found, "GOMP_parallel"):
            return found
    return None


def start_address() -> int:
    """The address of `GOMP_parallel(function, data, threads, flags)`; 0 where there is no team."""
    found = library()
    return 0 if found is None else ctypes.cast(found.GOMP_parallel, ctypes.c_void_p).value or 0


def size() -> int:
    """How many threads a kernel may run on now."""
    wanted = get_num_threads()
    if wanted == 1:
        return 1
    if _State.owner is None:
        _State.owner = os.getpid()
    if _State.owner != os.getpid() or library() is None:
        return 1
    return wanted
