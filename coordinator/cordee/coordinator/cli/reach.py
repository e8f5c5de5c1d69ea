"""The coordinators a command is about, with a warning where reaching one is not safe."""

from pathlib import Path
from typing import TYPE_CHECKING

from cordee.coordinator.cli.errors import say

if TYPE_CHECKING:
    from cordee.coordinator.discovery import Coordinators

__all__ = ["reach"]


def reach(server: str | None, state: Path | None) -> "Coordinators":
    """`discovery.connect`, for people: who sends the token through a network in the clear is told so."""
    from cordee.coordinator.discovery import connect, named_endpoint

    endpoint = named_endpoint(server, state)
    if endpoint is not None and endpoint.exposes_token:
        say(f"warning: the token travels to {endpoint.url} unencrypted; use https or an SSH tunnel")
    return connect(server, state)
