"""A checkpoint's manifest, and the record of each part: JSON that is checked field by field when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cordee.trainer.checkpoint.layout import FIRST_FORMAT, FORMAT, part_names_are_safe

__all__ = ["Manifest", "PartRecord"]


def _fingerprint(document: Mapping[str, Any]) -> str:
    """Of a manifest's content, however it is laid out."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class PartRecord:
    """A part that is on storage, or why it is not."""

    file: str
    num_bytes: int
    sha256: str
    failed: str = ""
    """A sentence; empty: it is there."""

    def to_json(self) -> bytes:
        told = {"failed": self.failed} if self.failed else {"bytes": self.num_bytes, "sha256": self.sha256}
        return json.dumps({"file": self.file, **told}).encode()

    @staticmethod
    def from_json(text: bytes) -> PartRecord:
        """Raises `ValueError`, `TypeError` or `KeyError` when `text` is no record."""
        data = json.loads(text)
        if "failed" in data:
            return PartRecord(str(data["file"]), 0, "", str(data["failed"]))
        return PartRecord(str(data["file"]), int(data["bytes"]), str(data["sha256"]))


@dataclass(frozen=True)
class Manifest:
    """What is committed: written when all of it is on storage."""

    step: int
    created: float
    """Unix time of the clock of the worker that committed it."""
    parts: tuple[PartRecord, ...]
    cut: Mapping[str, int] = field(default_factory=dict)
    """The arrays whose rows lie in several parts, and how many rows each has."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    format: str = FORMAT

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts)

    def to_json(self) -> bytes:
        parts = {part.file: {"bytes": part.num_bytes, "sha256": part.sha256} for part in self.parts}
        document = {
            "format": self.format,
            "step": self.step,
            "created": self.created,
            "parts": parts,
            "cut": dict(self.cut),
            "meta": dict(self.meta),
        }
        document = json.loads(json.dumps(document))  # as it will be read: keys are text, tuples are lists
        return json.dumps({**document, "sha256": _fingerprint(document)}, indent=1).encode()

    @staticmethod
    def from_json(text: bytes) -> Manifest:
        """Raises `ValueError`, `TypeError`, `KeyError` or `AttributeError` when `text` is no manifest."""
        data = json.loads(text)
        known = {FORMAT: "parts", FIRST_FORMAT: "files"}
        if data["format"] not in known:
            raise ValueError(f"format {data['format']!r}; this version reads {' and '.join(map(repr, known))}")
        parts = data[known[data["format"]]]
        if data["format"] == FORMAT and data.pop("sha256", None) != _fingerprint(data):
            raise ValueError("its SHA-256 is not its own")
        if not part_names_are_safe(parts):
            raise ValueError(f"it names files outside its folder: {list(parts)}")
        return Manifest(
            step=int(data["step"]),
            created=float(data.get("created", 0.0)),
            parts=tuple(PartRecord(name, int(part["bytes"]), str(part["sha256"])) for name, part in parts.items()),
            cut={str(name): int(rows) for name, rows in data.get("cut", {}).items()},
            meta=dict(data["meta"]),
            format=data["format"],
        )
