"""A bundle is unpacked whole, once, and nowhere but in its folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cordee.worker import source
from cordee.worker.source import BundleError, ensure_source


def bundle(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def file(name: str, data: bytes = b"x", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.mode = mode
    return info, data


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def unpack(root: Path, data: bytes) -> Path:
    pieces = [data[start : start + 100] for start in range(0, len(data), 100)]
    return ensure_source(root, hashlib.sha256(data).hexdigest(), lambda: pieces)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def never() -> Any:
    raise AssertionError("fetched although it is there")


def test_a_bundle_becomes_its_files(tmp_path: Path) -> None:
    data = bundle(file("train.py", b"print(1)"), file("pkg/a/b.py", b"y"), file("./run.sh", b"z", 0o755))
    folder = unpack(tmp_path / "source", data)
    assert folder == tmp_path / "source" / hashlib.sha256(data).hexdigest()
    assert files(folder) == ["pkg/a/b.py", "run.sh", "train.py"]
    assert (folder / "train.py").read_bytes() == b"print(1)"
    assert os.access(folder / "run.sh", os.X_OK)
    assert not os.access(folder / "train.py", os.X_OK)
    assert list((tmp_path / "source").iterdir()) == [folder]


def test_what_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    data = bundle(file("train.py"))
    folder = unpack(tmp_path, data)
    assert ensure_source(tmp_path, folder.name, never) == folder


@pytest.mark.parametrize(
    "member",
    [
        file("../outside"),
        file("a/../../outside"),
        file("/outside"),
        special("link", tarfile.SYMTYPE, "/etc"),
        special("link", tarfile.SYMTYPE, "inside"),
        special("link", tarfile.LNKTYPE, "../outside"),
        special("fifo", tarfile.FIFOTYPE),
        special("device", tarfile.CHRTYPE),
        special("disk", tarfile.BLKTYPE),
        special("link", tarfile.LNKTYPE, "train.py"),
        file("//outside"),
        file("a/.."),
        file(
            "..",
        ),
    ],
    ids=lambda member: f"{member[0].type!r} {member[0].name}",
)
def test_nothing_is_written_outside_and_nothing_half_done_stays(
    tmp_path: Path, member: tuple[tarfile.TarInfo, bytes]
) -> None:
    root = tmp_path / "job" / "source"
    with pytest.raises(BundleError, match="the source bundle holds"):
        unpack(root, bundle(file("train.py"), member))
    assert files(tmp_path) == []
    assert list(root.iterdir()) == []


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    data = bundle(file("train.py", os.urandom(5000)))
    sha256 = hashlib.sha256(data).hexdigest()
    with pytest.raises(BundleError, match=f"is not {sha256}"):
        ensure_source(tmp_path, sha256, lambda: [data[:-1]])
    for broken in (b"", b"no archive at all", data[:-200], gzip.compress(b"no tar in it" * 100)):
        with pytest.raises(BundleError, match="cannot be unpacked"):
            unpack(tmp_path, broken)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("limit", "value", "sentence"),
    [
        ("MAX_BUNDLE_BYTES", 1 << 20, "is larger than 1 MiB"),
        ("MAX_UNPACKED_BYTES", 2 << 20, "unpacks to more than 2 MiB"),
        ("MAX_FILES", 3, "holds more than 3 files"),
    ],
)
def test_a_bundle_cannot_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, sentence: str
) -> None:
    monkeypatch.setattr(source, limit, value)
    data = bundle(file("zeros", bytes(3 << 20)), file("noise", os.urandom(2 << 20)), *(file(f"f{i}") for i in range(4)))
    if limit == "MAX_FILES":
        data = bundle(*(file(f"f{i}") for i in range(4)))
    with pytest.raises(BundleError, match=sentence):
        unpack(tmp_path, data)
    assert list(tmp_path.iterdir()) == []


def header(kind: bytes, size: int) -> bytes:
    """A member's header that says how long what follows is."""
    info = tarfile.TarInfo("train.py")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("size", [32 << 20, 1 << 40, -512, -(1 << 40)])
def test_a_header_of_an_absurd_size_is_not_even_read(tmp_path: Path, kind: bytes, size: int) -> None:
    data = gzip.compress(header(kind, size) + bytes(min(abs(size), 33 << 20)))
    with pytest.raises(BundleError):
        unpack(tmp_path, data)
    assert list(tmp_path.iterdir()) == []


def test_a_file_smaller_than_nothing_is_refused_and_not_read_for_ever(tmp_path: Path) -> None:
    for size in (-512, -1024, -(1 << 33)):
        with pytest.raises(BundleError):
            unpack(tmp_path, gzip.compress(header(tarfile.REGTYPE, size) + bytes(2048)))
    assert list(tmp_path.iterdir()) == []


def test_no_mode_and_no_owner_of_a_bundle_reaches_the_disk(tmp_path: Path) -> None:
    info, data = file("run.sh", b"z", 0o7777)
    info.uid = info.gid = 0
    folder = unpack(tmp_path, bundle((info, data)))
    status = (folder / "run.sh").stat()
    assert status.st_mode & 0o7777 == 0o755
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())


def test_workers_of_one_host_may_race(tmp_path: Path) -> None:
    data = bundle(*(file(f"pkg/f{i}.py", f"{i}".encode()) for i in range(50)))
    barrier = threading.Barrier(8)
    folders: list[Path] = []

    def fetch() -> Any:
        barrier.wait(10)  # all of them have seen that nothing is there
        return [data]

    def work() -> None:
        folders.append(ensure_source(tmp_path, hashlib.sha256(data).hexdigest(), fetch))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(folders) == 8
    assert len(set(folders)) == 1
    assert len(files(folders[0])) == 50
    assert list(tmp_path.iterdir()) == [folders[0]]


def test_what_a_killed_worker_left_is_cleared_away_but_not_what_a_live_one_is_at(tmp_path: Path) -> None:
    old, young = tmp_path / ".partial-old", tmp_path / ".partial-young"
    for folder in (old, young):
        folder.mkdir()
    past = time.time() - source.STALE_SECONDS - 1
    os.utime(old, (past, past))
    unpack(tmp_path, bundle(file("train.py")))
    assert not old.exists()
    assert young.exists()


def test_an_error_of_the_fetch_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Any:
        yield b"abc"
        raise OSError("connection lost")

    fetch: Callable[[], Any] = broken
    with pytest.raises(OSError, match="connection lost"):
        ensure_source(tmp_path, "0" * 64, fetch)
    assert list(tmp_path.iterdir()) == []
