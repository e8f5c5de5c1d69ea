"""Bundles: the same folder gives the same bytes, nothing outside of it ever travels, and too much is said to be so."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.coordinator.bundle import _Ignore, pack
from cordee.coordinator.errors import CoordinatorError


def write(root: Path, *names: str, content: str = "x") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def members(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        return archive.getmembers()


def test_the_same_files_give_the_same_bytes_whatever_their_times_order_and_owners_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["b.py", "a.py", "pkg/c.py", "pkg/a/d.txt", "é.txt"]
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, *names)
    write(second, *reversed(names))
    os.utime(second / "a.py", (1, 1))
    (second / "b.py").chmod(0o600)
    one = pack(first)
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)  # gzip would write the time of packing into its header
    assert one == pack(second)
    assert one.sha256 == hashlib.sha256(one.data).hexdigest()
    assert one.names == ("a.py", "b.py", "pkg/a/d.txt", "pkg/c.py", "é.txt")
    assert one.num_files == 5
    write(second, "a.py", content="y")
    assert pack(second).sha256 != one.sha256


def test_members_are_plain_files_with_plain_attributes(tmp_path: Path) -> None:
    write(tmp_path, "run.sh", "data/train.csv")
    (tmp_path / "run.sh").chmod(0o751)
    found = members(pack(tmp_path).data)
    assert [(m.name, m.mode, m.isreg()) for m in found] == [("data/train.csv", 0o644, True), ("run.sh", 0o755, True)]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in found} == {(0, 0, "", "", 0)}


def test_caches_repositories_and_environments_stay_at_home(tmp_path: Path) -> None:
    write(tmp_path, "train.py", ".env", "pkg/__init__.py", "pkg/old.pyc", "envs.py")
    write(tmp_path, ".git/HEAD", "pkg/.mypy_cache/x", "__pycache__/a.pyc", "web/node_modules/x.js", ".venv/bin/python")
    write(tmp_path, "my-env/pyvenv.cfg", "my-env/lib/x.py")
    write(tmp_path, "run1/coordinator.lock", "run1/token", "run1/jobs/train-a/result/model.safetensors")
    assert pack(tmp_path).names == (".env", "envs.py", "pkg/__init__.py", "train.py")


def test_an_ignore_file_leaves_out_what_it_names(tmp_path: Path) -> None:
    write(tmp_path, "train.py", "data/big.npz", "data/keep.npz", "notes.txt", "sub/notes.txt", "sub/data/x.npz")
    (tmp_path / ".cordeeignore").write_text("# no data\n*.npz\n!keep.npz\n\n/notes.txt\n")
    assert pack(tmp_path).names == (".cordeeignore", "data/keep.npz", "sub/notes.txt", "train.py")


PATTERNS = [
    ("*.npz", "a.npz", True),
    ("*.npz", "deep/er/a.npz", True),
    ("*.npz", "a.npz.txt", False),
    ("/data", "data", True),
    ("/data", "sub/data", False),
    ("data/", "sub/data", True),
    ("sub/data", "x/sub/data", False),
    ("**/data", "x/sub/data", True),
    ("a/**/b", "a/b", True),
    ("a/**/b", "a/x/y/b", True),
    ("a/**", "a/x/y", True),
    ("a/**", "a", False),
    ("?.py", "a.py", True),
    ("?.py", "ab.py", False),
    ("[ab].py", "b.py", True),
    ("[!ab].py", "b.py", False),
    ("[z-a].py", "[z-a].py", True),
    ("[.py", "[.py", True),
    ("a*c", "a/c", False),
    (r"\#x", "#x", True),
    ("a+b.py", "a+b.py", True),
    ("a+b.py", "aab.py", False),
]


@pytest.mark.parametrize(("pattern", "name", "ignored"), PATTERNS)
def test_patterns_mean_what_git_means_by_them(pattern: str, name: str, ignored: bool) -> None:
    assert _Ignore([pattern]).matches(name, is_folder=True) is ignored


def test_a_pattern_with_a_slash_at_its_end_is_for_folders_only() -> None:
    assert _Ignore(["data/"]).matches("data", is_folder=True)
    assert not _Ignore(["data/"]).matches("data", is_folder=False)


@given(st.lists(st.text(alphabet="ab*?[]!/\\#.-", max_size=8)), st.text(alphabet="ab/.", min_size=1, max_size=8))
def test_no_pattern_makes_matching_fail(lines: list[str], name: str) -> None:
    assert _Ignore(lines).matches(name, is_folder=True) in {True, False}


def test_links_are_followed_inside_the_folder_and_never_out_of_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    write(secret, "key.pem")
    root = tmp_path / "root"
    write(root, "train.py", "shared/config.txt", "sub/x.py", ".git/config")
    (root / "sub" / "config.txt").symlink_to(root / "shared" / "config.txt")
    (root / "sub" / "shared").symlink_to("../shared")
    (root / "key.pem").symlink_to(secret / "key.pem")
    (root / "all").symlink_to("/")
    (root / "gone").symlink_to("nowhere")
    (root / "sub" / "circle").symlink_to("..")
    (root / "remotes").symlink_to(".git/config")
    bundle = pack(root)
    assert bundle.names == ("shared/config.txt", "sub/config.txt", "sub/shared/config.txt", "sub/x.py", "train.py")
    assert bundle.skipped == (
        "all (a link that leads out of the folder)",
        "gone (a link that leads nowhere)",
        "key.pem (a link that leads out of the folder)",
        "remotes (a link into a folder that is left out)",
        "sub/circle (a link to a folder it lies in)",
    )
    assert all(member.isreg() for member in members(bundle.data))


def test_what_is_no_file_does_not_travel(tmp_path: Path) -> None:
    write(tmp_path, "train.py")
    os.mkfifo(tmp_path / "pipe")
    assert pack(tmp_path).names == ("train.py",)


def test_too_much_is_refused_by_a_sentence_with_the_largest_files_and_what_to_do(tmp_path: Path) -> None:
    write(tmp_path, "train.py", "small.txt")
    write(tmp_path, "data/huge.bin", content="x" * 3_000_000)
    write(tmp_path, "large.bin", content="x" * 2_000_000)
    with pytest.raises(CoordinatorError) as caught:
        pack(tmp_path, max_bytes=1 << 20)
    assert "holds 4.8 MiB in 4 files, more than the 1.0 MiB that travel with a job" in caught.value.message
    assert "the largest: data/huge.bin (2.9 MiB), large.bin (1.9 MiB), " in caught.value.message
    assert str(tmp_path / ".cordeeignore") in caught.value.hint
    assert "--source" in caught.value.hint
    (tmp_path / ".cordeeignore").write_text("*.bin\n")
    assert pack(tmp_path, max_bytes=1 << 20).names == (".cordeeignore", "small.txt", "train.py")


def test_what_does_not_shrink_is_measured_packed_as_well(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(4096))
    with pytest.raises(CoordinatorError, match=r"more than the 4\.0 KiB that travel"):
        pack(tmp_path, max_bytes=4096)


@pytest.mark.parametrize(("name", "words"), [("none", "does not exist"), ("file", "is not a folder")])
def test_what_is_no_folder_is_refused(tmp_path: Path, name: str, words: str) -> None:
    write(tmp_path, "file")
    with pytest.raises(CoordinatorError, match=words):
        pack(tmp_path / name)
