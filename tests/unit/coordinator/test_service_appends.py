"""A job's logs are limited together: the oldest that nobody writes to goes, and does not come back."""

from pathlib import Path

import pytest

from cordee.coordinator.config import Uploads
from cordee.coordinator.errors import InvalidError, StorageFullError
from cordee.coordinator.service.appends import Appends

FIRST, SECOND, THIRD = ("0" * 31 + digit for digit in "123")
SOME = b"x" * 400_000


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (folder / "logs").iterdir()}


async def test_the_oldest_log_goes_for_the_newest(tmp_path: Path) -> None:
    appends = Appends(Uploads(log_bytes=1 << 20))
    for name in (FIRST, SECOND, THIRD):
        assert await appends.append(tmp_path, "w0", "logs", name, 0, SOME) == len(SOME)
    left = {f"w0.jsonl.{FIRST}.gone": 0, f"w0.jsonl.{SECOND}": len(SOME), f"w0.jsonl.{THIRD}": len(SOME)}
    assert sizes(tmp_path) == left
    for again in (appends, Appends(Uploads(log_bytes=1 << 20))):  # whoever sends it once more is done with it
        assert await again.append(tmp_path, "w0", "logs", FIRST, 100, b"more") == 104
    assert sizes(tmp_path) == left


async def test_a_log_that_is_written_is_never_the_one_that_goes(tmp_path: Path) -> None:
    appends = Appends(Uploads(log_bytes=1 << 20))
    for worker in ("w0", "w1"):
        await appends.append(tmp_path, worker, "logs", FIRST, 0, SOME)
    with pytest.raises(StorageFullError, match="used up"):
        await appends.append(tmp_path, "w2", "logs", FIRST, 0, SOME)
    assert await appends.append(tmp_path, "w0", "logs", FIRST, len(SOME), b"a little") == len(SOME) + 8


@pytest.mark.parametrize("name", ["", "../x", "0" * 31, "0" * 33, "G" * 32])
async def test_a_files_name_is_a_digest(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="no name"):
        await Appends(Uploads()).append(tmp_path, "w0", "logs", name, 0, b"x")
    assert not list(tmp_path.iterdir())


async def test_what_is_remembered_of_many_jobs_is_bounded_and_nothing_is_lost_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cordee.coordinator.service.appends._MAX_KNOWN", 2)
    appends = Appends(Uploads(log_bytes=1 << 20))
    for job in ("a", "b", "c"):
        assert await appends.append(tmp_path / job, "w0", "logs", FIRST, 0, SOME) == len(SOME)
    assert [place.parent.name for place in appends._folders] == ["b", "c"]
    assert await appends.append(tmp_path / "a", "w0", "logs", FIRST, 0, SOME) == len(SOME), "it is here already"
    await appends.append(tmp_path / "a", "w1", "logs", FIRST, 0, SOME)
    with pytest.raises(StorageFullError, match="used up"):
        await appends.append(tmp_path / "a", "w2", "logs", FIRST, 0, SOME)
