"""What those who save, hand on or take over an optimiser's state see of it; `Optimizer` is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cordee.trainer.optim.flat import FlatGroup

__all__ = ["Holder", "Stepping"]


class Holder(Protocol):
    """Parameters in groups, their state, and the rules by which arrays are made; see `Optimizer`."""

    param_groups: list[dict[str, Any]]
    groups: list[FlatGroup]
    extra: dict[str, Any]

    def allocate(self, group: FlatGroup, options: Mapping[str, Any], extra: Mapping[str, Any]) -> None: ...

    def array_shapes(
        self, options: Mapping[str, Any], extra: Mapping[str, Any], group: FlatGroup, index: int
    ) -> dict[str, tuple[int, ...]]: ...

    def start(self, name: str, options: Mapping[str, Any]) -> float: ...


class Stepping(Holder, Protocol):
    """One that updates its parameters by a `step` of its own."""

    held_by: str | None
    stepped: bool
    _pre_hooks: dict[int, Callable[..., Any]]
    _post_hooks: dict[int, Callable[..., Any]]

    def note_own_state(self) -> None: ...
