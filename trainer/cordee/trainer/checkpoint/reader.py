"""Finds the newest checkpoint that is whole, verifying every hash; a damaged one is reported and passed over.

Damage is what is wrong with one checkpoint: a part that is missing, cut off or altered. Storage that cannot be reached
is another thing (`StorageError`): it says nothing about what lies there, and nobody is to begin anew because of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from cordee.trainer.checkpoint.layout import MANIFEST, step_folders, step_name
from cordee.trainer.checkpoint.manifest import Manifest, PartRecord
from cordee.trainer.checkpoint.opening import open_storage
from cordee.trainer.checkpoint.parts import join
from cordee.trainer.checkpoint.storage import Bytes, Storage, StorageError

__all__ = [
    "CheckpointError",
    "Loaded",
    "load_checkpoint",
    "load_latest",
    "load_weights",
    "read_manifest",
    "verify_part",
    "weights_of",
]

Arrays = dict[str, np.ndarray[Any, Any]]

THREADS: Final = 4
"""Parts read and hashed at a time: both let go of Python's lock."""
WEIGHTS: Final = "model."
"""What the names of parameters and buffers begin with."""

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)


class CheckpointError(Exception):
    """A checkpoint is damaged or of another format."""


@dataclass(frozen=True)
class Loaded:
    """A verified checkpoint, in memory."""

    step: int
    where: str
    arrays: Arrays
    meta: dict[str, Any]


def read_manifest(storage: Storage, folder: str) -> Manifest:
    """The manifest in `folder` (empty: the root itself is a step's folder). Raises `CheckpointError`."""
    name = f"{folder}/{MANIFEST}" if folder else MANIFEST
    try:
        return Manifest.from_json(storage.get(name).tobytes())
    except StorageError:
        raise
    except _UNREADABLE as error:
        raise CheckpointError(f"{storage.where(name)}: cannot be read: {error!r}") from error


def verify_part(storage: Storage, folder: str, part: PartRecord) -> Bytes:
    """A part's bytes, which are as they were written. Raises `CheckpointError`."""
    name = f"{folder}/{part.file}" if folder else part.file
    try:
        data = storage.get(name)
    except StorageError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{storage.where(name)}: cannot be read: {error}") from error
    if data.size != part.num_bytes:
        raise CheckpointError(f"{storage.where(name)}: {data.size} bytes, the manifest says {part.num_bytes}")
    if hashlib.sha256(data.data).hexdigest() != part.sha256:
        raise CheckpointError(f"{storage.where(name)}: its SHA-256 is not the manifest's")
    return data


def load_checkpoint(storage: Storage, folder: str) -> Loaded:
    """Loads the checkpoint in `folder`. Raises `CheckpointError` when anything in it is not as written."""
    from cordee.trainer.interop.safetensors import decode_safetensors

    manifest = read_manifest(storage, folder)
    where = storage.where(folder) if folder else storage.location

    def read(part: PartRecord) -> Arrays:
        return decode_safetensors(verify_part(storage, folder, part), f"{where}/{part.file}")

    try:
        with ThreadPoolExecutor(THREADS, thread_name_prefix="checkpoint-read") as pool:
            pieces: Arrays = {}
            for arrays in pool.map(read, manifest.parts):
                if pieces.keys() & arrays.keys():
                    raise ValueError("an array lies in two parts")
                pieces.update(arrays)
        return Loaded(manifest.step, where, join(pieces, manifest.cut), dict(manifest.meta))
    except ValueError as error:  # of parts whose hashes are right: the writer's fault, or somebody's skill
        raise CheckpointError(f"{where}: cannot be read: {error}") from error


def load_latest(storage: Storage, on_damaged: Callable[[CheckpointError], None]) -> Loaded | None:
    """The newest checkpoint that is whole; None when there is none.

    `on_damaged` is told of each newer one that was passed over. Raises `OSError` when storage cannot be read at all.
    """
    for folder in reversed(step_folders(storage.list())):
        if folder.committed is None:
            continue  # unfinished
        try:
            return load_checkpoint(storage, folder.name)
        except CheckpointError as error:
            on_damaged(error)
    return None


def load_weights(location: str, on_damaged: Callable[[CheckpointError], None]) -> tuple[Arrays, str]:
    """Parameters and buffers by name, and where exactly they come from.

    `location` is a `.safetensors` file, the folder of one step, or a root of several (the newest that is whole), each a
    path or a URL. Raises `CheckpointError` when there is nothing of these.
    """
    from cordee.trainer.interop.safetensors import decode_safetensors

    path = location.rstrip("/")
    if path.endswith(".safetensors"):
        parent, _, name = path.rpartition("/")
        try:
            if "://" not in path:  # a file of any name
                return decode_safetensors(np.fromfile(path, np.uint8), path), path
            return decode_safetensors(open_storage(parent).get(name), path), path
        except StorageError:
            raise
        except (OSError, ValueError) as error:
            raise CheckpointError(f"the weights {path} cannot be read: {error}") from error
    storage = open_storage(path)
    names = {entry.name for entry in storage.list()}
    if MANIFEST in names:
        loaded: Loaded | None = load_checkpoint(storage, "")
    else:
        loaded = load_latest(storage, on_damaged)
    if loaded is None:
        raise CheckpointError(
            f"{path} holds no checkpoint that is whole; give a .safetensors file, the folder of a step "
            f"({step_name(100)}) or the folder that holds such folders"
        )
    return weights_of(loaded), loaded.where


def weights_of(loaded: Loaded) -> Arrays:
    """The parameters and buffers of a checkpoint, by their own names."""
    return {name.removeprefix(WEIGHTS): array for name, array in loaded.arrays.items() if name.startswith(WEIGHTS)}
