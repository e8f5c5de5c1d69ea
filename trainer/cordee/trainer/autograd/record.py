"""The op record: everything there is to say about a differentiable operation, in one frozen object.

An op is declared once, in `cordee.trainer.ops`, and everything else is derived from its record: the function a user
calls, its gradient and the gradient of that, the tests (gradient checks, reference values, error sentences), the table
in the documentation, and later code generation. Rules are written in the vocabulary `F` (see `vocabulary.py`), which is
made of the very same records.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from cordee.trainer.array import Array

__all__ = ["REGISTRY", "Op", "Rule", "Sample", "Sampler", "op", "shape_of"]

Rule: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Op:
    """One operation.

    `forward(xp, *inputs, **params)` computes on arrays; with `aux`, it returns `(out, aux)`, where aux is whatever it
    worked out on the way that the gradient can use.

    A gradient rule is `rule(F, g, out, *inputs, **params)`: from `g`, the gradient of the output, to the gradient of
    one input. `vjps` holds one rule per input (None: not differentiable); alternatively one joint `vjp`, which also
    gets `needs` (which inputs want a gradient) and returns a tuple. An input, or `out`, arrives as an array when
    `saves` says so, else as its shape (`out`: None). When a graph of the gradient is wanted, arrays arrive as tensors.
    With `aux`, rules get `aux=`; where `F.raw` is false they must compute it again from the inputs instead of
    differentiating through it (unless it is constant, as indices are).

    `saves[i]` names what the gradient of input i reads: "" or names of inputs, or "out".
    """

    name: str
    doc: str
    forward: Callable[..., Any]
    saves: tuple[str, ...]
    samples: Callable[[Sampler], Sequence[Sample]]
    reference: Callable[..., Any]
    """The same values by plain NumPy, written for clarity: the executable definition."""
    vjps: tuple[Rule | None, ...] = ()
    vjp: Rule | None = None
    writes: tuple[Rule | None, ...] = ()
    """Optional, per input: `rule(F, dest, g, out, *inputs, **params)` that computes the gradient right into `dest`."""
    adds: Rule | None = None
    """Optional, of an op of one input: `rule(F, dest, g, out, *inputs, **params)` that adds the gradient to `dest`."""
    elementwise: bool = False
    broadcasts: bool = False
    """Inputs broadcast against each other: the walk sums their gradients back to their shapes. Elementwise ops do."""
    expr: str | None = None
    """For elementwise ops: the scalar expression, for code generation."""
    aux: bool = False
    widens: bool = False
    """Its result may have a wider dtype than its floating inputs."""
    errors: Callable[[Sampler], Sequence[Sample]] | None = None
    """Inputs that must be refused with a `ShapeError` or `TrainerIndexError` naming the op."""
    explain: Callable[..., str | None] | None = None
    """`explain(*shapes, **params)`: what is wrong with these inputs, as a sentence; asked only after a failure."""
    inputs: tuple[str, ...] = field(init=False)
    keep: tuple[tuple[bool, ...], ...] = field(init=False)
    """By bit mask of the inputs that need a gradient: which inputs, and last whether `out`, are kept for backward."""
    variadic: bool = field(init=False)
    """Takes any number of tensors (cat), and saves none of them."""

    def __post_init__(self) -> None:
        code = self.forward.__code__
        object.__setattr__(self, "inputs", code.co_varnames[1 : code.co_argcount])
        unknown = {name for names in self.saves for name in names.split()} - {*self.inputs, "out"}
        if unknown:
            raise ValueError(f"{self.name} saves {sorted(unknown)}, but its inputs are {self.inputs}")
        object.__setattr__(self, "broadcasts", self.broadcasts or (self.elementwise and len(self.inputs) > 1))
        object.__setattr__(self, "variadic", bool(code.co_flags & 0x04))
        object.__setattr__(self, "keep", tuple(_keep_table(self.inputs, self.saves)))


def _keep_table(inputs: tuple[str, ...], saves: tuple[str, ...]) -> list[tuple[bool, ...]]:
    table = []
    for mask in range(1 << len(inputs)):
        read = {name for i, names in enumerate(saves) if mask >> i & 1 for name in names.split()}
        table.append((*(name in read for name in inputs), "out" in read))
    return table


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of what a rule was given for an input: that shape itself, or an array or tensor."""
    return value if isinstance(value, tuple) else value.shape


REGISTRY: dict[str, Op] = {}


def op(name: str, doc: str, **fields: Any) -> Op:
    """Declare an operation."""
    if name in REGISTRY:
        raise ValueError(f"an op named {name!r} is declared already")
    record = Op(name=name, doc=doc, **fields)
    REGISTRY[name] = record
    return record


@dataclass(frozen=True)
class Sample:
    """Inputs to try an op on: positional arrays (or numbers, or None) and params."""

    inputs: tuple[Any, ...]
    params: dict[str, Any]


@dataclass
class Sampler:
    """Random inputs for samples, in float64, the same for the same seed on every machine."""

    seed: int = 0

    def __post_init__(self) -> None:
        self._draws = itertools.count()

    @property
    def rng(self) -> np.random.Generator:
        """A new generator for each draw."""
        return np.random.Generator(np.random.Philox(key=self.seed, counter=next(self._draws) << 64))

    def case(self, *inputs: Any, **params: Any) -> Sample:
        return Sample(inputs, params)

    def normal(self, *shape: int) -> Array:
        return self.rng.standard_normal(shape)

    def positive(self, *shape: int) -> Array:
        return self.rng.uniform(0.5, 2.0, shape)

    def unit(self, *shape: int) -> Array:
        return self.rng.uniform(-0.9, 0.9, shape)

    def distinct(self, *shape: int) -> Array:
        """Values at least 0.1 apart and away from zero: for ops with corners (max, relu, abs)."""
        size = int(np.prod(shape, dtype=int))
        values = (np.arange(size) - size // 2) * 0.2 + 0.1
        return self.rng.permutation(values).reshape(shape)

    def integers(self, high: int, *shape: int) -> Array:
        return self.rng.integers(0, high, shape)

    def mask(self, *shape: int) -> Array:
        return self.rng.random(shape) < 0.5
