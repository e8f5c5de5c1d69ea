"""The coordinators a command is about."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cordee.coordinator.discovery import Coordinators

__all__ = ["reach"]


def reach(server: str | None, state: Path | None) -> "Coordinators":
    """`discovery.connect`, loaded when a command needs it."""
    from cordee.coordinator.discovery import connect

    return connect(server, state)
