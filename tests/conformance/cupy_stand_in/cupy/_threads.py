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
#include <math.h>
#include <string.h>
#include <stdint.h>
#include <stdlib.h>
#include <setjmp.h>
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
static inline float __uint_as_float(unsigned x) { float y; memcpy(&y, &x, 4); return y; }
static inline unsigned __float_as_uint(float x) { unsigned y; memcpy(&y, &x, 4); return y; }
static inline float from_half(unsigned short x) { _Float16 y; memcpy(&y, &x, 2); return (float)y; }
static inline unsigned short to_half(float x) {
    _Float16 y = (_Float16)x; unsigned short z; memcpy(&z, &y, 2); return z;
}

struct Jump { jmp_buf to; };
static Jump scheduler;
static Jump* fibres;
static char *ended, *stacks;
static float* shuffled;
static void (*call)(void*);  // a thread's work
static void* work;
static unsigned current;
static const size_t STACK = 1 << 15;

// A context is made once per thread; from then on jumps hand over, which ask the kernel nothing.
static void __syncthreads() {
    if (!_setjmp(fibres[current].to)) _longjmp(scheduler.to, 1);
    threadIdx.x = current;
}
static float __shfl_xor_sync(unsigned, float value, int apart) {
    shuffled[current] = value;
    __syncthreads();
    float other = shuffled[current ^ (unsigned)apart];
    __syncthreads();
    return other;
}
static void fibre() { call(work); ended[current] = 1; _longjmp(scheduler.to, 1); }
static void begin(unsigned i) {
    ucontext_t fresh;
    getcontext(&fresh);
    fresh.uc_stack.ss_sp = &stacks[i * STACK];
    fresh.uc_stack.ss_size = STACK;
    fresh.uc_link = nullptr;
    makecontext(&fresh, fibre, 0);
    setcontext(&fresh);
}

static void launch(const unsigned* grid, unsigned threads) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    if (!fibres) {  // for as many as a block has at most
        fibres = (Jump*)malloc(1024 * sizeof(Jump));
        ended = (char*)malloc(1024);
        stacks = (char*)malloc(1024 * STACK);
        shuffled = (float*)malloc(1024 * sizeof(float));
    }
    static unsigned left;  // not in a register: a jump would not bring it back
    static bool first;
    for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x) {
        memset(ended, 0, threads);
        for (left = threads, first = true; left; first = false)
            for (current = 0; current < threads; ++current)
                if (!ended[current]) {
                    threadIdx = {current, 0, 0};
                    if (!_setjmp(scheduler.to)) {
                        if (first) begin(current);
                        else _longjmp(fibres[current].to, 1);
                    }
                    left -= ended[current];
                }
    }
}

// Of kernels whose threads never wait for each other: one after another.
static void launch_apart(const unsigned* grid, unsigned threads) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) call(work);
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
    "unsigned short": "uint16", "unsigned char": "uint8", "bool": "bool",
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
    # Fortified, jumps between stacks would be taken for mistakes.
    command = [
        compiler,
        "-O1",
        "-U_FORTIFY_SOURCE",
        "-ffp-contract=off",
        "-std=c++17",
        "-nostdinc++",
        "-shared",
        "-fPIC",
        "-w",
    ]
    done = subprocess.run(
        [*command, "-o", str(folder / "kernel.so"), str(folder / "kernel.cpp")], capture_output=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the source does not compile: {done.stderr.decode()}")
    return ctypes.CDLL(str(folder / "kernel.so"))


def _waiting(code: str) -> set[str]:
    """The functions in which threads wait for each other, themselves or in what they call."""
    bodies = {}
    for found in re.finditer(r"(\w+)\([^(){};]*\)\s*\{", code):
        depth, end = 1, found.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(code[end], 0)
            end += 1
        bodies[found[1]] = code[found.end() : end]
    waiting, before = {"__syncthreads", "__shfl_xor_sync"}, 0
    while len(waiting) > before:
        before = len(waiting)
        names = re.compile(rf"\b(?:{'|'.join(waiting)})\(")
        waiting |= {name for name, body in bodies.items() if names.search(body)}
    return waiting


class RawModule:
    """The kernels of a source."""

    def __init__(self, *, code: str, options: tuple[str, ...] = (), **_: Any) -> None:
        self.kernels = {name: " ".join(parameters.split()) for name, parameters in _KERNEL.findall(code)}
        aliases = dict(re.findall(r"typedef ([\w ]+) (\w+);", code))
        self.aliases = {name: kind for kind, name in aliases.items()}
        entries, waiting = [], _waiting(code)
        for name, parameters in self.kernels.items():
            names = ", ".join(parameter.split()[-1].lstrip("*") for parameter in parameters.split(","))
            way = "launch" if name in waiting else "launch_apart"
            entries.append(
                f'extern "C" void run_{name}(const unsigned* grid, unsigned threads, {parameters}) '
                f"{{ auto body = [=]() {{ {name}({names}); }}; work = &body; "
                f"call = [](void* at) {{ (*(decltype(body)*)at)(); }}; {way}(grid, threads); }}"
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


def _without_gaps(value: Any) -> bool:
    """In one piece, in whatever order of its dimensions."""
    step = value.itemsize
    for stride, size in sorted(zip(value.strides, value.shape, strict=True)):
        if size > 1 and stride != step:
            return False
        step *= size
    return True


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
        if not _without_gaps(value):
            raise ValueError(f"{name}: an array that does not lie in one piece")
        return ctypes.c_void_p(value.data.ptr)
    if type(value).__name__ not in _SAME_SIZE[kind]:
        raise TypeError(f"{name}: {value!r} ({type(value).__name__}) for {kind}")
    return _C[kind](value if kind in ("float", "double") else int(value))
