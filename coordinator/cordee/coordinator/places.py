"""Where a job's checkpoints and weights lie."""

from pathlib import Path
from typing import Final

__all__ = ["CHECKPOINTS", "RESULT", "checkpoint_root"]

CHECKPOINTS: Final = "checkpoints"
RESULT: Final = "result/model.safetensors"


def checkpoint_root(storage: str | None, job: str, folder: str | Path) -> str:
    """The folder or URL below which a job's steps lie: its own, also where many jobs share a storage."""
    return str(Path(folder) / CHECKPOINTS) if storage is None else f"{storage.rstrip('/')}/{job}"
