"""What a worker that is drained brings never takes the place of what one brings that has come to the end."""

import hashlib
from pathlib import Path

from cordee.coordinator.service.files import Files

NAME = "output/loss.csv"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def offer(files: Files, folder: Path, worker: str, data: bytes, *, leaving: bool) -> str:
    return (await files.offer(folder, worker, NAME, len(data), digest(data), leaving=leaving)).state


async def bring(files: Files, folder: Path, worker: str, data: bytes, *, leaving: bool) -> None:
    async with files.upload(folder, worker, NAME, len(data), digest(data), leaving=leaving) as upload:
        await upload.write(data)
        assert await upload.keep() == str(folder / NAME)


async def test_the_last_one_that_leaves_counts_until_one_comes_to_the_end(tmp_path: Path) -> None:
    files = Files()
    for worker, data in (("w0", b"1"), ("w1", b"12")):
        assert await offer(files, tmp_path, worker, data, leaving=True) == "wanted"
        await bring(files, tmp_path, worker, data, leaving=True)
        assert (tmp_path / NAME).read_bytes() == data
    assert await offer(files, tmp_path, "w2", b"123", leaving=False) == "wanted"
    await bring(files, tmp_path, "w2", b"123", leaving=False)
    assert await offer(files, tmp_path, "w1", b"12", leaving=True) == "there"
    assert (tmp_path / NAME).read_bytes() == b"123"


async def test_what_was_on_its_way_when_another_came_to_the_end_is_dropped(tmp_path: Path) -> None:
    files = Files()
    assert await offer(files, tmp_path, "w0", b"old", leaving=True) == "wanted"
    assert await offer(files, tmp_path, "w1", b"the end", leaving=False) == "wanted"
    await bring(files, tmp_path, "w1", b"the end", leaving=False)
    await bring(files, tmp_path, "w0", b"old", leaving=True)
    assert (tmp_path / NAME).read_bytes() == b"the end"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["loss.csv"]


async def test_the_last_word_is_known_by_another_coordinator_too(tmp_path: Path) -> None:
    files = Files()
    for path in ("result/model.safetensors", NAME):
        await files.offer(tmp_path, "w1", path, 3, digest(b"end"))
        async with files.upload(tmp_path, "w1", path, 3, digest(b"end")) as upload:
            await upload.write(b"end")
            await upload.keep()
    later = Files()
    assert await offer(later, tmp_path, "w0", b"old", leaving=True) == "there"
    await bring(later, tmp_path, "w0", b"old", leaving=True)
    assert (tmp_path / NAME).read_bytes() == b"end"
    assert (await later.offer(tmp_path, "w0", "output/more", 3, digest(b"old"), leaving=True)).state == "wanted"


async def test_one_job_says_nothing_of_another(tmp_path: Path) -> None:
    files = Files()
    for job in ("a", "b"):
        (tmp_path / job).mkdir()
    await offer(files, tmp_path / "a", "a-w0", b"end", leaving=False)
    assert await offer(files, tmp_path / "b", "b-w0", b"old", leaving=True) == "wanted"
