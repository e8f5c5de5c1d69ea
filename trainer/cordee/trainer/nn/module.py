"""The base of all layers and models.

A module's parameters, buffers and sub-modules are its attributes, and nothing else: there is no second registry that
could disagree with them, so assigning, replacing and deleting attributes just works, and reading `self.weight` costs
what reading any attribute costs. What a module holds is found by looking, in the order of assignment: its own
parameters first, then its sub-modules'. A parameter or module that is reachable by two names appears once, under the
first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cordee.trainer.nn.parameter import Parameter
from cordee.trainer.tensors import Tensor

__all__ = ["LoadReport", "Module", "NamedParameters"]

Self = TypeVar("Self", bound="Module")


class NamedParameters(Iterator[Parameter]):
    """What `Module.parameters()` returns: it gives the parameters, and tells an optimiser their names."""

    def __init__(self, named: Iterator[tuple[str, Parameter]]) -> None:
        self.named = named

    def __next__(self) -> Parameter:
        return next(self.named)[1]


class Module:
    """A function with parameters: write `__init__`, which assigns them, and `forward`; call the module itself.

    Calling `super().__init__()` is welcome but not needed.
    """

    training: bool = True
    """Whether layers such as dropout behave as in training; see `train` and `eval`."""

    forward: Callable[..., Any]
    """What calling the module does; every module defines it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.forward(*args, **kwargs)
        except Exception as error:
            _locate(error, self)
            raise

    # What a module holds.

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly below this one, by attribute name."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def children(self) -> Iterator[Module]:
        return (module for _, module in self.named_children())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, each once, by its path."""
        seen: set[int] = set()

        def visit(module: Module, path: str) -> Iterator[tuple[str, Module]]:
            if id(module) in seen:
                return
            seen.add(id(module))
            yield path, module
            for name, child in module.named_children():
                yield from visit(child, f"{path}.{name}" if path else name)

        return visit(self, prefix)

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        """All parameters, each once, by path. Tied ones appear under their first name."""
        seen: set[int] = set()
        for path, module in self.named_modules(prefix) if recurse else [(prefix, self)]:
            for name, value in vars(module).items():
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{path}.{name}" if path else name), value

    def parameters(self, recurse: bool = True) -> NamedParameters:
        """All parameters, each once."""
        return NamedParameters(self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """All buffers, each once, by path."""
        seen: set[int] = set()
        for path, module in self.named_modules(prefix) if recurse else [(prefix, self)]:
            for name in vars(module).get("_buffers", ()):
                value = getattr(module, name)
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{path}.{name}" if path else name), value

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Makes an attribute part of the state without training it; `persistent=False`: not of the state_dict."""
        _check_name(self, name)
        vars(self).setdefault("_buffers", {})[name] = persistent
        setattr(self, name, tensor)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """The same as assigning the attribute."""
        _check_name(self, name)
        setattr(self, name, param)

    def add_module(self, name: str, module: Module) -> None:
        """The same as assigning the attribute; for names made at run time."""
        _check_name(self, name)
        setattr(self, name, module)

    def get_submodule(self, target: str) -> Module:
        """The module at a path such as "blocks.0.attention"."""
        module = self
        for name in target.split(".") if target else ():
            child = vars(module).get(name)
            if not isinstance(child, Module):
                raise AttributeError(f"{type(module).__name__} has no module {name!r} (of {target!r})")
            module = child
        return module

    # Modes and conversions.

    def train(self: Self, mode: bool = True) -> Self:
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: Self) -> Self:
        return self.train(False)

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def apply(self: Self, fn: Callable[[Module], Any]) -> Self:
        """Calls `fn` with every module, those below first."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets all gradients; no memory is overwritten unless `set_to_none=False`."""
        for parameter in self.parameters():
            if set_to_none:
                parameter._grad = None
            elif parameter._grad is not None:
                parameter._grad.data[...] = 0

    def double(self: Self) -> Self:
        """Converts floating-point parameters and buffers to float64. Build the optimiser afterwards."""
        return self._convert(np.float64)

    def float(self: Self) -> Self:
        """Converts floating-point parameters and buffers to float32. Build the optimiser afterwards."""
        return self._convert(np.float32)

    def _convert(self: Self, dtype: Any) -> Self:
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.data.dtype.kind == "f" and tensor.data.dtype != dtype:
                tensor.data = tensor.data.astype(dtype)
                tensor._grad = None
                tensor._sink = None
        return self

    # State.

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and persistent buffers by path, as tensors without gradients that share the module's storage.

        A tied parameter is listed under each of its names, as in PyTorch.
        """
        return {name: Tensor(tensor.data) for name, tensor in self._named_state(prefix)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> LoadReport:
        """Copies values into the storage there is: nothing is rebound, so optimisers keep their hold.

        Values may be tensors or arrays; they take the parameter's dtype. Of a tied parameter's names one is enough.
        With `strict`, names that are missing or unexpected are an error; wrong shapes always are. One error reports
        everything, and then nothing has been changed.
        """
        ours = dict(self._named_state(""))
        given = {id(tensor) for name, tensor in ours.items() if name in state_dict}
        missing = [name for name, tensor in ours.items() if id(tensor) not in given]
        unexpected = [name for name in state_dict if name not in ours]
        problems: list[str] = []
        if strict:
            problems += [f"missing: {name}" for name in missing]
            problems += [f"unexpected: {name}" for name in unexpected]
        for name, tensor in ours.items():
            if name in state_dict and tuple(state_dict[name].shape) != tensor.shape:
                problems.append(f"{name}: shape {tuple(state_dict[name].shape)} instead of {tuple(tensor.shape)}")
        if problems:
            raise ValueError(f"the state does not fit this {type(self).__name__}:\n  " + "\n  ".join(problems))
        for name, tensor in ours.items():
            if name in state_dict:
                Tensor(tensor.data).copy_(state_dict[name])
        return LoadReport(missing, unexpected)

    def _named_state(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        attributes = vars(self)
        buffers = attributes.get("_buffers", {})
        for name, value in attributes.items():
            if isinstance(value, Parameter) or (buffers.get(name) and value is not None):
                yield prefix + name, value
        for name, child in self.named_children():
            yield from child._named_state(f"{prefix}{name}.")

    # Text.

    def extra_repr(self) -> str:
        """What stands between the brackets of a layer's text."""
        return ""

    def __repr__(self) -> str:
        children = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        if not children:
            return f"{type(self).__name__}({self.extra_repr()})"
        return "\n  ".join([f"{type(self).__name__}({self.extra_repr()}", *children]) + "\n)"


class LoadReport(NamedTuple):
    """What `load_state_dict` met; both lists are empty when it was strict."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def _check_name(module: Module, name: str) -> None:
    if not name or "." in name:
        raise ValueError(f"a name in a module is not empty and has no dot, got {name!r}")
    taken = hasattr(type(module), name) if name not in vars(module) else vars(module)[name] is not None
    if taken and not isinstance(vars(module).get(name), (Tensor, Module)):
        raise ValueError(f"{type(module).__name__} has an attribute {name!r} already")


def _locate(error: Exception, module: Module) -> None:
    """Notes on the error which module it came from. Called by every module on the way out, innermost first."""
    trail: list[Module] = error.__dict__.setdefault("_cordee_trail", [])
    if trail and trail[-1] is module:
        return
    trail.append(module)
    names = []
    for outer, inner in zip(trail[1:], trail, strict=False):
        names.append(next((name for name, child in outer.named_modules() if child is inner), "?"))
    where = ".".join(reversed(names))
    text = f"in {type(trail[-1]).__name__}{'.' + where if where else ''}: {trail[0]!r}"
    notes = error.__dict__.get("__notes__", [])
    if len(trail) > 1 and notes:
        notes.pop()
    error.add_note(text)
