"""What is looked at before a job is taken in, so that it fails now and not in an hour."""

import re
import tarfile
from pathlib import Path

from cordee.coordinator.errors import InvalidError
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.launchers.base import Launcher

__all__ = ["check_bundle", "check_capacity", "has_source"]


def has_source(folder: StateFolder, bundle: str | None) -> bool:
    """Whether a job's bundle is here."""
    return bundle is not None and folder.bundle(bundle).exists()


def check_capacity(launcher: Launcher, minimum: int) -> None:
    """Refuse a job that could wait for ever."""
    capacity = launcher.capacity()
    if minimum > capacity:
        raise InvalidError(
            f"spec.workers.min is {minimum}, and this coordinator runs {capacity} workers at most",
            hint="ask for fewer workers, or start the coordinator with more --slots",
        )


def check_bundle(folder: StateFolder, sha256: str, script: str) -> None:
    """Refuse a job whose source is not here, or holds no such script. Reads the bundle: not for the loop's thread."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise InvalidError(f"bundle is {sha256[:80]!r}, which is not a SHA-256 digest in hexadecimal")
    path = folder.bundle(sha256)
    if not path.exists():
        raise InvalidError(f"there is no bundle {sha256}", hint="upload it with PUT /v1/bundles/{sha256} first")
    try:
        with tarfile.open(path, "r:gz") as archive:
            if any(Path(member.name) == Path(script) and member.isfile() for member in archive):
                return
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise InvalidError(f"the bundle {sha256} is not a gzipped tar: {error}") from None
    raise InvalidError(
        f"spec.script is {script!r}, and the bundle holds no such file",
        hint="give the script's path relative to the source folder",
    )
