"""Compiled code is kept for the next process, and only taken from where nobody else can write."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import platformdirs
import pytest

from cordee.trainer.kernels.llvm import cache


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CORDEE_KERNEL_CACHE", str(tmp_path / "deep" / "kernels"))
    return tmp_path / "deep" / "kernels"


def test_what_is_written_is_read(folder: Path) -> None:
    assert cache.read("a.o") is None
    assert not folder.exists()  # who only reads leaves nothing behind
    cache.write("a.o", b"code")
    assert cache.read("a.o") == b"code"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [file.name for file in folder.iterdir()] == ["a.o"]


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_may_write_to_is_not_used(folder: Path, mode: int) -> None:
    cache.write("a.o", b"code")
    folder.chmod(mode)
    assert "may write to" in cache.trouble()
    assert cache.read("a.o") is None
    cache.write("b.o", b"code")
    assert not (folder / "b.o").exists()


def test_a_file_that_others_may_write_to_is_not_taken(folder: Path) -> None:
    cache.write("a.o", b"code")
    (folder / "a.o").chmod(0o664)
    assert cache.read("a.o") is None


@pytest.mark.parametrize("size", [0, 5, 32, 35])
def test_a_torn_file_is_none(folder: Path, size: int) -> None:
    cache.write("a.o", b"code")
    (folder / "a.o").write_bytes((folder / "a.o").read_bytes()[:size])
    assert cache.read("a.o") is None
    cache.write("a.o", b"code")
    assert cache.read("a.o") == b"code"


def test_a_folder_that_cannot_be_made_is_told(folder: Path) -> None:
    folder.parent.write_text("a file, where a folder should be")
    assert cache.trouble() == f"{folder}: Not a directory"
    cache.write("a.o", b"code")
    assert cache.read("a.o") is None


def test_a_user_without_a_name_and_a_home_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_: str) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("CORDEE_KERNEL_CACHE", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_path", refuses)
    monkeypatch.chdir(tmp_path)
    assert cache.trouble() == "~/.cache/cordee/kernels is not an absolute path"
    cache.write("a.o", b"code")
    assert cache.read("a.o") is None
    assert not list(tmp_path.iterdir())


def test_writers_at_once_leave_one_whole_file(folder: Path) -> None:
    code = bytes(range(256)) * 1000
    writers = [threading.Thread(target=cache.write, args=("a.o", code)) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert cache.read("a.o") == code
    assert [file.name for file in folder.iterdir()] == ["a.o"]


def test_of_those_who_need_the_same_at_once_one_makes_it(folder: Path) -> None:
    made, found, begun = [], [], threading.Event()

    def make() -> bytes:
        made.append(True)
        begun.set()
        return b"code"

    def first() -> None:
        found.append(cache.kept("a.o", make))

    def later() -> None:
        begun.wait(20)
        found.append(cache.kept("a.o", make))

    others = [threading.Thread(target=later) for _ in range(3)]
    for other in others:
        other.start()
    first()
    for other in others:
        other.join()
    assert (found, made) == ([b"code"] * 4, [True])
    assert [file.name for file in folder.iterdir()] == ["a.o"]  # no lock is left behind


def test_nobody_waits_for_long_for_one_who_was_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(cache, "PATIENCE_SECONDS", 0.05)
    with (folder / "a.o.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert cache.kept("a.o", lambda: b"code") == b"code"
    assert cache.read("a.o") == b"code"
