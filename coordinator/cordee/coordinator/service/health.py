"""Whether this coordinator can do its work, for those who send it requests: `/readyz`.

That it is alive, `/healthz` says by answering: its event loop turns. Ready is more: it has taken its jobs up (before
that, nothing answers here), it is not ending, and what it is told can be written down. The answer is for anybody, so
it says what is the matter and not where; the log has the rest.
"""

import logging
import os
import time
from pathlib import Path
from typing import Final

from cordee.coordinator.service.controller import Controller
from cordee.coordinator.service.store import StoreError

__all__ = ["Readiness"]

_log = logging.getLogger(__name__)

_AGAIN_SECONDS: Final = 2.0  # however often it is asked, the database is asked no more often
_MIN_FREE_BYTES: Final = 16 << 20


class Readiness:
    """Looks, and remembers what it saw for a moment. Used on the controller's loop."""

    def __init__(self, controller: Controller, root: Path) -> None:
        self._controller = controller
        self._root = root
        self._looked_at = float("-inf")
        self._problems: list[str] = []

    def problems(self) -> list[str]:
        """Why it is not ready, in sentences; none: it is."""
        if self._controller.closing:
            return ["this coordinator is ending"]
        now = time.monotonic()
        if now >= self._looked_at + _AGAIN_SECONDS:
            self._looked_at = now
            found = self._look()
            if found != self._problems:
                _log.warning("%s", f"not ready: {'; '.join(found)}" if found else "ready again")
            self._problems = found
        return self._problems

    def _look(self) -> list[str]:
        found = []
        try:
            self._controller.check_store()
        except StoreError as error:
            _log.warning("%s", error.message)
            found.append("the database cannot be written")
        try:
            disk = os.statvfs(self._root)
        except OSError:
            found.append("the state folder cannot be read")
        else:
            if disk.f_bavail * disk.f_frsize < _MIN_FREE_BYTES:
                found.append("the disk of the state folder is full")
        return found
