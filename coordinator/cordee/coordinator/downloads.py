"""A file from a coordinator, whole or not at all.

What comes is written beside its place, and takes it only when its SHA-256 is the one that the coordinator told. A
download that broke off leaves its beginning, which the next one goes on with if the file is still the same.
"""

import contextlib
import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import httpx2

from cordee.coordinator.errors import CoordinatorError

__all__ = ["DownloadError", "download", "place_below"]

_READ_SECONDS: Final = 120.0  # the coordinator computes a large file's digest before its first byte


class DownloadError(CoordinatorError):
    """What came is not what was announced."""

    code = "download"


def place_below(folder: Path, path: str) -> Path:
    """Where a file that the coordinator has named goes: below `folder`, whatever it says."""
    parts = path.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise DownloadError(f"the coordinator names a file {path!r}, which is not a path below a folder")
    return folder.joinpath(*parts)


def download(
    http: httpx2.Client,
    url: str,
    to: Path,
    mapped: Callable[[], AbstractContextManager[None]],
    refusal: Callable[[httpx2.Response], CoordinatorError],
) -> str:
    """Fetch `url` into the file `to`; its SHA-256. `mapped` and `refusal` make errors what the caller raises."""
    draft = to.with_name(f".{to.name}.part")
    to.parent.mkdir(parents=True, exist_ok=True)
    etags = {f'"{_digest(path).hexdigest()}"' for path in (to,) if path.is_file()}
    headers = {"If-None-Match": ", ".join(etags)} if etags else {}
    begun = _begun(draft)
    if begun is not None:
        headers |= {"Range": f"bytes={draft.stat().st_size}-", "If-Range": begun}
    timeout = httpx2.Timeout(http.timeout.connect or 30.0, read=_READ_SECONDS)
    with mapped(), http.stream("GET", url, headers=headers, timeout=timeout) as response:
        etag = response.headers.get("etag", "")
        if response.status_code == 304:
            return etag.strip('"')
        if not response.is_success:
            response.read()
            raise refusal(response)
        resumed = response.status_code == 206
        digest = _digest(draft) if resumed else hashlib.sha256()
        _etag_file(draft).write_text(etag)
        with draft.open("ab" if resumed else "wb") as file:
            for piece in response.iter_bytes():
                digest.update(piece)
                file.write(piece)
    found = digest.hexdigest()
    _etag_file(draft).unlink(missing_ok=True)
    if f'"{found}"' != etag:
        draft.unlink(missing_ok=True)
        raise DownloadError(
            f"{to.name} has the SHA-256 {found}, and the coordinator has told {etag or 'none'}",
            "if the job is still writing it, fetch it when the job has ended",
        )
    draft.replace(to)
    return found


def _begun(draft: Path) -> str | None:
    """The ETag of what an earlier download has left, if there is something to go on with."""
    with contextlib.suppress(OSError):
        if draft.stat().st_size:
            return _etag_file(draft).read_text()
    return None


def _etag_file(draft: Path) -> Path:
    return draft.with_name(f"{draft.name}.etag")


def _digest(path: Path) -> "hashlib._Hash":
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")
