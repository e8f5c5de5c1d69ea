"""The folders of `cordee run`: one per run, newest last by name; old ones are removed.

A run's folder is its coordinator's state folder: the job's logs, checkpoints and weights lie in it after the run. One
whose job was cut off is not old however long ago that was: it holds all that is left of the work, and can go on.
"""

import contextlib
import secrets
import shutil
import time
from pathlib import Path
from typing import Final

from cordee.coordinator.errors import CoordinatorError

__all__ = ["NUM_KEPT", "new_run_folder", "prune_runs"]

NUM_KEPT: Final = 20


def new_run_folder(runs: Path, name: str) -> Path:
    """A fresh folder's path; names sort by time."""
    return runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-{secrets.token_hex(2)}"


def prune_runs(runs: Path, keep: int = NUM_KEPT) -> list[Path]:
    """Remove all but the newest runs, and say which; none that lives, and none that was cut off."""
    with contextlib.suppress(OSError):
        folders = sorted(path for path in runs.iterdir() if not path.is_symlink() and _is_left(path))
        old = [folder for folder in folders[: max(0, len(folders) - keep)] if _has_ended(folder)]
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)
        return old
    return []


def _is_left(folder: Path) -> bool:
    """A coordinator has been in this folder and is no more, and neither is a worker of it."""
    from cordee.coordinator.service.folder import is_held
    from cordee.coordinator.service.launchers.process import living_agents

    return (folder / "coordinator.lock").is_file() and not is_held(folder) and not living_agents(folder)


def _has_ended(folder: Path) -> bool:
    """Nothing in the folder can go on; what cannot be read might."""
    from cordee.coordinator.past import PastCoordinator, has_past

    if not has_past(folder):
        return True
    try:
        with PastCoordinator(folder) as past:
            return not past.unfinished()
    except CoordinatorError:
        return False
