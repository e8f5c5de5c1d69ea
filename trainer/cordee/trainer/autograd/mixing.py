"""Operations whose inputs are of several dtypes, of which the result has the widest: gradients get the inputs' own.

What a gradient passes on its way from the result's dtype to a narrower one is the node of a cast, as if the input had
been cast for the operation. Nothing is cast in the forward for it, unless the result is complex.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.array import is_float
from cordee.trainer.autograd.mode import MODE
from cordee.trainer.autograd.record import REGISTRY, Op
from cordee.trainer.tensors import Leaf, Tensor

__all__ = ["complexified", "narrowed"]


def narrowed(make: Any, edge: Any, x: Any, out: Any) -> Any:
    """The edge to an input's node, by way of a cast where a gradient of the result is wider than the input.

    A leaf takes what arrives in its own dtype anyway.

    Args:
        make: what makes nodes.
    """
    if edge is None or type(edge) is Leaf or x.dtype is out.dtype:
        return edge
    if out.dtype.kind != "f" or not is_float(x.dtype) or x.dtype.itemsize >= out.dtype.itemsize:
        return edge
    return make(REGISTRY["cast"], (edge,), (x.shape,), None, {"dtype": out.dtype, "source": x.dtype})


def complexified(op: Op, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Where real and complex inputs make a complex result: the real ones that want a gradient, made complex by an op of
    their own, whose gradient is real again. None: there are none."""
    from cordee.trainer.autograd.graph import apply

    if not op.holomorphic or not MODE.enabled:
        return None
    cast, found = REGISTRY["cast"], False
    turned = list(inputs)
    for i, x in enumerate(inputs):
        if isinstance(x, Tensor) and x._node is not None and x.data.dtype.kind != "c":
            wanted = np.result_type(x.data.dtype, np.complex64)
            turned[i], found = apply(cast, x, dtype=wanted, source=x.data.dtype), True
    return tuple(turned) if found else None
