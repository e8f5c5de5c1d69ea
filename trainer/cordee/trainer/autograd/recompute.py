"""Activation checkpointing: memory for time. What a part of a model keeps for backward is computed again instead.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. Inside `checkpoint(function, *args)` nodes keep
numbers instead of arrays. When backward asks for the first of them, the function runs once more, on the same inputs and
with the same random numbers, and what its nodes would have kept is handed out. So everything that autograd can do works
across a checkpoint: `grad`, second derivatives, several backwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from cordee.trainer import random
from cordee.trainer.autograd import casting
from cordee.trainer.autograd.mode import enable_grad
from cordee.trainer.autograd.saved import saved_tensors_hooks
from cordee.trainer.autograd.writes import BOOK, Write
from cordee.trainer.errors import GraphError
from cordee.trainer.tensors import Leaf, Tensor, next_number

__all__ = ["checkpoint", "checkpoint_sequential"]

R = TypeVar("R")


class _Recomputed:
    """What one call kept, by the order of keeping; computed when it is first asked for."""

    def __init__(self, run: Callable[[], Any], inputs: Any) -> None:
        self._run = run
        self._inputs = tuple(_tensors(inputs))
        self._number = next_number()
        self._count = 0
        self._values: dict[int, Tensor] = {}
        self._overwritten: dict[int, Write] = {}

    def pack(self, tensor: Tensor) -> int:  # noqa: ARG002
        self._count += 1
        return self._count - 1

    def unpack(self, number: int) -> Tensor:
        if number not in self._values:
            self._compute()
        value, write = self._values.pop(number), self._overwritten.get(number)
        if write is not None:
            raise GraphError(
                f"checkpoint: a gradient has to read a tensor of shape {value.shape} again, but {write.what} at "
                f"{write.where} has overwritten it: use the operation that makes a new tensor there, or clone() before "
                "writing"
            )
        return value

    def _compute(self) -> None:
        for tensor in self._inputs:
            write = BOOK.last(tensor.data, self._number) if BOOK else None
            if write is not None or (isinstance(tensor._node, Leaf) and tensor._node.written > self._number):
                how = f"{write.what} at {write.where}" if write is not None else "an optimiser's step, or a raw write,"
                raise GraphError(
                    f"checkpoint: the function cannot be computed again on an input of shape {tensor.shape}: {how} has "
                    "overwritten it; call backward() first, or clone() it before writing"
                )
        found: list[Tensor] = []
        since: list[int] = []

        def keep(tensor: Tensor) -> Tensor:
            found.append(tensor)
            since.append(next_number())
            return tensor

        with enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
            self._run()
        if len(found) != self._count:
            raise GraphError(
                f"checkpoint: the function kept {self._count} values for backward when it ran first, and {len(found)} "
                "when it was computed again: it must do the same both times"
            )
        self._overwritten = {}
        for i, (tensor, number) in enumerate(zip(found, since, strict=True) if BOOK else ()):
            write = BOOK.last(tensor.data, number)
            if write is not None:
                self._overwritten[i] = write
            elif BOOK.last(tensor.data, 0) is not None:  # before it was kept: not to be taken for a write since
                tensor.data = tensor.data.copy()
        self._values = dict(enumerate(found))
        found.clear()  # `keep` lives on in a class, and so until the garbage collector comes


def _tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors among arguments."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list, dict)):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(part)


def checkpoint(
    function: Callable[..., R],
    *args: Any,
    use_reentrant: bool | None = None,  # noqa: ARG001
    preserve_rng_state: bool = True,
    **kwargs: Any,
) -> R:
    """`function(*args, **kwargs)`, keeping nothing of its inside for backward but computing it again then.

    Args:
        use_reentrant: PyTorch's; there is only one kind here, and it does what `use_reentrant=False` does there.
        preserve_rng_state: dropout inside draws the same numbers when it is computed again.

    Raises (in backward):
        GraphError: the function did something else when it was computed again.
    """
    place, regions = random.mark(), casting.current()

    def again() -> Any:
        with casting.restored(regions), random.replay(place) if preserve_rng_state else contextlib.nullcontext():
            return function(*args, **kwargs)

    kept = _Recomputed(again, (args, kwargs))
    with saved_tensors_hooks(kept.pack, kept.unpack):
        return function(*args, **kwargs)


def checkpoint_sequential(functions: Iterable[Callable[..., Any]], segments: int, input: Any, **options: Any) -> Any:
    """The functions (or a Sequential's modules) one after the other, checkpointed in `segments` parts."""
    steps = list(functions)
    if not 1 <= segments <= len(steps):
        raise ValueError(f"segments must be from 1 to the {len(steps)} functions there are, not {segments}")

    def part(some: Sequence[Callable[..., Any]]) -> Callable[[Any], Any]:
        def run(value: Any) -> Any:
            for step in some:
                value = step(value)
            return value

        return run

    for i in range(segments):
        some = steps[i * len(steps) // segments : (i + 1) * len(steps) // segments]
        input = checkpoint(part(some), input, **options)
    return input
