"""The folders of `cordee run`: one per run, newest last by name; old ones are removed.

A run's folder is its coordinator's state folder: the job's logs, checkpoints and weights lie in it after the run.
"""

import contextlib
import secrets
import shutil
import time
from pathlib import Path
from typing import Final

__all__ = ["NUM_KEPT", "new_run_folder", "prune_runs"]

NUM_KEPT: Final = 20


def new_run_folder(runs: Path, name: str) -> Path:
    """A fresh folder's path; names sort by time."""
    return runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-{secrets.token_hex(2)}"


def prune_runs(runs: Path, keep: int = NUM_KEPT) -> list[Path]:
    """Remove all but the newest finished runs; those that live are neither counted nor touched."""
    with contextlib.suppress(OSError):
        folders = sorted(path for path in runs.iterdir() if not path.is_symlink() and _is_finished_run(path))
        old = folders[: max(0, len(folders) - keep)]
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)
        return old
    return []


def _is_finished_run(folder: Path) -> bool:
    """A folder in which a coordinator has been and is no more, and neither is a worker of it."""
    from cordee.coordinator.service.folder import is_held
    from cordee.coordinator.service.launchers.process import living_agents

    return (folder / "coordinator.lock").is_file() and not is_held(folder) and not living_agents(folder)
