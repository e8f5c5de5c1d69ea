"""MKL itself: the package `mkl`, told how to compute before it first does, and called by nvmath-python's bindings.

Numbers are those of MKL's headers (`mkl_service.h`, `mkl_types.h`), which stay as they are from version to version.
What is told once holds for the process:

- Threads are GCC's OpenMP's: the team that everything here runs on. By itself MKL would bring Intel's.
- Results are reproducible ("conditional numerical reproducibility"): without it the order of a sum may depend on where
  in memory an operand begins. Of the loops it takes those that it would take anyway.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.metadata
import threading
from pathlib import Path
from typing import Any

from cordee.trainer.errors import KernelError
from cordee.trainer.kernels import team

__all__ = ["PACKAGE", "bindings", "identity", "is_intel", "lack", "use_threads"]

PACKAGE = "mkl"
_BINDINGS = "nvmath.bindings.nvpl.blas"  # of NVIDIA's BLAS for ARM, which has the same functions; on x86 it loads MKL

_LP64, _THREADS_OF_GNU = 0, 3  # MKL_INTERFACE_LP64, MKL_THREADING_GNU
_REPRODUCIBLE = 2  # MKL_CBWR_AUTO
_BRANCHES = {
    2: "auto", 3: "compatible", 4: "sse2", 6: "ssse3", 7: "sse41", 8: "sse42", 9: "avx", 10: "avx2", 12: "avx512",
    14: "avx512_e1",
}  # fmt: skip
"""What it takes of the CPU (MKL_CBWR_…); "auto" on CPUs that are not Intel's, of which it does not tell."""


@functools.cache
def _files() -> dict[str, Path]:
    """MKL's libraries that are needed here, by what they are for."""
    try:
        files = importlib.metadata.files(PACKAGE) or ()
    except importlib.metadata.PackageNotFoundError:
        return {}
    names = {"libmkl_rt": "rt", "libmkl_gnu_thread": "threads"}
    found = {names[head]: file for file in files if (head := file.name.partition(".")[0]) in names}
    return {what: Path(str(file.locate())).resolve() for what, file in found.items()}


@functools.cache
def _library() -> ctypes.CDLL:
    """MKL, loaded and told.

    Raises:
        KernelError: it cannot be.
    """
    files = _files()
    if len(files) < 2:  # MKL would end the process where it misses one
        raise KernelError(f"the package {PACKAGE} has no libmkl_rt.so, or none for GCC's OpenMP, libmkl_gnu_thread.so")
    if team.library() is None:
        raise KernelError("it needs GCC's OpenMP library, libgomp.so.1 (Debian: apt install libgomp1)")
    try:
        mkl = ctypes.CDLL(str(files["rt"]))
    except OSError as error:
        raise KernelError(f"{files['rt'].name} does not load: {error}") from None
    mkl.MKL_Set_Interface_Layer(_LP64)
    if mkl.MKL_Set_Threading_Layer(_THREADS_OF_GNU) != _THREADS_OF_GNU:
        raise KernelError("MKL computes in this process already, with threads of its own")
    if mkl.MKL_CBWR_Set(_REPRODUCIBLE):
        raise KernelError("MKL computes in this process already, in another way")
    mkl.MKL_Set_Dynamic(0)  # as many threads as it is told, which are part of what decides the bits
    return mkl


@functools.cache
def bindings() -> Any:
    """The functions: `sgemm` and its kin.

    Raises:
        KernelError: they cannot be called.
    """
    _library()
    try:
        return importlib.import_module(_BINDINGS)
    except ImportError as error:
        raise KernelError(f"nvmath-python, whose bindings are needed, cannot be imported: {error}") from None


@functools.cache
def lack() -> str:
    """What keeps MKL from working here; "" if nothing does."""
    try:
        bindings().sgemm(101, 111, 111, 0, 0, 0, 1.0, 0, 1, 0, 1, 0.0, 0, 1)  # finds the library
    except (KernelError, RuntimeError) as error:
        return str(error)
    return ""


def identity() -> str:
    """The version, and what it takes of the CPU."""
    branch = int(_library().MKL_CBWR_Get_Auto_Branch())
    return f"mkl {importlib.metadata.version(PACKAGE)} {_BRANCHES.get(branch, branch)}"


@functools.cache
def is_intel(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU is Intel's: for others MKL has loops that are not its best."""
    try:
        with cpuinfo.open() as lines:
            return any("GenuineIntel" in line for line in lines if line.startswith("vendor_id"))
    except OSError:
        return False


# -- threads -----------------------------------------------------------------------------------------------------------


class _Threads(threading.local):
    """What the calling thread has told MKL: that is each thread's own."""

    number = 0


_told = _Threads()


def use_threads(number: int) -> None:
    """Let what this thread calls next run on so many threads."""
    if _told.number != number:
        _library().MKL_Set_Num_Threads_Local(number)
        _told.number = number
