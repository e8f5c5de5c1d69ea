"""`out=`: a result written into a tensor that is there already, outside of the graph."""

from __future__ import annotations

from cordee.trainer.array import is_complex, is_float
from cordee.trainer.autograd.mode import MODE
from cordee.trainer.autograd.writes import BOOK
from cordee.trainer.errors import GraphError, ShapeError
from cordee.trainer.tensors import Leaf, Tensor

__all__ = ["into"]


def into(out: Tensor, result: Tensor) -> Tensor:
    """`out`, with the values of a result.

    Raises:
        GraphError: a gradient is wanted of one of them, which `out=` would lose.
        ShapeError: `out` has another shape. (PyTorch resizes it, with a warning.)
        TypeError: its dtype cannot hold the result.
    """
    if MODE.enabled and (out._node is not None or result._node is not None):
        raise GraphError("out= is outside of the graph, but a gradient is wanted here: leave it out, or use no_grad()")
    if out.shape != result.shape:
        raise ShapeError(f"out has shape {out.shape}, the result {result.shape}: they must be the same")
    if _rank(result) > _rank(out):
        raise TypeError(f"out is {out.dtype.name}, which cannot hold a result of {result.dtype.name}")
    write = BOOK.note(out.data, "out=")
    if isinstance(out._node, Leaf):
        out._node.written = Leaf.newest = write.number
    out.data[...] = result.data
    return out


def _rank(tensor: Tensor) -> int:
    """Which kinds of numbers hold which others."""
    dtype = tensor.dtype
    return 3 if is_complex(dtype) else 2 if is_float(dtype) else int(dtype.kind != "b")
