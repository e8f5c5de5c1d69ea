"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, overload

from cordee.trainer.nn.module import Module

__all__ = ["ModuleDict", "ModuleList", "Sequential"]


class _Numbered(Module):
    """Modules under the names "0", "1", …"""

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def _at(self, index: int) -> Module:
        children = list(self.children())
        try:
            return children[index]
        except IndexError:
            raise IndexError(f"index {index} is out of range for {len(children)} modules") from None

    def __setitem__(self, index: int, module: Module) -> None:
        self._at(index)
        setattr(self, str(index % len(self)), _checked(module))

    def append(self, module: Module) -> _Numbered:
        setattr(self, str(len(self)), _checked(module))
        return self

    def extend(self, modules: Iterable[Module]) -> _Numbered:
        for module in modules:
            self.append(module)
        return self


class Sequential(_Numbered):
    """Calls its modules one after the other, each with the result of the one before.

    Takes modules, or one dictionary of modules by name.
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
        return Sequential(*list(self.children())[index]) if isinstance(index, slice) else self._at(index)


class ModuleList(_Numbered):
    """A list of modules that are found by `parameters()`, as those in a plain list are not."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self.extend(modules)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> ModuleList: ...
    def __getitem__(self, index: int | slice) -> Module:
        return ModuleList(list(self.children())[index]) if isinstance(index, slice) else self._at(index)


class ModuleDict(Module):
    """A dictionary of modules that are found by `parameters()`."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        for name, module in (modules or {}).items():
            self[name] = module

    def __setitem__(self, name: str, module: Module) -> None:
        self.add_module(name, _checked(module))

    def __getitem__(self, name: str) -> Module:
        module = vars(self).get(name)
        if not isinstance(module, Module):
            raise KeyError(name)
        return module

    def __contains__(self, name: object) -> bool:
        return any(name == key for key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.named_children())

    def items(self) -> Iterator[tuple[str, Module]]:
        return self.named_children()


def _checked(module: Any) -> Module:
    if not isinstance(module, Module):
        raise TypeError(f"expected a module, got {type(module).__name__}")
    return module
