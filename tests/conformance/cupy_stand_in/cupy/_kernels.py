"""The stand-in's `ElementwiseKernel`: the CUDA text compiled as a C++ loop, where there is a compiler."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cupy._array import ndarray

__all__ = ["ElementwiseKernel"]

_C = {
    "float32": "float", "float64": "double", "float16": "_Float16", "bfloat16": "float", "bool": "bool",
    "int8": "int8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t",
    "uint8": "uint8_t", "uint16": "uint16_t", "uint32": "uint32_t", "uint64": "uint64_t",
    "complex64": "std::complex<float>", "complex128": "std::complex<double>",
}  # fmt: skip


_SHIM = """
#include <string.h>
#define __device__
#define __forceinline__ inline
#define erfcxf(x) (expf((x) * (x)) * erfcf(x))
#define erfinvf(x) (x)
static inline float __uint_as_float(unsigned x) { float y; memcpy(&y, &x, 4); return y; }
static inline unsigned __float_as_uint(float x) { unsigned y; memcpy(&y, &x, 4); return y; }
"""


class ElementwiseKernel:
    """`raw` arguments are indexed by the text, the others by the element; all must be whole blocks of memory."""

    def __init__(
        self, in_params: str, out_params: str, operation: str, name: str = "kernel", preamble: str = "", **_: Any
    ) -> None:
        self.inputs = [p.split() for p in in_params.split(",") if p.strip()]
        self.outputs = [p.split() for p in out_params.split(",") if p.strip()]
        self.operation, self.preamble = operation, preamble

    def __call__(self, *args: Any, size: int | None = None, **_: Any) -> Any:
        types: dict[str, str] = {}
        params = [*self.inputs, *self.outputs]
        if len(args) not in (len(self.inputs), len(params)):
            raise TypeError(f"either {len(self.inputs)} or {len(params)} (with outputs), not {len(args)} arguments")
        if len(args) < len(params):
            args = (*args, *self._outputs(args))
        given = list(zip(params, args, strict=True))
        for (*_, kind, _name), value in given:
            if isinstance(value, np.ndarray):
                raise TypeError("Unsupported type <class 'numpy.ndarray'>")
            if len(kind) == 1:
                actual = _C[value.dtype.name if isinstance(value, ndarray) else np.asarray(value).dtype.name]
                if types.setdefault(kind, actual) != actual:
                    raise TypeError(f"type {kind} of the kernel is both {types[kind]} and {actual}")
            elif isinstance(value, ndarray) and value.dtype.name != kind:
                raise TypeError(f"Type is mismatched. {kind} is wanted, not {value.dtype.name}")
        shapes = [v.shape for (*raw, _, _), v in given if not raw and isinstance(v, ndarray)]
        if shapes and size is not None:
            raise ValueError("Specified 'size' can be used only if all of the ndarray are 'raw'")
        shape = np.broadcast_shapes(*shapes) if shapes else (size or 0,)
        narrow: list[Any] = []
        held, text, heads = [], [], []
        for (*raw, kind, name), value in given:
            c = types.get(kind, _C.get(kind, kind))
            if isinstance(value, ndarray):
                is_out = [*raw, kind, name] in self.outputs
                array = value._held if raw or is_out else np.broadcast_to(value._held, shape)
                if is_out and not array.flags.c_contiguous:
                    raise NotImplementedError("the stand-in's kernels write into contiguous memory only")
                array = array if is_out else np.ascontiguousarray(array, None if len(kind) == 1 else kind)
            else:
                array = np.broadcast_to(
                    np.asarray(value).astype(kind if len(kind) > 1 else np.asarray(value).dtype), shape
                )
                array = np.ascontiguousarray(array)
                is_out = False
            if array.dtype.name == "bfloat16":  # no compiler's: computed in float, rounded at the end
                narrow.append((array, array.astype(np.float32)) if is_out else (None, None))
                array = narrow[-1][1] if is_out else array.astype(np.float32)
            held.append(array)
            heads.append(f"{c}* _{name}")
            text.append(f"{c}* {name} = _{name};" if raw else f"{c}& {name} = _{name}[i];")
        body = "".join(f"typedef {c} {k};\n" for k, c in types.items())
        code = (
            "".join(f"#include <{each}>\n" for each in _headers(self.operation, [*types.values(), *heads]))
            + "namespace std {}\nusing namespace std;\n"
            + _SHIM
            + self.preamble
            + body
            + f'extern "C" void run(long long n, {", ".join(heads)}) {{\n'
            "for (long long i = 0; i < n; ++i) {\n" + "\n".join(text) + "\n{" + self.operation + "}\n}}\n"
        )
        _compiled(code)(ctypes.c_longlong(int(np.prod(shape))), *[ctypes.c_void_p(a.ctypes.data) for a in held])
        for target, wide in narrow:
            if target is not None:
                target[...] = wide
        outs = args[len(self.inputs) :]
        return outs[0] if len(outs) == 1 else outs

    def _outputs(self, args: tuple[Any, ...]) -> list[Any]:
        """New arrays, as CuPy makes them: in C's order, whatever that of the inputs is."""
        arrays = [v for (*raw, _, _), v in zip(self.inputs, args, strict=True) if not raw and isinstance(v, ndarray)]
        if any(len(kind) == 1 for *_, kind, _ in self.outputs) or not arrays:
            raise NotImplementedError("the stand-in's kernels need such outputs given")
        shape = np.broadcast_shapes(*(v.shape for v in arrays))
        return [sys.modules["cupy"].empty(shape, kind) for *_, kind, _ in self.outputs]


def _headers(operation: str, kinds: list[str]) -> list[str]:
    """Those that are needed: the others take longer to read than all that is compiled."""
    complex_numbers = any("complex" in kind for kind in kinds)
    if not complex_numbers and not re.search(r"\b(min|max|swap|abs|std::\w+)\(", operation):
        return ["math.h", "stdint.h"]
    return ["cmath", "cstdint", *(["complex"] if complex_numbers else []),
            *(["algorithm"] if re.search(r"\b(min|max|swap)\(", operation) else [])]  # fmt: skip


@cache
def _compiled(code: str) -> Any:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise NotImplementedError("the stand-in's kernels need a C++ compiler")
    folder = Path(tempfile.mkdtemp())
    source, library = folder / "kernel.cpp", folder / "kernel.so"
    source.write_text(code)
    command = [compiler, "-O1", "-shared", "-fPIC", "-w", str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the kernel does not compile: {done.stderr.decode()}\n{code}")
    return ctypes.CDLL(str(library)).run
