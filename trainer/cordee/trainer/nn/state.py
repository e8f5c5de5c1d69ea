"""A module's state by name: how it leaves, and how it comes back in, with one report of all that does not fit."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cordee.trainer.array import as_array
from cordee.trainer.autograd.mode import no_grad
from cordee.trainer.nn.parameter import Buffer, Parameter
from cordee.trainer.tensors import Tensor

if TYPE_CHECKING:
    from cordee.trainer.nn.module import Module

__all__ = ["EXTRA", "LoadReport", "extra_state", "has_extra_state", "load", "named_state", "own_state"]

EXTRA = "_extra_state"


class LoadReport(NamedTuple):
    """What `load_state_dict` met; both lists are empty when it was strict."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def own_state(module: Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters, then the persistent buffers, that are this module's attributes."""
    attributes = vars(module)
    buffers = attributes.get("_buffers", {})
    for name, value in attributes.items():
        if isinstance(value, Parameter):
            yield name, value
    for name, persistent in buffers.items():
        value = attributes.get(name)
        if persistent and value is not None and not isinstance(value, Parameter):
            yield name, value
    for name, value in attributes.items():
        if isinstance(value, Buffer) and value.persistent and name not in buffers:
            yield name, value


def named_state(module: Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers by path, tied ones under each of their names, in PyTorch's order."""
    for name, value in own_state(module):
        yield prefix + name, value
    for name, child in module.named_children():
        yield from named_state(child, f"{prefix}{name}.")


def load(module: Module, state_dict: Mapping[str, Any], strict: bool, assign: bool) -> LoadReport:
    """`Module.load_state_dict`."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"a state is a dictionary of tensors by name, not {type(state_dict).__name__}")
    state = dict(state_dict)
    missing: list[str] = []
    unexpected: list[str] = []
    errors: list[str] = []
    paths = list(_modules_by_path(module))
    for path, each in paths:
        if each._hooks is not None:
            for (hook,) in list(each._hooks.load_pre.values()):
                hook(each, state, path, {}, strict, missing, unexpected, errors)
    extras: dict[str, Any] = {path + EXTRA: each for path, each in paths if has_extra_state(each)}
    ours = dict(named_state(module))
    given = {id(tensor) for name, tensor in ours.items() if name in state}
    missing += [name for name, tensor in ours.items() if id(tensor) not in given]
    missing += [name for name in extras if name not in state]
    unexpected += [name for name in state if name not in ours and name not in extras]
    problems = _mismatches(missing, unexpected, ours) if strict else []
    for name, tensor in ours.items():
        if name not in state:
            continue
        value = state[name]
        if not hasattr(value, "shape"):
            problems.append(f"{name}: a tensor or an array is wanted, not {type(value).__name__}")
        elif tuple(value.shape) != tensor.shape:
            problems.append(f"{name}: shape {tuple(value.shape)} instead of {tuple(tensor.shape)}")
    problems += errors
    if problems:
        raise ValueError(f"the state does not fit this {type(module).__name__}:\n  " + "\n  ".join(problems))
    with no_grad():
        for name, tensor in ours.items():
            if name in state:
                (_assign if assign else _copy)(tensor, state[name])
    for name, each in extras.items():
        if name in state:
            each.set_extra_state(state[name])
    report = LoadReport(missing, unexpected)
    for _, each in paths:
        if each._hooks is not None:
            for (hook,) in list(each._hooks.load.values()):
                hook(each, report)
    return report


def has_extra_state(module: Module) -> bool:
    """Whether the class defines `get_extra_state`, and so has state that is no tensor."""
    return hasattr(type(module), "get_extra_state")


def extra_state(module: Any) -> Any:
    """What the class's `get_extra_state` returns."""
    return module.get_extra_state()


def _modules_by_path(module: Module, prefix: str = "") -> Iterator[tuple[str, Module]]:
    yield prefix, module
    for name, child in module.named_children():
        yield from _modules_by_path(child, f"{prefix}{name}.")


def _copy(tensor: Tensor, value: Any) -> None:
    tensor.copy_(value)


def _assign(tensor: Tensor, value: Any) -> None:
    """The given values become the tensor's, with their dtype, unless they are the same already."""
    data = value.data if isinstance(value, Tensor) else as_array(value)
    if tensor.data is not data:
        tensor.data = data
        tensor._grad = None
        tensor._sink = None


def _mismatches(missing: Iterable[str], unexpected: Iterable[str], ours: Mapping[str, Tensor]) -> list[str]:
    """One line for each name that only one side has, with a guess at what was meant."""
    missing, unexpected = list(missing), list(unexpected)
    prefix = _common_prefix(missing, unexpected)
    lines = [f"missing: {name}" for name in missing]
    for name in unexpected:
        near = [] if prefix else difflib.get_close_matches(name, missing or ours, n=1, cutoff=0.75)
        lines.append(f"unexpected: {name}" + (f" (did you mean {near[0]}?)" if near else ""))
    if prefix:
        lines.append(f"all unexpected names begin with {prefix!r}: take that away, and they are those that are missing")
    return lines


def _common_prefix(missing: list[str], unexpected: list[str]) -> str:
    """What every unexpected name has in front of the name of a missing one, as data-parallel wrappers leave it."""
    if not missing or len(unexpected) < 2:
        return ""
    head = next((name[: -len(m)] for name in unexpected[:1] for m in missing if name.endswith("." + m)), "")
    wanted = set(missing)
    fits = all(name.startswith(head) and name[len(head) :] in wanted for name in unexpected)
    return head if head and fits else ""
