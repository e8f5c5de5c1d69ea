"""Which of our callables answers to an operator of PyTorch's `op_db`, found by name.

A name of `op_db` is looked up where a PyTorch user would look: `linalg.x`, `fft.x`, `special.x`, `nn.functional.x`
and `signal.windows.x` under the same path, any other name in the package, then among the tensor's methods. Only where
`op_db` wraps its operator into a lambda with other arguments, a wrapper here does the same. Nothing is faked: a name
that is not found is `missing`, and what Cordee does not offer on purpose is `out of scope`, with a reason.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Any

import numpy as np

import cordee.trainer as ct

__all__ = ["find", "find_method", "is_random", "out_of_scope"]

OUT_OF_SCOPE: dict[str, tuple[str, ...]] = {
    "sparse tensors": ("sparse.*", "to_sparse"),
    "complex numbers": (
        "view_as_real", "view_as_complex", "complex", "polar", "linalg.polar", "cdouble", "cfloat", "chalf", "conj",
        "conj_physical", "resolve_conj", "resolve_neg", "H", "mH", "nn.functional.silu/complex", "linalg.eig",
        "linalg.eigvals", "stft", "istft", "imag", "real", "angle",
    ),
    "internal to PyTorch": (
        "_[a-z]*", "torch.*", "native_*", "unsafe_*", "slice", "max_pool2d_with_indices_backward", "grid_sampler_*",
        "constant_pad_nd", "*_copy", "hash_tensor", "nonzero_static", "empty_permuted", "new_empty_strided",
        "empty_strided", "linalg.*_ex", "addmm/decomposed", "as_strided*", "resize_*", "bmm/triton_optimized",
    ),
    "CUDA source at run time": ("jiterator_*",),
    "prototype of masked tensors": ("masked.*",),
}  # fmt: skip
"""Names that are not counted as missing when Cordee has none (they are replayed when it has), by reason."""

RANDOM = (
    "cauchy", "exponential", "geometric", "log_normal", "normal", "uniform", "rand*", "multinomial", "bernoulli",
    "*dropout*", "nn.functional.rrelu", "nn.functional.fractional_max_pool*", "empty*", "new_empty*", "svd_lowrank",
    "pca_lowrank", "resize_*",
)  # fmt: skip
"""Operators whose values are drawn or left as found: only shapes and dtypes are compared."""

_IN_PLACE_METHODS = {"cauchy", "exponential", "geometric", "log_normal", "uniform", "normal/in_place"}
_METHODS = {
    "bfloat16", "bool", "byte", "cdouble", "cfloat", "chalf", "char", "contiguous", "double", "expand", "expand_as",
    "float", "half", "int", "item", "long", "repeat", "reshape_as", "short", "sum_to_size", "to", "unfold", "view",
    "view_as", "new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided", "resize_", "resize_as_",
}  # fmt: skip
_PROPERTIES = {"T", "H", "mT", "mH"}
_MODULES = {type(ct)}


def _attribute(path: str) -> Any:
    place: Any = ct
    for part in path.split("."):
        try:
            place = getattr(place, part)
        except (AttributeError, ImportError):
            return None
    return place


def _function(path: str) -> Callable[..., Any] | None:
    found = _attribute(path)
    usable = callable(found) and not isinstance(found, (type, np.dtype)) and type(found) not in _MODULES
    return found if usable else None


def find_method(name: str) -> Callable[..., Any] | None:
    """The tensor's method of that name."""
    method = getattr(ct.Tensor, name, None)
    return method if callable(method) else None


def _after_clone(name: str) -> Callable[..., Any] | None:
    method = find_method(name)
    return None if method is None else lambda x, *args, **kwargs: method(x.clone(), *args, **kwargs)


def _reordered(path: str, call: Callable[..., Any]) -> Callable[[], Callable[..., Any] | None]:
    def make() -> Callable[..., Any] | None:
        function = _function(path)
        return None if function is None else lambda *args, **kwargs: call(function, *args, **kwargs)

    return make


_WRAPPED: dict[str, Callable[[], Callable[..., Any] | None]] = {
    "einsum": _reordered("einsum", lambda f, tensors, equation: f(equation, tensors)),
    "polygamma": _reordered("polygamma", lambda f, x, n: f(n, x)),
    "special.polygamma": _reordered("special.polygamma", lambda f, x, n: f(n, x)),
    "where": _reordered("where", lambda f, x, condition, other: f(condition, x, other)),
    "nn.functional.embedding": _reordered(
        "nn.functional.embedding", lambda f, weight, index, **kwargs: f(index, weight, **kwargs)
    ),
    "nn.functional.embedding_bag": _reordered(
        "nn.functional.embedding_bag", lambda f, weight, index, **kwargs: f(index, weight, **kwargs)
    ),
    "normal/number_mean": _reordered("normal", lambda f, std, mean, *args, **kwargs: f(mean, std, *args, **kwargs)),
    "svd_lowrank": _reordered("svd_lowrank", lambda f, a, b, **kwargs: f(a @ b.mT, **kwargs)),
    "pca_lowrank": _reordered("pca_lowrank", lambda f, a, b, **kwargs: f(a @ b.mT, **kwargs)),
    "linalg.lstsq/grad_oriented": _reordered("linalg.lstsq", lambda f, a, b, driver: f(a, b, driver=driver)[0]),
    "linalg.pinv/singular": _reordered("linalg.pinv", lambda f, a, b: f(a @ b.mT)),
    "zero_": lambda: _after_clone("zero_"),
    "resize_": lambda: _after_clone("resize_"),
    "resize_as_": lambda: _after_clone("resize_as_"),
}


def _dunder(name: str) -> Callable[..., Any] | None:
    python = "__rtruediv__" if name == "__rdiv__" else name
    return getattr(ct.Tensor, python, None)


def find(name: str, variant: str) -> Callable[..., Any] | None:
    """Our callable for an operator of `op_db`, taking the arguments of its samples; None when there is none."""
    full = f"{name}/{variant}" if variant else name
    for key in (full, name):
        if key in _WRAPPED:
            return _WRAPPED[key]()
    if name.startswith("__"):
        return _dunder(name)
    if name in _PROPERTIES:
        return (lambda x: getattr(x, name)) if hasattr(ct.Tensor, name) else None
    if full in _IN_PLACE_METHODS:
        return find_method(name + "_")
    if name in _METHODS:
        return find_method(name)
    return _function(name) or find_method(name)


def out_of_scope(name: str, variant: str) -> str | None:
    """Why Cordee does not offer this operator, or None."""
    full = f"{name}/{variant}" if variant else name
    for reason, patterns in OUT_OF_SCOPE.items():
        if any(fnmatch.fnmatchcase(full, p) or fnmatch.fnmatchcase(name, p) for p in patterns):
            return reason
    return None


def is_random(name: str) -> bool:
    """Whether only shapes and dtypes of this operator can be compared."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in RANDOM)
