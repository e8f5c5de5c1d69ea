"""A bundle is looked into before its job is taken in; whatever it is, that costs the coordinator little."""

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from cordee.coordinator.errors import InvalidError
from cordee.coordinator.service import admission
from cordee.coordinator.service.admission import check_source
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.spec import parse_job

DOCUMENT = parse_job(
    {
        "apiVersion": "cordee.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "job"},
        "spec": {"script": "train.py", "workers": {"min": 1, "max": 1}},
    },
    bundled=True,
)


def header(kind: bytes, size: int, name: str = "other.py") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def check(folder: Path, data: bytes) -> None:
    with StateFolder(folder) as state:
        sha256 = hashlib.sha256(data).hexdigest()
        state.bundle(sha256).write_bytes(data)
        check_source(state, DOCUMENT, sha256)


def packed(names: list[str]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return raw.getvalue()


def test_the_script_is_found_wherever_it_stands(tmp_path: Path) -> None:
    check(tmp_path, packed(["a.py", "b/train.py", "./train.py"]))
    with pytest.raises(InvalidError, match="holds no such file"):
        check(tmp_path, packed(["a.py", "b/train.py"]))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("size", [32 << 20, 1 << 40, -512, -(1 << 40)])
def test_a_header_of_an_absurd_size_is_not_even_read(tmp_path: Path, kind: bytes, size: int) -> None:
    with pytest.raises(InvalidError):
        check(tmp_path, gzip.compress(header(kind, size) + bytes(min(abs(size), 33 << 20))))


@pytest.mark.parametrize("size", [-512, -1024, -(1 << 33)])
def test_a_file_smaller_than_nothing_is_refused_and_not_read_for_ever(tmp_path: Path, size: int) -> None:
    with pytest.raises(InvalidError):
        check(tmp_path, gzip.compress(header(tarfile.REGTYPE, size) + bytes(2048)))


def test_a_bundle_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_UNPACKED_BYTES", 1 << 20)
    bomb = gzip.compress(
        (header(tarfile.REGTYPE, 2 << 20) + bytes(2 << 20)) * 2 + header(tarfile.REGTYPE, 0, "train.py")
    )
    with pytest.raises(InvalidError, match="larger, unpacked"):
        check(tmp_path, bomb)
    monkeypatch.setattr(admission, "MAX_MEMBERS", 3)
    with pytest.raises(InvalidError, match="larger, unpacked"):
        check(tmp_path, packed(["a", "b", "c", "d", "train.py"]))
