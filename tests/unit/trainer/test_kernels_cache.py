"""Compiled code is kept for the next process, and only taken from where nobody else can write."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import threading
import time
from pathlib import Path

import platformdirs
import pytest

from cordee.trainer.kernels.llvm import cache, pruning


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


# -- what is removed ---------------------------------------------------------------------------------------------------


def name_of(number: int) -> str:
    return f"update-{number:032x}.o"


def aged(path: Path, seconds: float) -> Path:
    at = time.time() - seconds
    os.utime(path, (at, at))
    return path


def test_what_nobody_uses_for_long_is_removed(folder: Path) -> None:
    for number in range(3):
        cache.write(name_of(number), b"code")
    aged(folder / name_of(0), pruning.MOST_AGE_SECONDS + 60)
    aged(folder / name_of(1), pruning.MOST_AGE_SECONDS + 60)
    aged(folder / name_of(2), pruning.MOST_AGE_SECONDS - 60)
    assert cache.read(name_of(1)) == b"code"  # it is used today
    assert pruning.prune(folder) == 1
    assert [cache.read(name_of(number)) for number in range(3)] == [None, b"code", b"code"]


def test_of_too_much_what_was_used_longest_ago_is_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        cache.write(name_of(number), bytes(968))  # and 32 of the digest
        aged(folder / name_of(number), 3600.0 * (8 - number))
    monkeypatch.setattr(pruning, "MOST_BYTES", 8000)
    assert pruning.prune(folder) == 0
    monkeypatch.setattr(pruning, "MOST_BYTES", 7999)
    assert pruning.prune(folder) == 3  # three quarters are left: not each file that comes has it pruned
    assert sorted(file.name for file in folder.glob("*.o")) == [name_of(number) for number in range(3, 8)]


def test_nothing_else_is_removed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder may be one with other things in it."""
    folder.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(pruning, "MOST_BYTES", 0)
    others = [folder / name for name in ("main.o", "a-0123.o", f"{name_of(1)}.bak", "notes.lock")]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"theirs")
    (folder / name_of(2)).symlink_to(elsewhere)
    (folder / name_of(3)).mkdir()
    for path in others:
        aged(Path(path.write_text("theirs") and path), 2 * pruning.MOST_AGE_SECONDS)
    assert pruning.prune(folder) == 0
    assert all(path.exists() for path in (*others, elsewhere, folder / name_of(2), folder / name_of(3)))


def test_what_killed_processes_left_is_removed(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    left = [folder / f"{name_of(1)}{end}" for end in (".lock", "ab12_xyz")]
    for path in left:
        path.write_bytes(b"half")
    assert pruning.prune(folder) == 0  # they may be at it
    for path in left:
        aged(path, 7200)
    assert pruning.prune(folder) == 2


def test_one_prunes_at_a_time_and_nobody_waits(folder: Path) -> None:
    cache.write(name_of(1), b"code")
    aged(folder / name_of(1), 2 * pruning.MOST_AGE_SECONDS)
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert pruning.prune(folder) == 0
    os.close(held)
    assert pruning.prune(folder) == 1


def test_where_folders_cannot_be_locked_they_are_pruned_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by NFS, where many have their home."""

    def flock(*_: object) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    cache.write(name_of(1), b"code")
    aged(folder / name_of(1), 2 * pruning.MOST_AGE_SECONDS)
    monkeypatch.setattr(fcntl, "flock", flock)
    assert pruning.prune(folder) == 1


def test_a_process_prunes_with_its_first_file_and_now_and_then(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned: list[Path] = []
    monkeypatch.setattr(pruning, "_written", iter(range(1000)))
    monkeypatch.setattr(pruning, "prune", pruned.append)
    for number in range(65):
        cache.write(name_of(number), b"code")
    assert pruned == [folder] * 2


def _keep_many(seed: int, told: multiprocessing.Queue[tuple[int, int]]) -> None:
    pruning.MOST_BYTES, pruning._EVERY = 20_000, 2
    num_made = num_wrong = 0
    for turn in range(120):
        number = (turn * (seed + 3)) % 40
        code = b"%02d" % number * 500

        def make(code: bytes = code) -> bytes:
            nonlocal num_made
            num_made += 1
            return code

        num_wrong += cache.kept(name_of(number), make) != code
    told.put((num_made, num_wrong))


def test_processes_that_prune_and_write_at_once_find_whole_files(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    told: multiprocessing.Queue[tuple[int, int]] = context.Queue()
    processes = [context.Process(target=_keep_many, args=(seed, told)) for seed in range(4)]
    for process in processes:
        process.start()
    made, wrong = map(sum, zip(*[told.get(timeout=60) for _ in processes], strict=True))
    for process in processes:
        process.join()
    assert wrong == 0
    assert made > 40  # some came back, for they had been removed
