"""Bundles as they come in: kept under the digest of their content, or not at all."""

import asyncio
import hashlib
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cordee.coordinator.bundle import Bundle
from cordee.coordinator.errors import InvalidError, TooLargeError
from cordee.coordinator.service.folder import StateFolder

__all__ = ["MAX_BUNDLE_BYTES", "BundleUpload", "keep_bundle", "remove_drafts"]

MAX_BUNDLE_BYTES: Final = 64 << 20
_DRAFT: Final = ".incoming-"  # of bundles, and of files (see `files`)


def remove_drafts(folder: StateFolder) -> None:
    """Remove what a coordinator that was killed was receiving. For who holds the folder, before it receives itself."""
    for draft in (*(folder.root / "bundles").glob(f"{_DRAFT}*"), *(folder.root / "jobs").glob(f"*/{_DRAFT}*")):
        draft.unlink(missing_ok=True)


async def keep_bundle(folder: StateFolder, bundle: Bundle) -> None:
    """Take in a bundle that was packed here."""
    if not folder.touch_bundle(bundle.sha256):
        with BundleUpload(folder, bundle.sha256) as upload:
            await upload.write(bundle.data)
            upload.keep()


class BundleUpload:
    """One upload. A context manager that leaves nothing behind unless `keep` was reached.

    Its name is its content, so sending the same one twice, even at the same time, is sending it once.
    """

    def __init__(self, folder: StateFolder, sha256: str) -> None:
        self._path = folder.bundle(sha256)
        self._sha256 = sha256
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    def __enter__(self) -> Self:
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=_DRAFT)
        self._draft, self._file = Path(name), os.fdopen(descriptor, "wb")
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._draft.unlink(missing_ok=True)

    async def write(self, data: bytes) -> None:
        """Take a piece. What is beyond the limit is counted and dropped."""
        self.num_bytes += len(data)
        if self.num_bytes <= MAX_BUNDLE_BYTES:
            self._digest.update(data)
            await asyncio.to_thread(self._file.write, data)

    def keep(self) -> None:
        """Put it in its place; an error when it is too large, or not what its name says."""
        if self.num_bytes > MAX_BUNDLE_BYTES:
            raise TooLargeError(
                f"the bundle is larger than {MAX_BUNDLE_BYTES >> 20} MiB",
                hint="keep data sets out of the source folder; name a smaller one with --source",
            )
        if self._digest.hexdigest() != self._sha256:
            found = self._digest.hexdigest()
            raise InvalidError(f"the bundle's SHA-256 is {found}, not {self._sha256} as its address says")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._draft.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)  # its name, too: the job that is submitted next is on disk when it is acknowledged
        finally:
            os.close(folder)
