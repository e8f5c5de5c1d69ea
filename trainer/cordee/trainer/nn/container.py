"""Modules made of modules, and of parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, overload

from cordee.trainer.nn.module import Module
from cordee.trainer.nn.parameter import Parameter
from cordee.trainer.tensors import Tensor

__all__ = ["ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"]

N = TypeVar("N", bound="_Numbered")


class _Numbered(Module):
    """Modules in an order, under the names "0", "1", … or under names of their own."""

    _slice: Callable[[dict[str, Module]], Module]
    """A container of the same kind around some of the modules."""

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def __contains__(self, module: object) -> bool:
        return any(child is module for child in self.children())

    def _names(self) -> list[str]:
        return [name for name, _ in self.named_children()]

    def _name_at(self, index: int) -> str:
        names = self._names()
        try:
            return names[index]
        except IndexError:
            raise IndexError(f"index {index} is out of range for {len(names)} modules") from None

    def _at(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._slice(dict(list(self.named_children())[index]))
        return vars(self)[self._name_at(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name_at(index), _checked(module))

    def __delitem__(self, index: int | slice) -> None:
        names = self._names()
        for name in names[index] if isinstance(index, slice) else [self._name_at(index)]:
            delattr(self, name)
        if all(name.isdigit() for name in names):
            self._refill(list(self.children()))

    def _refill(self, modules: list[Module]) -> None:
        """Hold these, numbered from 0."""
        for name in self._names():
            delattr(self, name)
        for number, module in enumerate(modules):
            setattr(self, str(number), module)

    def pop(self, index: int = -1) -> Module:
        """Takes a module out and returns it."""
        module: Module = self._at(index)
        del self[index]
        return module

    def append(self: N, module: Module) -> N:
        number = len(self)
        while str(number) in vars(self):  # as in a slice, which keeps the names
            number += 1
        setattr(self, str(number), _checked(module))
        return self

    def insert(self: N, index: int, module: Module) -> N:
        """Puts a module before the one at `index`; all are numbered anew, so named ones are refused."""
        names = self._names()
        if not all(name.isdigit() for name in names):
            raise ValueError(f"insert needs modules that are numbered, not named ({', '.join(names)})")
        modules = list(self.children())
        modules.insert(index, _checked(module))
        self._refill(modules)
        return self

    def extend(self: N, modules: Iterable[Module]) -> N:
        for module in modules:
            self.append(module)
        return self

    def __iadd__(self: N, modules: Iterable[Module]) -> N:
        return self.extend(list(modules))


class Sequential(_Numbered):
    """Calls its modules one after the other, each with the result of the one before.

    Takes modules, or one dictionary of modules by name. A slice keeps the modules' names, as in PyTorch.
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, named in modules[0].items():
                self.add_module(name, _checked(named))
        else:
            for module in modules:
                self.append(_checked(module))

    def forward(self, input: Any) -> Any:
        for module in vars(self).values():
            if isinstance(module, Module):
                input = module(input)
        return input

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Module:
        return self._at(index)  # type: ignore[no-any-return]

    def _slice(self, modules: dict[str, Module]) -> Module:
        return Sequential(modules)

    def __add__(self, other: Sequential) -> Sequential:
        return Sequential(*self, *other)

    def __mul__(self, times: int) -> Sequential:
        """The same modules, so many times over: their parameters are shared."""
        if times < 1:
            raise ValueError(f"a Sequential can be repeated once or more often, not {times} times")
        return Sequential(*list(self) * times)

    __rmul__ = __mul__


class ModuleList(_Numbered):
    """A list of modules that are found by `parameters()`, as those in a plain list are not."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        self.extend(modules or ())

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> ModuleList: ...
    def __getitem__(self, index: int | slice) -> Module:
        return self._at(index)  # type: ignore[no-any-return]

    def _slice(self, modules: dict[str, Module]) -> Module:
        return ModuleList(modules.values())

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *other])


class ModuleDict(Module):
    """A dictionary of modules that are found by `parameters()`, in the order of insertion."""

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None) -> None:
        self.update(modules or {})

    def __setitem__(self, name: str, module: Module) -> None:
        self.add_module(name, _checked(module))

    def __getitem__(self, name: str) -> Module:
        module = vars(self).get(name)
        if not isinstance(module, Module):
            raise KeyError(name)
        return module

    def __delitem__(self, name: str) -> None:
        delattr(self, name) if name in self else _no_key(name)

    def __contains__(self, name: object) -> bool:
        return any(name == key for key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.named_children())

    def keys(self) -> Iterator[str]:
        return iter(self)

    def values(self) -> Iterator[Module]:
        return self.children()

    def items(self) -> Iterator[tuple[str, Module]]:
        return self.named_children()

    def pop(self, name: str) -> Module:
        """Takes a module out and returns it."""
        module = self[name]
        del self[name]
        return module

    def clear(self) -> None:
        for name in list(self):
            del self[name]

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Takes over modules by name, of a dictionary or of pairs."""
        pairs: Any = modules.items() if isinstance(modules, (Mapping, ModuleDict)) else modules
        for name, module in pairs:
            self[name] = module


class ParameterList(Module):
    """A list of parameters that are found by `parameters()`. Tensors become parameters."""

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        self.extend(values or ())

    def _names(self) -> list[str]:
        return [name for name in vars(self) if name.isdigit()]

    def __len__(self) -> int:
        return len(self._names())

    def __iter__(self) -> Iterator[Any]:
        return iter([vars(self)[name] for name in self._names()])

    def __getitem__(self, index: int | slice) -> Any:
        values = list(self)
        if isinstance(index, slice):
            return ParameterList(values[index])
        try:
            return values[index]
        except IndexError:
            raise IndexError(f"index {index} is out of range for {len(values)} parameters") from None

    def __setitem__(self, index: int, value: Any) -> None:
        _ = self[index]
        setattr(self, str(index % len(self)), _as_parameter(value))

    def append(self, value: Any) -> ParameterList:
        setattr(self, str(len(self)), _as_parameter(value))
        return self

    def extend(self, values: Iterable[Any]) -> ParameterList:
        for value in list(values):
            self.append(value)
        return self

    __iadd__ = extend

    def extra_repr(self) -> str:
        return "\n".join(f"({number}): {_described(value)}" for number, value in enumerate(self))


class ParameterDict(Module):
    """A dictionary of parameters that are found by `parameters()`. Tensors become parameters."""

    def __init__(self, parameters: Any = None) -> None:
        self._keys: dict[str, None] = {}  # in order, each once
        self.update(parameters or {})

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self._keys:
            self.register_parameter(key, None)  # refuses names that are none, or taken
        self._keys[key] = None
        setattr(self, key, _as_parameter(value))

    def __getitem__(self, key: str) -> Any:
        return vars(self)[key] if key in self._keys else _no_key(key)

    def __delitem__(self, key: str) -> None:
        del self._keys[key]
        delattr(self, key)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        yield from self._keys

    def __reversed__(self) -> Iterator[str]:
        return reversed(list(self._keys))

    def keys(self) -> Iterator[str]:
        return iter(self)

    def values(self) -> Iterator[Any]:
        return (self[key] for key in self._keys)

    def items(self) -> Iterator[tuple[str, Any]]:
        return ((key, self[key]) for key in self._keys)

    def get(self, key: str, default: Any = None) -> Any:
        return vars(self)[key] if key in self._keys else default

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value of a key; where there is none, `default` becomes it."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str) -> Any:
        """Takes a parameter out and returns it."""
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Takes the last parameter out and returns it with its key."""
        key = next(reversed(self))
        return key, self.pop(key)

    def clear(self) -> None:
        for key in list(self):
            del self[key]

    def copy(self) -> ParameterDict:
        """Another dictionary of the same parameters."""
        return ParameterDict(self)

    def update(self, parameters: Any) -> None:
        """Takes over parameters by name, of a dictionary or of pairs."""
        for key, value in list(parameters.items() if hasattr(parameters, "items") else parameters):
            self[key] = value

    def __or__(self, other: Any) -> ParameterDict:
        both = self.copy()
        both.update(other)
        return both

    def __ior__(self, other: Any) -> ParameterDict:
        self.update(other)
        return self

    def extra_repr(self) -> str:
        return "\n".join(f"({key}): {_described(value)}" for key, value in self.items())


def _checked(module: Any) -> Module:
    if not isinstance(module, Module):
        raise TypeError(f"expected a module, got {type(module).__name__}")
    return module


def _as_parameter(value: Any) -> Any:
    return Parameter(value) if isinstance(value, Tensor) and not isinstance(value, Parameter) else value


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        kind = "Parameter" if isinstance(value, Parameter) else "Tensor"
        return f"{kind} of shape {value.shape}, {value.dtype.name}"
    return f"{type(value).__name__}: {value!r}"


def _no_key(key: Any) -> Any:
    raise KeyError(key)
