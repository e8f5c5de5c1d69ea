"""Reading a job file's YAML, strictly: YAML 1.2's plain words, no duplicate keys, no aliases; and where each field
stands."""

import re
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml

from cordee.coordinator.spec_problems import Problem, SpecError

__all__ = ["MAX_FILE_BYTES", "line_of", "load_yaml", "read_text", "refuse"]

MAX_FILE_BYTES: Final = 1 << 20


def refuse(where: str, message: str) -> NoReturn:
    raise SpecError((Problem("" if where else "the job file", message),), where)


def read_text(path: Path, what: str = "job file") -> str:
    """A file's text; `what` it should be is for whoever gave the wrong one."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        refuse(str(path), f"there is no such file; give the path of a {what}")
    except IsADirectoryError:
        refuse(str(path), f"is a folder; give the path of a {what}")
    except OSError as error:
        refuse(str(path), f"cannot be read: {error.strerror}")
    if len(raw) > MAX_FILE_BYTES:
        refuse(str(path), f"is larger than {MAX_FILE_BYTES >> 20} MiB; a {what} is a page of YAML")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        refuse(str(path), f"is not UTF-8 text (byte {error.start}); a {what} is YAML")


class _Loader(yaml.SafeLoader):
    """YAML's safe subset, less what hides mistakes or unfolds: duplicate keys and aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem="YAML aliases (*name) are not used in job files; write the value out",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a field's name must be plain text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} is given twice (first in line {seen[key.value]}); keep one of them",
                    problem_mark=key.start_mark,
                )
            seen[key.value] = line
        return super().construct_mapping(node, deep)


# YAML 1.2's core schema, in place of SafeLoader's: what a plain word means, by its first character.
_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^([-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""])


def load_yaml(text: str, where: str) -> tuple[yaml.Node | None, object]:
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            document = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise SpecError((Problem("", _one_sentence(error), line),), where) from None
    except yaml.YAMLError as error:
        raise SpecError((Problem("", f"is not valid YAML: {' '.join(str(error).split())}"),), where) from None
    except (RecursionError, ValueError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SpecError((Problem("", f"is not a usable YAML document: {reason}"),), where) from None
    return node, document


def _one_sentence(error: yaml.MarkedYAMLError) -> str:
    if error.problem and "expected a single document" in f"{error.context} {error.problem}":
        return "holds several YAML documents; a job file is one"
    own = type(error) is yaml.MarkedYAMLError
    parts = [part for part in (error.context, error.problem) if part]
    return (error.problem or "") if own else f"is not valid YAML: {', '.join(parts)}"


def line_of(node: yaml.Node | None, path: tuple[str | int, ...]) -> int | None:
    """The line where the field at `path` stands, or its nearest enclosing one."""
    line = None
    for step in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(step)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            item: yaml.Node = node.value[step]
            line, node = item.start_mark.line + 1, item
        else:
            break
    return line
