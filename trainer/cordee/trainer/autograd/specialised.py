"""The functions that record an operation and walk back over it, written out for each op.

What an op's record says once and for all (how many inputs there are, what is kept, which params) is not asked again by
every call: the texts of `templates.py` are filled in from the record when the op is first used, and compiled. What
comes out is plain Python, which a debugger steps through and a traceback quotes; `written(op)` returns it.

A function is there from the start, so that it can be imported and hung onto classes; its code is put into it by its
first call.
"""

from __future__ import annotations

import builtins
import dis
import functools
import linecache
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from cordee.trainer.array import Array
from cordee.trainer.autograd import templates
from cordee.trainer.autograd.location import OURS
from cordee.trainer.tensors import Tensor

if TYPE_CHECKING:
    from cordee.trainer.autograd.record import Op

__all__ = ["NAMES", "Binary", "Operand", "Unary", "back_later", "binary", "run_later", "unary", "written"]

Operand: TypeAlias = "Tensor | Array | float | int | bool"

NAMES: dict[str, Any] = {}
"""What the texts call; `graph.py` and `walk.py` put it here."""


class Unary(Protocol):
    """A function of one operand."""

    def __call__(self, input: Operand, *, out: Tensor | None = None) -> Tensor: ...


class Binary(Protocol):
    """A function of two operands."""

    def __call__(self, input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...


# -- functions whose code comes later ----------------------------------------------------------------------------------


def _unary(input: Operand, *, out: Tensor | None = None) -> Tensor:
    return WRITE()(input, out=out)  # type: ignore[name-defined,no-any-return]  # noqa: F821 (in the function's names)


def _binary(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor:
    return WRITE()(input, other, out=out)  # type: ignore[name-defined,no-any-return]  # noqa: F821


def _any(*arguments: Any, **params: Any) -> Any:
    return WRITE()(*arguments, **params)  # type: ignore[name-defined]  # noqa: F821


_ANNOTATED: dict[str, Any] = {"Array": Array, "Operand": Operand, "Tensor": Tensor, "__builtins__": builtins}
"""The names in the functions' annotations; and Python's own, by which NumPy's C code imports what it raises."""


def unary(op: Op) -> Unary:
    """The function of an elementwise op of one input and no params."""
    function: Unary = _later(op, op.name, _unary, _unary_text)
    function.__module__ = sys._getframe(1).f_globals["__name__"]  # where it is found by its name, by pickle for one
    return function


def binary(op: Op) -> Binary:
    """The function of an op of two inputs and no params that broadcasts."""
    function: Binary = _later(op, op.name, _binary, _binary_text)
    function.__module__ = sys._getframe(1).f_globals["__name__"]
    return function


def run_later(op: Op) -> Callable[..., Any]:
    """What runs an op with its inputs, in order, and its params, and records it."""
    function: Callable[..., Any] = _later(op, f"run_{op.name}", _any, _run_text)
    return function


def back_later(op: Op) -> Callable[..., Any]:
    """What walks back over its nodes: see `templates.BACK`."""
    function: Callable[..., Any] = _later(op, f"back_{op.name}", _any, _back_text)
    return function


def _later(op: Op, name: str, like: Any, text: Callable[[Op, str], str]) -> Any:
    names = dict(_ANNOTATED)
    function = FunctionType(like.__code__, names, name)
    names["WRITE"] = functools.partial(_write, function, op, text)
    function.__qualname__ = name
    function.__kwdefaults__ = like.__kwdefaults__
    function.__annotations__ = like.__annotations__
    function.__doc__ = op.doc
    function.__module__ = like.__module__
    return function


def _write(function: Any, op: Op, text: Callable[[Op, str], str]) -> Any:
    """Put into a function the code that was written for it."""
    name = function.__name__
    source = text(op, name)
    filename = f"<cordee {name}>"
    function.__globals__.update(NAMES, __name__=__name__, OP=op, KIND=op.autocast, **_functions(op), **{name: function})
    (code,) = [const for const in compile(source, filename, "exec").co_consts if isinstance(const, CodeType)]
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    OURS.add(filename)
    if text is _run_text:
        function.__defaults__ = tuple(_defaults(op).values()) or None
    function.__code__ = code  # at last: another thread may call it at once
    return function


def _functions(op: Op) -> dict[str, Any]:
    """The record's own functions, by the names that they have in the texts."""
    found = {"FORWARD": op.forward, "SMALL": op.small_forward, "ADDS": op.adds}
    for i, rule in enumerate(op.vjps):
        found[f"RULE{i}"], found[f"SMALL_RULE{i}"] = rule, op.small_vjps[i]
    for i, rule in enumerate(op.writes):
        found[f"WRITES{i}"] = rule
    return found


def written(op: Op) -> str:
    """The text of the functions that record an op and walk back over it."""
    parts = [_run_text(op, f"run_{op.name}")]
    if op.back is not None:
        parts.append(_back_text(op, f"back_{op.name}"))
    if op.elementwise and not op.params and len(op.inputs) <= 2:
        parts[0] = (_unary_text if len(op.inputs) == 1 else _binary_text)(op, op.name)
    return "\n\n".join(parts)


# -- the texts ---------------------------------------------------------------------------------------------------------


def _filled(template: str, words: dict[str, bool], **parts: str) -> str:
    """The lines whose words (after `#?`) hold, with the parts in their places. A part of several lines is indented as
    its place is."""
    lines = []
    for line in template.strip("\n").split("\n"):
        text, mark, wanted = line.partition("#?")
        if all(words[word.removeprefix("not_")] != word.startswith("not_") for word in wanted.split()):
            indent = text[: len(text) - len(text.lstrip())]
            for name, part in parts.items():
                if f"{{{name}}}" in text:
                    text = text.replace(f"{{{name}}}", part.replace("\n", "\n" + indent))
            lines.append(text.rstrip() if mark else text)
    return "\n".join(lines) + "\n"


def _words(op: Op) -> dict[str, bool]:
    forward = _forward(op, "")
    return {
        "autocast": bool(op.autocast),
        "aux": op.aux,
        "broadcasts": op.broadcasts,
        "elementwise": op.elementwise,
        "keeps": op.keeps,
        "low": op.autocast == "low",
        "params": bool(op.params or op.aux),
        "same_dtype": "FORWARD" not in forward and (op.expr is None or op.expr in _SAME_DTYPE),
        "view": op.view,
    }


_SAME_DTYPE = frozenset(("a + b", "a - b", "a * b", "-a"))
"""Whose results NumPy computes in the dtype of the operands, whatever it is."""


def _parts(op: Op, forward: str) -> dict[str, str]:
    """What every recording text needs."""
    names, defaults = range(len(op.inputs)), _defaults(op)
    given = ", ".join(f'"{name}": {name}' for name in op.params)
    noted = ", ".join([given, '"aux": aux'] if given and op.aux else ['"aux": aux'] if op.aux else [given])
    return {
        "forward": forward,
        "inputs": ", ".join(op.inputs),
        "params": "".join(f", {name}={defaults[name]!r}" if name in defaults else f", {name}" for name in op.params),
        "passed": "".join(f", {name}={name}" for name in op.params),
        "named": f"{{{given}}}" if given else "NO_PARAMS",
        "noted": f"{{{noted}}}" if noted else "NO_PARAMS",
        "xs": ", ".join(f"x{i}" for i in names),
        "edges": ", ".join(f"edge{i}" for i in names),
        "no_edge": " and ".join(f"edge{i} is None" for i in names),
        "kept_out": _kept(op, "out", "out", "None"),
        "new_node": templates.NEW_NODE.strip("\n"),
        "new_tensor": templates.NEW_TENSOR.strip("\n"),
    }


def _kept(op: Op, name: str, value: str, otherwise: str) -> str:
    """The expression of what is kept: the value, where the gradient of an input that needs one reads it."""
    readers = [i for i, names in enumerate(op.saves) if name in names.split()]
    if not readers:
        return otherwise
    if len(readers) == len(op.saves):
        return value
    condition = " or ".join(f"edge{i} is not None" for i in readers)
    return f"{value} if {condition} else {otherwise}"


def _defaults(op: Op) -> dict[str, Any]:
    """The params that need not be given, and what they are then."""
    function = getattr(op.small_forward, "reference", op.small_forward)
    return getattr(function, "__kwdefaults__", None) or {}


def _forward(op: Op, xp: str) -> str:
    """The call of the record's forward; or what it does, where its code is that of the record's formula."""
    inputs = [f"x{i}" for i in range(len(op.inputs))]
    if op.forward is op.small_forward:
        formulas = _IDIOMS_OF_VIEWS if op.expr is None else (op.expr,)
        text = _same_code(op.forward, ("xp", *op.inputs), formulas, op.params)
        if text is not None:
            return _renamed(text, dict(zip(op.inputs, inputs, strict=True)))
    arguments = ", ".join([xp, *inputs, *(f"{name}={name}" for name in op.params)])
    if op.forward is not op.small_forward and len(inputs) == 1 and not op.params:
        return f"(SMALL if x0.size < LEAST and type(x0) is ndarray else FORWARD)({arguments})"
    return f"FORWARD({arguments})"


_IDIOMS_OF_VIEWS = ("a.reshape(shape)", "a.transpose(axes)")
_IDIOMS = (
    "g", "-g", "g * a", "g * b", "g / b", "g * out", "g.reshape(a)", "g.swapaxes(-1, -2)",
)  # fmt: skip
"""What rules often are: put in the place of a call, where their code is the same."""


def _rule(op: Op, i: int) -> str:
    """The call of the rule for an input's gradient, likewise; None where there is no rule."""
    if op.vjps[i] is None:
        return "None"
    inputs = [f"x{j}" for j in range(len(op.inputs))]
    params = (*op.params, *(("aux",) if op.aux else ()))
    if op.vjps[i] is op.small_vjps[i]:
        text = _same_code(op.vjps[i], ("F", "g", "out", *op.inputs), _IDIOMS, op.params)
        if text is not None:
            return _renamed(text, dict(zip(op.inputs, inputs, strict=True)))
    arguments = ", ".join(["F", "g", "out", *inputs, *(f"{name}={name}" for name in params)])
    if op.vjps[i] is not op.small_vjps[i]:
        return f"(SMALL_RULE{i} if g.size < F.least else RULE{i})({arguments})"
    return f"RULE{i}({arguments})"


def _same_code(function: Any, arguments: tuple[str, ...], texts: tuple[str, ...], params: Any = ()) -> str | None:
    """The one of these expressions that a function is, by its code."""
    if type(function) is not FunctionType or function.__closure__ or function.__defaults__:
        return None
    code = function.__code__
    for text in texts:
        try:
            signature = ", ".join(arguments) + "".join(f", {'*, ' if not k else ''}{p}" for k, p in enumerate(params))
            (like,) = [c for c in compile(f"lambda {signature}: {text}", "", "eval").co_consts if hasattr(c, "co_code")]
        except SyntaxError:
            continue
        if (code.co_code, code.co_consts, code.co_names) == (like.co_code, like.co_consts, like.co_names) and (
            code.co_varnames == like.co_varnames
        ):
            return text
    return None


def _renamed(text: str, names: dict[str, str]) -> str:
    import re

    return re.sub(r"\b\w+\b", lambda word: names.get(word[0], word[0]), text)


def _unary_text(op: Op, name: str) -> str:
    return _filled(templates.UNARY.rstrip("\n") + templates.RUN_ONE, _words(op), name=name, **_one_parts(op))


def _one_parts(op: Op) -> dict[str, str]:
    xp = "np if type(x0) is ndarray else array_module(x0)"
    saved = _kept(op, op.inputs[0], "x0", "x0.shape" if not op.elementwise and _reads(op, 0) else "None")
    return _parts(op, _forward(op, xp)) | {"saved": f"({saved},)" if saved != "None" else "NOTHING_SAVED"}


def _binary_text(op: Op, name: str) -> str:
    xp = "np if type(x0) is ndarray and type(x1) is ndarray else array_module(x0, x1)"
    kept = [[_kept(op, op.inputs[i], f"x{i}", other) for i in (0, 1)] for other in ("None", "shape{}")]
    uneven = ", ".join(text.format(i) for i, text in enumerate(kept[1]))
    even = ", ".join(kept[0]) if op.elementwise else uneven
    saved = {"even": f"({even})" if even != "None, None" else "NOTHING_SAVED_OF_TWO", "uneven": f"({uneven})"}
    return _filled(templates.BINARY, _words(op), name=name, **_parts(op, _forward(op, xp)), **saved)


def _run_text(op: Op, name: str) -> str:
    words = _words(op)
    if op.many or op.variadic:
        return _filled(templates.RUN_ANY, words, name=name)
    if len(op.inputs) == 1:
        return _filled(templates.ONE.rstrip("\n") + templates.RUN_ONE, words, name=name, **_one_parts(op))
    xp = "np if type(x0) is ndarray else array_module({xs})".format(
        xs=", ".join(f"x{i}" for i in range(len(op.inputs)))
    )
    parts = _parts(op, _forward(op, xp))
    saved, load = [], []
    for i, given in enumerate(op.inputs):
        shape = "None"
        if op.broadcasts or _reads(op, i):
            shape = f"x{i}.shape" if i == 0 else f"(None if x{i} is None else x{i}.shape)"
        saved.append(_kept(op, given, f"x{i}", shape))
        load.append(_filled(templates.LOAD, words | {"first": i == 0}, i=str(i), input=given).rstrip())
    parts["saved"], parts["load"] = ", ".join(saved), "\n".join(load)
    parts["mixed"] = " or ".join(f"(x{i} is not None and x{i}.dtype is not dtype)" for i in range(1, len(op.inputs)))
    return _filled(templates.SEVERAL, words, name=name, uneven=str(op.broadcasts), **parts)


def _reads(op: Op, i: int) -> bool:
    """Whether some rule of the op looks at input i, as far as its code tells."""
    rules = [*op.vjps, *op.writes, op.vjp, op.adds]
    return any(rule is not None and _mentions(rule, op.inputs[i]) for rule in rules)


def _mentions(function: Any, name: str) -> bool:
    code = getattr(function, "__code__", None)
    if code is None or name not in code.co_varnames[: code.co_argcount]:
        return True  # by another name, or no function of Python's
    return any(instruction.argval == name for instruction in dis.get_instructions(code))


def _back_text(op: Op, name: str) -> str:
    words = _words(op)
    parts = {
        "xs": ", ".join(f"x{i}" for i in range(len(op.inputs))) + ("," if len(op.inputs) == 1 else ""),
        "edges": ", ".join(f"edge{i}" for i in range(len(op.inputs))) + ("," if len(op.inputs) == 1 else ""),
    }
    defaults = _defaults(op)
    unpack = [
        f'{name} = params.get("{name}", {defaults[name]!r})' if name in defaults else f'{name} = params["{name}"]'
        for name in (*op.params, *(("aux",) if op.aux else ()))
    ]
    words["keeps_out"] = any("out" in names.split() for names in op.saves)
    if len(op.inputs) == 1:
        rule = _rule(op, 0)
        named = ", ".join(["g, out, x0", *(f"{name}={name}" for name in op.params)])
        words |= {"adds": op.adds is not None, "sure": "RULE" not in rule and rule != "None"}
        words["params"] = words["params"] and not words["sure"]
        parts["unpack"] = "\n".join(unpack)
        return _filled(templates.BACK_ONE, words, name=name, rule=rule, arguments=named, **parts)
    parts["unpack"] = "\n".join(unpack)
    each = [text for i in range(len(op.inputs)) for text in _back_of_input(op, words, i)]
    return _filled(templates.BACK, words, name=name, each="\n".join(each), **parts)


def _back_of_input(op: Op, words: dict[str, bool], i: int) -> Iterator[str]:
    if op.vjps[i] is not None:
        rule = _rule(op, i)
        writes = bool(op.writes) and op.writes[i] is not None
        words = words | {"writes": writes, "first": i == 0, "sure": "RULE" not in rule}
        yield _filled(templates.BACK_OF_INPUT, words, i=str(i), rule=rule).rstrip()
