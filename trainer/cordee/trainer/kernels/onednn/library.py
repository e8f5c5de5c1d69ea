"""oneDNN itself: the library that the package `onednn-cpu-gomp` brings, and what of its C interface is used.

Numbers are those of oneDNN's headers (`oneapi/dnnl/dnnl_types.h`), which stay as they are through a major version:
https://uxlfoundation.github.io/oneDNN/v3.2/index.html.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from cordee.trainer.array import bfloat16
from cordee.trainer.errors import KernelError
from cordee.trainer.kernels import team

__all__ = [
    "BFLOAT16", "FLOAT32", "Calls", "Dims", "Pointer", "calls", "check", "dtypes", "has_bfloat16", "identity",
    "isa_name", "lack", "path", "told_threads", "use_threads",
]  # fmt: skip

PACKAGE = "onednn-cpu-gomp"
BFLOAT16, FLOAT32 = 2, 3  # dnnl_data_type_t
_SHARED_PRIMITIVES = 64
"""What oneDNN keeps of its own, for other threads that need the same: 1024 unless told, however large, and those that
`primitives` has given up among them."""
_CPU, _IN_ORDER = 1, 1  # dnnl_engine_kind_t, dnnl_stream_flags_t

Pointer = ctypes.c_void_p
Dims = ctypes.c_int64 * 12

_STATUS = {
    1: "it has run out of memory", 2: "the arguments do not go together", 3: "it has no such computation",
    4: "it has no other implementation", 5: "it failed while it ran", 6: "there is nothing to do",
}  # fmt: skip
_ISA = {
    0x1: "sse41", 0x3: "avx", 0x7: "avx2", 0xF: "avx2_vnni", 0x1F: "avx2_vnni_2", 0x27: "avx512_core",
    0x67: "avx512_core_vnni", 0xE7: "avx512_core_bf16", 0x1EF: "avx512_core_fp16", 0xFEF: "avx512_core_amx",
    0x1FEF: "avx512_core_amx_fp16",
}  # fmt: skip
"""What oneDNN uses of the CPU, by its number (dnnl_cpu_isa_t); those from avx512_core_bf16 on multiply bfloat16."""
_WITH_BFLOAT16 = 0x80


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_int), ("minor", ctypes.c_int), ("patch", ctypes.c_int))


class Calls:
    """The C functions, with the types that ctypes needs to pass their arguments fast, and the engine."""

    def __init__(self, path: Path) -> None:
        team.library()  # first: it says how OpenMP's threads are to wait
        dnnl = ctypes.CDLL(str(path))
        dnnl.dnnl_version.restype = ctypes.POINTER(_Version)
        found = dnnl.dnnl_version().contents
        self.version = f"{found.major}.{found.minor}.{found.patch}"
        self.isa = int(dnnl.dnnl_get_effective_cpu_isa())
        self.dnnl = dnnl
        dnnl.dnnl_primitive_desc_query_md.restype = Pointer
        dnnl.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        check(dnnl.dnnl_set_primitive_cache_capacity(_SHARED_PRIMITIVES))
        self.engine, self.stream = Pointer(), Pointer()
        check(dnnl.dnnl_engine_create(ctypes.byref(self.engine), _CPU, ctypes.c_size_t(0)))
        check(dnnl.dnnl_stream_create(ctypes.byref(self.stream), self.engine, _IN_ORDER))
        self.execute = dnnl.dnnl_primitive_execute
        self.execute.argtypes = [Pointer, Pointer, ctypes.c_int, Pointer]
        # It only writes an address down: that is no reason to let another thread run.
        self.point = ctypes.PyDLL(str(path)).dnnl_memory_set_data_handle
        self.point.argtypes = [Pointer, Pointer]
        self.sgemm = dnnl.dnnl_sgemm
        size, text = ctypes.c_int64, ctypes.c_char
        self.sgemm.argtypes = [
            text, text, size, size, size, ctypes.c_float, Pointer, size, Pointer, size, ctypes.c_float, Pointer, size,
        ]  # fmt: skip


def check(status: int) -> None:
    """Say what went wrong.

    Raises:
        KernelError: something did.
    """
    if status:
        raise KernelError(f"oneDNN: {_STATUS.get(status, f'status {status}')}")


@functools.cache
def path() -> Path | None:
    """Where the package has put the library; None where it is not installed."""
    try:
        files = importlib.metadata.files(PACKAGE) or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.name == "libdnnl.so.3"]
    return found[0].resolve() if found else None


@functools.cache
def calls() -> Calls:
    """The library, loaded.

    Raises:
        KernelError: it cannot be.
    """
    where = path()
    if where is None:
        raise KernelError(f"the package {PACKAGE} is not installed, or has no libdnnl.so.3")
    try:
        return Calls(where)
    except OSError as error:
        raise KernelError(f"{where.name} does not load: {error}") from None


def lack() -> str:
    """What keeps oneDNN from working here; "" if nothing does."""
    if sys.byteorder != "little":
        return "its Python side is for little-endian machines"
    if team.library() is None:
        return "it needs GCC's OpenMP library, libgomp.so.1 (Debian: apt install libgomp1)"
    try:
        calls()
    except KernelError as error:
        return str(error)
    return ""


def identity() -> str:
    """The version, and what it uses of the CPU: by that and by the sizes of caches it orders its sums."""
    return f"onednn {calls().version} {isa_name()} {_caches()}".rstrip()


def isa_name() -> str:
    """What oneDNN uses of this CPU."""
    return _ISA.get(calls().isa, hex(calls().isa))


def _caches() -> str:
    """The sizes of the first core's caches, as far as the system tells: `48K+2048K+…`."""
    sizes = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            if (folder / "type").read_text().strip() != "Instruction":
                sizes.append((folder / "size").read_text().strip())
        except OSError:
            continue
    return "+".join(sizes)


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself."""
    return bool(calls().isa & _WITH_BFLOAT16)


@functools.cache
def dtypes() -> dict[np.dtype[Any], int]:
    """The dtypes that are oneDNN's here, with its numbers for them."""
    found = {np.dtype(np.float32): FLOAT32}
    return {**found, bfloat16: BFLOAT16} if has_bfloat16() else found


# -- threads -----------------------------------------------------------------------------------------------------------


class _Threads(threading.local):
    """What the calling thread has told OpenMP: that is each thread's own."""

    number = 0


_told = _Threads()


def use_threads(number: int) -> None:
    """Let what this thread calls next run on so many threads."""
    if _told.number != number:
        library = team.library()
        if library is not None:
            library.omp_set_num_threads(number)
        _told.number = number


def told_threads() -> int:
    """What `use_threads` was called with last."""
    return _told.number
