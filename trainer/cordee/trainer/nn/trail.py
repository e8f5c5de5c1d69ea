"""Where an error happened: which module, by path, as a note on the error. Its type and its traceback stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cordee.trainer.nn.module import Module

__all__ = ["locate"]


def locate(error: Exception, module: Module) -> None:
    """Notes on the error which module it came from. Called by every module on the way out, innermost first."""
    trail: list[Module] = error.__dict__.setdefault("_cordee_trail", [])
    if trail and trail[-1] is module:
        return
    trail.append(module)
    names = []
    for outer, below in zip(trail[1:], trail, strict=False):
        names.append(next((name for name, child in outer.named_modules() if child is below), "?"))
    where = ".".join(reversed(names))
    inner = trail[0]
    layer = f"{type(inner).__name__}(…)" if any(inner.children()) else repr(inner)
    text = f"in {type(trail[-1]).__name__}{'.' + where if where else ''}: {layer}"
    notes: list[str] = error.__dict__.setdefault("__notes__", [])
    previous = error.__dict__.get("_cordee_note")
    if previous in notes:
        notes[notes.index(previous)] = text
    else:
        notes.append(text)
    error.__dict__["_cordee_note"] = text
