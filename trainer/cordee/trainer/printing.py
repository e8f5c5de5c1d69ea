"""The text of a tensor, as PyTorch prints it, so that a notebook's output reads the same in both.

One format for all numbers of a tensor: whole numbers as `1.`, else four digits after the point, or powers of ten when
the largest is 1000 times the smallest, or they are very large or small. Of more than 1000 elements only three at each
end of each dimension are shown (and looked at: printing a large tensor is cheap). `set_printoptions` changes all that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cordee.trainer.array import Array, default_dtype, is_complex, is_float, to_numpy

if TYPE_CHECKING:
    from cordee.trainer.tensors import Tensor

__all__ = ["PrintOptions", "get_printoptions", "set_printoptions", "tensor_text"]


@dataclass(frozen=True)
class PrintOptions:
    """How tensors are printed; see `set_printoptions`."""

    precision: int = 4
    threshold: float = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


_PROFILES = {
    "default": PrintOptions(),
    "short": PrintOptions(precision=2, edgeitems=2),
    "full": PrintOptions(threshold=math.inf),
}


class _State:
    options = PrintOptions()


def get_printoptions() -> PrintOptions:
    """How tensors are printed now."""
    return _State.options


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Choose how tensors are printed; what is not given stays, except `sci_mode`, which None makes automatic.

    `precision`: digits after the point. `threshold`: above so many elements a tensor is summarised to `edgeitems` at
    each end. `linewidth`: characters per line. `profile`: "default", "short" or "full", before the others.
    """
    if profile is not None and profile not in _PROFILES:
        raise ValueError(f"set_printoptions: profile must be one of {', '.join(_PROFILES)}, not {profile!r}")
    chosen = _State.options if profile is None else _PROFILES[profile]
    given = {"precision": precision, "threshold": threshold, "edgeitems": edgeitems, "linewidth": linewidth}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    _State.options = replace(chosen, **changes, sci_mode=sci_mode)


Format = Callable[[Any], str]


def _plain_format(values: Any) -> tuple[Format, int]:
    """For whole numbers and truth values."""
    width = max((len(str(value)) for value in values.ravel().tolist()), default=1)
    return (lambda value: str(value).rjust(width)), width


def _float_format(values: Any) -> tuple[Format, int]:
    """For real numbers: one of three notations, and the width that fits all finite ones."""
    options = _State.options
    flat = values.ravel().astype(np.float64)
    counted = flat[np.isfinite(flat) & (flat != 0)]
    if not counted.size:
        return (lambda value: f"{value:.0f}" + ("." if math.isfinite(value) else "")), 1
    smallest, largest = float(np.abs(counted).min()), float(np.abs(counted).max())
    scientific = largest / smallest > 1000 or largest > 1e8 or smallest < 1e-4
    if options.sci_mode is not None:
        scientific = options.sci_mode
    whole = bool((counted == np.ceil(counted)).all())

    def show(value: Any) -> str:
        if scientific:
            return f"{value:.{options.precision}e}"
        if whole:
            return f"{value:.0f}" + ("." if math.isfinite(value) else "")
        return f"{value:.{options.precision}f}"

    width = max(len(show(value)) for value in counted.tolist())
    return (lambda value: show(value).rjust(width)), width


def _complex_format(values: Any) -> tuple[Format, int]:
    (real, real_width), (imag, imag_width) = _float_format(values.real), _float_format(values.imag)

    def show(value: Any) -> str:
        part = (imag(value.imag) + "j").lstrip()
        return real(value.real) + (part if part[0] in "+-" else f"+{part}")

    return show, real_width + imag_width + 1


def _edges(array: Any) -> Any:
    """Only what a summary shows."""
    ends = _State.options.edgeitems
    for axis, size in enumerate(array.shape):
        if size > 2 * ends:
            array = array.take([*range(ends), *range(size - ends, size)], axis)
    return array


def _body(edges: Array, shape: tuple[int, ...], indent: int, show: Format, width: int) -> str:
    """The text of an array of that shape, of which `edges` may hold only the ends of dimensions."""
    if edges.ndim == 0:
        return show(edges.item())
    ends = _State.options.edgeitems
    is_cut = len(edges) < shape[0]
    if edges.ndim == 1:
        items = [show(value) for value in edges.tolist()]
        if is_cut:
            items.insert(ends, " ...")
        per_line = max(1, (_State.options.linewidth - indent) // (width + 2))
        lines = [", ".join(items[start : start + per_line]) for start in range(0, len(items), per_line)]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    rows = [_body(row, shape[1:], indent + 1, show, width) for row in edges]
    if is_cut:
        rows.insert(ends, "...")
    return "[" + ("," + "\n" * (edges.ndim - 1) + " " * (indent + 1)).join(rows) + "]"


def _suffixes(tensor: Tensor) -> list[str]:
    dtype, numbers = tensor.dtype, tensor.data
    found = [] if tensor.device == "cpu" else [f"device='{tensor.device}'"]
    usual = np.dtype("complex128" if default_dtype() == np.float64 else "complex64")
    expected = (default_dtype(),) if not numbers.size else (default_dtype(), usual, np.int64, np.bool_)
    if not numbers.size and numbers.ndim != 1:
        found.append(f"size={tensor.shape}")
    if dtype not in expected:
        found.append(f"dtype={dtype.name}")
    if tensor.grad_fn is not None:
        found.append(f"grad_fn=<{tensor.grad_fn.op.name}>")
    elif tensor.requires_grad:
        found.append("requires_grad=True")
    return found


def _format(values: Any) -> tuple[Format, int]:
    if is_complex(values.dtype):
        return _complex_format(values)
    return (_float_format if is_float(values.dtype) else _plain_format)(values)


def tensor_text(tensor: Tensor) -> str:
    """What `repr(tensor)` is: values, and what is not the default: device, dtype, gradient."""
    prefix, options = "tensor(", _State.options
    text = f"{prefix}[]"
    if tensor.data.size:
        edges = to_numpy(_edges(tensor.data) if tensor.data.size > options.threshold else tensor.data)
        text = prefix + _body(edges, tensor.shape, len(prefix), *_format(edges))
    length = len(text) - text.rfind("\n") + 1
    for suffix in _suffixes(tensor):
        if length + len(suffix) + 2 > options.linewidth:
            text += ",\n" + " " * len(prefix) + suffix
            length = len(prefix) + len(suffix)
        else:
            text += f", {suffix}"
            length += len(suffix) + 2
    return text + ")"
