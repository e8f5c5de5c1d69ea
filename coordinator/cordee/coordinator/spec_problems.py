"""What is wrong with a job file, in sentences: the field by its path, what was given, what would be right.

Pydantic finds the mistakes; here each becomes one sentence that a person can act on, with "did you mean" for a field
that does not exist.
"""

import difflib
import json
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel
from pydantic_core import ErrorDetails

__all__ = ["Problem", "SpecError", "brief", "describe", "given"]

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 60
_brief.maxdict = _brief.maxlist = 4
_brief.maxlevel = 2


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a job file."""

    field: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        return f"{place}{self.field} {self.message}" if self.field else f"{place}{self.message}"


class SpecError(ValueError):
    """A job file or worker range that cannot be used. `problems` holds one sentence per mistake."""

    def __init__(self, problems: tuple[Problem, ...], where: str = "") -> None:
        self.problems = problems
        self.where = where
        lines = [f"{where}: {problem}" if where else str(problem) for problem in problems]
        super().__init__("\n".join(lines))


def brief(value: object) -> str:
    """A value as it was written, cut short."""
    return _brief.repr(value)


_YAML_TYPES: Final[tuple[tuple[type, str], ...]] = (
    (bool, "true or false"),
    (int, "a number"),
    (float, "a number"),
    (str, "text"),
    (Mapping, "a mapping"),
    (list, "a list"),
)


def given(value: object) -> str:
    """What was given, in YAML's words: `10, a number`."""
    if value is None:
        return "empty"
    kind = next((name for kind, name in _YAML_TYPES if isinstance(value, kind)), f"of type {type(value).__name__}")
    if isinstance(value, Mapping | list):
        return kind
    shown = json.dumps(value) if isinstance(value, bool) else _brief.repr(value)
    return f"{shown}, {kind}" if not isinstance(value, bool) else shown


def _quoted(value: object) -> str:
    """What to write for a value YAML did not read as text."""
    if isinstance(value, Mapping | list) or value is None:
        return "it must be text"
    text = json.dumps(value) if isinstance(value, bool | int | float) else str(value)
    return f'it must be text: write it in quotes, "{text}"'


_WANTED: Final[dict[str, str]] = {
    "int_type": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "float_type": "it must be a number",
    "finite_number": "it must be a finite number",
    "tuple_type": 'it must be a list, such as [--epochs, "10"]',
    "dict_type": "it must be a mapping, such as {KEY: value}",
    "model_type": "it must be a mapping of fields",
    "model_attributes_type": "it must be a mapping of fields",
}


def describe(
    detail: ErrorDetails,
    root: type[BaseModel],
    prefix: tuple[str, ...] = (),
    examples: Mapping[tuple[str | int, ...], str] | None = None,
    file: str = "a job file",
) -> Problem:
    """One of Pydantic's findings about a `root`, which stands at `prefix` of a `file`; `examples` show what a missing
    field is like."""
    loc, kind, value, context = detail["loc"], detail["type"], detail["input"], detail.get("ctx", {})
    if loc and loc[-1] == "[key]":
        return Problem(_path((*prefix, *loc[:-2])), f"has the name {given(loc[-2])}; write it in quotes")
    field = _path((*prefix, *loc))
    match kind:
        case "missing":
            example = (examples or {}).get(loc)
            message = f"is missing; write '{example}'" if example else "is missing"
        case "extra_forbidden":
            message = f"is not a field of {file}{_suggestion(root, loc)}"
        case "cordee":
            message = str(context["message"])
        case "literal_error":
            shown = brief(value) if isinstance(value, str) else given(value)
            message = f"is {shown}; it must be {context['expected']}"
        case "greater_than_equal":
            message = f"is {brief(value)}; it must be at least {context['ge']}"
        case "less_than_equal":
            message = f"is {brief(value)}; it must be at most {context['le']}"
        case "string_type":
            message = f"is {given(value)}; {_quoted(value)}"
        case _ if kind in _WANTED:
            message = f"is {given(value)}; {_WANTED[kind]}"
        case _:
            message = f"is {given(value)}; {detail['msg'][:1].lower()}{detail['msg'][1:]}"
    return Problem(field, message)


def _path(loc: tuple[str | int, ...]) -> str:
    text = ""
    for step in loc:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _fields(model: type[BaseModel], path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every (enclosing path, field name) of the schema."""
    for name, info in model.model_fields.items():
        alias = info.alias or name
        yield path, alias
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _fields(info.annotation, (*path, alias))


def _plain(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def _suggestion(root: type[BaseModel], loc: tuple[str | int, ...]) -> str:
    """The field that was probably meant: one of this level that is spelt alike, or one of that name elsewhere."""
    fields = list(_fields(root))
    here = [name for path, name in fields if path == loc[:-1]]
    wanted = _plain(loc[-1])
    close = difflib.get_close_matches(wanted, [_plain(name) for name in here], n=1, cutoff=0.6)
    if close:
        name = next(name for name in here if _plain(name) == close[0])
        return f"; did you mean {_path((*loc[:-1], name))}?"
    elsewhere = [(*path, name) for path, name in fields if _plain(name) == wanted]
    if elsewhere:
        return f"; did you mean {_path(elsewhere[0])}?"
    return f"; known here: {', '.join(here)}" if here else ""
