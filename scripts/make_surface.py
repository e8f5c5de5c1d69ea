"""Writes trainer/cordee/trainer/surface.pyi, which tells type checkers and editors what `Tensor` can compute.

    python scripts/make_surface.py            # rewrites the file
    python scripts/make_surface.py --check    # changes nothing; exit code 1 when the file is not up to date

The methods are the operations' own functions (see ops/methods.py), so their declarations are the functions' signatures
with `self` for the first argument.
"""

import argparse
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from cordee.trainer import ops
from cordee.trainer.ops import methods

FILE = Path(__file__).resolve().parent.parent / "trainer" / "cordee" / "trainer" / "surface.pyi"

IGNORED = {
    "__eq__": "override",
    "__ne__": "override",
    "__lt__": "misc",
    "__le__": "misc",
    "__gt__": "misc",
    "__ge__": "misc",
}
"""What type checkers say of comparisons that return no bool."""
OPERATORS: dict[str, str] = {
    "__getitem__": "def __getitem__(self, index: Any) -> Tensor: ...",
    "__setitem__": "def __setitem__(self, index: Any, value: Any) -> None: ...",
    "__iter__": "def __iter__(self) -> Iterator[Tensor]: ...",
    "__neg__": "def __neg__(self) -> Tensor: ...",
    "__pos__": "def __pos__(self) -> Tensor: ...",
    "__abs__": "def __abs__(self) -> Tensor: ...",
    "__invert__": "def __invert__(self) -> Tensor: ...",
}
STANDARD = {
    "Any": "typing", "NamedTuple": "typing", "Self": "typing", "Literal": "typing", "Callable": "collections.abc",
    "Iterator": "collections.abc", "Sequence": "collections.abc", "Iterable": "collections.abc", "Enum": "enum",
    "ModuleType": "types",
}  # fmt: skip


def annotation(value: Any, used: set[tuple[str, str]], home: Any) -> str:
    """An annotation as it was written, in terms of names that the file will import."""
    if value is inspect.Signature.empty:
        return "Any"
    text = value if isinstance(value, str) else getattr(value, "__name__", str(value))
    text = text.strip("\"'")
    for name in set(re.findall(r"(?<![\w.])[A-Za-z_]\w*", text)):
        if name in STANDARD:
            used.add((STANDARD[name], name))
        elif name not in ("int", "float", "bool", "str", "tuple", "list", "dict", "set", "None", "complex", "object"):
            used.add((module_of(name, home), name))
    return text


HOMES = {
    "DTypeLike": "cordee.trainer.array",
    "Operand": "cordee.trainer.autograd.graph",
    "Tensor": "cordee.trainer.tensors",
}
"""Of names that not every file has in which a function with them is made."""


def module_of(name: str, home: Any) -> str:
    """Where the file imports a name from: the module that defines it, else the one that uses it."""
    thing = getattr(home, name, None)
    defined = getattr(thing, "__module__", None)
    if inspect.isclass(thing) and defined and defined.startswith("cordee."):
        return str(defined)
    return HOMES.get(name, home.__name__)


def declare(name: str, method: Any, used: set[tuple[str, str]]) -> str:
    """The declaration of one method."""
    if name in OPERATORS:
        return OPERATORS[name]
    if isinstance(method, property):
        return f"@property\ndef {name}(self) -> Tensor: ...{'  # noqa: N802' if name != name.lower() else ''}"
    if name.startswith("__i") and name not in ("__invert__", "__iter__"):
        return f"def {name}(self, other: Operand) -> Self: ..."
    if name.startswith("__"):
        why = f"  # type: ignore[{IGNORED[name]}]" if name in IGNORED else ""
        return f"def {name}(self, other: Operand) -> Tensor: ...{why}"
    home = sys.modules[method.__module__] if not name.endswith("_") else None
    if name.endswith("_"):
        twin = getattr(method, "__wrapped__", None)
        if twin is None:
            twin = method
        home = sys.modules[twin.__module__]
        signature, result = inspect.signature(twin), "Self"
    else:
        signature, result = inspect.signature(method), None
    assert home is not None
    parts, starred = ["self"], False
    for parameter in list(signature.parameters.values())[1:]:
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        text = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        starred = starred or text == "*"
        text += f"{parameter.name}: {annotation(parameter.annotation, used, home)}"
        parts.append(text if parameter.default is inspect.Parameter.empty else f"{text} = ...")
    returns = result or annotation(signature.return_annotation, used, home)
    return f"def {name}({', '.join(parts)}) -> {returns}: ..."


def builtins_shadowed(lines: list[str], names: list[str]) -> list[str]:
    """Annotations such as `int` mean the builtin, not the method of that name."""
    shadowed = {name for name in names if name in ("int", "float", "bool")}
    result = []
    for line in lines:
        head, _, rest = line.partition("(")
        for name in shadowed:
            rest = re.sub(rf"(?<![\w.]){name}(?![\w(])", f"builtins.{name}", rest)
        result.append(f"{head}({rest}" if rest else line)
    return result


def render() -> str:
    """The whole file."""
    used: set[tuple[str, str]] = {
        ("collections.abc", "Iterator"), ("typing", "Any"), ("typing", "Self"),
        ("cordee.trainer.autograd.graph", "Operand"), ("cordee.trainer.tensors", "Tensor"),
    }  # fmt: skip
    found = methods.collect(ops.FAMILIES)
    lines = [line for name, method in sorted(found.items()) for line in declare(name, method, used).split("\n")]
    lines = builtins_shadowed(lines, list(found))
    imports: dict[str, set[str]] = {}
    for module, name in used:
        imports.setdefault(module, set()).add(name)
    head = ["# What `Tensor` can compute. Written by scripts/make_surface.py: do not edit.", "import builtins"]
    head += [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(imports.items())]
    body = "\n".join(f"    {line}" for line in lines)
    return "\n".join([*head, "", '__all__ = ["Surface"]', "", "class Surface:", body]) + "\n"


def formatted(text: str) -> str:
    """The text as the project's formatter leaves it."""
    for command in (["check", "--fix-only", "--select", "I", "-q"], ["format", "-q"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(FILE), "-"],
            input=text, capture_output=True, text=True, check=True, cwd=FILE.parent,
        )  # fmt: skip
        text = done.stdout
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the declarations of Tensor's methods.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 when not up to date")
    check = parser.parse_args().check
    wanted = formatted(render())
    if FILE.read_text(encoding="utf-8") == wanted:
        return 0
    if check:
        sys.stderr.write(f"{FILE.name} is not up to date: run python scripts/make_surface.py\n")
        return 1
    FILE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
