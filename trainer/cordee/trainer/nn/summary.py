"""A model's layers as a table: path, kind, output shape, parameters, memory, multiply-adds.

The model is called once, in evaluation mode and without gradients, on the inputs that are given or on ones of a given
size; its modes and the random numbers are afterwards what they were. Without either the table shows what is known
without calling it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cordee.trainer import random
from cordee.trainer.array import default_dtype, default_module
from cordee.trainer.autograd.mode import no_grad
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.state import own_state
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["LayerSummary", "Summary", "summary"]


@dataclass
class LayerSummary:
    """One module of a model. `own_parameters` leaves out those of modules below, and those counted before (tied)."""

    path: str
    kind: str
    depth: int
    own_parameters: int
    trainable_parameters: int
    parameter_bytes: int
    output_shape: Any = None
    output_bytes: int = 0
    multiply_adds: int | None = None
    calls: int = 0
    leaf: bool = True


@dataclass(frozen=True)
class Summary:
    """What `summary` found; as text, the table. Memory is in bytes."""

    name: str
    layers: tuple[LayerSummary, ...]
    depth: int | None = None
    input_shapes: tuple[Any, ...] = ()
    total_parameters: int = field(init=False)
    trainable_parameters: int = field(init=False)
    parameter_bytes: int = field(init=False)
    output_bytes: int = field(init=False)
    """Of all layers without layers below: what a forward pass in training keeps, roughly."""
    multiply_adds: int | None = field(init=False)

    def __post_init__(self) -> None:
        called = any(layer.calls for layer in self.layers)
        totals = {
            "total_parameters": sum(layer.own_parameters for layer in self.layers),
            "trainable_parameters": sum(layer.trainable_parameters for layer in self.layers),
            "parameter_bytes": sum(layer.parameter_bytes for layer in self.layers),
            "output_bytes": sum(layer.output_bytes for layer in self.layers if layer.leaf),
            "multiply_adds": sum(layer.multiply_adds or 0 for layer in self.layers) if called else None,
        }
        for name, value in totals.items():
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        return _text(self)

    __repr__ = __str__


def summary(
    model: Module,
    *inputs: Any,
    input_size: Sequence[int] | Sequence[Sequence[int]] | None = None,
    dtypes: Sequence[Any] | None = None,
    depth: int | None = None,
    **kwargs: Any,
) -> Summary:
    """A table of all layers, to be printed.

    Args:
        inputs: what to call the model with; `kwargs` too.
        input_size: instead of inputs, the shape of one input (batch included), or the shapes of several; they are
            filled with zeros.
        dtypes: with `input_size`, the dtypes of those inputs (the default dtype if not given).
        depth: how many levels of modules the text shows; all of them count in the totals.
    """
    if inputs and input_size is not None:
        raise ValueError("summary: give inputs or input_size, not both")
    if input_size is not None:
        inputs = _zeros(input_size, dtypes)
    layers, by_module = _table(model)
    if inputs or kwargs:
        handles = [
            module.register_forward_hook(_recorder(layer), with_kwargs=False) for module, layer in by_module.values()
        ]
        try:
            with _undisturbed(model), no_grad():
                model(*inputs, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
    shapes = tuple(_shape(value) for value in inputs)
    return Summary(type(model).__name__, tuple(layers), depth, shapes)


def _zeros(input_size: Any, dtypes: Sequence[Any] | None) -> tuple[Tensor, ...]:
    sizes = [tuple(input_size)] if all(isinstance(n, int) for n in input_size) else [tuple(s) for s in input_size]
    kinds = list(dtypes) if dtypes is not None else [default_dtype()] * len(sizes)
    if len(kinds) != len(sizes):
        raise ValueError(f"summary: {len(sizes)} inputs, but {len(kinds)} dtypes")
    return tuple(wrap(default_module().zeros(size, kind)) for size, kind in zip(sizes, kinds, strict=True))


def _table(model: Module) -> tuple[list[LayerSummary], dict[int, tuple[Module, LayerSummary]]]:
    layers: list[LayerSummary] = []
    by_module: dict[int, tuple[Module, LayerSummary]] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        own = [value for name, value in module.named_parameters(recurse=False) if id(value) not in seen]
        seen.update(map(id, own))
        layer = LayerSummary(
            path=path,
            kind=type(module).__name__,
            depth=path.count(".") + 1 if path else 0,
            own_parameters=sum(value.data.size for value in own),
            trainable_parameters=sum(value.data.size for value in own if value.requires_grad),
            parameter_bytes=sum(value.data.nbytes for value in own),
            leaf=next(module.children(), None) is None,
        )
        layers.append(layer)
        by_module[id(module)] = module, layer
    return layers, by_module


def _recorder(layer: LayerSummary) -> Callable[..., None]:
    def record(module: Module, args: tuple[Any, ...], output: Any) -> None:
        layer.calls += 1
        layer.output_shape = _shape(output)
        layer.output_bytes += _bytes(output)
        counted = _multiply_adds(module, args, output)
        layer.multiply_adds = None if counted is None else counted + (layer.multiply_adds or 0)

    return record


@contextlib.contextmanager
def _undisturbed(model: Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    state = random.get_state()
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        random.set_state(state)


def _shape(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_shape(each) for each in value)
    if isinstance(value, dict):
        return {key: _shape(each) for key, each in value.items()}
    return tuple(value.shape) if hasattr(value, "shape") else None


def _bytes(value: Any) -> int:
    if isinstance(value, (tuple, list)):
        return sum(map(_bytes, value))
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return value.nbytes if isinstance(value, Tensor) else 0


# -- multiply-adds -----------------------------------------------------------------------------------------------------


def _multiply_adds(module: Module, args: tuple[Any, ...], output: Any) -> int | None:
    """Products of weights with what flows through, by the kind of layer; None where that is not known."""
    matrices = [value for name, value in own_state(module) if value.ndim > 1 and name in vars(module)]
    kind = next((each.__name__ for each in type(module).__mro__ if each.__name__ in _COUNTED), None)
    if kind is not None:
        return _COUNTED[kind](module, matrices, args, output)
    return 0 if not matrices else None


def _per_position(_: Module, matrices: list[Tensor], __: Any, output: Any) -> int:
    """Every weight once for each vector that comes out."""
    return int(sum(m.data.size for m in matrices) * math.prod(output.shape[:-1]))


def _convolution(module: Any, matrices: list[Tensor], args: Any, output: Any) -> int:
    """Every weight once for each pixel: of the output, or for transposed convolutions of the input."""
    image = args[0] if "Transpose" in type(module).__name__ else output
    spatial = matrices[0].ndim - 2
    batch = image.shape[0] if image.ndim == matrices[0].ndim else 1
    return int(matrices[0].data.size * batch * math.prod(image.shape[-spatial:]))


def _recurrent(_: Any, matrices: list[Tensor], args: Any, __: Any) -> int:
    """Every weight once for each step of each sequence."""
    given = getattr(args[0], "data", args[0]) if hasattr(args[0], "batch_sizes") else args[0]
    return int(sum(m.data.size for m in matrices) * math.prod(given.shape[:-1]))


def _attention(module: Any, _: Any, args: Any, __: Any) -> int:
    """Three projections (that of the output is a layer of its own), and the products with keys and with values."""
    query, key, value = (tensor.shape for tensor in args[:3])
    axis = 1 if module.batch_first or len(query) == 2 else 0
    batch = query[1 - axis] if len(query) == 3 else 1
    length, source = (query[0], key[0]) if len(query) == 2 else (query[axis], key[axis])
    width = module.embed_dim
    projections = length * width * query[-1] + source * width * (key[-1] + value[-1])
    return int(batch * (projections + 2 * length * source * width))


_COUNTED: dict[str, Callable[..., int]] = {
    "Linear": _per_position,
    "Bilinear": _per_position,
    "Embedding": lambda *_: 0,
    "EmbeddingBag": lambda *_: 0,
    "LayerNorm": lambda *_: 0,
    "RMSNorm": lambda *_: 0,
    "MultiheadAttention": _attention,
    **{f"Conv{n}d": _convolution for n in (1, 2, 3)},
    **{f"ConvTranspose{n}d": _convolution for n in (1, 2, 3)},
    **dict.fromkeys(("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"), _recurrent),
}


# -- text --------------------------------------------------------------------------------------------------------------

_HEADS = ("Layer", "Kind", "Output shape", "Parameters", "Memory", "Multiply-adds")


def _text(found: Summary) -> str:
    called = any(layer.calls for layer in found.layers)
    rows = [_row(layer, called) for layer in found.layers if found.depth is None or layer.depth <= found.depth]
    columns = [0, 1, *([2] if called else []), 3, 4, *([5] if called else [])]
    widths = {c: max(len(_HEADS[c]), *(len(row[c]) for row in rows)) for c in columns}

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cells[c].ljust(widths[c]) if c < 3 else cells[c].rjust(widths[c]) for c in columns).rstrip()

    width = sum(widths.values()) + 2 * (len(columns) - 1)
    title = found.name + (f"  ←  {', '.join(map(_shape_text, found.input_shapes))}" if found.input_shapes else "")
    frozen = found.total_parameters - found.trainable_parameters
    totals = f"{found.total_parameters:,} parameters ({_size(found.parameter_bytes)})"
    totals += f", {frozen:,} of them frozen" if frozen else ", all trainable" if found.total_parameters else ""
    lines = [title, "━" * width, line(_HEADS), "─" * width, *map(line, rows), "━" * width, totals]
    if called:
        lines.append(
            f"{found.multiply_adds:,} multiply-adds, {_size(found.output_bytes)} of layer outputs in one forward pass"
        )
    return "\n".join(lines)


def _row(layer: LayerSummary, called: bool) -> tuple[str, ...]:
    name = layer.path.rpartition(".")[2] or "(model)"
    counted = "" if layer.multiply_adds is None else f"{layer.multiply_adds:,}" if layer.multiply_adds else ""
    return (
        "  " * max(layer.depth - 1, 0) + name,
        layer.kind + (f" × {layer.calls}" if layer.calls > 1 else ""),
        ("not called" if called and not layer.calls else _shape_text(layer.output_shape)),
        f"{layer.own_parameters:,}" if layer.own_parameters else "",
        _size(layer.parameter_bytes) if layer.own_parameters else "",
        counted,
    )


def _shape_text(shape: Any) -> str:
    if shape is None:
        return ""
    if isinstance(shape, dict):
        return ", ".join(f"{key}: {_shape_text(each)}" for key, each in shape.items())
    if any(not isinstance(size, int) for size in shape):
        return ", ".join(_shape_text(each) for each in shape if each is not None)
    return " × ".join(map(str, shape)) if shape else "scalar"


def _size(num_bytes: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if num_bytes < 1000 or unit == "GB":
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return ""
