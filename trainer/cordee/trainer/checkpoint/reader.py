"""Finds the newest checkpoint that is whole, verifying every hash; a damaged one is reported and passed over."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cordee.trainer.checkpoint.layout import FORMAT, MANIFEST, STATE_FILE, step_directories
from cordee.trainer.files import sha256_of

__all__ = ["CheckpointError", "Loaded", "load_checkpoint", "load_latest"]


class CheckpointError(Exception):
    """A checkpoint is damaged or of another format."""


@dataclass(frozen=True)
class Loaded:
    """A verified checkpoint, in memory."""

    step: int
    path: Path
    arrays: dict[str, np.ndarray[Any, Any]]
    meta: dict[str, Any]


def load_checkpoint(path: Path) -> Loaded:
    """Loads the checkpoint in the folder `path`. Raises `CheckpointError` when anything in it is not as written."""
    from cordee.trainer.interop.safetensors import read_safetensors

    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest.get("format") != FORMAT:
            raise CheckpointError(f"{path}: format {manifest.get('format')!r}, this version reads {FORMAT!r}")
        for name, expected in manifest["files"].items():
            file = path / Path(name).name  # a manifest never points out of its folder
            size = file.stat().st_size
            if size != expected["bytes"]:
                raise CheckpointError(f"{file}: {size} bytes, the manifest says {expected['bytes']}")
            if sha256_of(file) != expected["sha256"]:
                raise CheckpointError(f"{file}: its SHA-256 is not the manifest's")
        arrays = read_safetensors(path / STATE_FILE)
        return Loaded(step=int(manifest["step"]), path=path, arrays=arrays, meta=dict(manifest["meta"]))
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error!r}") from error


def load_latest(directory: Path, on_damaged: Callable[[CheckpointError], None]) -> Loaded | None:
    """The newest checkpoint in `directory` that is whole; None when there is none.

    `on_damaged` is told of each newer one that was passed over.
    """
    for _, path in reversed(step_directories(directory)):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            on_damaged(error)
    return None
