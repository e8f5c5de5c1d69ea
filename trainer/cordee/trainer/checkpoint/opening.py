"""From a place's name, a folder's path or a URL, to its storage."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cordee.trainer.checkpoint.objects import ObjectStorage
from cordee.trainer.checkpoint.storage import LocalStorage, Storage

__all__ = ["open_storage"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")


def open_storage(location: str | os.PathLike[str]) -> Storage:
    """The storage at a folder's path or a URL (`s3://bucket/prefix`, `gs://…`, `az://…`, `file:///…`).

    Nothing is reached yet. Raises `StorageError` when the package for such URLs is missing, `ValueError` when the
    location is none.
    """
    text = os.fspath(location)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return LocalStorage(Path(text))
    if scheme[1].lower() == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise ValueError(f"{text!r} names no folder of this machine; give file:///an/absolute/path")
        return LocalStorage(Path(unquote(parts.path)))
    return ObjectStorage(text)
