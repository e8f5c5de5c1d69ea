"""What is looked at before a job is taken in, so that it fails now and not in an hour."""

import gzip
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final, cast

from cordee.coordinator.errors import InvalidError
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.launchers.base import Launcher
from cordee.coordinator.service.rest.models import Placement
from cordee.coordinator.spec import JobDocument, JobSpec, Workers

__all__ = ["check_bundle", "check_capacity", "check_launcher", "check_source", "has_source", "placement"]

# What a worker unpacks at most (cordee.worker.source); looking for the script must not cost more.
MAX_MEMBERS: Final = 100_000
MAX_UNPACKED_BYTES: Final = 4 << 30
MAX_READ_BYTES: Final = 2 << 20


def check_bundle(folder: StateFolder, bundle: str | None) -> None:
    """Refuse a bundle that is not here."""
    if bundle is not None and not folder.bundle(bundle).exists():
        raise InvalidError(f"there is no bundle {bundle}", hint="upload it with PUT /v1/bundles/{sha256} first")


def has_source(folder: StateFolder, document: JobDocument, bundle: str | None) -> bool:
    """Whether a job's source is where it is looked for: its bundle here, or else in its image."""
    if bundle is None:
        return _in_image(document)
    return folder.bundle(bundle).exists()


def _in_image(document: JobDocument) -> bool:
    return document.spec.source_from is not None and document.spec.source_from.image is not None


def check_source(folder: StateFolder, document: JobDocument, bundle: str | None) -> str | None:
    """The bundle that a job's source lies in; None: in its image. Refuses a job whose source is not here, or holds no
    such script. Reads the bundle: not for the loop's thread."""
    named = document.spec.source_from.bundle if document.spec.source_from is not None else None
    if _in_image(document):
        if bundle is not None:
            raise InvalidError("the job has a bundle, and spec.sourceFrom.image as well; leave one of them out")
        return None
    if bundle is None:
        bundle = named
    if bundle is None:
        raise InvalidError("bundle is missing", hint="upload the source with PUT /v1/bundles/{sha256} first")
    if named is not None and named != bundle:
        raise InvalidError(f"the bundle is {bundle[:80]!r}, and spec.sourceFrom.bundle is another one, {named!r}")
    _check_bundle(folder, bundle, document.spec.script)
    return bundle


def check_launcher(launcher: Launcher, spec: JobSpec) -> Sequence[str]:
    """Refuse a job that wants another substrate, or what this one cannot give; what is ignored of it, in sentences."""
    if spec.launcher not in (None, launcher.name):
        raise InvalidError(
            f"spec.launcher is {spec.launcher}, and this coordinator starts workers by the launcher {launcher.name}",
            hint="leave spec.launcher out, or submit the job to another coordinator",
        )
    return launcher.check(spec)


def check_capacity(launcher: Launcher, minimum: int) -> None:
    """Refuse a job that could wait for ever."""
    capacity = launcher.capacity()
    if minimum > capacity:
        raise InvalidError(
            f"spec.workers.min is {minimum}, and this coordinator runs {capacity} workers at most",
            hint="ask for fewer workers, or start the coordinator with more --slots",
        )


class _Bounded:
    """What is unzipped, read by pieces of a sane size only: a header's length comes from whoever made the bundle."""

    def __init__(self, unzipped: gzip.GzipFile) -> None:
        self._unzipped = unzipped
        self.seek, self.tell, self.close = unzipped.seek, unzipped.tell, unzipped.close

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_READ_BYTES:
            raise tarfile.ReadError("it has a header of an absurd size")
        return self._unzipped.read(size)


def _bounded(unzipped: gzip.GzipFile) -> IO[bytes]:
    return cast("IO[bytes]", _Bounded(unzipped))


def placement(launcher: Launcher, workers: Workers, granted: int, occupied: int) -> Placement:
    """Where a job would run that is granted so many workers now."""
    capacity = launcher.capacity()
    free = max(capacity - occupied, 0)
    where = f"{launcher.where} ({free} of {capacity} worker slots are free)"
    message = (
        f"{granted} of {workers.max} workers would start now on {where}"
        if granted
        else f"it would wait: it needs {workers.min} free worker slots on {where}"
    )
    return Placement(launcher=launcher.name, workers_now=granted, capacity=capacity, free=free, message=message)


def _check_bundle(folder: StateFolder, sha256: str, script: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise InvalidError(f"bundle is {sha256[:80]!r}, which is not a SHA-256 digest in hexadecimal")
    if not folder.touch_bundle(sha256):
        check_bundle(folder, sha256)
    path = folder.bundle(sha256)
    try:
        with gzip.open(path) as unzipped, tarfile.open(fileobj=_bounded(unzipped), mode="r:") as archive:
            for number, member in enumerate(archive):
                if number >= MAX_MEMBERS or member.size < 0 or unzipped.tell() > MAX_UNPACKED_BYTES:
                    raise InvalidError(f"the bundle {sha256} is larger, unpacked, than anything that would be trained")
                if Path(member.name) == Path(script) and member.isfile():
                    return
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise InvalidError(f"the bundle {sha256} is not a gzipped tar: {error}") from None
    raise InvalidError(
        f"spec.script is {script!r}, and the bundle holds no such file",
        hint="give the script's path relative to the source folder",
    )
