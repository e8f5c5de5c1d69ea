"""Scalar formulas as trees: read from an op record's `expr`, or found by running a gradient rule on symbols.

A rule is written once, in operators and the vocabulary `F`. Given arrays it computes, given tensors it records; given
terms it tells its formula, from which one loop is generated instead of a pass over memory per operator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

__all__ = ["Term", "Untraceable", "evaluate", "listing", "parse", "size", "symbols"]

Scalar: TypeAlias = "Term | float | int | bool | None"


class Untraceable(Exception):  # noqa: N818 (nobody but the tracer sees it)
    """A rule looked at a value, or called for what is no scalar formula."""


class _Real:
    """What rules ask of a dtype: that it is a real one."""

    kind = "f"
    itemsize = 4


_REAL = _Real()


class Term:
    """An operation on other terms and numbers; a symbol is one without operands."""

    __slots__ = ("args", "name")

    def __init__(self, name: str, *args: Scalar) -> None:
        self.name = name
        self.args = args

    dtype = _REAL
    shape = ()
    ndim = 0

    def __add__(self, other: Scalar) -> Term:
        return Term("+", self, other)

    def __radd__(self, other: Scalar) -> Term:
        return Term("+", other, self)

    def __sub__(self, other: Scalar) -> Term:
        return Term("-", self, other)

    def __rsub__(self, other: Scalar) -> Term:
        return Term("-", other, self)

    def __mul__(self, other: Scalar) -> Term:
        return Term("*", self, other)

    def __rmul__(self, other: Scalar) -> Term:
        return Term("*", other, self)

    def __truediv__(self, other: Scalar) -> Term:
        return Term("/", self, other)

    def __rtruediv__(self, other: Scalar) -> Term:
        return Term("/", other, self)

    def __neg__(self) -> Term:
        return Term("neg", self)

    def __lt__(self, other: Scalar) -> Term:
        return Term("<", self, other)

    def __le__(self, other: Scalar) -> Term:
        return Term("<=", self, other)

    def __gt__(self, other: Scalar) -> Term:
        return Term(">", self, other)

    def __ge__(self, other: Scalar) -> Term:
        return Term(">=", self, other)

    def __eq__(self, other: object) -> Any:
        return Term("==", self, other)  # type: ignore[arg-type]

    def __ne__(self, other: object) -> Any:
        return Term("!=", self, other)  # type: ignore[arg-type]

    __hash__ = object.__hash__

    def __and__(self, other: Scalar) -> Term:
        return Term("&&", self, other)

    def __or__(self, other: Scalar) -> Term:
        return Term("||", self, other)

    def __invert__(self) -> Term:
        return Term("!", self)

    def __bool__(self) -> bool:
        raise Untraceable("the rule depends on a value")

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(map(repr, self.args))})" if self.args else self.name


def evaluate(terms: Sequence[Scalar], symbols: Mapping[str, Any], apply: Callable[..., Any]) -> list[Any]:
    """The terms' values: `apply(name, *values)` for each operation, once for those that are the same object.

    Raises:
        KeyError: a symbol has no value.
    """
    known: dict[int, Any] = {}

    def value(each: Scalar) -> Any:
        if not isinstance(each, Term):
            return each
        if id(each) not in known:
            known[id(each)] = apply(each.name, *map(value, each.args)) if each.args else symbols[each.name]
        return known[id(each)]

    return [value(term) for term in terms]


def _parts(term: Scalar) -> list[Term]:
    """All terms in it, each once."""
    found: dict[int, Term] = {}
    stack = [term]
    while stack:
        each = stack.pop()
        if isinstance(each, Term) and id(each) not in found:
            found[id(each)] = each
            stack += each.args
    return list(found.values())


def symbols(term: Scalar) -> set[str]:
    """The names of what it is made of."""
    return {each.name for each in _parts(term) if not each.args}


def size(term: Scalar) -> int:
    """How many operations there are."""
    return sum(bool(each.args) for each in _parts(term))


def listing(*terms: Scalar) -> str:
    """Terms as text, one line per operation: what is used twice is said once."""
    lines: list[str] = []

    def apply(name: str, *args: Any) -> str:
        lines.append(f"{len(lines)} = {name} {' '.join(map(str, args))}")
        return f"%{len(lines) - 1}"

    results = evaluate(terms, {name: name for term in terms for name in symbols(term)}, apply)
    return "; ".join([*lines, *map(str, results)])


# -- from text ---------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*(?:e[+-]?\d+)?)|(\w+)|(\|\||&&|[<>=!]=|[-+*/()<>?:,;=!]))")
_LEVELS = (("||",), ("&&",), ("==", "!="), ("<", "<=", ">", ">="), ("+", "-"), ("*", "/"))


def parse(expr: str, names: Mapping[str, Scalar]) -> Any:
    """The formula of a record, with terms in the place of its names: C's operators, functions, and `d = …;` before it.

    Raises:
        Untraceable: it cannot be read; nothing but a formula is meant.
    """
    return _Parser(expr, names).whole()


class _Parser:
    """By recursive descent, one method per kind of phrase."""

    def __init__(self, expr: str, names: Mapping[str, Scalar]) -> None:
        self.names = dict(names)
        self.tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(expr.rstrip()):
            match = _TOKEN.match(expr, position)
            if match is None:
                raise Untraceable(f"{expr!r} cannot be read from character {position} on")
            number, name, sign = match.groups()
            self.tokens.append(("number", number) if number else ("name", name) if name else ("sign", sign))
            position = match.end()
        self.tokens.append(("end", ""))
        self.at = 0

    def whole(self) -> Any:
        while self.tokens[self.at + 1] == ("sign", "=") and self.tokens[self.at][0] == "name":
            name = self.tokens[self.at][1]
            self.at += 2
            self.names[name] = self.choice()
            self.expect(";")
        result = self.choice()
        if self.tokens[self.at][0] != "end":
            raise Untraceable(f"{self.tokens[self.at][1]!r} is not expected")
        return result

    def taken(self, *signs: str) -> str:
        kind, text = self.tokens[self.at]
        if kind == "sign" and text in signs:
            self.at += 1
            return text
        return ""

    def expect(self, sign: str) -> None:
        if not self.taken(sign):
            raise Untraceable(f"{sign!r} is missing before {self.tokens[self.at][1]!r}")

    def choice(self) -> Any:
        condition = self.level(0)
        if not self.taken("?"):
            return condition
        yes = self.choice()
        self.expect(":")
        return Term("where", condition, yes, self.choice())

    def level(self, depth: int) -> Any:
        if depth == len(_LEVELS):
            return self.single()
        left = self.level(depth + 1)
        while sign := self.taken(*_LEVELS[depth]):
            left = Term(sign, left, self.level(depth + 1))
        return left

    def single(self) -> Any:
        if self.taken("-"):
            operand = self.single()
            return -operand if isinstance(operand, (int, float)) else Term("neg", operand)
        if self.taken("("):
            inner = self.choice()
            self.expect(")")
            return inner
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            return float(text)
        if kind != "name":
            raise Untraceable(f"{text!r} is not expected")
        if not self.taken("("):
            if text not in self.names:
                raise Untraceable(f"{text!r} is no name of this formula")
            return self.names[text]
        args = [self.choice()]
        while self.taken(","):
            args.append(self.choice())
        self.expect(")")
        return Term(text, *args)
