"""Writes the tables of docs/reference/engine.md from the engine itself, so that they cannot drift.

    python scripts/engine_reference.py            # rewrites what stands between the page's markers
    python scripts/engine_reference.py --check    # changes nothing; exit code 1 when the page is not up to date

The page's own words stand outside the markers `<!-- begin: NAME -->` and `<!-- end: NAME -->`; inside, everything comes
from the op registry and from the first sentence of each class's or function's docstring.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from cordee import trainer
from cordee.trainer import autograd, data, fft, fit, func, interop, linalg, nn, optim
from cordee.trainer.autograd.record import REGISTRY, Op
from cordee.trainer.optim import lr_scheduler, swa_utils

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "engine.md"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def first_sentence(thing: Any) -> str:
    """The first sentence of a docstring, on one line."""
    text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.:])\s", text)[0].rstrip(".:")


def code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def describe_op(op: Op) -> tuple[str, ...]:
    dtype = op.dtype if isinstance(op.dtype, str) else "of its own"
    outputs = "" if not op.many else f" ({code(op.outputs)})"
    return f"`{op.signature}`", op.doc + outputs, dtype, "yes" if op.differentiable else "no"


def ops() -> str:
    """All ops, by the file that declares them."""
    families: dict[str, list[Op]] = {}
    for op in REGISTRY.values():
        forward = getattr(op.small_forward, "reference", op.small_forward)  # neither a fused loop nor a kernel
        families.setdefault(forward.__module__.rpartition(".")[2], []).append(op)
    head = ("op", "result", "dtype", "gradient")
    return "\n\n".join(
        f"### {family}\n\n{table(head, map(describe_op, members))}" for family, members in sorted(families.items())
    )


def members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The public classes and functions of a module."""
    for name in sorted(getattr(module, "__all__", ()), key=str.lower):
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            yield name, thing


def listed(*modules: ModuleType) -> str:
    """The public names of modules, each with its first sentence."""
    rows = []
    for module in modules:
        prefix = module.__name__.removeprefix("cordee.trainer").lstrip(".")
        for name, thing in members(module):
            rows.append((f"`{prefix}.{name}`" if prefix else f"`{name}`", first_sentence(thing)))
    return table(("name", "what it is"), rows)


def functions() -> str:
    """The names of the functions of `cordee.trainer` itself."""
    from cordee.trainer import ops as families

    names = {name for name in vars(families) if not name.startswith("_") and callable(getattr(families, name))}
    names |= {
        "no_grad",
        "enable_grad",
        "manual_seed",
        "set_num_threads",
        "get_num_threads",
        "set_device",
        "set_default_dtype",
    }
    return code(
        sorted(name for name in names if hasattr(trainer, name) and not inspect.isclass(getattr(trainer, name)))
    )


SECTIONS: dict[str, Callable[[], str]] = {
    "functions": functions,
    "ops": ops,
    "nn": lambda: listed(nn),
    "functional": lambda: code(sorted(nn.functional.__all__)),
    "optim": lambda: listed(optim, lr_scheduler, swa_utils),
    "data": lambda: listed(data, data.datasets),
    "fit": lambda: listed(fit),
    "autograd": lambda: listed(autograd, autograd.functional),
    "func": lambda: listed(func),
    "linalg": lambda: code(sorted(linalg.__all__)),
    "fft": lambda: code(sorted(fft.__all__)),
    "interop": lambda: listed(interop),
}


def render(page: str) -> str:
    """The page with every marked part made anew."""
    for name, make in SECTIONS.items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        before, marked, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (marked and closed):
            raise ValueError(f"{PAGE} has no part {begin} … {end}")
        page = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
    return page


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the tables of docs/reference/engine.md.")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit code 1 when the page is not up to date"
    )
    check = parser.parse_args().check
    written = PAGE.read_text(encoding="utf-8")
    wanted = render(written)
    if written == wanted:
        return 0
    if check:
        sys.stderr.write(f"{PAGE.name} is not up to date: run python scripts/engine_reference.py\n")
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
