"""Elementwise loops from formulas: what `terms` says, for 16 elements at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cordee.trainer.kernels.llvm.loops import Loop
from cordee.trainer.kernels.llvm.mathematics import FUNCTIONS
from cordee.trainer.kernels.llvm.values import BOOL, FLOAT, Code, Value
from cordee.trainer.kernels.terms import Term, evaluate

__all__ = ["can_compute", "loop"]

_COMPARISONS = {"<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__", "==": "equals", "!=": "differs"}
_ARITHMETIC = {"+": "__add__", "-": "__sub__", "*": "__mul__", "/": "__truediv__"}
_LOGIC = {"&&": "__and__", "||": "__or__"}
_OTHERS = {"max": "maximum", "min": "minimum"}
_SPECIAL = ("neg", "!", "where", "clamp", "real_of", "isnan")


def can_compute(term: Any) -> bool:
    """Whether all of it is known here."""
    if not isinstance(term, Term) or not term.args:
        return not isinstance(term, complex)
    known = (*_COMPARISONS, *_ARITHMETIC, *_LOGIC, *_OTHERS, *_SPECIAL, *FUNCTIONS)
    return term.name in known and all(map(can_compute, term.args))


def loop(name: str, kinds: str, symbols: Sequence[str], terms: Sequence[Any]) -> Loop:
    """A loop over operands named by `symbols`, of the types `kinds` (see `loops.TYPES`), with the terms as results."""

    def body(code: Code, *values: Value) -> tuple[Value, ...]:
        given = dict(zip(symbols, values, strict=True))
        found = evaluate(terms, given, lambda *each: _apply(code, *each))
        return tuple(
            code.real(float(each)) if not isinstance(each, Value) else each if kind == "b" else _real(code, each)
            for each, kind in zip(found, kinds.partition("->")[2], strict=True)
        )

    return Loop(name, kinds, body)


def _real(code: Code, value: Any) -> Any:
    """Truth values as 0 and 1, where numbers are wanted."""
    return code.convert(value, FLOAT) if isinstance(value, Value) and value.element == BOOL else value


def _apply(code: Code, name: str, *args: Any) -> Any:
    if name in _COMPARISONS and None in args:  # with a bound that is not there
        return None
    if name in _LOGIC:
        left, right = args
        return right if left is None else left if right is None else getattr(left, _LOGIC[name])(right)
    if name == "!":
        return ~args[0]
    if name == "where":
        condition, yes, no = args
        if condition.is_float:
            condition = condition.differs(0.0)
        return code.where(condition, _real(code, yes), _real(code, no))
    values = [_real(code, each) for each in args]
    if not any(isinstance(each, Value) for each in values):  # a formula of numbers alone
        values = [code.real(float(each)) for each in values]
    if name in _ARITHMETIC or name in _COMPARISONS:
        a, b = code.alike(values[0], values[1])
        return getattr(a, (_ARITHMETIC | _COMPARISONS)[name])(b)
    if name == "neg":
        return -values[0]
    if name == "isnan":
        return values[0].differs(values[0])
    if name == "real_of":
        return values[0]
    if name == "clamp":
        return _clamp(code, *values)
    if name in _OTHERS:
        a, b = code.alike(values[0], values[1])
        return getattr(code, _OTHERS[name])(a, b)
    function: Callable[..., Value] = FUNCTIONS[name]  # type: ignore[assignment]
    return function(code, *values)


def _clamp(code: Code, a: Value, low: Any, high: Any) -> Value:
    """Between bounds, either of which may be None."""
    if low is not None:
        a = code.where(a < low, code.like(low, a), a)
    return a if high is None else code.where(a > high, code.like(high, a), a)
