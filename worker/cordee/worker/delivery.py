"""What a worker leaves in its folder, brought to the coordinator: a job's result, where no folder is shared (a pod).

The workers of the last world hold the same weights, and each is ready to bring them: any may be the only one to live.
So they ask before they send, by name, size and digest, and the coordinator has each file from one of them only. A file
is there whole or not at all.

A worker that is drained brings what its script has put out so far, in the little time it has: it may have been the only
one that wrote it. It never takes the place of what a worker brings that has come to the end.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from cordee.worker.uplink import AwayError, RefusedError, Uplink

__all__ = ["FOLDERS", "LEAVING_SECONDS", "OUTPUT", "Parcel", "deliver", "gather", "num_files"]

OUTPUT: Final = "output"
FOLDERS: Final = ("result", OUTPUT)
"""Of a worker's folder: what its job keeps."""
LEAVING_SECONDS: Final = 4.0
"""For what a drained worker brings: the process is ended a moment later (`departure`), and its log is to follow."""
MAX_FILES: Final = 10_000
ASK_SECONDS: Final = 0.5
"""Between two questions whether another worker has brought a file."""
LAST_PAUSE_SECONDS: Final = 5.0
_BLOCK_BYTES: Final = 1 << 20
_ASK_FILES: Final = 500
"""Files that are asked for at once."""


@dataclass(frozen=True)
class Parcel:
    """A file to be brought."""

    name: str
    """Its path below the worker's folder, with slashes."""
    path: Path
    size: int
    sha256: str

    def told(self) -> dict[str, Any]:
        """As the coordinator is asked for it."""
        return {"path": self.name, "size": self.size, "sha256": self.sha256}


def gather(workdir: Path, folders: Sequence[str] = FOLDERS, *, until: float | None = None) -> list[Parcel]:
    """What there is to be brought. Links are passed over: they point at what is not the job's, perhaps. With `until`
    what can be gone through by then, the smallest first: one of gigabytes does not keep all others here."""
    parcels = []
    found = (path for folder in folders for path in _files(workdir / folder))
    for path in found if until is None else sorted(found, key=_size):
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest = _digest(file, until)
        except OSError:
            continue  # the script has removed it meanwhile, or it is nobody's to read
        if digest is None:
            break
        parcels.append(Parcel(path.relative_to(workdir).as_posix(), path, size, digest))
        if len(parcels) == MAX_FILES:
            break
    return parcels


def num_files(workdir: Path, folder: str) -> int:
    """How many there are, whether they can be brought or not."""
    return sum(1 for _ in _files(workdir / folder))


def deliver(
    uplink: Uplink,
    parcels: Sequence[Parcel],
    refused: Callable[[str], None],
    *,
    until: float | None = None,
    leaving: bool = False,
) -> dict[str, str]:
    """Where each file lies at the coordinator, when all are there; by then. Without `until` it goes on for as long as
    it takes. `refused` is told, in a sentence each, of those that the coordinator does not take. `leaving`: this worker
    has not come to the end, and others' files count for more."""
    there: dict[str, str] = {}
    left = list(parcels)
    pause = ASK_SECONDS
    while left and (until is None or time.monotonic() < until):
        try:
            waiting = []
            for start in range(0, len(left), _ASK_FILES):
                waiting += _bring(uplink, left[start : start + _ASK_FILES], there, refused, until, leaving)
            left, pause = waiting, ASK_SECONDS
        except AwayError:
            left = [parcel for parcel in left if parcel.name not in there]
            pause = min(2 * pause, LAST_PAUSE_SECONDS)
        except RefusedError as error:
            refused(f"the coordinator takes no files of this worker: {error}")
            break
        if left:
            time.sleep(pause)
    return there


def _bring(
    uplink: Uplink,
    parcels: Sequence[Parcel],
    there: dict[str, str],
    refused: Callable[[str], None],
    until: float | None,
    leaving: bool,
) -> list[Parcel]:
    """Asks for these, and sends what is wanted; those that another worker is just sending."""
    offer = {"files": [parcel.told() for parcel in parcels], **({"leaving": True} if leaving else {})}
    body = json.dumps(offer).encode()
    answers = {item["path"]: item for item in uplink.post("results", body, kind="application/json")["files"]}
    coming = []
    for parcel in parcels:
        answer = answers[parcel.name]
        if answer["state"] == "wanted":
            try:
                with _InTime(parcel.path.open("rb", buffering=0), until) as file:
                    there[parcel.name] = str(
                        uplink.put(f"files/{parcel.name}", file, parcel.size, parcel.sha256, leaving=leaving)["where"]
                    )
            except OSError as error:
                refused(f"{parcel.name} cannot be read any more: {error.strerror}")
            except RefusedError as error:
                refused(f"{parcel.name} is not kept: {error}")
        elif answer["state"] == "there":
            there[parcel.name] = str(answer["where"])
        elif answer["state"] == "coming":
            coming.append(parcel)
        else:
            refused(f"{parcel.name} is not kept: {answer.get('why', '')}")
    return coming


class _InTime(io.BufferedReader):
    """A file that is sent until a moment, and not beyond."""

    def __init__(self, raw: io.FileIO, until: float | None) -> None:
        super().__init__(raw)
        self._until = until

    def read(self, size: int | None = -1, /) -> bytes:
        if self._until is not None and time.monotonic() >= self._until:
            raise AwayError("there is no time left")
        return super().read(size)


def _digest(file: BinaryIO, until: float | None) -> str | None:
    hasher = hashlib.sha256()
    while block := file.read(_BLOCK_BYTES):
        if until is not None and time.monotonic() >= until:
            return None
        hasher.update(block)
    return hasher.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            try:
                if stat.S_ISREG(path.lstat().st_mode):
                    yield path
            except OSError:
                continue
