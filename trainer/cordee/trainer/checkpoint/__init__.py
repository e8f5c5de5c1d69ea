"""Asynchronous, sharded, hashed, atomically committed checkpoints: for the day that everybody is lost."""

from cordee.trainer.checkpoint.opening import open_storage
from cordee.trainer.checkpoint.reader import CheckpointError, Loaded, load_latest, load_weights
from cordee.trainer.checkpoint.storage import Storage, StorageError
from cordee.trainer.checkpoint.writer import CheckpointWriter

__all__ = [
    "CheckpointError",
    "CheckpointWriter",
    "Loaded",
    "Storage",
    "StorageError",
    "load_latest",
    "load_weights",
    "open_storage",
]
