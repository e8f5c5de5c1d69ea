"""`save` and `load`: what PyTorch users type first. Files are recognised by their content, not by their names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cordee.trainer.interop.nested import METADATA, flattened, is_plain, rebuilt
from cordee.trainer.interop.safetensors import load_safetensors, safetensors_metadata, save_safetensors
from cordee.trainer.interop.torch_archive import is_torch_file, load_torch

__all__ = ["load", "save"]


def load(f: str | os.PathLike[str], map_location: Any = None, *, weights_only: bool = True) -> Any:
    """What a file holds that `save` wrote; a `.safetensors` file, or a `.pt` or `.pth` file that PyTorch has written.

    No code of the file is run (PyTorch's `weights_only=True`, and stricter).

    Args:
        map_location: taken for PyTorch's sake: tensors come to the one device that this process computes on.
        weights_only: there is no other way.

    Raises:
        WeightsError: (a ValueError) the file is damaged, or holds more than tensors and plain containers.
        ValueError: `weights_only=False`.
    """
    del map_location
    if not weights_only:
        raise ValueError("load: weights_only=False would run the file's code, which is never done here: leave it out")
    if is_torch_file(Path(f)):
        return load_torch(f)
    tensors = load_safetensors(f)
    structure = safetensors_metadata(f).get(METADATA)
    return tensors if structure is None else rebuilt(tensors, structure)


def save(obj: Any, f: str | os.PathLike[str]) -> None:
    """Write a `state_dict()`, or any nest of dictionaries, lists and tuples of tensors, numbers and texts.

    It is a safetensors file (never a pickle), whole or absent. A dictionary of tensors by name is that and nothing
    else; around others there is JSON in the file's metadata, and `load` gives back what was there.

    Raises:
        TypeError: there is something else in it; says what, and where.
    """
    if is_plain(obj):
        save_safetensors(obj, f)
    else:
        tensors, structure = flattened(obj)
        save_safetensors(tensors, f, {METADATA: structure})
