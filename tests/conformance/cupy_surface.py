"""What of CuPy the engine uses, held against what CuPy has: without a GPU, and without CuPy.

`cupy_surface.json` lists the functions, ufuncs (with their loops) and array methods of a CuPy release, with the names
of their arguments. From it comes the stand-in of `cupy_stand_in`, and this check, which walks the engine's sources:
every `xp.<name>(…)` outside a branch for NumPy must be listed, with the keywords it is called with.

    python tests/conformance/cupy_surface.py             # the engine against the list
    python tests/conformance/cupy_surface.py --compare   # the list against the installed CuPy (without a device)
    python tests/conformance/cupy_surface.py --write     # the list anew, from the CuPy that is installed
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["LIST", "differences", "installed", "load", "used", "wrong"]

LIST = Path(__file__).with_name("cupy_surface.json")
ENGINE = Path(__file__).resolve().parents[2] / "trainer" / "cordee" / "trainer"

MODULES = ("", "linalg", "fft", "lib.stride_tricks", "cuda")
SPECIAL = "cupyx.scipy.special"
_METHOD = re.compile(r"(?:_ndarray_base|ndarray)\.\w+\((.*)\)")


def load() -> dict[str, Any]:
    """The committed list: `version`, `functions`, `ufuncs`, `methods`, and `special` (of cupyx.scipy)."""
    found: dict[str, Any] = json.loads(LIST.read_text())
    return found


# -- from CuPy -------------------------------------------------------------------------------------------------------


def installed() -> dict[str, Any]:
    """The same list, of the CuPy that is installed."""
    cupy = importlib.import_module("cupy")
    functions: dict[str, str] = {}
    ufuncs: dict[str, str] = {}
    for name in MODULES:
        module = importlib.import_module(f"cupy.{name}".rstrip("."))
        for inner, value in _public(module):
            full = f"{name}.{inner}".lstrip(".")
            if type(value).__name__ == "ufunc":
                ufuncs[full] = " ".join(value.types)
            elif callable(value) or not name:
                functions[full] = _arguments(value)
    methods = {
        name: _documented(getattr(cupy.ndarray, name))
        for name in dir(cupy.ndarray)
        if not name.startswith("_") or (name.startswith("__") and name not in _OF_EVERY_CLASS)
    }
    special = sorted(name for name, value in _public(importlib.import_module(SPECIAL)) if callable(value))
    return {
        "version": cupy.__version__, "functions": functions, "ufuncs": ufuncs, "methods": methods, "special": special,
    }  # fmt: skip


_OF_EVERY_CLASS = frozenset((*dir(object), "__pyx_vtable__", "__slots__", "__module__"))


def _public(module: Any) -> Iterator[tuple[str, Any]]:
    for name in sorted(dir(module)):
        value = getattr(module, name)
        if not name.startswith("_") and not inspect.ismodule(value) and name not in ("annotations", "testing"):
            yield name, value


def _arguments(function: Any) -> str:
    """The arguments as those of a lambda, each default a 0: `a, indices, axis=0`."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return "*args, **keywords"
    bare = [
        p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else 0)
        for p in signature.parameters.values()
    ]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))[1:-1]


def _documented(method: Any) -> str | None:
    """The arguments of a compiled method, from the first line of its docstring; None for what is no method."""
    if not callable(method):
        return None
    found = _METHOD.match((method.__doc__ or "").split("\n", maxsplit=1)[0])
    if found is None:
        return "*args, **keywords"
    arguments = re.sub(r"=[^,)]+", "=0", found[1])
    return re.sub(r"\b(?:int|tuple|Py_ssize_t|_ndarray_base) (?=\w)", "", arguments)


def differences(listed: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What the engine may rely on by the list, and does not find in this CuPy."""
    told = []
    for part in ("functions", "ufuncs", "methods"):
        for name, value in listed[part].items():
            if found[part].get(name, ...) != value:
                told.append(f"{name}: {value!r} in the list, {found[part].get(name, 'nothing')!r} in CuPy")
    return [*told, *(f"{name}: not in {SPECIAL}" for name in listed["special"] if name not in found["special"])]


# -- from the engine ---------------------------------------------------------------------------------------------------


class _Uses(ast.NodeVisitor):
    """Collects `xp.<path>` with the keywords of its call, except where a test of `xp` says that it is NumPy."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str, tuple[str, ...]]] = []

    def visit_If(self, node: ast.If | ast.IfExp) -> None:
        test = ast.unparse(node.test)
        self.visit(node.test)
        body = node.body if isinstance(node.body, list) else [node.body]
        orelse = node.orelse if isinstance(node.orelse, list) else [node.orelse]
        for part, numpy_says in ((body, "xp is np"), (orelse, "xp is not np")):
            if numpy_says not in test:
                for each in part:
                    self.visit(each)

    visit_IfExp = visit_If

    def visit_Call(self, node: ast.Call) -> None:
        path = _path(node.func)
        if path is not None:
            self.found.append((node.lineno, path, _keywords(node)))
        else:
            self.visit(node.func)
        for each in (*node.args, *node.keywords):
            self.visit(each)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        path = _path(node)
        if path is not None:
            self.found.append((node.lineno, path, ()))
        else:
            self.generic_visit(node)


def _keywords(call: ast.Call) -> tuple[str, ...]:
    """The keywords of a call, and `2nd` for a second argument (of `bincount`: the weights)."""
    return (*("2nd" for _ in call.args[1:2]), *(k.arg for k in call.keywords if k.arg is not None))


def _path(node: ast.expr) -> str | None:
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join(reversed(names)) if names and isinstance(node, ast.Name) and node.id == "xp" else None


def used(root: Path = ENGINE) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Every `xp.<path>` of the engine: where, the path, and the keywords it is called with."""
    for file in sorted(root.rglob("*.py")):
        visitor = _Uses()
        visitor.visit(ast.parse(file.read_text()))
        for line, path, keywords in visitor.found:
            yield f"{file.relative_to(root)}:{line}", path, keywords


_OF_A_UFUNC = {
    "": {"out", "dtype", "casting"},
    "reduce": {"axis", "dtype", "out", "keepdims"},
    "accumulate": {"axis", "dtype", "out"},
    "reduceat": {"axis", "dtype", "out"},
    "outer": {"out", "dtype", "casting"},
}
_REDUCING = {"reduce": ("add", "multiply"), "accumulate": ("add", "multiply"), "reduceat": ("add",)}
UNORDERED = {"add.at", "subtract.at", "maximum.at", "minimum.at", "histogram2d"}
"""These add in the order in which threads arrive."""


def wrong(listed: dict[str, Any], root: Path = ENGINE) -> list[str]:
    """The engine's uses of `xp` that CuPy does not have, as sentences."""
    return [f"{where}: xp.{path}: {said}" for where, path, keys in used(root) if (said := _judge(listed, path, keys))]


def _judge(listed: dict[str, Any], path: str, keywords: tuple[str, ...]) -> str | None:
    if path in UNORDERED or (path == "bincount" and {"weights", "2nd"} & {*keywords}):
        return "adds in no fixed order on a device"
    if path == "__name__" or path in ("linalg", "fft"):
        return None
    keywords = tuple(k for k in keywords if k != "2nd")
    if path in listed["functions"]:
        known = inspect.signature(eval(f"lambda {listed['functions'][path]}: 0")).parameters
        if any(p.kind is p.VAR_KEYWORD for p in known.values()):
            return None
        missing = [k for k in keywords if k not in known]
        return f"CuPy's has no argument {', '.join(missing)}" if missing else None
    base, _, method = path.partition(".")
    if base not in listed["ufuncs"] or method not in _OF_A_UFUNC:
        return "CuPy has none"
    if base not in _REDUCING.get(method, (base,)):
        return f"CuPy has {method} of {', '.join(_REDUCING[method])} only"
    missing = [k for k in keywords if k not in _OF_A_UFUNC[method]]
    return f"CuPy's has no argument {', '.join(missing)}" if missing else None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--write", action="store_true", help="write the list anew from the CuPy that is installed")
    parser.add_argument("--compare", action="store_true", help="hold the list against the CuPy that is installed")
    options = parser.parse_args()
    if options.write:
        lines = json.dumps(installed(), indent=1, sort_keys=True)
        LIST.write_text(lines + "\n")
        return 0
    told = differences(load(), installed()) if options.compare else wrong(load())
    for line in told:
        print(line)
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
