"""Convolutions and attention on a GPU by cuDNN, through its frontend's graphs.

A graph is made once for its description (shapes, strides, dtypes, params) and then only executed, on addresses; what
cuDNN has no plan for is left to others. Of its plans the first of the heuristics is taken, never one by timing, and
none that adds in another order each time; in single precision none that rounds the factors, unless TF32 is allowed.

Images are kept in memory as (N, …, C) and seen as (N, C, …), as by oneDNN: the order that tensor cores read. Attention
is of bfloat16 and float16 only; for its gradient it keeps the result and one number per query, not the weights. It has
not yet run on a device.
"""

from __future__ import annotations

import functools
import importlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from cordee.trainer.array import device_lack, get_tf32
from cordee.trainer.kernels.cuda.memory import aligned, workspace
from cordee.trainer.kernels.registry import KERNELS

__all__ = [
    "correlate", "flash_attention", "flash_attention_grad", "identity", "lack", "ordered", "spread", "weigh",
]  # fmt: skip

_TYPES = {np.dtype(np.float32): "FLOAT", np.dtype(np.float16): "HALF", np.dtype(ml_dtypes.bfloat16): "BFLOAT16"}
_MAX_GRAPHS = 512
_OTHER_ENGINES = ["frost", "norm_", "sdpa_"]
"""Parts of the names of engines that the frontend brings and compiles itself, while a program runs. cuDNN's are taken:
their notes say which add in another order each time, and they read addresses."""


def lack() -> str:
    """What keeps these kernels from working here; "" if nothing does."""
    if missing := device_lack():
        return missing
    try:
        _library().backend_version()
    except Exception as error:  # the frontend is there, cuDNN itself is not
        return f"cuDNN cannot be loaded ({error}): pip install 'cordee[cuda-libraries]'"
    return ""


def identity() -> str:
    """cuDNN's version, its frontend's, and whether it may use TF32."""
    library = _library()
    return f"cudnn {library.backend_version()}, frontend {library.__version__}{', tf32' if get_tf32() else ''}"


@functools.cache
def _library() -> Any:
    return importlib.import_module("cudnn")


@functools.cache
def _handle() -> Any:
    return _library().create_handle()


# -- graphs ------------------------------------------------------------------------------------------------------------


class _Graph:
    """A computation as cuDNN is told of it, and the plan that it chose."""

    def __init__(self, kind: Any) -> None:
        self._types = _library().data_type
        self.io = getattr(self._types, _TYPES[kind])
        self.graph = _library().pygraph(
            io_data_type=self.io, intermediate_data_type=self._types.FLOAT, compute_data_type=self._types.FLOAT,
            handle=_handle(),
        )  # fmt: skip
        self._uids: list[int] = []
        self._workspace_bytes = 0

    def given(self, shape: Sequence[int], strides: Sequence[int], *, single: bool = False) -> Any:
        """An operand; strides in elements. `single`: float32, whatever the others are."""
        made = self.graph.tensor(
            dim=[*shape], stride=[*strides], data_type=self._types.FLOAT if single else self.io, uid=len(self._uids) + 1
        )
        self._uids.append(len(self._uids) + 1)
        return made

    def result(self, tensor: Any, shape: Sequence[int], strides: Sequence[int], *, single: bool = False) -> None:
        """What is to be written to memory."""
        tensor.set_output(True).set_dim([*shape]).set_stride([*strides]).set_uid(len(self._uids) + 1)
        tensor.set_data_type(self._types.FLOAT if single else self.io)
        self._uids.append(len(self._uids) + 1)

    def plan(self, exact: bool) -> bool:
        """Choose a plan; whether there is one. `exact`: without rounding factors."""
        library, notes = _library(), _library().numerical_note
        refused = [notes.NONDETERMINISTIC]
        if exact:
            refused += [notes.TENSOR_CORE, notes.DOWN_CONVERT_INPUTS, notes.REDUCED_PRECISION_REDUCTION]
        try:
            self.graph.validate()
            self.graph.build_operation_graph()
            self.graph.create_execution_plans([library.heur_mode.A, library.heur_mode.FALLBACK])
            self.graph.deselect_numeric_notes(refused)
            self.graph.deselect_engines(_OTHER_ENGINES)
            self.graph.check_support()
            self.graph.build_plans()
        except (library.cudnnGraphNotSupportedError, NotImplementedError):
            return False
        self._workspace_bytes = int(self.graph.get_workspace_size())
        return True

    def run(self, *arrays: Any) -> None:
        """On these arrays, in the order of `given` and `result`, on the current stream."""
        stream = importlib.import_module("cupy").cuda.get_current_stream()
        _library().set_stream(handle=_handle(), stream=stream.ptr)
        addresses = {uid: int(array.data.ptr) for uid, array in zip(self._uids, arrays, strict=True)}
        self.graph.execute(addresses, workspace(self._workspace_bytes, stream), handle=_handle())


_graphs: OrderedDict[Any, _Graph | None] = OrderedDict()


def _planned(describe: Callable[..., None], kind: Any, *description: Any) -> _Graph | None:
    """The graph that `describe(graph, *description)` tells; None: cuDNN cannot compute it."""
    tf32 = get_tf32()
    key = (describe, kind, tf32, *description)
    if key in _graphs:
        _graphs.move_to_end(key)
        return _graphs[key]
    graph: _Graph | None = _Graph(kind)
    assert graph is not None
    describe(graph, *description)
    if not graph.plan(exact=kind == np.float32 and not tf32):
        graph = None
    if len(_graphs) >= _MAX_GRAPHS:
        _graphs.popitem(last=False)
    _graphs[key] = graph
    return graph


def _strides(a: Any) -> tuple[int, ...]:
    itemsize = a.itemsize
    return tuple([stride // itemsize for stride in a.strides])


# -- convolutions ------------------------------------------------------------------------------------------------------

Sizes = tuple[int, ...]


@functools.cache
def _to_last(ndim: int) -> Sizes:
    return (0, *range(2, ndim), 1)


@functools.cache
def _from_last(ndim: int) -> Sizes:
    return (0, ndim - 1, *range(1, ndim - 1))


def _last(a: Any) -> Any:
    """(N, C, …) kept as (N, …, C); with two spatial dimensions where there is one."""
    kept = aligned(importlib.import_module("cupy").ascontiguousarray(a.transpose(_to_last(a.ndim))))
    if a.ndim == 3:
        kept = kept[:, None]
    return kept.transpose(_from_last(kept.ndim))


def _empty(shape: Sizes, kind: Any) -> Any:
    """The same, of this shape, to be written to."""
    kept = importlib.import_module("cupy").empty([shape[i] for i in _to_last(len(shape))], kind)
    if len(shape) == 3:
        kept = kept[:, None]
    return kept.transpose(_from_last(kept.ndim))


def _seen(a: Any, ndim: int) -> Any:
    """With as many dimensions as there were."""
    return a[:, :, 0] if a.ndim > ndim else a


def _slides(window: Any, sizes: Sizes, size: Sizes) -> tuple[tuple[str, tuple[int, ...]], ...] | None:
    """The window as cuDNN is told of it, such that there are so many of them; None where that takes a cut image."""
    before, after = window.padding, []
    for n, m, k, s, p, d in zip(sizes, size, window.kernel, window.stride, before, window.dilation, strict=True):
        after.append((m - 1) * s + d * (k - 1) + 1 - n - p)
        if after[-1] <= -s:  # more windows would fit
            return None
    lines = [[*before], [max(0, n) for n in after], [*window.stride], [*window.dilation]]
    if len(sizes) == 1:
        lines = [[0, *before], [0, max(0, after[0])], [1, *window.stride], [1, *window.dilation]]
    names = ("pre_padding", "post_padding", "stride", "dilation")
    return tuple((name, tuple(line)) for name, line in zip(names, lines, strict=True))


def _takes(a: Any, b: Any) -> bool:
    return a.dtype in _TYPES and a.dtype == b.dtype and 3 <= a.ndim <= 5 and bool(a.size) and bool(b.size)


def _told(slides: Any) -> dict[str, list[int]]:
    return {name: [*values] for name, values in slides}


def _describe_correlate(graph: _Graph, x: Any, w: Any, bias: Any, y: Any, slides: Any) -> None:
    out = graph.graph.conv_fprop(image=graph.given(*x), weight=graph.given(*w), **_told(slides))
    if bias is not None:
        out = graph.graph.bias(input=out, bias=graph.given(*bias))
    graph.result(out, *y)


def _describe_spread(graph: _Graph, dy: Any, w: Any, dx: Any, slides: Any) -> None:
    graph.result(graph.graph.conv_dgrad(loss=graph.given(*dy), filter=graph.given(*w), **_told(slides)), *dx)


def _describe_weigh(graph: _Graph, dy: Any, x: Any, dw: Any, slides: Any) -> None:
    loss, image = graph.given(*dy), graph.given(*x)
    graph.result(graph.graph.conv_wgrad(image=image, loss=loss, **_told(slides)), *dw)


def _layout(a: Any) -> tuple[Sizes, Sizes]:
    """Shape and strides; those of dimensions of size 1 as if there were more, by which cuDNN knows the order."""
    shape = tuple(a.shape)
    strides, step = [0] * len(shape), 1
    for dim in reversed(_to_last(len(shape))):
        strides[dim] = step
        step *= shape[dim]
    return shape, tuple(strides)


def correlate(input: Any, weight: Any, bias: Any, window: Any, groups: int) -> Any:
    size = window.size(input.shape[2:])
    slides = _slides(window, input.shape[2:], size)
    if not _takes(input, weight) or slides is None or (bias is not None and bias.dtype != input.dtype):
        return NotImplemented
    if input.shape[1] != weight.shape[1] * groups:  # cuDNN would see other groups
        return NotImplemented
    x, w = _last(input), _last(weight)
    y = _empty((input.shape[0], weight.shape[0], *size), input.dtype)
    line = None
    if bias is not None:
        ndim, count = x.ndim, bias.size
        line = ((1, count, *(1,) * (ndim - 2)), (count, 1, *(count,) * (ndim - 2)))
    graph = _planned(_describe_correlate, input.dtype, _layout(x), _layout(w), line, _layout(y), slides)
    if graph is None:
        return NotImplemented
    operands = (x, w) if bias is None else (x, w, aligned(importlib.import_module("cupy").ascontiguousarray(bias)))
    graph.run(*operands, y)
    return _seen(y, input.ndim), None


def spread(g: Any, weight: Any, sizes: Sizes, window: Any, groups: int) -> Any:
    slides = _slides(window, tuple(sizes), g.shape[2:])
    if not _takes(g, weight) or slides is None:
        return NotImplemented
    dy, w = _last(g), _last(weight)
    dx = _empty((g.shape[0], weight.shape[1] * groups, *sizes), g.dtype)
    graph = _planned(_describe_spread, g.dtype, _layout(dy), _layout(w), _layout(dx), slides)
    if graph is None:
        return NotImplemented
    graph.run(dy, w, dx)
    return _seen(dx, g.ndim)


def weigh(g: Any, input: Any, window: Any, groups: int, kept: Any = None, with_bias: bool = False) -> Any:
    del kept  # the columns of those who make them
    slides = _slides(window, input.shape[2:], g.shape[2:])
    if not _takes(g, input) or slides is None or g.shape[0] != input.shape[0]:
        return NotImplemented
    dy, x = _last(g), _last(input)
    dw = _empty((g.shape[1], input.shape[1] // groups, *window.kernel), g.dtype)
    graph = _planned(_describe_weigh, g.dtype, _layout(dy), _layout(x), _layout(dw), slides)
    if graph is None:
        return NotImplemented
    graph.run(dy, x, dw)
    sums = None
    if with_bias:
        sums = KERNELS["total"](importlib.import_module("cupy"), dy, axis=(0, *range(2, dy.ndim)), keepdims=False)
    return importlib.import_module("cupy").ascontiguousarray(_seen(dw, g.ndim)), sums


def ordered(g: Any, *_: Any) -> Any:
    return _seen(_last(g), g.ndim) if 3 <= g.ndim <= 5 else NotImplemented


# -- attention ---------------------------------------------------------------------------------------------------------


def _describe_attention(graph: _Graph, q: Any, k: Any, v: Any, o: Any, stats: Any, scale: float, causal: bool) -> None:
    out, numbers = graph.graph.sdpa(
        q=graph.given(*q), k=graph.given(*k), v=graph.given(*v), attn_scale=scale, use_causal_mask=causal,
        generate_stats=True,
    )  # fmt: skip
    graph.result(out, *o)
    graph.result(numbers, *stats, single=True)


def _describe_attention_grad(
    graph: _Graph, q: Any, k: Any, v: Any, o: Any, do: Any, stats: Any, dq: Any, dk: Any, dv: Any, scale: float,
    causal: bool,
) -> None:  # fmt: skip
    found = graph.graph.sdpa_backward(
        q=graph.given(*q), k=graph.given(*k), v=graph.given(*v), o=graph.given(*o), dO=graph.given(*do),
        stats=graph.given(*stats, single=True), attn_scale=scale, use_causal_mask=causal,
        use_deterministic_algorithm=True,
    )  # fmt: skip
    for tensor, place in zip(found, (dq, dk, dv), strict=True):
        graph.result(tensor, *place)


def _heads(a: Any) -> Any:
    """(N, H, L, E), its last dimension in one piece."""
    seen = a[:, None] if a.ndim == 3 else a
    whole = seen if seen.strides[-1] == seen.itemsize else importlib.import_module("cupy").ascontiguousarray(seen)
    return aligned(whole)


def _place(a: Any) -> tuple[Sizes, Sizes]:
    return tuple(a.shape), _strides(a)


def _place_like(a: Any, size: int) -> tuple[Sizes, Sizes]:
    """For another of the shape of `a (N, H, L, E)` but for its last dimension: the heads where they are in `a`."""
    n, heads, length, _ = a.shape
    if a.strides[1] < a.strides[2]:
        return (n, heads, length, size), (length * heads * size, size, heads * size, 1)
    return (n, heads, length, size), (heads * length * size, length * size, size, 1)


def _made(place: tuple[Sizes, Sizes], kind: Any) -> Any:
    (n, heads, length, size), strides = place
    cupy: Any = importlib.import_module("cupy")
    if strides[1] < strides[2]:
        return cupy.empty((n, length, heads, size), kind).transpose(0, 2, 1, 3)
    return cupy.empty((n, heads, length, size), kind)


def flash_attention(query: Any, key: Any, value: Any, *, scale: float, causal: bool) -> Any:
    """And what the gradient needs: the result, and each query's logarithm of its sum of exponentials."""
    if query.dtype.itemsize != 2 or query.dtype not in _TYPES or any(a.dtype != query.dtype for a in (key, value)):
        return NotImplemented
    if query.ndim not in (3, 4) or any(a.shape[:-2] != query.shape[:-2] for a in (key, value)) or not query.size:
        return NotImplemented
    if query.shape[-1] % 8 or value.shape[-1] % 8 or max(query.shape[-1], value.shape[-1]) > 256 or not value.size:
        return NotImplemented
    q, k, v = _heads(query), _heads(key), _heads(value)
    kind, place = q.dtype, _place_like(q, v.shape[-1])
    stats = importlib.import_module("cupy").empty((*q.shape[:-1], 1), np.float32)
    places = (*map(_place, (q, k, v)), place, _place(stats))
    graph = _planned(_describe_attention, kind, *places, float(scale), bool(causal))
    if graph is None or _gradient(q, k, v, place, stats, scale, causal) is None:
        return NotImplemented
    out = _made(place, kind)
    graph.run(q, k, v, out, stats)
    return (out[:, 0] if query.ndim == 3 else out), (out, stats)


def _gradient(q: Any, k: Any, v: Any, place: Any, stats: Any, scale: float, causal: bool) -> _Graph | None:
    """The graph of the gradient, for a result and its slope at this place."""
    into = [_place_like(a, a.shape[-1]) for a in (q, k, v)]
    places = (*map(_place, (q, k, v)), place, place, _place(stats), *into)
    return _planned(_describe_attention_grad, q.dtype, *places, float(scale), bool(causal))


def flash_attention_grad(g: Any, query: Any, key: Any, value: Any, kept: Any, *, scale: float, causal: bool) -> Any:
    """By query, key and value."""
    out, stats = kept
    q, k, v, slope = _heads(query), _heads(key), _heads(value), _heads(g)
    place = _place(out)
    if _strides(slope) != place[1]:
        moved = _made(place, out.dtype)
        moved[...] = slope
        slope = moved
    graph = _gradient(q, k, v, place, stats, scale, causal)
    assert graph is not None, "there was one when the result was computed"
    into = [_made(_place_like(a, a.shape[-1]), a.dtype) for a in (q, k, v)]
    graph.run(q, k, v, out, slope, stats, *into)
    return tuple(a[:, 0] if query.ndim == 3 else a for a in into)
