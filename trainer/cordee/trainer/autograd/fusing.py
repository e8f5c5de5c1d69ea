"""One loop instead of several passes: fused versions of elementwise operations and of their gradients.

Both come from the op's record. Its `expr` is the formula of the result; the formula of a gradient is what its rule does
to symbols (see `kernels.terms`). Where an operation is one pass of NumPy's anyway, NumPy does it; small arrays, too,
for which finding out would cost more than it saves.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from cordee.trainer.kernels import registry
from cordee.trainer.kernels.terms import Term, Untraceable, parse, size, symbols

if TYPE_CHECKING:
    from cordee.trainer.autograd.record import Op

__all__ = ["LEAST", "Fused", "formulas", "fused_forward", "fused_rule"]

LEAST = 2048
"""Elements from which on a fused loop is asked for. (On a GPU always: there, what costs is the launch.)"""

_float32, _bfloat16, _boolean = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16), np.dtype(np.bool_)
_ndarray = np.ndarray


def _real_of(a: Any, **_: Any) -> Term:
    return Term("real_of", a)


class _Vocabulary:
    """The vocabulary `F` on terms: of each operation its formula."""

    raw = False

    def __init__(self, records: dict[str, Op]) -> None:
        self._records = records

    def __getattr__(self, name: str) -> Callable[..., Any]:
        record = self._records[name]
        if record.name == "cast":
            return _real_of
        if not record.elementwise or record.expr is None:
            raise Untraceable(f"{name} is not elementwise")

        def call(*inputs: Any, **params: Any) -> Any:
            return _formula(record, dict(zip(record.inputs, inputs, strict=True)) | params)

        return call


def _formula(record: Op, names: dict[str, Any]) -> Any:
    """What `expr` says; an op with a param that it does not speak of has no formula."""
    expr = record.expr or ""
    if any(re.search(rf"\b{name}\b", expr) is None for name in names):
        raise Untraceable(f"the formula of {record.name} does not say all")
    return parse(expr, names)


def formulas(record: Op, records: dict[str, Op], fixed: dict[str, Any] | None = None) -> tuple[Any, list[Any]]:
    """The formulas of an elementwise operation's result and of its gradients; None for what is no formula.

    Args:
        fixed: the values of params that are no symbols.
    """
    params: dict[str, Any] = {name: Term(name) for name in record.params} | (fixed or {})
    names: dict[str, Any] = {name: Term(name) for name in record.inputs} | params
    vocabulary = _Vocabulary(records)
    given = [names[name] for name in record.inputs]
    named = params
    result, slopes = None, []
    try:
        result = _formula(record, names)
    except Untraceable:
        pass
    for rule in record.vjps if records else ():
        try:
            slopes.append(None if rule is None else rule(vocabulary, Term("g"), Term("out"), *given, **named))
        except (Untraceable, TypeError, AttributeError, KeyError):
            slopes.append(None)
    return result, slopes


class Fused:
    """The fused loops of one elementwise operation, by what they are asked for: compiled at the first call."""

    def __init__(self, record: Op, records: dict[str, Op]) -> None:
        self.record = record
        self.records = records
        self.params = record.params
        self.loops: dict[Any, tuple[Any, tuple[str, ...]] | None] = {}
        registry.on_choice(self.loops.clear)
        result, _ = formulas(record, {})
        self.pays = isinstance(result, Term) and _is_worth_it(result)
        """Whether a fused loop may be faster than the record's forward."""
        self.gradient_may_pay = not (isinstance(result, Term) and result.name in _PLAIN and size(result) == 1)
        """The same of the rules, as far as one can tell without them: those of sums and products are single passes."""

    def __call__(self, which: int, values: dict[str, Any], params: dict[str, Any], xp: Any = np) -> Any:
        """The result (`which` is -1) or an input's gradient; `NotImplemented` where there is no loop for this."""
        kinds, shape, wide = [], None, False
        array = xp.ndarray
        for value in values.values():
            if type(value) is array:
                dtype = value.dtype
                if dtype is _float32:
                    kinds.append("f")
                    wide = True
                elif dtype is _bfloat16:
                    kinds.append("h")
                elif dtype is _boolean:
                    kinds.append("b")
                else:
                    return NotImplemented
                if shape is None:
                    shape = value.shape
                elif value.shape != shape:
                    return NotImplemented
            elif type(value) is float or type(value) is int:
                kinds.append("s")
            else:
                kinds.append("-")  # a shape, or None: no loop can want it
        if shape is None:
            return NotImplemented
        fixed = tuple([name for name, value in params.items() if type(value) is not float and type(value) is not int])
        key = (xp, which, *kinds, wide, *fixed)
        try:
            found = self.loops[key]
        except KeyError:
            found = self.loops[key] = self._made(xp, which, dict(zip(values, kinds, strict=True)), params, fixed, wide)
        if found is None:
            return NotImplemented
        loop, names = found
        operands = []
        for name in names:
            value = values[name] if name in values else params[name]
            if type(value) is not array:
                value = np.float32(
                    value
                )  # a number of Python's beside bits of bfloat16 would make NumPy look for float64
            elif value.dtype is _bfloat16:
                value = value.view(np.uint16)
            operands.append(value)
        out = loop(*operands)
        return out if wide else out.view(_bfloat16)

    def float32_loop(self, which: int) -> tuple[Any, tuple[str, ...]] | None:
        """The loop of an operation of one input and no params, where all that it reads is float32; found quickly."""
        try:
            return self.loops[which]
        except KeyError:
            kinds = dict.fromkeys((*self.record.inputs, *(("g", "out") if which >= 0 else ())), "f")
            found = self.loops[which] = self._made(np, which, kinds, {}, (), True)
            return found

    def _made(
        self, xp: Any, which: int, kinds: dict[str, str], params: dict[str, Any], fixed: tuple[str, ...], wide: bool
    ) -> tuple[Any, tuple[str, ...]] | None:
        generator = registry.generator(xp)
        if generator is None or any(params[name] is not None for name in fixed):
            return None
        result, slopes = formulas(self.record, self.records, dict.fromkeys(fixed))
        term = result if which < 0 else slopes[which]
        if not isinstance(term, Term) or not (_is_worth_it(term) or "h" in kinds.values()):
            return None
        names = tuple(sorted(symbols(term)))
        letters = [kinds.get(name, "s") for name in names]
        if "-" in letters or not ("f" in letters or "h" in letters):
            return None
        loop_name = self.record.name if which < 0 else f"{self.record.name}_grad{which}"
        loop = generator(loop_name, f"{''.join(letters)}->{'f' if wide else 'h'}", names, (term,))
        return None if loop is None else (loop, names)


_CHEAP = frozenset(("+", "-", "*", "/", "neg", "abs", "sqrt", "floor", "sign", "real_of"))
"""Single passes of NumPy's that are as fast as a loop can be; its maximum with a number is not."""
_PLAIN = frozenset(("+", "-", "*", "neg"))


def _is_worth_it(term: Term) -> bool:
    """More than one pass of NumPy's, or a function that takes it long."""
    return size(term) > 1 or term.name not in _CHEAP


def fused_forward(record: Op, fused: Fused) -> Callable[..., Any]:
    """The record's forward, by a fused loop where arrays are large enough and one can be made."""
    plain, names = record.forward, record.inputs
    if len(names) == 1 and not record.params:

        def forward(xp: Any, a: Any) -> Any:
            if type(a) is _ndarray and a.dtype is _float32:
                found = fused.float32_loop(-1) if a.size >= LEAST else None
                return plain(xp, a) if found is None else found[0](a)
            if a.size >= LEAST or xp is not np:
                out = fused(-1, {names[0]: a}, _NONE, xp)
                if out is not NotImplemented:
                    return out
            return plain(xp, a)

        return forward

    def general(xp: Any, *inputs: Any, **params: Any) -> Any:
        if xp is not np or any(getattr(a, "size", 0) >= LEAST for a in inputs):
            out = fused(-1, dict(zip(names, inputs, strict=True)), params, xp)
            if out is not NotImplemented:
                return out
        return plain(xp, *inputs, **params)

    return general


def fused_rule(record: Op, index: int, fused: Fused) -> Callable[..., Any]:
    """The rule for one input's gradient, likewise."""
    plain, names = record.vjps[index], ("g", "out", *record.inputs)
    assert plain is not None
    if len(record.inputs) == 1 and not record.params:
        general = _general_rule(plain, names, index, fused)

        def lone(F: Any, g: Any, out: Any, a: Any) -> Any:
            if F.raw and type(g) is _ndarray and g.size >= LEAST and g.dtype is _float32:
                found = fused.float32_loop(index)
                if found is None:
                    return plain(F, g, out, a)
                operands = [g if name == "g" else out if name == "out" else a for name in found[1]]
                shape = g.shape
                for operand in operands:
                    if type(operand) is not _ndarray or operand.dtype is not _float32 or operand.shape != shape:
                        return general(F, g, out, a)
                return found[0](*operands)
            return general(F, g, out, a)

        return lone
    return _general_rule(plain, names, index, fused)


def _general_rule(plain: Callable[..., Any], names: tuple[str, ...], index: int, fused: Fused) -> Callable[..., Any]:
    def rule(F: Any, g: Any, out: Any, *inputs: Any, **params: Any) -> Any:
        if F.raw and (g.size >= LEAST or F.xp is not np):
            slope = fused(index, dict(zip(names, (g, out, *inputs), strict=True)), params, F.xp)
            if slope is not NotImplemented:
                return slope
        return plain(F, g, out, *inputs, **params)

    return rule


_NONE: dict[str, Any] = {}
