"""What a checkpoint looks like on storage.

    <directory>/
      step-000000000123/
        state.safetensors     every array of the training state, by name
        manifest.json         format, step, each file's size and SHA-256, and the state's scalars

A checkpoint is prepared in a folder whose name starts with a dot and renamed when its manifest is on the disk: a folder
`step-…` is therefore whole, unless storage damaged it later, which the hashes tell.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["FORMAT", "MANIFEST", "STATE_FILE", "step_directories", "step_directory", "unfinished_directories"]

FORMAT = "cordee-checkpoint/1"
MANIFEST = "manifest.json"
STATE_FILE = "state.safetensors"

_STEP_DIRECTORY = re.compile(r"step-(\d{12})")
_UNFINISHED = re.compile(r"\.step-(\d{12})\..*\.tmp")


def step_directory(directory: Path, step: int) -> Path:
    return directory / f"step-{step:012d}"


def step_directories(directory: Path) -> list[tuple[int, Path]]:
    """The committed checkpoints in `directory`, oldest first."""
    return _matching(_STEP_DIRECTORY, directory)


def unfinished_directories(directory: Path) -> list[tuple[int, Path]]:
    """What is being written in `directory`, or was when its writer was killed, oldest first."""
    return _matching(_UNFINISHED, directory)


def _matching(pattern: re.Pattern[str], directory: Path) -> list[tuple[int, Path]]:
    if not directory.is_dir():
        return []
    found = []
    for path in directory.iterdir():
        match = pattern.fullmatch(path.name)
        if match:
            found.append((int(match[1]), path))
    return sorted(found)
