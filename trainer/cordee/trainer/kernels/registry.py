"""The kernels by name, and the choice among those who can compute them.

The choice is made once per process, by what is installed and what the CPU can do, never by timing: the same machine
with the same packages computes the same bits each time. `CORDEE_KERNELS` (or `choose`) changes it: `auto` takes every
provider that is there and of use, in order of preference; `numpy` takes none; a list like `llvm,onednn` takes those.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from cordee.trainer.errors import KernelError
from cordee.trainer.kernels.providers import GENERATORS, PROVIDERS, TABLE, automatic

__all__ = ["KERNELS", "Kernel", "choose", "generator", "identity", "in_use", "kernel", "load", "on_choice", "preload"]

KERNELS: dict[str, Kernel] = {}
"""All that have been declared, by name."""


class _State:
    """Who was chosen, in order of preference; None until somebody asks."""

    chosen: tuple[str, ...] | None = None
    watchers: tuple[Callable[[], None], ...] = ()  # are told when another choice is made
    generators: ClassVar[dict[Any, Callable[..., Any] | None]] = {}  # by array module, as far as they were asked for


class Kernel:
    """A computation on arrays with a NumPy version, `reference`, and, perhaps, faster ones.

    Calling it runs the first provider that takes these operands, or else the NumPy version. A provider is a function
    of the same operands and params, without `xp`; it returns `NotImplemented` for those that it does not take (another
    dtype, another layout), and may not have changed anything then.
    """

    __slots__ = ("_providers", "name", "reference")

    def __init__(self, name: str, reference: Callable[..., Any]) -> None:
        self.name = name
        self.reference = reference
        self._providers: dict[Any, tuple[Callable[..., Any], ...]] = {}

    def __call__(self, xp: Any, *operands: Any, **params: Any) -> Any:
        known = self._providers.get(xp)
        for provider in self.providers(xp) if known is None else known:
            out = provider(*operands, **params)
            if out is not NotImplemented:
                return out
        return self.reference(xp, *operands, **params)

    def providers(self, xp: Any = np) -> tuple[Callable[..., Any], ...]:
        """Those in use for arrays of this module, the preferred one first."""
        known = self._providers.get(xp)
        if known is None:
            places = TABLE.get(self.name, {})
            known = tuple(load(self.name, provider) for provider in in_use(device_of(xp)) if provider in places)
            self._providers[xp] = known
        return known

    def forget(self) -> None:
        """Choose anew at the next call."""
        self._providers.clear()

    def __repr__(self) -> str:
        return f"<kernel {self.name}>"


def kernel(reference: Callable[..., Any]) -> Kernel:
    """Declare a kernel by its NumPy version, `reference(xp, *operands, **params)`; its name is the function's."""
    name = reference.__name__.strip("_")
    if name in KERNELS:
        raise ValueError(f"a kernel named {name!r} is declared already")
    KERNELS[name] = made = Kernel(name, reference)
    return made


def load(kernel: str, provider: str) -> Callable[..., Any]:
    """A provider's function for a kernel, whether it is in use or not."""
    module, _, name = TABLE[kernel][provider].partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def choose(names: str) -> tuple[str, ...]:
    """Take these providers from now on: `auto`, `numpy`, or names of providers separated by commas.

    Returns:
        Those that are in use now, NumPy not among them.

    Raises:
        KernelError: there is no such provider, or it cannot be used here; it says what is missing.
    """
    if names == "auto":
        chosen = automatic()
    elif names == "numpy":
        chosen = ()
    else:
        chosen = tuple(name.strip() for name in names.split(","))
        for name in chosen:
            if name not in PROVIDERS:
                raise KernelError(
                    f"there are no kernels by {name!r}: CORDEE_KERNELS is auto, numpy, or some of "
                    f"{', '.join(PROVIDERS)}, separated by commas"
                )
            if lack := PROVIDERS[name].lack():
                raise KernelError(f"the kernels by {name} cannot be used: {lack}")
    _State.chosen = chosen
    _State.generators.clear()
    for each in KERNELS.values():
        each.forget()
    for watcher in _State.watchers:
        watcher()
    return chosen


def preload() -> None:
    """Import what kernels on the CPU need, and choose nobody: for a process whose forks will. No thread starts."""
    wanted = [name.strip() for name in _wanted().split(",")]
    for name in automatic("cpu") if "auto" in wanted else wanted:
        if name in PROVIDERS and PROVIDERS[name].device == "cpu":
            PROVIDERS[name].lack()


def _wanted() -> str:
    return os.environ.get("CORDEE_KERNELS") or "auto"


def on_choice(watcher: Callable[[], None]) -> None:
    """Calls `watcher()` whenever another choice is made, from now on."""
    _State.watchers += (watcher,)


def generator(xp: Any = np) -> Callable[..., Any] | None:
    """The function that makes loops of formulas, of the first provider in use that has one; None: there is none.

    It is called `(name, kinds, symbols, terms)`, see `kernels.llvm.fused`.
    """
    if xp not in _State.generators:
        _State.generators[xp] = _generator(xp)
    return _State.generators[xp]


def _generator(xp: Any) -> Callable[..., Any] | None:
    for name in in_use(device_of(xp)):
        if place := GENERATORS.get(name):
            module, _, function = place.partition(":")
            return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
    return None


def device_of(xp: Any) -> str:
    """Where arrays of this module are: `cpu` or `cuda`."""
    return "cpu" if xp is np else "cuda"


def in_use(device: str = "") -> tuple[str, ...]:
    """The providers in use (for a device's arrays), the preferred one first."""
    if _State.chosen is None:
        choose(_wanted())
    assert _State.chosen is not None
    return tuple([name for name in _State.chosen if device in ("", PROVIDERS[name].device)])


def identity() -> str:
    """Who computes here, with versions and what decides their bits: who trains together has to agree on it."""
    return "; ".join(PROVIDERS[name].identity() for name in in_use()) or "numpy"
