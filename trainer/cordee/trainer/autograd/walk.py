"""The walk of a plain `backward()`: arrays, from the newest node to the leaves' `.grad`.

Nodes bear numbers that grow with time, so the newest of those that have a gradient has all of it: what was computed
from its output has been visited. Along a chain that is always the node just come to, and the walk goes straight on,
without noting anything down. Saved arrays are dropped as the walk passes, unless the graph is to be retained, and
nothing here holds a gradient longer than its node's visit: memory falls as the walk goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.arrive import add_array, to_leaf, write
from cordee.trainer.autograd.fusing import LEAST
from cordee.trainer.autograd.graph import PICK, Node
from cordee.trainer.autograd.hooks import HOOKS
from cordee.trainer.autograd.mode import MODE
from cordee.trainer.autograd.record import Op, shape_of
from cordee.trainer.autograd.vocabulary import array_vocabulary
from cordee.trainer.autograd.writes import BOOK
from cordee.trainer.errors import GraphError
from cordee.trainer.tensors import Leaf

__all__ = ["check_unwritten", "collect", "freed", "gradients", "walk"]

_ndarray = np.ndarray
_FLOAT32 = np.dtype(np.float32)


def walk(grads: dict[Any, Any], retain: bool) -> None:
    """Add to the leaves' `.grad` what flows from these gradients of nodes (and of leaves), which are used up."""
    F = array_vocabulary(array_module(*grads.values()))
    least = LEAST if F.xp is np else 0  # on a device fused loops always pay
    heap = [(-edge.number, edge) for edge in grads if type(edge) is not Leaf]  # of the nodes in `grads`, the newest
    heapify(heap)
    owned: set[Any] = set()  # those whose gradient so far is an array that only this walk refers to
    hooked, watched, newest_write = bool(HOOKS), bool(BOOK), Leaf.newest
    node: Any = None
    edge: Any
    following: Any
    coming: Any = None
    outer, MODE.enabled = MODE.enabled, False
    try:
        while heap:
            node = heappop(heap)[1]
            g = grads.pop(node)
            while node is not None:
                if type(g) is not _ndarray and isinstance(g, np.generic):
                    g = np.asarray(g)  # of no dimensions: NumPy's sums and products are numbers, which no rule expects
                if hooked and node in HOOKS:
                    g = HOOKS.run(node, g)
                op, edges, saved, out, params = node.op, node.edges, node.saved, node.out, node.params
                if saved is None:
                    raise freed(node)
                if watched:
                    BOOK.check(node, saved, out)
                if node.number < newest_write:
                    check_unwritten(node, saved)
                rules = op.small_vjps if op.joint or g.size < least else op.vjps
                special: Any = None
                following = None
                if op.joint or (g.dtype is not _FLOAT32 and g.dtype.kind == "c"):
                    if op is PICK:
                        if collect(grads, edges[0], params["index"], g):
                            heappush(heap, (-edges[0].number, edges[0]))
                        break
                    special = list(gradients(F, node, g, saved, out, [edge is not None for edge in edges]))
                elif op.lone:  # one input, and nothing else to look at
                    edge = edges[0]
                    d = rules[0](F, g, out, *saved, **params) if params else rules[0](F, g, out, saved[0])
                    if not retain and op.keeps:
                        node.saved = node.out = node.params = None
                    if not grads and d is not None and type(edge) is not Leaf:
                        node, g = edge, d
                        continue
                    special = (d,)
                i = -1
                for edge in edges:
                    i += 1
                    if edge is None:
                        continue
                    if special is not None:
                        d = special[i]
                    elif (
                        op.short[i] and _written(F, op, i, edge, g, grads, owned, hooked, out, saved, params)
                    ) or rules[i] is None:
                        continue
                    elif params:
                        d = rules[i](F, g, out, *saved, **params)
                    elif len(saved) == 2:
                        d = rules[i](F, g, out, saved[0], saved[1])
                    else:
                        d = rules[i](F, g, out, *saved)
                    if d is None:
                        continue
                    if node.uneven:
                        shape = shape_of(saved[i])
                        if d.shape != shape:
                            d = F.sum_to(d, shape=shape)
                    is_leaf = type(edge) is Leaf
                    if is_leaf:
                        if not hooked or edge not in HOOKS:
                            add_array(edge, d, 0 if special is None else 1)
                            continue
                    elif following is None and edge not in grads:
                        following, coming = edge, d
                        continue
                    if edge is following:
                        grads[edge], following = coming, None
                        heappush(heap, (-edge.number, edge))
                    known = grads.get(edge)
                    if known is None:
                        if not is_leaf:
                            heappush(heap, (-edge.number, edge))
                        if op.adds is not None:
                            owned.add(edge)
                    elif edge in owned:
                        known += d
                        d = known
                    else:
                        d = known + d
                        if d.ndim:  # without dimensions NumPy's sum is a number, which cannot be added to in place
                            owned.add(edge)
                    grads[edge] = d
                d = known = special = out = None
                if not retain and op.keeps:
                    node.saved = node.out = node.params = None
                if following is not None and heap and heap[0][0] < -following.number:
                    grads[following] = coming
                    heappush(heap, (-following.number, following))
                    if op.adds is not None:
                        owned.add(following)
                    following = None
                node = following
                if node is not None:
                    g = coming
                coming = None
        node = None
        for edge, g in grads.items():
            to_leaf(edge, g, False)
    except Exception as error:
        if node is not None:
            error.add_note(f"while computing the gradient of {node.op.name}, recorded at {node.where}")
        raise
    finally:
        MODE.enabled = outer


def _written(
    F: Any, op: Op, i: int, edge: Any, g: Any, grads: dict[Any, Any], owned: set[Any], hooked: bool,
    out: Any, saved: Any, params: Any,
) -> bool:  # fmt: skip
    """Let an op add a gradient to one that is there, or write it to where an optimiser wants it, if it can."""
    if op.adds is not None:
        if edge not in owned:
            return False
        op.adds(F, grads[edge], g, out, *saved, **params)
        return True
    if type(edge) is not Leaf or (hooked and edge in HOOKS):
        return False
    return write(edge, op.writes[i], F, g, out, saved, params)


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
