"""`save` and `load`: what PyTorch users type first. Files are recognised by their content, not by their names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cordee.trainer.interop.safetensors import load_safetensors, save_safetensors
from cordee.trainer.interop.torch_archive import is_torch_file, load_torch

__all__ = ["load", "save"]


def load(f: str | os.PathLike[str]) -> Any:
    """What a file of weights holds: a `.safetensors` file, or a `.pt` or `.pth` file that PyTorch has written.

    No code of the file is run (PyTorch's `weights_only=True`, and stricter). Raises `WeightsError` (a ValueError) when
    the file is damaged or holds more than tensors and plain containers.
    """
    return load_torch(f) if is_torch_file(Path(f)) else load_safetensors(f)


def save(obj: Mapping[str, Any], f: str | os.PathLike[str]) -> None:
    """Write a `state_dict()`, or any dictionary of tensors by name, as safetensors (never as a pickle).

    Raises `TypeError` when there is something else in it; for a whole training run there are checkpoints.
    """
    if not isinstance(obj, Mapping):
        raise TypeError(
            f"save: a dictionary of tensors is needed, such as model.state_dict(), not a {type(obj).__name__}"
        )
    save_safetensors(obj, f)
