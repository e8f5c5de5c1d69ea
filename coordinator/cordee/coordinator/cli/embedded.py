"""A coordinator inside a command: the service's own code on a folder, gone when the command has done its work."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cordee.coordinator.cli.follow import Interrupts
    from cordee.coordinator.client import Client
    from cordee.coordinator.service.embedded import EmbeddedCoordinator

__all__ = ["ORPHAN_SECONDS", "embedded"]

ORPHAN_SECONDS: Final = 60.0  # workers of a run whose terminal is gone do not train on for an hour


@contextlib.contextmanager
def embedded(
    folder: Path, interrupts: "Interrupts", *, slots: int = 0
) -> "Iterator[tuple[EmbeddedCoordinator, Client]]":
    """An embedded coordinator with at least so many slots, and a client of it. At the end no worker of it is left."""
    from cordee.coordinator.client import Client, Endpoint
    from cordee.coordinator.service.embedded import EmbeddedCoordinator
    from cordee.coordinator.service.launchers.process import default_slots

    slots = max(default_slots(), slots)
    with _log_to(folder / "coordinator.log"):
        coordinator = EmbeddedCoordinator(folder, slots=slots, orphan_seconds=ORPHAN_SECONDS).start()
        try:
            with Client(Endpoint(coordinator.rest_url, coordinator.token, folder)) as client:
                yield coordinator, client
        finally:
            with interrupts.to(lambda _number: coordinator.kill_jobs()):
                coordinator.stop()


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """The embedded coordinator's log goes to a file: stderr is the person's."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("cordee")
    logger.addHandler(handler)
    level, propagates = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates
        handler.close()
