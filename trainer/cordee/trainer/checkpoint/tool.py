"""What lies in a root of checkpoints, as one JSON object, for whoever may not import the trainer: `cordee checkpoints`.

    python -P -m cordee.trainer.checkpoint.tool list ROOT [--verify]
    python -P -m cordee.trainer.checkpoint.tool export ROOT FILE [--step N]

Exit codes: 0 done, 1 something is damaged, 2 it could not be done: the object has `error` alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cordee.trainer.checkpoint.layout import MANIFEST, StepFolder, step_folders
from cordee.trainer.checkpoint.manifest import Manifest
from cordee.trainer.checkpoint.opening import open_storage
from cordee.trainer.checkpoint.reader import (
    CheckpointError,
    load_checkpoint,
    load_latest,
    read_manifest,
    verify_part,
    weights_of,
)
from cordee.trainer.checkpoint.storage import Storage
from cordee.trainer.interop.safetensors import WeightsError, save_safetensors

__all__ = ["export", "listing", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what was asked for."""
    parser = argparse.ArgumentParser(description="Lists, verifies and exports checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True)
    listed = commands.add_parser("list")
    listed.add_argument("root")
    listed.add_argument("--verify", action="store_true", help="read everything and compare the hashes")
    exported = commands.add_parser("export")
    exported.add_argument("root")
    exported.add_argument("file", type=Path)
    exported.add_argument("--step", type=int, help="which checkpoint; default: the newest that is whole")
    given = parser.parse_args(arguments)
    try:
        storage = open_storage(given.root)
        if given.command == "list":
            answer = listing(storage, verify=given.verify)
        else:
            answer = export(storage, given.file, given.step)
        code = 1 if any(each["state"] == "damaged" for each in answer.get("checkpoints", [])) else 0
    except (CheckpointError, WeightsError, ValueError, TypeError) as error:
        answer, code = {"error": str(error)}, 2
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        answer, code = {"error": told}, 2
    sys.stdout.write(json.dumps(answer) + "\n")
    return code


def listing(storage: Storage, *, verify: bool) -> dict[str, Any]:
    """The steps in a root, oldest first. Without `verify`, sizes are compared and nothing is read but the manifests."""
    folders = step_folders(storage.list())
    return {"root": storage.location, "checkpoints": [_described(storage, folder, verify) for folder in folders]}


def _described(storage: Storage, folder: StepFolder, verify: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "step": folder.step,
        "state": "unfinished",
        "problem": None,
        "created": folder.newest,
        "bytes": sum(entry.size for entry in folder.entries),
        "parts": None,
        "format": None,
        "verified": False,
        "where": storage.where(folder.name),
    }
    if folder.committed is None:
        return told
    told |= {"state": "whole", "created": folder.committed, "verified": verify}
    try:
        manifest = read_manifest(storage, folder.name)
        told |= {"bytes": manifest.num_bytes, "parts": len(manifest.parts), "format": manifest.format}
        _check(storage, folder, manifest, verify)
    except CheckpointError as error:
        told |= {"state": "damaged", "problem": str(error)}
    return told


def _check(storage: Storage, folder: StepFolder, manifest: Manifest, verify: bool) -> None:
    sizes = {entry.name: entry.size for entry in folder.entries}
    for part in manifest.parts:
        name = f"{folder.name}/{part.file}"
        if name not in sizes:
            raise CheckpointError(f"{storage.where(name)} is missing")
        if sizes[name] != part.num_bytes:
            raise CheckpointError(f"{storage.where(name)}: {sizes[name]} bytes, the manifest says {part.num_bytes}")
        if verify:
            verify_part(storage, folder.name, part)


def export(storage: Storage, file: Path, step: int | None) -> dict[str, Any]:
    """Writes the parameters and buffers of a checkpoint to `file`, under their own names."""
    passed_over: list[str] = []
    if step is None:
        loaded = load_latest(storage, lambda error: passed_over.append(str(error)))
    else:
        committed = {folder.step: folder for folder in step_folders(storage.list()) if folder.committed is not None}
        if step not in committed:
            there = ", ".join(map(str, committed)) or "none"
            raise CheckpointError(f"{storage.location} holds no checkpoint of step {step}; there are: {there}")
        loaded = load_checkpoint(storage, committed[step].name)
    if loaded is None:
        raise CheckpointError(f"{storage.location} holds no checkpoint that is whole (a folder step-… with {MANIFEST})")
    weights = weights_of(loaded)
    save_safetensors(weights, file, {"step": str(loaded.step), "from": loaded.where})
    return {
        "step": loaded.step,
        "from": loaded.where,
        "file": str(file),
        "arrays": len(weights),
        "bytes": file.stat().st_size,
        "passed_over": passed_over,
    }


if __name__ == "__main__":
    sys.exit(main())
