"""Writes checkpoints beside training: the step pays for a copy in memory, a thread pays for the disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cordee.trainer.checkpoint.layout import (
    FORMAT,
    MANIFEST,
    STATE_FILE,
    step_directories,
    step_directory,
    unfinished_directories,
)
from cordee.trainer.files import alone_in, fsync_directory, fsync_file, sha256_of

__all__ = ["CheckpointWriter", "write_checkpoint"]

Arrays = Mapping[str, np.ndarray[Any, Any]]

RESERVED_BYTES = 32 << 20
"""What a checkpoint leaves free of its disk: the coordinator's database is often on the same one, and a job can do
without a checkpoint, but not without that."""


def write_checkpoint(directory: Path, step: int, arrays: Arrays, meta: Mapping[str, Any]) -> tuple[Path, int]:
    """Writes one checkpoint and returns its folder and size in bytes. Raises `OSError` when storage fails."""
    from cordee.trainer.interop.safetensors import save_safetensors

    directory.mkdir(parents=True, exist_ok=True)
    needed = sum(array.nbytes for array in arrays.values())
    free = shutil.disk_usage(directory).free
    if needed + RESERVED_BYTES > free:
        raise OSError(
            errno.ENOSPC, f"{needed >> 20} MiB are to be written and {RESERVED_BYTES >> 20} kept, {free >> 20} are free"
        )
    target = step_directory(directory, step)
    unfinished = directory / f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    unfinished.mkdir()
    try:
        state = unfinished / STATE_FILE
        save_safetensors(arrays, state)
        size = state.stat().st_size
        manifest = {
            "format": FORMAT,
            "step": step,
            "created": time.time(),
            "files": {STATE_FILE: {"bytes": size, "sha256": sha256_of(state)}},
            "meta": dict(meta),
        }
        (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        fsync_file(unfinished / MANIFEST)
        fsync_directory(unfinished)
        if target.exists():
            # A redone step writes the same bits; or the one there was found damaged. Either way the new one is good.
            _discard(target)
        unfinished.rename(target)
        fsync_directory(directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target, size


def _discard(path: Path) -> None:
    """Takes a checkpoint away in one step, then deletes it: half deleted, it would look like a damaged one."""
    doomed = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with contextlib.suppress(OSError):  # another worker was faster
        path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


class CheckpointWriter:
    """Keeps the newest `keep` checkpoints of a run in `directory`.

    `on_written(step, path, size_bytes, seconds)` and `on_failed(step, error)` are called from the writing thread. A
    failing disk never stops training: the failure is reported, and the next checkpoint tries again.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: int,
        on_written: Callable[[int, Path, int, float], None],
        on_failed: Callable[[int, Exception], None],
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep at least one checkpoint, not {keep}")
        self._directory = directory
        self._keep = keep
        self._on_written = on_written
        self._on_failed = on_failed
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written now; `save` would wait for it."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, step: int, arrays: Arrays, meta: Mapping[str, Any]) -> None:
        """Writes `arrays` in the background. They must not change any more: hand over copies."""
        self.wait()
        self._thread = threading.Thread(
            target=self._write, args=(step, arrays, meta), name=f"checkpoint-{step}", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Waits until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, step: int, arrays: Arrays, meta: Mapping[str, Any]) -> None:
        started = time.monotonic()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            # A writer of a world that is gone may still be at it: one after the other, they do not get in their way.
            with alone_in(self._directory) as alone:
                if alone:
                    for _, leftover in unfinished_directories(self._directory):  # of writers that were killed
                        shutil.rmtree(leftover, ignore_errors=True)
                path, size = write_checkpoint(self._directory, step, arrays, meta)
                self._prune(step)
        except Exception as error:  # whatever storage throws: training goes on, the error is told
            self._on_failed(step, error)
            return
        self._on_written(step, path, size, time.monotonic() - started)

    def _prune(self, newest: int) -> None:
        # What is newer than the one just written is no successor of it: it was found damaged and passed over.
        reached = [path for step, path in step_directories(self._directory) if step <= newest]
        for path in reached[: -self._keep]:
            _discard(path)
