"""Parameters as functions of others: `register_parametrization` puts modules between what is trained and what is used.

The module gets a class of its own, in which the parameter's name is a property: reading it computes the value from the
trained tensors (under `parametrizations.<name>.original`), writing it asks the parametrisation for its inverse. The
class depends on nothing but the module's class and the names, so copies of a module are apart from it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, TypeVar

from cordee.trainer.autograd.mode import no_grad
from cordee.trainer.errors import ShapeError
from cordee.trainer.nn.container import ModuleDict, ModuleList
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.parameter import Parameter
from cordee.trainer.tensors import Tensor

__all__ = [
    "ParametrizationList",
    "cached",
    "is_parametrized",
    "register_parametrization",
    "remove_parametrizations",
    "type_before_parametrizations",
]


M = TypeVar("M", bound=Module)


class _Cache:
    """Values computed inside `cached()`, by module and name."""

    depth = 0
    values: ClassVar[dict[tuple[int, str], Any]] = {}


@contextlib.contextmanager
def cached() -> Iterator[None]:
    """Inside, every parametrised tensor is computed once, however often it is read."""
    _Cache.depth += 1
    try:
        yield
    finally:
        _Cache.depth -= 1
        if not _Cache.depth:
            _Cache.values.clear()


class ParametrizationList(ModuleList):
    """The parametrisations of one tensor, applied in order to `original` (or to `original0`, `original1`, …)."""

    def __init__(self, modules: Iterable[Module], original: Tensor, unsafe: bool = False) -> None:
        super().__init__(modules)
        self.unsafe = unsafe
        first = original
        with no_grad():
            for module in reversed(list(self)):
                inverse = getattr(module, "right_inverse", None)
                if inverse is not None:
                    original = inverse(original)
        made: Any = original
        self.is_tensor = isinstance(made, Tensor)
        if self.is_tensor:
            self._keep("original", made, first)
            self.ntensors = 1
        else:
            values: list[Tensor] = list(made)
            self.ntensors = len(values)
            for number, value in enumerate(values):
                self._keep(f"original{number}", value, first)

    def _keep(self, name: str, value: Tensor, like: Tensor) -> None:
        """What is trained takes over the kind of what it replaces: a parameter, or a buffer."""
        if isinstance(like, Parameter):
            kept = value if isinstance(value, Parameter) else Parameter(value.detach(), like.requires_grad)
            self.register_parameter(name, kept)
        else:
            self.register_buffer(name, value)

    def _originals(self) -> list[Tensor]:
        if self.is_tensor:
            return [vars(self)["original"]]
        return [getattr(self, f"original{number}") for number in range(self.ntensors)]

    def right_inverse(self, value: Tensor) -> None:
        """Sets the trained tensors so that the parametrised one becomes `value`, by the modules' `right_inverse`."""
        with no_grad():
            found: Any = value
            for module in reversed(list(self)):
                inverse = getattr(module, "right_inverse", None)
                if inverse is None:
                    raise TypeError(
                        f"{type(module).__name__} has no right_inverse, so the tensor that it makes cannot be assigned"
                    )
                found = inverse(found)
            values = [found] if self.is_tensor else list(found)
            for original, given in zip(self._originals(), values, strict=True):
                if original.shape != given.shape:
                    raise ShapeError(f"right_inverse gave shape {given.shape} for a tensor of shape {original.shape}")
                original.copy_(given)

    def forward(self) -> Tensor:
        modules = list(self)
        value = modules[0](*self._originals())
        for module in modules[1:]:
            value = module(value)
        return value  # type: ignore[no-any-return]


def _property(name: str) -> property:
    def read(self: Module) -> Any:
        if not _Cache.depth:
            return vars(self)["parametrizations"][name]()
        key = id(self), name
        if key not in _Cache.values:
            _Cache.values[key] = vars(self)["parametrizations"][name]()
        return _Cache.values[key]

    def write(self: Module, value: Tensor) -> None:
        vars(self)["parametrizations"][name].right_inverse(value)

    return property(read, write)


@functools.cache
def _parametrized(base: type[Module], names: tuple[str, ...]) -> type[Module]:
    """The class of a module of class `base` some of whose tensors are parametrised."""
    body: dict[str, Any] = {name: _property(name) for name in names}
    return type(f"Parametrized{base.__name__}", (base,), {**body, "_before_parametrizations": base})


def type_before_parametrizations(module: Module) -> type[Module]:
    """The module's class, without what parametrisations made of it."""
    base: type[Module] | None = vars(type(module)).get("_before_parametrizations")
    return type(module) if base is None else base


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether the module has a parametrised tensor, or whether this one is."""
    held = vars(module).get("parametrizations")
    if not isinstance(held, ModuleDict):
        return False
    return len(held) > 0 if tensor_name is None else tensor_name in held


def _update_class(module: Module) -> None:
    base = type_before_parametrizations(module)
    names = tuple(vars(module).get("parametrizations", ()))
    made: Any = _parametrized  # a class is hashable, whatever a type checker makes of Module.__hash__
    module.__class__ = made(base, names) if names else base


def register_parametrization(module: M, tensor_name: str, parametrization: Module, *, unsafe: bool = False) -> M:
    """From now on `module.<tensor_name>` is `parametrization(original)`; several are applied one after the other.

    Args:
        tensor_name: of a parameter or buffer of the module itself.
        parametrization: a module whose `forward` takes the trained tensor (or tensors) and returns the one to be used;
            its `right_inverse`, if it has one, says where to start, and makes assignment possible.
        unsafe: do not check that shape and dtype stay what they were.

    Raises:
        ValueError: there is no such tensor, or its shape or dtype would change.
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        held = vars(module)["parametrizations"][tensor_name]
        with no_grad():
            now = getattr(module, tensor_name)
            if not unsafe:
                _check_same(tensor_name, parametrization, now, parametrization(now))
        held.append(parametrization)
        held.unsafe |= unsafe
        return module
    original = vars(module).get(tensor_name)
    if not isinstance(original, Tensor):
        raise ValueError(f"{type(module).__name__} has no parameter or buffer {tensor_name!r} of its own")
    made = ParametrizationList([parametrization], original, unsafe)
    if not unsafe:
        with no_grad():
            _check_same(tensor_name, parametrization, original, made())
    delattr(module, tensor_name)
    vars(module).get("_buffers", {}).pop(tensor_name, None)
    if not is_parametrized(module):
        vars(module)["parametrizations"] = ModuleDict()
    vars(module)["parametrizations"][tensor_name] = made
    _update_class(module)
    return module


def _check_same(name: str, parametrization: Module, before: Tensor, after: Tensor) -> None:
    if before.shape != after.shape or before.dtype != after.dtype:
        raise ValueError(
            f"{type(parametrization).__name__} makes {name!r} of {before.dtype.name}{list(before.shape)} to "
            f"{after.dtype.name}{list(after.shape)}; unsafe=True allows it"
        )


def remove_parametrizations(module: M, tensor_name: str, leave_parametrized: bool = True) -> M:
    """Makes the tensor an ordinary one again, with the value that it has, or with that of `original`.

    Raises:
        ValueError: it is not parametrised, or `original` cannot be left because there are several.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"{type(module).__name__} has no parametrisation of {tensor_name!r}")
    held = vars(module)["parametrizations"][tensor_name]
    if not leave_parametrized and not held.is_tensor:
        raise ValueError(
            f"{tensor_name!r} is made of {held.ntensors} tensors: it can only stay as it is (leave_parametrized)"
        )
    first = held._originals()[0]
    if leave_parametrized:
        with no_grad():
            value = getattr(module, tensor_name)
        kept: Tensor = Parameter(value.clone(), first.requires_grad) if isinstance(first, Parameter) else value.clone()
    else:
        kept = first
    del vars(module)["parametrizations"][tensor_name]
    _update_class(module)
    if not len(vars(module)["parametrizations"]):
        del vars(module)["parametrizations"]
    if isinstance(kept, Parameter):
        setattr(module, tensor_name, kept)
    else:
        module.register_buffer(tensor_name, kept)
    return module
