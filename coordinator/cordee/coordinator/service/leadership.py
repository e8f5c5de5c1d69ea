"""Which of several coordinators decides. The others stand by: they open no jobs and no ports but the metrics port.

A coordinator of its own (no `leaderElection` in its configuration) leads from the start and never loses it.
"""

import asyncio
import importlib
from typing import TYPE_CHECKING, Protocol, cast

from cordee.coordinator.errors import CoordinatorError

if TYPE_CHECKING:
    from cordee.coordinator.config import Config

__all__ = ["Leadership", "LeadershipLostError", "open_leadership"]


class LeadershipLostError(CoordinatorError):
    """Another coordinator leads now, or may: this one has to end, and starts again as one that stands by."""

    code = "leadership"


class Leadership(Protocol):
    """A candidate. Used on one event loop."""

    holder: str
    """Who leads, as far as is known; for messages."""
    lost: asyncio.Event
    """Set when leadership that was acquired is over: nothing may be decided any more."""

    async def acquire(self) -> None:
        """Wait until this coordinator leads, for as long as it takes."""
        ...

    async def release(self) -> None:
        """Stop being a candidate; what is held is given back, so that the next one need not wait."""
        ...


def open_leadership(config: "Config") -> Leadership | None:
    """What the configuration asks for; None: there is one coordinator only."""
    if config.leader_election is None:
        return None
    if config.database is None:
        raise CoordinatorError(
            "leaderElection is set without database: coordinators that take over from one another need a common one",
            hint="set database.urlFile to a PostgreSQL URL, or run one coordinator without leaderElection",
        )
    try:
        module = importlib.import_module("cordee.k8s.leadership")
    except ImportError as error:
        raise CoordinatorError(
            f"leaderElection needs a package that is not installed: {error.name}",
            hint="pip install 'cordee[kubernetes]'",
        ) from error
    return cast("Leadership", module.open_leadership(config))
