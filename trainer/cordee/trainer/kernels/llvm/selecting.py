"""Where the few largest or smallest elements of lines are: 16 at a time are held against the last of those kept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]

from cordee.trainer.kernels.llvm.layouts import lies
from cordee.trainer.kernels.llvm.loops import Loop, Memory, Rows
from cordee.trainer.kernels.llvm.ufuncs import family
from cordee.trainer.kernels.llvm.values import HALF, LANES, Value

__all__ = ["first_places"]

_MOST = 64
"""Elements that are kept: each new one moves those behind it."""


def _first_places(largest: bool) -> Callable[..., None]:
    def comes_before(value: Value, other: Value) -> Value:
        """What is no number counts as the largest."""
        if largest:
            return (value > other) | (value.differs(value) & other.equals(other))
        return (value < other) | (other.differs(other) & value.equals(value))

    def body(k: Rows, a: Memory, places: Memory, values: Memory) -> None:
        length, count, zero = k.sizes["n"], k.sizes["k"], k.index(0)

        def line(r: Value) -> None:
            source, found, kept = a.at(r * length), places.at(r * count), values.at(r * count)
            number = k.variable(zero)

            def insert(i: Value) -> None:
                value = source.get(i)
                known = number.get()
                full = known.equals(count)

                def take() -> None:
                    end = k.where(full, count - 1, known)
                    place = k.variable(end)

                    def move(j: Value) -> None:
                        at = end - 1 - j

                        def behind() -> None:
                            kept.put(at + 1, kept.get(at))
                            found.put(at + 1, found.get(at))
                            place.set(at)

                        k.when(comes_before(value, kept.get(at)), behind)

                    k.count(zero, end, 1, move)
                    kept.put(place.get(), value)
                    found.put(place.get(), i)
                    number.set(end + 1)

                k.when(~full | comes_before(value, kept.get(count - 1)), take)

            def block(i: Value) -> None:
                some = comes_before(source.lanes(i), k.splat(kept.get(count - 1)))
                bits = Value(k, k.ir.bitcast(some.ref, HALF))
                wanted = Value(k, k.ir.icmp_signed("!=", bits.ref, ir.Constant(HALF, 0))) | (number.get() < count)
                k.when(wanted, lambda: k.count(i, i + LANES, 1, insert))

            k.count(zero, length & -LANES, LANES, block)
            k.count(length & -LANES, length, 1, insert)

        k.share(line)

    return body


@functools.cache
def _ufuncs() -> dict[str, Any]:
    return family(
        "selecting",
        [
            Loop(name, "f->qf", _first_places(name == "largest"), "(r,n)->(r,k),(r,k)", "r")
            for name in ("largest", "smallest")
        ],
    )


def first_places(a: Any, *, k: int, descending: bool) -> Any:
    """Where the first k elements of each line are, in order; of equal ones the first come first."""
    if not 0 < k <= min(_MOST, a.shape[-1] // 4) or not lies(a, a.shape):
        return NotImplemented
    lines = a.reshape(-1, a.shape[-1])
    places, values = np.zeros((len(lines), k), np.int64), np.zeros((len(lines), k), np.float32)
    _ufuncs()["largest" if descending else "smallest"](lines, out=(places, values))
    return places.reshape(*a.shape[:-1], k)
