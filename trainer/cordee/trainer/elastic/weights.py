"""The fingerprint of a model's weights, and the file that they end in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["weights_sha256", "write_weights"]


def weights_sha256(arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of parameters and buffers, in name order.

    Per array: one line of JSON, `[name, [shape…], dtype]` with NumPy's dtype name, a newline, then its bytes in C
    order, little endian.
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(json.dumps([name, list(array.shape), array.dtype.name]).encode() + b"\n")
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def write_weights(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]], sha256: str) -> None:
    """Writes `arrays` as safetensors: whole or not at all, and not again where the same weights stand already.

    Every worker of a finished job calls this, because any of them may be the only one to live to the end; they hold
    the same bits, so it does not matter who wins.
    """
    from cordee.trainer.interop.safetensors import safetensors_metadata, save_safetensors

    if path.exists():
        try:
            if safetensors_metadata(path).get("weights_sha256") == sha256:
                return
        except (ValueError, OSError):
            pass  # a damaged file is written again
    path.parent.mkdir(parents=True, exist_ok=True)
    save_safetensors(arrays, path, {"weights_sha256": sha256})
