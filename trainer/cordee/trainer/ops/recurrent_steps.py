"""What the recurrent layers share: how rows are steps, what shapes must be, and how 16 bits are widened."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from cordee.trainer.array import promote
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.company import cat

__all__ = [
    "alike",
    "check_gates",
    "in_order",
    "kept",
    "sigmoid_reference",
    "steps_of",
    "widened",
    "widened_vjp",
    "widest",
]


def steps_of(sizes: tuple[int, ...], reverse: bool) -> list[tuple[int, int, int]]:
    """First row, row after the last, and number of rows of each step, in the order in which they are taken."""
    steps, start = [], 0
    for size in sizes:
        steps.append((start, start + size, size))
        start += size
    return steps[::-1] if reverse else steps


def in_order(rows: Iterable[tuple[int, Any]]) -> Any:
    return cat([value for _, value in sorted(rows, key=lambda pair: pair[0])], 0)


def kept(new: Any, old: Any, size: int) -> Any:
    """The state after a step: new for the sequences that are still there, old for the others."""
    return new if size == old.shape[0] else cat([new, old[size:]], 0)


def sigmoid_reference(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))


def check_gates(gates: Any, hidden: Any, weight: Any, sizes: tuple[int, ...], gates_per_unit: int) -> int:
    """What the shapes must be; returns the number of units."""
    if len(gates) != 2 or gates[0] != sum(sizes):
        raise ShapeError(f"steps of {sum(sizes)} rows in all need gates of shape ({sum(sizes)}, …), not {gates}")
    if gates[1] % gates_per_unit or weight != (gates[1], hidden[1]):
        raise ShapeError(
            f"the hidden weight must be ({gates[1]}, {hidden[1]}), gates by hidden size, in whole gates of "
            f"{gates_per_unit} per unit; it is {weight}"
        )
    if sizes and hidden[0] != max(sizes):
        raise ShapeError(f"{max(sizes)} sequences need as many hidden states, not {hidden[0]}")
    return int(gates[1]) // gates_per_unit


def widened(forward: Any, xp: Any, *inputs: Any, **params: Any) -> Any:
    """A layer's forward in single precision, of 16 bits: states are rounded once, at the end, not with every step."""
    out, aux = forward(xp, *[widest(x) for x in inputs], **params)
    return tuple([each.astype(inputs[0].dtype) for each in out]), aux


def widened_vjp(vjp: Any, F: Any, g: Any, out: Any, *inputs: Any, **params: Any) -> Any:
    """Its gradients, likewise."""
    found = vjp(F, tuple(map(widest, g)), out, *[widest(x) for x in inputs], **params)
    return tuple([None if each is None else each.astype(inputs[0].dtype) for each in found])


def widest(a: Any) -> Any:
    """An array of 16 bits in single precision; others as they are."""
    return a if a is None or a.dtype.itemsize > 2 else a.astype(np.float32)


def alike(number: int) -> Any:
    """The dtype rule of an op with so many outputs: all of what the inputs promote to."""

    def rule(*dtypes: Any, **_: Any) -> Any:
        return (promote(*[dtype for dtype in dtypes if dtype is not None]),) * number

    return rule
