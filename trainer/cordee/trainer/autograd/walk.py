"""The walk of a plain `backward()`: arrays, from the newest node to the leaves' `.grad`.

Nodes bear numbers that grow with time, so the newest of those that have a gradient has all of it: what was computed
from its output has been visited. Along a chain that is always the node just come to, and the walk goes straight on,
without noting anything down. How a node is visited is written out for each op (`templates.BACK`); `_Way.visit` does
what is left: gradients that one rule computes together, complex ones, hooks. Saved arrays are dropped as the walk
passes, unless the graph is to be retained, and nothing here holds a gradient longer than its node's visit: memory falls
as the walk goes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd import specialised
from cordee.trainer.autograd.arrive import add_array, to_leaf, write, write_wide
from cordee.trainer.autograd.graph import PICK, Node
from cordee.trainer.autograd.hooks import HOOKS
from cordee.trainer.autograd.mode import MODE
from cordee.trainer.autograd.record import shape_of
from cordee.trainer.autograd.vocabulary import array_vocabulary
from cordee.trainer.autograd.writes import BOOK
from cordee.trainer.errors import GraphError
from cordee.trainer.tensors import Leaf

__all__ = ["check_unwritten", "collect", "freed", "gradients", "walk"]

_ndarray = np.ndarray
_FLOAT32 = np.dtype(np.float32)
_NOWHERE = (None, None)


class _Way:
    """Gradients on their way: of nodes that have some, but not yet all of it, and of leaves with hooks."""

    __slots__ = ("F", "grads", "heap", "hooked", "owned", "watched")

    def __init__(self, grads: dict[Any, Any]) -> None:
        self.F = array_vocabulary(array_module(*grads.values()))
        self.grads = grads
        self.heap = [(-edge.number, edge) for edge in grads if type(edge) is not Leaf]  # the newest node first
        heapify(self.heap)
        self.owned: set[Any] = set()  # those whose gradient so far is an array that only this walk refers to
        self.hooked, self.watched = bool(HOOKS), bool(BOOK)

    def meet(self, edge: Any, d: Any, fresh: bool = False) -> Any:
        """Put a gradient beside those on their way, or add it to the one that its node has already.

        Args:
            fresh: nobody else refers to it.
        """
        known = self.grads.get(edge)
        if known is None:
            if type(edge) is not Leaf:
                heappush(self.heap, (-edge.number, edge))
            if fresh:
                self.owned.add(edge)
        elif edge in self.owned:
            known += d
            d = known
        else:
            d = known + d
            if d.ndim:  # without dimensions NumPy's sum is a number, which cannot be added to in place
                self.owned.add(edge)
        self.grads[edge] = d
        return _NOWHERE

    def visit(self, node: Any, g: Any, retain: bool) -> Any:
        """What an op's `back` does, for all ops and with all that may be asked for on the way."""
        F, grads, op, edges = self.F, self.grads, node.op, node.edges
        if self.hooked and node in HOOKS:
            g = HOOKS.run(node, g)
        if op is PICK:
            if collect(grads, edges[0], node.params["index"], g):
                heappush(self.heap, (-edges[0].number, edges[0]))
            return _NOWHERE
        saved, out = node.saved, node.out
        if saved is None:
            raise freed(node)
        if self.watched:
            BOOK.check(node, saved, out)
        if node.number < Leaf.newest:
            check_unwritten(node, saved)
        following: Any = None
        coming: Any = None
        at_once = op.joint or g.dtype.kind == "c"
        found = gradients(F, node, g, saved, out, [edge is not None for edge in edges]) if at_once else None
        for i, edge in enumerate(edges):
            d = next(found) if found is not None else None
            if edge is None or (
                found is None and op.short[i] and self._written(op, i, edge, (g, out, saved, node.params))
            ):
                continue
            if found is None:
                rule = (op.small_vjps if g.size < F.least else op.vjps)[i]
                d = rule and rule(F, g, out, *saved, **node.params)
            if d is None:
                continue
            if node.uneven:
                shape = shape_of(saved[i])
                if d.shape != shape:
                    d = F.sum_to(d, shape=shape)
            if type(edge) is Leaf:
                if self.hooked and edge in HOOKS:
                    self.meet(edge, d)
                else:
                    add_array(edge, d, 0)
            elif following is None and edge not in grads:
                following, coming = edge, d
            else:
                if edge is following:
                    self.meet(edge, coming)
                    following = None
                self.meet(edge, d)
        if not retain and op.keeps:
            node.saved = node.out = node.params = None
        return following, coming

    def _written(self, op: Any, i: int, edge: Any, read: tuple[Any, ...]) -> bool:
        """Let an op add a gradient to one that is there, or write it to where an optimiser wants it, if it can."""
        g, out, saved, params = read
        if op.adds is not None:
            if edge not in self.owned:
                return False
            op.adds(self.F, self.grads[edge], g, out, *saved, **params)
            return True
        if type(edge) is not Leaf:
            return op.autocast == "low" and write_wide(edge, op.writes[i], self.F, g, out, saved, params, self.meet)
        if self.hooked and edge in HOOKS:
            return False
        return write(edge, op.writes[i], self.F, g, out, saved, params)


def walk(grads: dict[Any, Any], retain: bool) -> None:
    """Add to the leaves' `.grad` what flows from these gradients of nodes (and of leaves), which are used up."""
    way = _Way(grads)
    F, heap, visit = way.F, way.heap, way.visit
    # Nodes from this number on are walked over by what was written for their op: nothing was written to since they
    # were recorded, and no hook is to be run.
    plain = math.inf if way.hooked or way.watched else Leaf.newest
    node: Any = None
    outer, MODE.enabled = MODE.enabled, False
    try:
        while heap:
            node = heappop(heap)[1]
            g = grads.pop(node)
            while True:
                if type(g) is not _ndarray and isinstance(g, np.generic):
                    g = np.asarray(g)  # of no dimensions: NumPy's sums and products are numbers, which no rule expects
                op = node.op
                back = op.back
                if back is None or node.number < plain or (g.dtype is not _FLOAT32 and g.dtype.kind == "c"):
                    following, g = visit(node, g, retain)
                else:
                    following, g = back(F, node, g, retain, grads, way)
                if following is None:
                    break
                if heap and heap[0][0] < -following.number:
                    way.meet(following, g, op.adds is not None)
                    break
                node = following
            g = following = None
        node = None
        for edge, g in grads.items():
            to_leaf(edge, g, False)
    except Exception as error:
        if node is not None:
            error.add_note(f"while computing the gradient of {node.op.name}, recorded at {node.where}")
        raise
    finally:
        MODE.enabled = outer


# -- what every walk does ----------------------------------------------------------------------------------------------


def gradients(F: Any, node: Node, g: Any, inputs: Any, out: Any, needs: list[bool]) -> Iterator[Any]:
    """The gradients of a node's inputs by its op's rules, None for those that need none, one after the other.

    Args:
        g: the gradient of its output; of several outputs a list of gradients, None where there is none.
        inputs, out: what the rules read.
    """
    op, params = node.op, node.params
    conjugated = False  # see `Op.holomorphic`
    if op.many:
        g = tuple(g)
        if op.holomorphic and any(part is not None and part.dtype.kind == "c" for part in g):
            conjugated, g = True, tuple([None if part is None else F.conj(part) for part in g])
    elif g.dtype.kind == "c" and op.holomorphic:
        conjugated, g = True, F.conj(g)
    if op.vjp is not None:
        found = op.vjp(F, g, out, *inputs, needs=tuple(needs), **params)
    else:
        found = (
            rule and needed and rule(F, g, out, *inputs, **params) for rule, needed in zip(op.vjps, needs, strict=False)
        )
    for d, needed in zip(found, needs, strict=False):
        yield (F.conj(d) if conjugated else d) if needed and d is not None else None


def collect(grads: dict[Any, Any], parent: Any, index: int, g: Any) -> bool:
    """Keep the gradient of one output of several until their node is visited; True: it is the first."""
    first = parent not in grads
    parts = grads.setdefault(parent, [None] * len(parent.op.outputs))
    parts[index] = g if parts[index] is None else parts[index] + g  # a rule's own uses of the output add to it
    return first


def freed(node: Node) -> GraphError:
    """What is raised where saved values are gone."""
    return GraphError(
        f"what {node.op.name}, recorded at {node.where}, had saved for its gradient was freed by an earlier "
        "backward(): pass retain_graph=True there to go through the graph twice"
    )


def check_unwritten(node: Node, saved: tuple[Any, ...]) -> None:
    """Refuse a node that would read a leaf which was written to since.

    Raises:
        GraphError: it names the operation, and where it was recorded.
    """
    for edge, value in zip(node.edges, saved, strict=True):
        if type(edge) is Leaf and edge.written > node.number and hasattr(value, "dtype"):
            raise GraphError(
                f"a tensor of shape {value.shape} that {node.op.name}, recorded at {node.where}, has to read again for "
                "its gradient was written to since (by an optimiser's step, or under no_grad()): call backward() "
                "first, or compute anew"
            )


specialised.NAMES.update(
    Leaf=Leaf, NOWHERE=_NOWHERE, add_array=add_array, freed=freed, shape_of=shape_of, write=write, write_wide=write_wide
)  # fmt: skip
