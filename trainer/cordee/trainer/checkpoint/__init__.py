"""Asynchronous, hashed, atomically committed checkpoints: for the day that everybody is lost."""

from cordee.trainer.checkpoint.reader import CheckpointError, Loaded, load_latest
from cordee.trainer.checkpoint.writer import CheckpointWriter

__all__ = ["CheckpointError", "CheckpointWriter", "Loaded", "load_latest"]
