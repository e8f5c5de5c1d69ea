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
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cordee.trainer.array import Array, default_dtype, is_complex, is_float, promote
from cordee.trainer.autograd.fusing import Fused, fused_forward, fused_rule
from cordee.trainer.autograd.specialised import back_later, run_later
from cordee.trainer.errors import ShapeError

if TYPE_CHECKING:
    from cordee.trainer.tensors import Tensor

__all__ = [
    "AUTOCAST", "DTYPE_RULES", "NO_ERRORS", "REGISTRY", "Op", "Rule", "Sample", "Sampler", "Shape", "broadcast_shape",
    "op", "shape_of",
]  # fmt: skip

Rule: TypeAlias = Callable[..., Any]
Shape: TypeAlias = "tuple[int | None, ...]"
"""A shape as a rule tells it; None: a size that depends on the values."""


AUTOCAST: dict[str, str] = {
    "": "in the dtypes that come, mixed ones in the widest: what is exact, or as exact as its inputs",
    "low": "in the region's 16 bits: products, whose sums are in single precision all the same",
    "single": "in single precision: losses, long products",
    "single on cuda": "the same where PyTorch has it for CUDA: sums, norms, what spans a wide range",
    "single on cpu": "the same where PyTorch has it for the CPU",
}
"""The kinds of operations under autocast (`cordee.trainer.autograd.casting`), from PyTorch's tables."""


@dataclass(frozen=True)
class Op:
    """One operation.

    `forward(xp, *inputs, **params)` computes on arrays; with `aux`, it returns `(out, aux)`, where aux is whatever it
    worked out on the way that the gradient can use.

    A gradient rule is `rule(F, g, out, *inputs, **params)`: from `g`, the gradient of the output, to the gradient of
    one input. `vjps` holds one rule per input (None: not differentiable); alternatively one joint `vjp`, which also
    gets `needs` (which inputs want a gradient) and returns a tuple. An input, or `out`, arrives as an array when
    `saves` says so, else as its shape (`out` as None; an elementwise op's input, too, where it has the shape of `g`).
    When a graph of the gradient is wanted, arrays arrive as tensors.
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
    shape: Callable[..., Any] | None = None
    """`shape(*shapes, **params)`: the result's shape (several outputs: a tuple of shapes), from the inputs' (a number's
    is `()`, None's is None). It raises `ShapeError` or `TrainerIndexError`, with a sentence that says which dimension
    does not fit and what would: it is asked after a failed forward, and by tests and tools, never on the fast path.
    Elementwise ops have it by broadcasting."""
    dtype: str | Callable[..., Any] = "promote"
    """The result's dtype: the name of one of `DTYPE_RULES`, or `dtype(*dtypes, **params)` (a Python number arrives as
    its type, None as None; several outputs: a tuple)."""
    outputs: tuple[str, ...] = ("out",)
    """With several, forward returns a tuple of arrays, the op has one joint `vjp`, and there `g` and `out` are tuples:
    `g` with None where no gradient has arrived."""
    view: bool = False
    """Its result shares memory with its first input (or may)."""
    holomorphic: bool = True
    """Its rules are written as for real numbers, and are right for complex ones between conjugations: the gradient (in
    PyTorch's convention) is conj(rule(conj(g))). So it is with all that is analytic: sums, products, powers, exp, inv.
    False: the op conjugates, takes apart or makes complex numbers, and its rules say themselves what is right."""
    elementwise: bool = False
    broadcasts: bool = False
    """Inputs broadcast against each other: the walk sums their gradients back to their shapes. Elementwise ops do."""
    expr: str | None = None
    """For elementwise ops: the scalar expression, for code generation."""
    aux: bool = False
    autocast: str = ""
    """Its kind where autocast is on, one of `AUTOCAST`."""
    errors: Callable[[Sampler], Sequence[Sample]] | None = None
    """Inputs that must be refused with a `ShapeError` or `TrainerIndexError` naming the op; `NO_ERRORS` where every
    array of numbers is right."""
    inputs: tuple[str, ...] = field(init=False)
    keep: tuple[tuple[bool, ...], ...] = field(init=False)
    """By bit mask of the inputs that need a gradient: which inputs, and last whether `out`, are kept for backward."""
    many: bool = field(init=False)
    """Has several outputs."""
    joint: bool = field(init=False)
    """Its gradients are not computed by one rule for each input."""
    small_forward: Callable[..., Any] = field(init=False)
    small_vjps: tuple[Rule | None, ...] = field(init=False)
    """`forward` and `vjps` for arrays of less than `LEAST` elements, for which fused loops do not pay."""
    short: tuple[bool, ...] = field(init=False)
    """By input: there is a short cut for its gradient, `adds` or `writes`."""
    keeps: bool = field(init=False)
    """Its nodes hold values that a backward frees."""
    params: tuple[str, ...] = field(init=False)
    """What forward takes by name beside the inputs."""
    run: Callable[..., Tensor] = field(init=False)
    """`run(*inputs, **params)` on tensors (or None), recorded; written for the op, see `specialised.py`."""
    back: Callable[..., Any] | None = field(init=False)
    """What walks back over its nodes, where each gradient has a rule of its own."""
    variadic: bool = field(init=False)
    """Takes any number of tensors (cat), and saves none of them."""

    def __post_init__(self) -> None:
        code = self._code
        object.__setattr__(self, "inputs", code.co_varnames[1 : code.co_argcount])
        last = code.co_argcount + code.co_kwonlyargcount
        object.__setattr__(self, "params", code.co_varnames[code.co_argcount : last])
        unknown = {name for names in self.saves for name in names.split()} - {*self.inputs, "out"}
        if unknown:
            raise ValueError(f"{self.name} saves {sorted(unknown)}, but its inputs are {self.inputs}")
        if self.outputs != ("out",) and self.vjps:
            raise ValueError(f"{self.name} has several outputs, so its gradient is one joint vjp")
        if self.autocast not in AUTOCAST:
            raise ValueError(f"{self.name} is of no kind {self.autocast!r}: autocast knows {', '.join(AUTOCAST)}")
        if self.elementwise and self.shape is None:
            object.__setattr__(self, "shape", broadcast_shape)
        object.__setattr__(self, "many", self.outputs != ("out",))
        object.__setattr__(self, "broadcasts", self.broadcasts or (self.elementwise and len(self.inputs) > 1))
        object.__setattr__(self, "joint", self.vjp is not None or not self.vjps)
        object.__setattr__(self, "small_forward", self.forward)
        object.__setattr__(self, "small_vjps", self.vjps)
        writes = self.writes or (None,) * len(self.vjps)
        object.__setattr__(self, "short", tuple([self.adds is not None or each is not None for each in writes]))
        object.__setattr__(self, "keeps", self.aux or any(self.saves))
        object.__setattr__(self, "variadic", bool(code.co_flags & 0x04))
        object.__setattr__(self, "run", run_later(self))
        object.__setattr__(self, "back", None if self.joint or self.variadic else back_later(self))
        object.__setattr__(self, "keep", tuple(_keep_table(self.inputs, self.saves)))

    @property
    def _code(self) -> Any:
        """Where the names of inputs and params are: the forward's code, a kernel's reference's."""
        return getattr(self.forward, "reference", self.forward).__code__

    @property
    def signature(self) -> str:
        """How the op is called, with its params: `matmul(a, b)`, `sum(a, *, axis, keepdims)`."""
        names = ["*tensors"] if self.variadic else list(self.inputs)
        return f"{self.name}({', '.join([*names, '*', *self.params] if self.params else names)})"

    @property
    def differentiable(self) -> bool:
        """Whether it has a gradient with respect to some input."""
        return self.vjp is not None or any(rule is not None for rule in self.vjps)

    def result_dtype(self, *dtypes: Any, **params: Any) -> Any:
        """The dtype rule, applied."""
        rule = DTYPE_RULES[self.dtype] if isinstance(self.dtype, str) else self.dtype
        return rule(*dtypes, **params)


def broadcast_shape(*shapes: Shape | None, **_: Any) -> Shape:
    """The shape that these broadcast to.

    Raises:
        ShapeError: they do not; it says in which dimension.
    """
    known = [shape for shape in shapes if shape is not None]
    ndim = max(map(len, known), default=0)
    padded = [(1,) * (ndim - len(shape)) + tuple(shape) for shape in known]
    result: list[int | None] = []
    for dim in range(ndim):
        sizes = {shape[dim] for shape in padded if shape[dim] != 1}
        if len(sizes) > 1:
            counted = " and ".join(str(shape[dim]) for shape in padded if shape[dim] != 1)
            raise ShapeError(f"sizes {counted} differ in dimension {dim - ndim}; they must be equal, or one of them 1")
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def promoted(*dtypes: Any, **_: Any) -> Any:
    """The dtype of arithmetic between tensors and numbers: see `cordee.trainer.array.promote`."""
    return promote(*dtypes)


def _floating(*dtypes: Any, **_: Any) -> Any:
    found = promote(*dtypes)
    return found if is_float(found) or is_complex(found) else default_dtype()


def _first(*dtypes: Any, **_: Any) -> Any:
    return dtypes[0]


def _boolean(*_: Any, **__: Any) -> Any:
    return np.dtype("bool")


def _int64(*_: Any, **__: Any) -> Any:
    return np.dtype("int64")


DTYPE_RULES: dict[str, Callable[..., Any]] = {
    "promote": promoted, "float": _floating, "first": _first, "bool": _boolean, "int64": _int64,
}  # fmt: skip
"""The dtype rules that have a name: tensors promote each other, numbers are weak; "float": integers become floating."""


def NO_ERRORS(_: Sampler) -> Sequence[Sample]:  # noqa: N802 (used as a constant)
    """For ops that take every array of numbers."""
    return ()


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
    """Declare an operation.

    Raises:
        TypeError: a field is missing.
        ValueError: the name is taken, or the fields contradict each other.
    """
    if name in REGISTRY:
        raise ValueError(f"an op named {name!r} is declared already")
    record = Op(name=name, doc=doc, **fields)
    lacking = [field for field in ("shape", "errors") if getattr(record, field) is None]
    if lacking:
        raise TypeError(f"the op {name!r} lacks {' and '.join(lacking)}: see the docstring of Op")
    REGISTRY[name] = record
    if record.elementwise and record.expr is not None:
        _fuse(record)
    return record


def _fuse(record: Op) -> None:
    """Let fused loops stand in for the record's functions, where they are more than one pass over memory."""
    fused = Fused(record, REGISTRY)
    if fused.pays:
        object.__setattr__(record, "forward", fused_forward(record, fused))
    if fused.gradient_may_pay:
        rules = [None if rule is None else fused_rule(record, i, fused) for i, rule in enumerate(record.vjps)]
        object.__setattr__(record, "vjps", tuple(rules))


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
