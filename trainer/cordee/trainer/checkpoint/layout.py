"""What a checkpoint looks like on storage.

    <root>/
      step-000000000123/
        part-00000-of-00004-g17.safetensors    a share of the arrays of the training state
        …
        manifest.json                          format, step, every part's size and SHA-256, the state's scalars

Made for object stores: the manifest is written last, when everything else is there, so a step with a manifest is whole,
unless storage damaged it later, which the hashes tell; one without is unfinished. Every part is written by a worker of
its own, named after the world's generation: what a worker of a world that is gone still writes is nobody's part.

Format 1 (release 0.1) has one `state.safetensors` for all the parts. It is read, and no longer written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cordee.trainer.checkpoint.storage import Entry

__all__ = [
    "FIRST_FORMAT",
    "FIRST_STATE_FILE",
    "FORMAT",
    "MANIFEST",
    "Attempt",
    "StepFolder",
    "part_names_are_safe",
    "step_folders",
    "step_name",
    "superseded",
]

FORMAT: Final = "cordee-checkpoint/2"
FIRST_FORMAT: Final = "cordee-checkpoint/1"
MANIFEST: Final = "manifest.json"
FIRST_STATE_FILE: Final = "state.safetensors"

_STEP = re.compile(r"step-(\d{12})")
_FIRST_UNFINISHED = re.compile(r"\.step-(\d{12})\..*\.tmp")
_FILE = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]*")


def step_name(step: int) -> str:
    return f"step-{step:012d}"


@dataclass(frozen=True)
class Attempt:
    """One world's try to save the state that a step ends in. Its members all make the same one."""

    step: int
    generation: int
    num_parts: int

    @property
    def folder(self) -> str:
        return step_name(self.step)

    def part(self, number: int) -> str:
        """A part's file."""
        return f"part-{number:05d}-of-{self.num_parts:05d}-g{self.generation}.safetensors"

    def record(self, number: int) -> str:
        """What the worker that wrote a part says of it, until the manifest does."""
        return f"part-{number:05d}-of-{self.num_parts:05d}-g{self.generation}.json"


@dataclass(frozen=True)
class StepFolder:
    """All that lies on storage under one step."""

    step: int
    entries: tuple[Entry, ...]
    committed: float | None
    """When its manifest was written, by the storage's clock; None: it is unfinished."""

    @property
    def name(self) -> str:
        return step_name(self.step)

    @property
    def newest(self) -> float:
        return max(entry.modified for entry in self.entries)


def step_folders(entries: Iterable[Entry]) -> list[StepFolder]:
    """The steps among what lies in a root, oldest first."""
    by_step: dict[int, list[Entry]] = {}
    committed: dict[int, float] = {}
    for entry in entries:
        folder, _, file = entry.name.partition("/")
        match = _STEP.fullmatch(folder) or _FIRST_UNFINISHED.fullmatch(folder)
        if match is None or not file:
            continue
        step = int(match[1])
        by_step.setdefault(step, []).append(entry)
        if folder.startswith("step-") and file == MANIFEST:
            committed[step] = entry.modified
    return [StepFolder(step, tuple(by_step[step]), committed.get(step)) for step in sorted(by_step)]


def superseded(
    folders: Iterable[StepFolder], newest: int, parts: Iterable[str], *, keep: int, keep_seconds: float, patience: float
) -> list[list[str]]:
    """What is to be removed once the checkpoint of step `newest` is committed, in order: each step's manifest first.

    Committed steps go that are beyond the newest `keep` and older than `keep_seconds`. Unfinished ones go after
    `patience` seconds without a change: none that is still being written is touched. In the step's own folder the
    records of its parts go, and what is that old and none of `parts`: another attempt may be at the same step. What is
    newer than the step stays: it was found damaged and passed over, or it is the next world's. Ages are measured from
    this checkpoint's manifest, by the storage's own clock.
    """
    folders = list(folders)
    own = next((folder for folder in folders if folder.step == newest), None)
    if own is None or own.committed is None:
        return []
    reached = [folder for folder in folders if folder.step <= newest]
    whole = [folder for folder in reached if folder.committed is not None]
    surplus = [
        folder
        for folder in whole[:-keep]
        if folder.committed is not None and own.committed - folder.committed >= keep_seconds
    ]
    dead = [folder for folder in reached if folder.committed is None and own.committed - folder.newest >= patience]
    kept = {f"{own.name}/{file}" for file in (*parts, MANIFEST)}
    records = {name.replace(".safetensors", ".json") for name in kept}
    junk = [
        entry.name
        for entry in own.entries
        if entry.name in records - kept or (entry.name not in kept and own.committed - entry.modified >= patience)
    ]
    removed = [_manifest_first(folder) for folder in (*surplus, *dead)]
    return [*removed, junk] if junk else removed


def _manifest_first(folder: StepFolder) -> list[str]:
    """Half deleted, it is then unfinished, not damaged."""
    manifest = f"{folder.name}/{MANIFEST}"
    return sorted((entry.name for entry in folder.entries), key=lambda name: name != manifest)


def part_names_are_safe(names: Iterable[str]) -> bool:
    """Whether a manifest's files lie in its own folder."""
    return all(_FILE.fullmatch(name) for name in names)
