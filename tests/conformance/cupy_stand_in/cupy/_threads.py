"""CUDA sources on one CPU thread: all threads of a block in turn, as fibres, from one synchronisation to the next.

`__syncthreads` and the shuffles of a warp hand over to the next thread, so the text runs as it is written, with the
sums in the order that a device has. What differs is the mathematics of functions like `expf`, and memory that several
blocks write to: here blocks run one after another.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cupy._array import ndarray

__all__ = ["RawKernel", "RawModule", "compiled"]

SHIM = r"""
#include <cmath>
#include <cstring>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <vector>
#include <ucontext.h>
#define __device__
#define __global__
#define __shared__ static
#define __forceinline__ inline
#define erfcxf(x) (expf((x) * (x)) * erfcf(x))
#define erfinvf(x) (x)
struct Place { unsigned x, y, z; };
static Place blockIdx, blockDim, threadIdx, gridDim;
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
static inline float __uint_as_float(unsigned x) { float y; std::memcpy(&y, &x, 4); return y; }
static inline unsigned __float_as_uint(float x) { unsigned y; std::memcpy(&y, &x, 4); return y; }
static inline float from_half(unsigned short x) { _Float16 y; std::memcpy(&y, &x, 2); return (float)y; }
static inline unsigned short to_half(float x) {
    _Float16 y = (_Float16)x; unsigned short z; std::memcpy(&z, &y, 2); return z;
}

static ucontext_t scheduler;
static std::vector<ucontext_t> fibres;
static std::vector<char> ended, stacks;
static std::vector<float> shuffled;
static std::function<void()> body;
static unsigned current;
static const size_t STACK = 1 << 15;

static void __syncthreads() { swapcontext(&fibres[current], &scheduler); threadIdx.x = current; }
static float __shfl_xor_sync(unsigned, float value, int apart) {
    shuffled[current] = value;
    __syncthreads();
    float other = shuffled[current ^ (unsigned)apart];
    __syncthreads();
    return other;
}
static void fibre() { body(); ended[current] = 1; swapcontext(&fibres[current], &scheduler); }

static void launch(const unsigned* grid, unsigned threads) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    fibres.resize(threads); shuffled.resize(threads); stacks.resize(threads * STACK);
    for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x) {
        ended.assign(threads, 0);
        for (unsigned i = 0; i < threads; ++i) {
            getcontext(&fibres[i]);
            fibres[i].uc_stack.ss_sp = &stacks[i * STACK];
            fibres[i].uc_stack.ss_size = STACK;
            fibres[i].uc_link = nullptr;
            makecontext(&fibres[i], fibre, 0);
        }
        for (unsigned left = threads; left;)
            for (current = 0; current < threads; ++current)
                if (!ended[current]) {
                    threadIdx = {current, 0, 0};
                    swapcontext(&scheduler, &fibres[current]);
                    left -= ended[current];
                }
    }
}
"""

_KERNEL = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\)')
_C = {
    "float": ctypes.c_float, "double": ctypes.c_double, "int": ctypes.c_int, "unsigned": ctypes.c_uint,
    "long long": ctypes.c_longlong, "unsigned long long": ctypes.c_ulonglong,
}  # fmt: skip
_SAME_SIZE = {
    "float": ("float32",), "double": ("float64",), "int": ("int32",), "unsigned": ("uint32",),
    "long long": ("int64", "int"), "unsigned long long": ("uint64",),
}  # fmt: skip
POINTED = {
    "float": "float32", "double": "float64", "int": "int32", "long long": "int64", "unsigned long long": "uint64",
    "unsigned short": "uint16",
}  # fmt: skip


def compiled(source: str, *, shim: str = SHIM) -> Any:
    """The library of a text in C++, once per text."""
    return _library(shim + source)


@cache
def _library(text: str) -> Any:
    compiler = shutil.which("g++")
    if compiler is None:
        raise NotImplementedError("the stand-in's kernels need g++")
    folder = Path(tempfile.mkdtemp())
    (folder / "kernel.cpp").write_text(text)
    command = [compiler, "-O1", "-ffp-contract=off", "-std=c++17", "-shared", "-fPIC", "-w"]
    done = subprocess.run(
        [*command, "-o", str(folder / "kernel.so"), str(folder / "kernel.cpp")], capture_output=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the source does not compile: {done.stderr.decode()}")
    return ctypes.CDLL(str(folder / "kernel.so"))


class RawModule:
    """The kernels of a source."""

    def __init__(self, *, code: str, options: tuple[str, ...] = (), **_: Any) -> None:
        self.kernels = {name: " ".join(parameters.split()) for name, parameters in _KERNEL.findall(code)}
        aliases = dict(re.findall(r"typedef ([\w ]+) (\w+);", code))
        self.aliases = {name: kind for kind, name in aliases.items()}
        entries = []
        for name, parameters in self.kernels.items():
            names = ", ".join(parameter.split()[-1].lstrip("*") for parameter in parameters.split(","))
            entries.append(
                f'extern "C" void run_{name}(const unsigned* grid, unsigned threads, {parameters}) '
                f"{{ body = [=]() {{ {name}({names}); }}; launch(grid, threads); }}"
            )
        self._library = compiled(code + "\n".join(entries))

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(self, name)

    def entry(self, name: str) -> Any:
        return getattr(self._library, f"run_{name}")


class RawKernel:
    """One of them: `kernel(grid, block, args)`."""

    def __init__(self, code: Any, name: str, options: tuple[str, ...] = (), **_: Any) -> None:
        module = RawModule(code=code) if isinstance(code, str) else code
        self.name, self._entry = name, module.entry(name)
        self.parameters = [
            _kind(parameter.rsplit(" ", 1)[0] + "*" * parameter.rsplit(" ", 1)[1].count("*"), module.aliases)
            for parameter in module.kernels[name].split(", ")
        ]

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], **_: Any) -> None:
        if len(args) != len(self.parameters):
            raise TypeError(f"{self.name} takes {len(self.parameters)} arguments, {len(args)} are given")
        if len(block) != 1:
            raise NotImplementedError("the stand-in's blocks have one dimension")
        if block[0] > 1024 or not all(0 < n < 1 << 31 for n in grid):
            raise RuntimeError(f"CUDA_ERROR_INVALID_VALUE: grid {grid}, block {block}")
        given = [_argument(self.name, kind, value) for kind, value in zip(self.parameters, args, strict=True)]
        self._entry((ctypes.c_uint * 3)(*grid, *(1,) * (3 - len(grid))), ctypes.c_uint(block[0]), *given)


def _kind(text: str, aliases: dict[str, str]) -> str:
    """A parameter's type, plain: `float*`."""
    plain = text.replace("const ", "").replace(" *", "*").strip()
    return aliases.get(plain.rstrip("*"), plain.rstrip("*")) + "*" * plain.count("*")


def _argument(name: str, kind: str, value: Any) -> Any:
    """As C takes it; CuPy would take another type without a word, and read rubbish."""
    if kind.endswith("*"):
        if not isinstance(value, ndarray):
            if not isinstance(value, np.uint64):
                raise TypeError(f"{name}: {value!r} is no array and no address")
            return ctypes.c_void_p(int(value))
        dtype = POINTED[kind[:-1]]
        if value.dtype.name != dtype and not (dtype == "uint16" and value.dtype.itemsize == 2):
            raise TypeError(f"{name}: an array of {value.dtype} for {kind}")
        if not value.flags.c_contiguous:
            raise ValueError(f"{name}: an array that does not lie in one piece")
        return ctypes.c_void_p(value.data.ptr)
    if type(value).__name__ not in _SAME_SIZE[kind]:
        raise TypeError(f"{name}: {value!r} ({type(value).__name__}) for {kind}")
    return _C[kind](value if kind in ("float", "double") else int(value))
