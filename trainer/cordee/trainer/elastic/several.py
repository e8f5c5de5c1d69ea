"""One model and one optimiser, or several of them by name: what a run is given, in one form."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cordee.trainer.nn import Module, ModuleDict, ModuleList

if TYPE_CHECKING:
    from cordee.trainer.optim import Optimizer

__all__ = ["Models", "Optimizers", "as_model", "as_optimizers", "check_for_steps"]

Models = Module | Mapping[str, Module] | Sequence[Module]
Optimizers = Any
"""An `Optimizer`, a mapping or a sequence of them."""


def as_model(model: Models) -> Module:
    """One module: several are held by one whose children they are, so that their names come first in all names.

    Raises:
        TypeError: something else was given.
    """
    if isinstance(model, Module):
        return model
    named = _named(model, "model", "a module")
    for name, each in named.items():
        if not isinstance(each, Module):
            raise TypeError(f"model {name!r} is to be a module, not {type(each).__name__}")
    return ModuleDict(named) if isinstance(model, Mapping) else ModuleList(list(named.values()))


def as_optimizers(optimizer: Optimizers) -> dict[str, Optimizer]:
    """Optimisers by name; a single one has the name "".

    Raises:
        TypeError: something else was given.
        ValueError: one is there twice.
    """
    from cordee.trainer.optim import Optimizer

    named = {"": optimizer} if isinstance(optimizer, Optimizer) else _named(optimizer, "optimizer", "an optimizer")
    for name, each in named.items():
        if not isinstance(each, Optimizer):
            raise TypeError(
                f"{_which(name)} is to be one of cordee.trainer.optim's, or of a class of your own whose base is "
                f"optim.Optimizer, not {type(each).__name__}"
            )
    if len({id(each) for each in named.values()}) < len(named):
        raise ValueError("an optimizer is given twice")
    return named


def check_for_steps(optimizers: Mapping[str, Optimizer]) -> None:
    """Raises `ValueError` when one of them cannot train in elastic steps."""
    from cordee.trainer.optim import Optimizer

    for name, each in optimizers.items():
        which = _which(name)
        if each.needs_closure or _wants_closure(each):
            raise ValueError(
                f"{which} is {type(each).__name__}, whose step computes the loss several times: an elastic step has "
                "one sum of gradients to apply. Use another optimizer, or train without elastic.Run"
            )
        for attribute, value in vars(each).items():
            if isinstance(value, Optimizer):
                raise ValueError(
                    f"{which}, {type(each).__name__}, holds another one as {attribute!r}, whose state would not travel "
                    "to workers that join: write it as one class whose base is optim.Optimizer"
                )


def _which(name: str) -> str:
    return f"optimizer {name!r}" if name else "the optimizer"


def _named(given: Any, what: str, single: str) -> dict[str, Any]:
    if isinstance(given, Mapping):
        named = dict(given)
    elif isinstance(given, Sequence) and not isinstance(given, str):
        named = {str(number): each for number, each in enumerate(given)}
    else:
        raise TypeError(f"{what} is to be {single}, or a dictionary or list of them, not {type(given).__name__}")
    if not named:
        raise ValueError(f"{what} is empty: there is nothing to train")
    for name in named:
        if not isinstance(name, str) or not name or "." in name or "/" in name:
            raise ValueError(f"the name of {what} {name!r} is to be a string without dots and slashes")
    return named


def _wants_closure(optimizer: Optimizer) -> bool:
    try:
        parameters = inspect.signature(optimizer.step).parameters.values()
    except (TypeError, ValueError):
        return False
    fixed = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(each.default is each.empty and each.kind in fixed for each in parameters)
