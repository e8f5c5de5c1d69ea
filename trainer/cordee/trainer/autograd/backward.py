"""Backward: the gradients of what was computed, added to the leaves' `.grad` or returned.

Arrays flow on the fast path (`walk.py`). With `create_graph`, tensors flow instead (`recorded_walk.py` and the rest of
what is rare), the same rules record as they compute, and the gradient can be differentiated again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cordee.trainer.array import array_module
from cordee.trainer.autograd.anomaly import is_anomaly_enabled
from cordee.trainer.autograd.arrive import add_array, add_tensor, as_gradient, cast
from cordee.trainer.autograd.general_walk import Edge, Walk
from cordee.trainer.autograd.hooks import HOOKS
from cordee.trainer.autograd.walk import walk
from cordee.trainer.autograd.writes import BOOK
from cordee.trainer.errors import GraphError, ShapeError
from cordee.trainer.tensors import Leaf, Tensor, wrap

__all__ = ["backward", "grad"]


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | float | Sequence[Tensor | float | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Add the gradient of the tensors' sum to `.grad` of every leaf that they were computed from.

    Args:
        grad_tensors: the gradients of the tensors themselves; not needed for those of one element.
        inputs: add to these leaves only.

    Raises:
        GraphError: a tensor requires no gradient, or an input is no leaf that does.
    """
    seeds = _seeds("backward()", "tensor", tensors, grad_tensors, create_graph)
    targets = None
    if inputs is not None:
        targets = frozenset([_leaf(tensor) for tensor in ((inputs,) if isinstance(inputs, Tensor) else inputs)])
        if not targets:
            raise ValueError("backward(): inputs names no tensor; leave it out to reach all leaves")
    retain = bool(create_graph if retain_graph is None else retain_graph)
    if targets is None and not create_graph and not is_anomaly_enabled():
        walk(seeds, retain)
        return
    found = Walk(seeds, retain, create_graph, targets).run()
    for leaf in targets or ():
        if leaf in found:
            (add_tensor if create_graph else add_array)(leaf, found[leaf])
            if HOOKS and leaf in HOOKS:
                HOOKS.accumulated(leaf)


def _leaf(tensor: Tensor) -> Leaf:
    if not isinstance(tensor._node, Leaf):
        raise GraphError("backward(): inputs must be leaves that require a gradient; grad() returns any tensor's")
    return tensor._node


def _seeds(name: str, what: str, tensors: Any, gradients: Any, create_graph: bool) -> dict[Edge, Any]:
    """Where to start, and with which gradients."""
    tensors = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
    if gradients is None or not isinstance(gradients, (tuple, list)):
        gradients = (gradients,) * len(tensors)
    if len(gradients) != len(tensors):
        raise ValueError(f"{name}: there are {len(gradients)} gradients for {len(tensors)} {what}s: one for each")
    seeds: dict[Edge, Any] = {}
    for i, (tensor, gradient) in enumerate(zip(tensors, gradients, strict=True)):
        node = tensor._node
        if node is None:
            which = "a tensor" if len(tensors) == 1 else f"{what} {i}, which"
            raise GraphError(
                f"{name} on {which} that does not require a gradient: nothing it came from does, or it was computed "
                "under no_grad()"
            )
        if BOOK:
            BOOK.check_view(node, math.inf, name)
        seed, known = _seed(tensor, gradient, create_graph), seeds.get(node)
        seeds[node] = seed if known is None else known + seed
    return seeds


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of the outputs' sum with respect to the inputs, returned rather than added to `.grad`.

    Args:
        only_inputs: PyTorch's, where it has no effect any more either.
        allow_unused: None for inputs that the outputs do not depend on, rather than an error.
        is_grads_batched: `grad_outputs` have a first dimension more: one backward for each entry, and the results
            have that dimension, too.
        materialize_grads: zeros rather than None for inputs that the outputs do not depend on.

    Raises:
        GraphError: an output or an input requires no gradient, or an input is not used and may not be.
    """
    del only_inputs
    if is_grads_batched:
        options = (create_graph, True, allow_unused, False, materialize_grads)
        return _grads_of_batch(outputs, inputs, grad_outputs, retain_graph, options)
    if allow_unused is None:
        allow_unused = materialize_grads
    elif materialize_grads and not allow_unused:
        raise ValueError("grad(): materialize_grads=True is for unused inputs, which allow_unused=False refuses")
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    targets: list[Edge] = []
    for i, tensor in enumerate(inputs):
        if tensor._node is None:
            raise GraphError(f"grad(): input {i} does not require a gradient")
        targets.append(tensor._node)
    seeds = _seeds("grad()", "output", outputs, grad_outputs, create_graph)
    retain = bool(create_graph if retain_graph is None else retain_graph)
    found = Walk(seeds, retain, create_graph, frozenset(targets)).run()
    results: list[Tensor | None] = []
    for i, (tensor, target) in enumerate(zip(inputs, targets, strict=True)):
        value = found.get(target)
        if value is None and not allow_unused:
            raise GraphError(
                f"grad(): the outputs do not depend on input {i} (of shape {tensor.shape}); "
                "pass allow_unused=True to get None for it"
            )
        if value is None and materialize_grads:
            value = array_module(tensor.data).zeros_like(tensor.data)
        results.append(None if value is None else as_gradient(value, tensor))
    return tuple(results)


def _grads_of_batch(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any,
    retain_graph: bool | None,
    options: tuple[Any, ...],
) -> tuple[Tensor | None, ...]:
    """`grad` for every entry of the first dimension of `grad_outputs`, stacked."""
    from cordee.trainer.ops import stack

    batched = (grad_outputs,) if isinstance(grad_outputs, Tensor) else tuple(grad_outputs or ())
    if not batched or any(value is None or not value.ndim for value in batched):
        raise ValueError("grad(): is_grads_batched=True needs grad_outputs with a first dimension of their own")
    last = len(batched[0]) - 1
    create_graph, *_ = options
    retain = create_graph if retain_graph is None else retain_graph
    rows = [
        grad(outputs, inputs, [value[i] for value in batched], bool(retain or i < last), *options)
        for i in range(last + 1)
    ]
    return tuple(None if column[0] is None else stack(column) for column in zip(*rows, strict=True))


def _seed(tensor: Tensor, gradient: Any, create_graph: bool) -> Any:
    """The gradient to start from: an array, or a tensor when a graph is wanted."""
    data = tensor.data
    if gradient is None:
        if data.size != 1:
            raise GraphError(
                f"backward() without a gradient needs a tensor of one element, not of shape {tensor.shape}: "
                "reduce it, or pass gradient="
            )
        if data.dtype.kind == "c":
            raise GraphError(
                f"backward() without a gradient needs a real tensor, not {data.dtype.name}: "
                "take abs(), real or imag of it, or pass gradient="
            )
        gradient = 1.0
    if isinstance(gradient, Tensor) or hasattr(gradient, "shape"):
        if gradient.shape != data.shape:
            raise ShapeError(f"the gradient has shape {gradient.shape}, the tensor {data.shape}: they must be the same")
        given = gradient if isinstance(gradient, Tensor) else wrap(array_module(data).asarray(gradient))
        if given.data.dtype.kind == "c" and data.dtype.kind != "c":
            raise GraphError(f"the gradient of a tensor of {data.dtype.name} is real, not {given.data.dtype.name}")
        return cast(given, data.dtype) if create_graph else given.data.astype(data.dtype, copy=False)
    seed = array_module(data).empty(data.shape, data.dtype)
    seed.fill(gradient)
    return wrap(seed) if create_graph else seed
