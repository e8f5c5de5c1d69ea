"""Formulas as CUDA kernels: what `terms` says, in CUDA's C, by CuPy's elementwise kernels.

CuPy brings the index arithmetic, broadcasting and the cache of compiled code. bfloat16 comes and goes as its bits, and
is computed in float32, as on CPUs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from cordee.trainer.kernels.terms import Term, evaluate

__all__ = ["PREAMBLE", "body", "can_compute", "fused"]

PREAMBLE = """
#ifndef INFINITY  // NVRTC brings no headers
#define INFINITY __uint_as_float(0x7f800000u)
#endif
#ifndef NAN
#define NAN __uint_as_float(0x7fc00000u)
#endif
__device__ __forceinline__ float from_bits(unsigned short x) { return __uint_as_float((unsigned int)x << 16); }
__device__ __forceinline__ unsigned short to_bits(float x) {
    unsigned int bits = __float_as_uint(x);
    if (x != x) return (unsigned short)((bits >> 16) | 0x40u);
    return (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
__device__ __forceinline__ float larger(float a, float b) { return a > b || a != a ? a : b; }
__device__ __forceinline__ float smaller(float a, float b) { return a < b || a != a ? a : b; }
__device__ __forceinline__ float sign_of(float a) { return a > 0.0f ? 1.0f : a < 0.0f ? -1.0f : a != a ? a : 0.0f; }
__device__ __forceinline__ float sigmoid_of(float a) { return 1.0f / (1.0f + expf(-a)); }
__device__ __forceinline__ float softplus_of(float a) { return larger(a, 0.0f) + log1pf(expf(-fabsf(a))); }
"""

_KINDS = {"f": "float32", "s": "float32", "h": "uint16", "b": "bool", "q": "int64"}
_FUNCTIONS = {
    "exp": "expf", "exp2": "exp2f", "expm1": "expm1f", "log": "logf", "log1p": "log1pf", "log2": "log2f",
    "log10": "log10f", "tanh": "tanhf", "sinh": "sinhf", "cosh": "coshf", "sin": "sinf", "cos": "cosf", "tan": "tanf",
    "asin": "asinf", "acos": "acosf", "atan": "atanf", "asinh": "asinhf", "acosh": "acoshf", "atanh": "atanhf",
    "atan2": "atan2f", "hypot": "hypotf", "erf": "erff", "erfc": "erfcf", "erfcx": "erfcxf", "erfinv": "erfinvf",
    "sqrt": "sqrtf", "rsqrt": "1.0f / sqrtf", "abs": "fabsf", "floor": "floorf", "ceil": "ceilf", "trunc": "truncf",
    "rint": "rintf", "pow": "powf", "fmod": "fmodf", "copysign": "copysignf", "fmax": "fmaxf", "fmin": "fminf",
    "max": "larger", "min": "smaller", "maximum": "larger", "minimum": "smaller", "sign": "sign_of",
    "sigmoid": "sigmoid_of", "softplus": "softplus_of",
}  # fmt: skip
_OPERATORS = ("+", "-", "*", "/", "<", "<=", ">", ">=", "==", "!=", "&&", "||")
_SPECIAL = ("neg", "!", "where", "clamp", "real_of", "isnan")


def can_compute(term: Any) -> bool:
    """Whether all of it has a name in CUDA."""
    if not isinstance(term, Term) or not term.args:
        return not isinstance(term, complex)
    return term.name in (*_OPERATORS, *_SPECIAL, *_FUNCTIONS) and all(map(can_compute, term.args))


def body(kinds: str, symbols: Sequence[str], terms: Sequence[Any]) -> str:
    """The statements that compute the results `out0`, `out1`, … from operands that bear the symbols' names."""
    inputs, _, results = kinds.partition("->")
    lines: list[str] = []
    given = {}
    for name, kind in zip(symbols, inputs, strict=True):
        lines.append(f"float v_{name} = {f'from_bits({name})' if kind == 'h' else f'(float){name}'};")
        given[name] = f"v_{name}"

    def apply(name: str, *args: Any) -> str | None:
        if name in _OPERATORS and None in args:  # a bound that is not there
            return next((each for each in args if each is not None), None) if name in ("&&", "||") else None
        lines.append(f"float t{len(lines)} = {_expression(name, [_operand(each) for each in args])};")
        return f"t{len(lines) - 1}"

    for i, (value, kind) in enumerate(zip(evaluate(terms, given, apply), results, strict=True)):
        text = _operand(value)
        lines.append(f"out{i} = {f'to_bits({text})' if kind == 'h' else text};")
    return "\n".join(lines)


def _operand(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    text = repr(float(value))
    return {"inf": "INFINITY", "-inf": "-INFINITY", "nan": "NAN"}.get(text, f"{text}f")


def _expression(name: str, args: Sequence[str | None]) -> str:
    if name in ("&&", "||"):
        return f"({args[0]} != 0.0f {name} {args[1]} != 0.0f) ? 1.0f : 0.0f"
    if name in ("+", "-", "*", "/"):
        return f"{args[0]} {name} {args[1]}"
    if name in _OPERATORS:
        return f"{args[0]} {name} {args[1]} ? 1.0f : 0.0f"
    if name == "clamp":
        a, low, high = args
        text = f"{a}" if low is None else f"({a} < {low} ? {low} : {a})"
        return text if high is None else f"({text} > {high} ? {high} : {text})"
    special: dict[str, Callable[..., str]] = {
        "neg": lambda a: f"-{a}",
        "!": lambda a: f"{a} != 0.0f ? 0.0f : 1.0f",
        "where": lambda c, a, b: f"{c} != 0.0f ? {a} : {b}",
        "real_of": lambda a: f"{a}",
        "isnan": lambda a: f"{a} != {a} ? 1.0f : 0.0f",
    }
    if name in special:
        return special[name](*args)
    return f"{_FUNCTIONS[name]}({', '.join(map(str, args))})"


def fused(name: str, kinds: str, symbols: Sequence[str], terms: Sequence[Any]) -> Any:
    """A kernel of operands named by `symbols`, of the types `kinds`, with the terms as results; None: not known here.

    It is called as a ufunc is: `kernel(*inputs)`, or with `out=` a tuple of arrays.
    """
    if not all(map(can_compute, terms)):
        return None
    cupy: Any = importlib.import_module("cupy")
    inputs, _, results = kinds.partition("->")
    # -fmad=false: a product and a sum are rounded one by one, as the same formula is on CPUs.
    kernel = cupy.ElementwiseKernel(
        ", ".join(f"{_KINDS[kind]} {symbol}" for kind, symbol in zip(inputs, symbols, strict=True)),
        ", ".join(f"{_KINDS[kind]} out{i}" for i, kind in enumerate(results)),
        body(kinds, symbols, terms),
        f"cordee_{name}",
        preamble=PREAMBLE,
        options=("-fmad=false",),
    )

    def call(*operands: Any, out: tuple[Any, ...] = ()) -> Any:
        order = () if out else _order(operands)
        if not order:
            return kernel(*operands, *out)
        made = kernel(*(a.transpose(order) if hasattr(a, "strides") and a.ndim else a for a in operands))
        back = sorted(range(len(order)), key=order.__getitem__)
        return tuple(each.transpose(back) for each in made) if type(made) is tuple else made.transpose(back)

    return call


def _order(operands: Sequence[Any]) -> tuple[int, ...]:
    """In which order of their dimensions all operands lie in memory without gaps; () where that is C's, or none.

    CuPy's results are in C's order, whatever that of the operands is: images with channels last would not stay so, and
    indices would be counted dimension by dimension.
    """
    arrays = [a for a in operands if hasattr(a, "strides") and a.ndim]
    first = arrays[0] if arrays else None
    if first is None or first.flags.c_contiguous or any(a.shape != first.shape for a in arrays):
        return ()
    order = tuple(sorted(range(first.ndim), key=lambda dim: -first.strides[dim]))
    return order if all(a.transpose(order).flags.c_contiguous for a in arrays) else ()
