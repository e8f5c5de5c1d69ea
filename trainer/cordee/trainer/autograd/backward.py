"""Backward: one walk over the recorded nodes, newest first, each asking its op's rule for its inputs' gradients.

Arrays flow on the fast path. With `create_graph`, tensors flow instead, the same rules record as they compute, and the
gradient can be differentiated again. Saved arrays are dropped as the walk passes, unless the graph is to be retained.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from cordee.trainer.array import array_module, is_float
from cordee.trainer.autograd.anomaly import inspect_gradient, is_anomaly_enabled
from cordee.trainer.autograd.casting import SWITCH, suspended
from cordee.trainer.autograd.graph import PICK, Node, apply, pick
from cordee.trainer.autograd.hooks import HOOKS
from cordee.trainer.autograd.mode import set_grad_enabled
from cordee.trainer.autograd.record import REGISTRY, Op, shape_of
from cordee.trainer.autograd.vocabulary import array_vocabulary
from cordee.trainer.autograd.writes import BOOK
from cordee.trainer.errors import GraphError, ShapeError
from cordee.trainer.tensors import Leaf, Tensor, wrap

__all__ = ["backward", "grad"]

Edge: TypeAlias = "Node | Leaf"
_ndarray = np.ndarray
_by_number = operator.attrgetter("number")


class _TensorVocabulary:
    """The ops on tensors, recorded: the second reading of the vocabulary."""

    raw = False

    def __getattr__(self, name: str) -> Any:
        record = REGISTRY[name]

        def call(*inputs: Any, **params: Any) -> Tensor:
            return apply(record, *inputs, **params)  # type: ignore[no-any-return]

        setattr(self, name, call)
        return call


TENSOR_VOCABULARY = _TensorVocabulary()


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
    found = _Walk(seeds, bool(create_graph if retain_graph is None else retain_graph), create_graph, targets).run()
    for leaf in targets or ():
        if leaf in found:
            (_add_tensor if create_graph else _add_array)(leaf, found[leaf])
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
    found = _Walk(seeds, retain, create_graph, frozenset(targets)).run()
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
        results.append(None if value is None else _as_gradient(value, tensor))
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
        return _cast(given, data.dtype) if create_graph else given.data.astype(data.dtype, copy=False)
    seed = array_module(data).full(data.shape, gradient, data.dtype)
    return wrap(seed) if create_graph else seed


def _cast(gradient: Tensor, dtype: Any) -> Tensor:
    """A gradient in a dtype, still in its graph."""
    return (
        gradient
        if gradient.data.dtype == dtype
        else apply(REGISTRY["cast"], gradient, dtype=dtype, source=gradient.data.dtype)
    )


def _as_gradient(value: Any, tensor: Tensor) -> Tensor:
    """What was found for a tensor, as a tensor of its dtype (operations of mixed dtypes compute in the widest)."""
    dtype = tensor.data.dtype
    if isinstance(value, Tensor):
        return _cast(value, dtype) if is_float(dtype) else value
    return wrap(array_module(tensor.data).asarray(value, dtype if is_float(dtype) else None))


class _Walk:
    """One backward: gradients on their way, and where they are to end.

    Without targets they end in the leaves' `.grad`; with targets they are collected in `found`, and nodes that lead to
    no target are not visited.
    """

    def __init__(
        self, grads: dict[Any, Any], retain: bool, create_graph: bool, targets: frozenset[Edge] | None = None
    ) -> None:
        self.grads = grads
        self.retain = retain
        self.create_graph = create_graph
        self.targets = targets
        self.order = _reachable(grads)
        self.found: dict[Edge, Any] = {}
        if targets is not None:  # an output may itself be a target
            self.found = {edge: g for edge, g in grads.items() if type(edge) is Leaf and edge in targets}
        self.useful: set[Any] | None = None if targets is None else _leading_to(targets, self.order)
        self.wanted: set[Any] | None = None if targets is None or self.useful is None else self.useful | targets
        self.in_leaves = targets is None
        self.inspect = inspect_gradient if is_anomaly_enabled() else None
        self.direct = targets is None and not create_graph  # arrays, on their way to the leaves
        self.short = self.direct and self.inspect is None  # and short cuts are allowed
        self.hooked, self.watched = bool(HOOKS), bool(BOOK)
        self.overtaken = bool(self.order) and Leaf.newest > self.order[-1].number  # some leaf was written to since
        self.owned: set[Edge] = set()  # whose gradient so far is an array that only this walk refers to
        self.F: Any = TENSOR_VOCABULARY if create_graph else array_vocabulary(array_module(*grads.values()))

    def run(self) -> dict[Edge, Any]:
        """Visit the nodes, newest first: by then, all that was computed from a node's output has been visited."""
        if self.create_graph and SWITCH.on:  # rules are computed in the dtypes of the forward, also by tensors
            with suspended():
                return self._run()
        return self._run()

    def _run(self) -> dict[Edge, Any]:
        grads, targets, retain = self.grads, self.targets, self.retain
        with set_grad_enabled(self.create_graph):
            for node in self.order:
                g = grads.pop(node, None)
                if g is None:
                    continue
                if type(g) is not _ndarray and isinstance(g, np.generic):
                    g = np.asarray(g)  # of no dimensions: NumPy's sums and products are numbers, which no rule expects
                if self.hooked and node in HOOKS:
                    g = HOOKS.run(node, g)
                if targets is not None and node in targets:
                    self.found[node] = g
                    if self.useful is not None and node not in self.useful:
                        continue
                try:
                    self._visit(node, g)
                except Exception as error:
                    error.add_note(f"while computing the gradient of {node.op.name}, recorded at {node.where}")
                    raise
                if not retain and node.op.keeps:
                    node.saved = node.out = node.params = None  # type: ignore[assignment]
            for edge, g in grads.items():  # those of leaves; without targets, of leaves with hooks
                if targets is None:
                    _to_leaf(edge, g, self.create_graph)
                elif edge in targets:
                    self.found[edge] = HOOKS.run(edge, g) if self.hooked and edge in HOOKS else g
        return self.found

    def _visit(self, node: Node, g: Any) -> None:
        """From the gradient of a node's output to those of its inputs."""
        F, op, params, edges, wanted, short = self.F, node.op, node.params, node.edges, self.wanted, self.short
        saved = inputs = node.saved
        out = node.out
        if op is PICK:
            self._collect(edges[0], params["index"], g)
            return
        if saved is None or inputs is None:
            raise GraphError(
                f"what {op.name}, recorded at {node.where}, had saved for its gradient was freed by an earlier "
                "backward(): pass retain_graph=True there to go through the graph twice"
            )
        if self.watched:
            BOOK.check(node, saved, out)
        for edge, value in zip(edges, saved, strict=True) if self.overtaken else ():
            if type(edge) is Leaf and edge.written > node.number and hasattr(value, "dtype"):
                raise GraphError(
                    f"a tensor of shape {value.shape} that {op.name}, recorded at {node.where}, has to read again for "
                    "its gradient was written to since (by an optimiser's step, or under no_grad()): call backward() "
                    "first, or compute anew"
                )
        if self.create_graph:
            inputs, out = _attached(node, saved, out)
        joint = None
        conjugated = False
        if op.many:
            g = tuple(g)
            if op.holomorphic and any(part is not None and part.dtype.kind == "c" for part in g):
                conjugated, g = True, tuple([None if part is None else F.conj(part) for part in g])
        elif g.dtype.kind == "c" and op.holomorphic:  # see `Op.holomorphic`
            conjugated, g, short = True, F.conj(g), False
        if op.vjp is not None:
            needs = tuple([e is not None and (wanted is None or e in wanted) for e in edges])
            joint = op.vjp(F, g, out, *inputs, needs=needs, **params)
        for i, edge in enumerate(edges):
            if edge is None or (wanted is not None and edge not in wanted):
                continue
            if joint is not None:
                d = joint[i]
            elif short and op.adds is not None and edge in self.owned:
                op.adds(F, self.grads[edge], g, out, *inputs, **params)
                continue
            elif short and op.writes and _write(op, i, edge, F, g, out, inputs, params):
                continue
            else:
                rule = op.vjps[i]
                d = None if rule is None else rule(F, g, out, *inputs, **params)
            if d is None:
                continue
            if conjugated:
                d = F.conj(d)
            if self.inspect is not None:
                self.inspect(node, i, g, d)
            if op.broadcasts:
                shape = shape_of(saved[i])
                if d.shape != shape:
                    d = F.sum_to(d, shape=shape)
            if self.in_leaves and type(edge) is Leaf and not (self.hooked and edge in HOOKS):
                (_add_array if self.direct else _add_tensor)(edge, d)
            else:
                self._add(edge, d, op.adds is not None)

    def _collect(self, parent: Any, index: int, g: Any) -> None:
        """The gradient of one output of several, kept until their node is visited."""
        parts = self.grads.get(parent)
        if parts is None:
            self.grads[parent] = parts = [None] * len(parent.op.outputs)
        parts[index] = g if parts[index] is None else parts[index] + g  # a rule's own uses of the output add to it

    def _add(self, edge: Edge, d: Any, fresh: bool) -> None:
        """Add to the gradient of a node that is still to be visited; in place where no one else can see it."""
        known = self.grads.get(edge)
        if known is None:
            if fresh:
                self.owned.add(edge)
        elif self.direct and edge in self.owned:
            known += d
            d = known
        else:
            d = known + d
            if d.ndim:  # without dimensions NumPy's sum is a number, which cannot be added to in place
                self.owned.add(edge)
        self.grads[edge] = d


def _reachable(roots: dict[Any, Any]) -> list[Node]:
    """All nodes from which gradients may have to flow, newest first."""
    order: list[Node] = [root for root in roots if type(root) is not Leaf]
    seen: set[Any] = set(order)
    for node in order:  # grows as it goes
        for edge in node.edges:
            if edge is not None and edge not in seen and not isinstance(edge, Leaf):
                seen.add(edge)
                order.append(edge)
    order.sort(key=_by_number, reverse=True)
    return order


def _leading_to(targets: frozenset[Edge], order: list[Node]) -> set[Any]:
    """The nodes from which some path leads on to a target."""
    useful: set[Any] = set()
    for node in reversed(order):  # oldest first: inputs before what was made from them
        if any(edge in targets or edge in useful for edge in node.edges):
            useful.add(node)
    return useful


def _attached(node: Node, saved: tuple[Any, ...], out: Any) -> tuple[tuple[Any, ...], Any]:
    """What the rule reads, as tensors in their places in the graph. Made anew, so that no node refers to itself."""
    inputs = tuple(
        wrap(value, edge) if hasattr(value, "dtype") else value for value, edge in zip(saved, node.edges, strict=True)
    )
    if out is None:
        return inputs, None
    return inputs, pick(out, node) if node.op.many else wrap(out, node)


def _write(
    op: Op, i: int, edge: Edge, F: Any, g: Any, out: Any, inputs: tuple[Any, ...], params: dict[str, Any]
) -> bool:
    """Let the op compute a leaf's first gradient right where the optimiser wants it, if it can: saves a copy."""
    rule = op.writes[i]
    tensor = edge.ref() if rule is not None and type(edge) is Leaf else None
    if rule is None or tensor is None or tensor._grad is not None or (HOOKS and edge in HOOKS):
        return False
    sink = tensor._sink
    if sink is None or sink.dtype != g.dtype:
        return False
    rule(F, sink, g, out, *inputs, **params)
    tensor._grad = wrap(sink)
    return True


def _to_leaf(leaf: Leaf, g: Any, recorded: bool) -> None:
    """A gradient has reached a leaf: through its hooks into its `.grad`."""
    hooked = leaf in HOOKS
    (_add_tensor if recorded else _add_array)(leaf, HOOKS.run(leaf, g) if hooked else g)
    if hooked:
        HOOKS.accumulated(leaf)


def _add_array(leaf: Leaf, g: Any) -> None:
    """Add an array to a leaf's gradient; the first one is written to where the optimiser wants it."""
    tensor = leaf.ref()
    if tensor is None:
        return
    known = tensor._grad
    if known is not None:
        if known._node is None:
            known.data += g
        else:
            tensor._grad = wrap(array_module(known.data).asarray(known.data + g))
        return
    sink = tensor._sink
    if sink is None:
        tensor._grad = wrap(array_module(g).array(g, dtype=tensor.data.dtype, order="C"))
    else:
        sink[...] = g
        tensor._grad = wrap(sink)


def _add_tensor(leaf: Leaf, g: Tensor) -> None:
    """Add a tensor to a leaf's gradient, keeping the graph."""
    tensor = leaf.ref()
    if tensor is None:
        return
    g = _as_gradient(g, tensor)
    # As in PyTorch a copy: what arrives may be another leaf's gradient, too, and is not to be added to through this.
    tensor._grad = apply(REGISTRY["clone"], g) if tensor._grad is None else tensor._grad + g
