"""An update as one loop over the buffers, found by watching what the update does.

An optimiser's `_update` is a dozen operations on blocks. Run on symbols in the place of a block's arrays, it tells
which they are; from them one loop is generated that reads and writes each buffer once. It is watched at each step, for
its numbers change (learning rates, corrections for the start) and so may its way (the first step of a momentum); a loop
is made for each way that it takes. What does something else than arithmetic on its block is left as it is, and is not
watched again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.kernels import registry
from cordee.trainer.kernels.terms import Term, Untraceable
from cordee.trainer.optim.block import Block

if TYPE_CHECKING:
    from cordee.trainer.optim.cutting import Update

__all__ = ["FusedUpdate"]

LEAST = 16384
"""Elements from which on it pays: watching takes five to fifteen microseconds more than NumPy's calls do."""
MOST_WAYS = 16
"""Of an update that takes more ways, each would be compiled for a few steps."""

_KINDS = {np.dtype(np.float32): "f", np.dtype(ml_dtypes.bfloat16): "h"}
_BINARY = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "true_divide": "/", "maximum": "max", "minimum": "min",
}  # fmt: skip
_UNARY = {"negative": "neg", "sqrt": "sqrt", "absolute": "abs", "abs": "abs", "sign": "sign", "square": "square"}


class _Cell:
    """What stands for one array of a block: its number in the watched update, and the number of what it holds now."""

    __slots__ = ("holds", "watched")

    def __init__(self, watched: _Watched, holds: Any) -> None:
        self.watched = watched
        self.holds = holds  # None: what nobody has written

    def __setitem__(self, where: Any, value: Any) -> None:
        if where is not Ellipsis or type(value) is not _Cell or value.holds is None:
            raise self.watched.refusal("only whole blocks are assigned")
        self.holds = value.holds

    def __getattr__(self, name: str) -> Any:
        raise self.watched.refusal(f"an update that asks for {name}")

    def __bool__(self) -> bool:
        raise self.watched.refusal("an update that depends on a value")

    def __eq__(self, other: object) -> bool:
        raise self.watched.refusal("an update that compares")

    __hash__ = object.__hash__


class _Watched:
    """The array module of a watched update: notes each operation, as numbers of what it reads."""

    def __init__(self, arrays: int) -> None:
        self.way: list[tuple[Any, ...]] = []
        self.numbers: list[float] = []
        self.arrays = arrays
        self.refused = False

    def refusal(self, why: str) -> Untraceable:
        """What is raised where the update cannot be watched; noted, for the update may catch it and go another way."""
        self.refused = True
        return Untraceable(why)

    def __getattr__(self, name: str) -> Any:
        raise self.refusal(f"there is no loop for {name}")

    def _operand(self, value: Any) -> Any:
        """What an operand is: a result's number, or, below zero, that of a Python number."""
        if type(value) is _Cell and value.holds is not None:
            return value.holds
        if isinstance(value, (float, int)):
            self.numbers.append(value)
            return -len(self.numbers)
        raise self.refusal(f"an operand of type {type(value).__name__}")

    def note(self, name: str, operands: Sequence[Any], out: Any) -> Any:
        self.way.append((name, *map(self._operand, operands)))
        made = self.arrays + len(self.way) - 1
        if out is None:
            return _Cell(self, made)
        out.holds = made
        return out


def _binary(name: str) -> Any:
    def call(self: _Watched, a: Any, b: Any, out: Any = None) -> Any:
        return self.note(name, (a, b), out)

    return call


def _unary(name: str) -> Any:
    def call(self: _Watched, a: Any, out: Any = None) -> Any:
        return self.note(name, (a,), out)

    return call


for _name, _sign in _BINARY.items():
    setattr(_Watched, _name, _binary(_sign))
for _name, _sign in _UNARY.items():
    setattr(_Watched, _name, _unary(_sign))


class FusedUpdate:
    """The loops of one optimiser, by the way that its update takes."""

    def __init__(self, name: str, num_scratch: int) -> None:
        self._name = name
        self._num_scratch = num_scratch
        self._loops: dict[Any, tuple[Any, tuple[int, ...], tuple[int, ...]] | None] = {}
        self._refused = False
        """Whether there is no loop for it: it is not watched any more."""

    def run(
        self,
        update: Update,
        options: Mapping[str, Any],
        buffers: Sequence[Any],
        count: int,
        numbers: Mapping[str, float],
    ) -> bool:
        """Updates `[data, grad, *state]` in place by one loop; False: nothing has been done.

        The update is asked for every time, and it must do nothing but compute on its block.
        """
        xp = array_module(buffers[0])
        if self._refused or (xp is np and buffers[0].size < LEAST):
            return False
        kinds = [_KINDS.get(buffer.dtype) for buffer in buffers]
        if None in kinds or registry.generator(xp) is None:
            return False
        watched = _Watched(len(buffers))
        cells = [_Cell(watched, i) for i in range(len(buffers))]
        scratch = [_Cell(watched, None) for _ in range(self._num_scratch)]
        try:
            update(Block(watched, options, cells[0], cells[1], cells[2:], scratch, count, numbers))
        except (Untraceable, TypeError, AttributeError):
            watched.refused = True
        except Exception:
            if not watched.refused:
                raise
        if watched.refused:
            self._refused = True
            return False
        ends = tuple([cell.holds for cell in cells])
        key = (xp, *kinds, ends, *watched.way)
        try:
            found = self._loops[key]
        except KeyError:
            if len(self._loops) >= MOST_WAYS:
                self._loops.clear()
                self._refused = True
                return False
            found = self._loops[key] = self._made(xp, kinds, ends, watched)
        if found is None:
            return False
        loop, read, written = found
        views = [b.view(np.uint16) if kind == "h" else b for b, kind in zip(buffers, kinds, strict=True)]
        scalars = np.array(watched.numbers, np.float32)
        loop(*[views[i] for i in read], *scalars, out=tuple([views[i] for i in written]))
        return True

    def _made(
        self, xp: Any, kinds: Sequence[Any], ends: tuple[int, ...], watched: _Watched
    ) -> tuple[Any, tuple[int, ...], tuple[int, ...]] | None:
        """The loop for this way, and which buffers it reads and writes."""
        values: list[Any] = [Term(f"a{i}") for i in range(len(kinds))]
        for name, *operands in watched.way:
            given = [values[each] if each >= 0 else Term(f"s{-each - 1}") for each in operands]
            values.append(Term("*", *given, *given) if name == "square" else Term(name, *given))
        written = tuple([i for i, end in enumerate(ends) if end != i])
        read = tuple(range(len(kinds)))
        names = [*(f"a{i}" for i in read), *(f"s{i}" for i in range(len(watched.numbers)))]
        letters = "".join(kinds[i] for i in read) + "s" * len(watched.numbers)
        results = "".join(kinds[i] for i in written)
        generator = registry.generator(xp)
        if generator is None or not written:  # at another step it may write
            return None
        loop = generator(
            f"update_{self._name}", f"{letters}->{results}", names, tuple(values[ends[i]] for i in written)
        )
        self._refused = loop is None
        return None if loop is None else (loop, read, written)
