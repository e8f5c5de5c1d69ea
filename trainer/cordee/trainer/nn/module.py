"""The base of all layers and models.

A module's parameters, buffers and sub-modules are its attributes, and nothing else: there is no second registry that
could disagree with them, so assigning, replacing and deleting attributes just works, and reading `self.weight` costs
what reading any attribute costs. What a module holds is found by looking, in the order of assignment: its own
parameters first, then its sub-modules'. A parameter or module that is reachable by two names appears once, under the
first.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from cordee.trainer import array as arrays
from cordee.trainer.nn import state as states
from cordee.trainer.nn.hooks import Hooks, RemovableHandle, call_with_hooks, register
from cordee.trainer.nn.parameter import Parameter, buffers_of, check_device, destination, parameters_of
from cordee.trainer.nn.state import LoadReport
from cordee.trainer.nn.trail import locate
from cordee.trainer.tensors import Tensor, forget_gradient

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

    _hooks: Hooks | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if self._hooks is not None:
                return call_with_hooks(self, args, kwargs)
            return self.forward(*args, **kwargs)
        except Exception as error:
            locate(error, self)
            raise

    if not TYPE_CHECKING:  # or type checkers would take every name for an attribute

        def __getattr__(self, name: str) -> NoReturn:
            """Only called for what is not there: says so, and what there is."""
            _no_attribute(self, name)

    # What a module holds.

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly below this one, by attribute name."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def children(self) -> Iterator[Module]:
        return (module for _, module in self.named_children())

    def named_modules(
        self, memo: set[Any] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it, by path: each once, unless `remove_duplicate=False`."""
        seen: set[Any] = set() if memo is None else memo

        def visit(module: Module, path: str) -> Iterator[tuple[str, Module]]:
            if module in seen:
                return
            if remove_duplicate:
                seen.add(module)
            yield path, module
            for name, child in module.named_children():
                yield from visit(child, f"{path}.{name}" if path else name)

        return visit(self, prefix)

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """All parameters by path, each once under its first name, unless `remove_duplicate=False`."""
        return self._named_members(parameters_of, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> NamedParameters:
        """All parameters, each once."""
        return NamedParameters(self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """All buffers by path, each once under its first name, unless `remove_duplicate=False`."""
        return self._named_members(buffers_of, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def _named_members(self, members: Callable[[Module], Any], prefix: str, recurse: bool, once: bool) -> Iterator[Any]:
        seen: set[int] = set()
        modules = self.named_modules(prefix=prefix, remove_duplicate=once) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, value in members(module):
                if id(value) not in seen:
                    if once:
                        seen.add(id(value))
                    yield (f"{path}.{name}" if path else name), value

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Makes an attribute part of the state without training it; `persistent=False`: not of the state_dict."""
        _check_name(self, name)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"buffer {name!r} must be a tensor or None, not {type(tensor).__name__}")
        vars(self).setdefault("_buffers", {})[name] = persistent
        setattr(self, name, tensor)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """The same as assigning the attribute; for names made at run time."""
        _check_name(self, name)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"parameter {name!r} must be a Parameter or None, not {type(param).__name__}")
        setattr(self, name, param)

    def add_module(self, name: str, module: Module | None) -> None:
        """The same as assigning the attribute; for names made at run time."""
        _check_name(self, name)
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{name!r} must be a module or None, not {type(module).__name__}")
        setattr(self, name, module)

    register_module = add_module

    def get_submodule(self, target: str) -> Module:
        """The module at a path such as "blocks.0.attention"."""
        module = self
        for name in target.split(".") if target else ():
            child = vars(module).get(name)
            if not isinstance(child, Module):
                raise AttributeError(f"{type(module).__name__} has no module {name!r} (of {target!r})")
            module = child
        return module

    def set_submodule(self, target: str, module: Module) -> None:
        """Puts a module in the place of the one at a path."""
        path, _, name = target.rpartition(".")
        if not name:
            raise ValueError("set_submodule needs the path of a module below this one, not an empty one")
        self.get_submodule(target)
        setattr(self.get_submodule(path), name, module)

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a path such as "blocks.0.attention.weight"."""
        path, _, name = target.rpartition(".")
        owner = self.get_submodule(path)
        value = vars(owner).get(name)
        if not isinstance(value, Parameter):
            raise AttributeError(f"{type(owner).__name__} has no parameter {name!r} (of {target!r})")
        return value

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a path such as "norm.running_mean"."""
        path, _, name = target.rpartition(".")
        owner = self.get_submodule(path)
        if name not in vars(owner).get("_buffers", {}) or vars(owner).get(name) is None:
            raise AttributeError(f"{type(owner).__name__} has no buffer {name!r} (of {target!r})")
        return vars(owner)[name]  # type: ignore[no-any-return]

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
                forget_gradient(parameter)
            elif parameter._grad is not None:
                parameter._grad.data[...] = 0

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Converts floating-point parameters and buffers to a dtype: `to(dtype)`, `to(device)`, `to(device, dtype)`, or
        `to(tensor)` for that tensor's. The device must be the one that all tensors of the process are on.
        """
        device, dtype = destination(args, kwargs)
        if device is not None:
            check_device(device)
        if dtype is None:
            return self
        if not arrays.is_float(np.dtype(dtype)):
            raise TypeError(f"a module is converted to a floating dtype, not {np.dtype(dtype).name}")
        return self._convert(dtype)

    def cpu(self: Self) -> Self:
        return self.to("cpu")

    def cuda(self: Self, device: Any = None) -> Self:
        return self.to("cuda" if device is None else device)

    def double(self: Self) -> Self:
        """Converts floating-point parameters and buffers to float64. Build the optimiser afterwards."""
        return self._convert(np.float64)

    def float(self: Self) -> Self:
        """Converts floating-point parameters and buffers to float32. Build the optimiser afterwards."""
        return self._convert(np.float32)

    def half(self: Self) -> Self:
        """Converts floating-point parameters and buffers to float16. Build the optimiser afterwards."""
        return self._convert(np.float16)

    def bfloat16(self: Self) -> Self:
        """Converts floating-point parameters and buffers to bfloat16. Build the optimiser afterwards."""
        return self._convert(arrays.bfloat16)

    def type(self: Self, dst_type: Any) -> Self:
        """Converts all parameters and buffers, also those of whole numbers."""
        return self._convert(dst_type, everything=True)

    def _convert(self: Self, dtype: Any, everything: bool = False) -> Self:
        wanted = np.dtype(dtype)
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.data.dtype != wanted and (everything or arrays.is_float(tensor.data.dtype)):
                tensor.data = tensor.data.astype(wanted)
                tensor._grad = None
                tensor._sink = None
        return self

    # State.

    def state_dict(
        self, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """Parameters and persistent buffers by path, as tensors without gradients that share the module's storage.

        A tied parameter is listed under each of its names, as in PyTorch. `keep_vars`: the parameters themselves. What
        a class's `get_extra_state()` returns is under `_extra_state`, and goes to its `set_extra_state` when loaded.
        """
        into: dict[str, Any] = {} if destination is None else destination
        hooks = self._hooks
        for (hook,) in list(hooks.state_pre.values()) if hooks is not None else ():
            hook(self, prefix, keep_vars)
        for name, tensor in states.own_state(self):
            into[prefix + name] = tensor if keep_vars else Tensor(tensor.data)
        if states.has_extra_state(self):
            into[prefix + states.EXTRA] = states.extra_state(self)
        for name, child in self.named_children():
            child.state_dict(into, f"{prefix}{name}.", keep_vars)
        for (hook,) in list(hooks.state.values()) if hooks is not None else ():
            hook(self, into, prefix, {})
        return into

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> LoadReport:
        """Copies values into the storage there is: nothing is rebound, so optimisers keep their hold.

        Values may be tensors or arrays; they take the parameter's dtype. With `assign` the given arrays themselves
        become the storage, in their own dtype. Of a tied parameter's names one is enough. With `strict`, names that are
        missing or unexpected are an error; wrong shapes always are. One error (`ValueError`) reports everything, and
        then nothing has been changed.
        """
        return states.load(self, state_dict, strict, assign)

    # Hooks.

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Before `forward`: `hook(module, args)` may return other arguments; with kwargs: `hook(module, args, kwargs)`
        may return `(args, kwargs)`."""
        return register(self, "forward_pre", (hook, with_kwargs), prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """After `forward`: `hook(module, args, output)`, or with kwargs `hook(module, args, kwargs, output)`, may
        return another output. `always_call`: also, with output None, when an exception was raised."""
        return register(self, "forward", (hook, with_kwargs, always_call), prepend)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """When the outputs' gradients are known: `hook(module, grad_output)` may return others."""
        return register(self, "backward_pre", (hook,), prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """When the gradients of the positional inputs are known: `hook(module, grad_input, grad_output)`, tuples with
        None for what has no gradient, may return other gradients of the inputs."""
        return register(self, "backward", (hook,), prepend)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Before this module's state is listed: `hook(module, prefix, keep_vars)`."""
        return register(self, "state_pre", (hook,))

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """After this module's state is listed: `hook(module, state_dict, prefix, {})` may change the dictionary."""
        return register(self, "state", (hook,))

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Before anything is compared: `hook(module, state_dict, prefix, {}, strict, missing, unexpected, errors)`. The
        dictionary is a copy, to be changed: the place where an older layout of the state is brought up to date."""
        return register(self, "load_pre", (hook,))

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """After loading: `hook(module, report)`, with the `LoadReport`."""
        return register(self, "load", (hook,))

    # Text.

    def extra_repr(self) -> str:
        """What stands between the brackets of a layer's text."""
        return ""

    def __repr__(self) -> str:
        children = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        extra = self.extra_repr()
        if not children:
            if "\n" in extra:
                extra = "\n  " + extra.replace("\n", "\n  ") + "\n"
            return f"{type(self).__name__}({extra})"
        return "\n  ".join([f"{type(self).__name__}({extra}", *children]) + "\n)"

    def summary(self, *inputs: Any, input_size: Any = None, depth: int | None = None, **kwargs: Any) -> Any:
        """A table of all layers with output shapes, parameters, memory and multiply-adds; see `nn.summary`."""
        from cordee.trainer.nn.summary import summary

        return summary(self, *inputs, input_size=input_size, depth=depth, **kwargs)


def _check_name(module: Module, name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a name in a module is a string, not {type(name).__name__}")
    if not name or "." in name:
        raise ValueError(f"a name in a module is not empty and has no dot, got {name!r}")
    taken = hasattr(type(module), name) if name not in vars(module) else vars(module)[name] is not None
    if taken and not isinstance(vars(module).get(name), (Tensor, Module)):
        raise ValueError(f"{type(module).__name__} has an attribute {name!r} already")


def _no_attribute(module: Module, name: str) -> NoReturn:
    kind = type(module)
    if not name.startswith("__") and hasattr(kind, name):  # a property that failed: its own error is the one to see
        object.__getattribute__(module, name)
    text = f"{kind.__name__} has no attribute {name!r}"
    if name != "forward" and not name.startswith("_"):
        known = [each for each in (*vars(module), *dir(kind)) if not each.startswith("_")]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        text += f" (did you mean {' or '.join(near)}?)" if near else ""
    elif name == "forward":
        text += ": a module says in forward(self, …) what calling it does"
    raise AttributeError(text, name=name, obj=module)
