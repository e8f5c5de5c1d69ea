"""The walk that can do everything: towards chosen tensors, recorded itself, or with every gradient looked at.

It is several times slower for a small operation than the plain one of `walk.py`, whose laws it shares: nodes are
visited newest first, gradients are added up in the order of those visits.
"""

from __future__ import annotations

import operator
from typing import Any, TypeAlias

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.anomaly import inspect_gradient, is_anomaly_enabled
from cordee.trainer.autograd.arrive import add_array, add_tensor, to_leaf
from cordee.trainer.autograd.casting import SWITCH, suspended
from cordee.trainer.autograd.graph import PICK, Node, apply, pick
from cordee.trainer.autograd.hooks import HOOKS
from cordee.trainer.autograd.mode import set_grad_enabled
from cordee.trainer.autograd.record import REGISTRY, shape_of
from cordee.trainer.autograd.vocabulary import array_vocabulary
from cordee.trainer.autograd.walk import check_unwritten, collect, freed, gradients
from cordee.trainer.autograd.writes import BOOK
from cordee.trainer.tensors import Leaf, Tensor, wrap

__all__ = ["Edge", "Walk"]

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


class Walk:
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
                    to_leaf(edge, g, self.create_graph)
                elif edge in targets:
                    self.found[edge] = HOOKS.run(edge, g) if self.hooked and edge in HOOKS else g
        return self.found

    def _visit(self, node: Node, g: Any) -> None:
        """From the gradient of a node's output to those of its inputs."""
        op, edges, wanted = node.op, node.edges, self.wanted
        saved = inputs = node.saved
        out = node.out
        if op is PICK:
            collect(self.grads, edges[0], node.params["index"], g)
            return
        if saved is None or inputs is None:
            raise freed(node)
        if self.watched:
            BOOK.check(node, saved, out)
        if self.overtaken:
            check_unwritten(node, saved)
        if self.create_graph:
            inputs, out = _attached(node, saved, out)
        needs = [edge is not None and (wanted is None or edge in wanted) for edge in edges]
        for i, found in enumerate(gradients(self.F, node, g, inputs, out, needs)):
            edge, d = edges[i], found
            if d is None or edge is None:
                continue
            if self.inspect is not None:
                self.inspect(node, i, g, d)
            if node.uneven:
                shape = shape_of(saved[i])
                if d.shape != shape:
                    d = self.F.sum_to(d, shape=shape)
            if self.in_leaves and type(edge) is Leaf and not (self.hooked and edge in HOOKS):
                (add_array if self.direct else add_tensor)(edge, d)
            else:
                self._add(edge, d, op.adds is not None)

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
