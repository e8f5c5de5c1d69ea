"""Reading logs that others are writing."""

import json
import random
from pathlib import Path

import pytest

from cordee.coordinator.service import logs
from cordee.coordinator.service.logs import LogReader, RankHistory
from cordee.coordinator.service.store import WorldRow


def world(generation: int, formed_at: float, *members: str) -> WorldRow:
    return WorldRow("job", generation, formed_at, 0, "start", members)


def no_worlds(_after: int) -> list[WorldRow]:
    return []


def entry(worker: str, time: float, line: str) -> str:
    return json.dumps({"time": time, "worker": worker, "incarnation": "i", "stream": "stdout", "line": line}) + "\n"


async def read(reader: LogReader, **options: object) -> list[str]:
    return [line.line async for batch in reader.read(**options) for line in batch]  # type: ignore[arg-type]


def test_a_workers_rank_is_that_of_its_world_at_the_time() -> None:
    history = RankHistory()
    history.add([world(1, 10.0, "a", "b"), world(2, 20.0, "b")])
    history.add([world(3, 30.0, "b", "a")])
    asked = [("b", 9.9), ("b", 10.0), ("b", 19.9), ("b", 20.0), ("a", 15.0), ("a", 25.0), ("a", 30.0), ("c", 40.0)]
    # a at 25: between two worlds of its own it is what it was last.
    assert [history.rank(worker, time) for worker, time in asked] == [None, 1, 1, 0, 0, 0, 1, None]


async def test_many_files_are_merged_by_time(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    times = sorted(rng.random() for _ in range(6000))  # more than one batch
    files: dict[str, list[str]] = {f"w{n}": [] for n in range(5)}
    for time in times:
        worker = rng.choice(list(files))
        files[worker].append(entry(worker, time, repr(time)))
    for worker, lines in files.items():
        (tmp_path / f"{worker}.jsonl").write_text("".join(lines))
    assert await read(LogReader(tmp_path, no_worlds)) == [repr(time) for time in times]
    assert await read(LogReader(tmp_path, no_worlds), tail=3) == [repr(time) for time in times[-3:]]


async def test_lines_longer_than_a_read_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_CHUNK_BYTES", 64)
    long = "x" * 1000
    (tmp_path / "w0.jsonl").write_text(entry("w0", 1.0, long) + entry("w0", 2.0, "short"))
    assert await read(LogReader(tmp_path, no_worlds)) == [long, "short"]


async def test_what_an_agent_was_killed_at_is_passed_over(tmp_path: Path) -> None:
    half = entry("w0", 2.0, "half")[:20]
    junk = '"text"\n[]\n{"time": "noon", "worker": "w0"}\n'
    (tmp_path / "w0.jsonl").write_text(entry("w0", 1.0, "one") + half + "\n" + junk + entry("w0", 3.0, "three"))
    assert await read(LogReader(tmp_path, no_worlds)) == ["one", "three"]


async def test_a_line_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "w0.jsonl"
    text = entry("w0", 1.0, "one")
    path.write_text(text[:10])
    reader = LogReader(tmp_path, no_worlds)
    assert await read(reader) == []
    with path.open("a") as file:
        file.write(text[10:])
    assert await read(reader) == ["one"]


async def test_a_folder_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    assert await read(LogReader(tmp_path / "later", no_worlds)) == []


async def test_the_last_lines_come_though_the_end_was_known_before(tmp_path: Path) -> None:
    (tmp_path / "w0.jsonl").write_text(entry("w0", 1.0, "one"))
    reader = LogReader(tmp_path, no_worlds)
    asked = 0

    def more() -> bool:
        nonlocal asked
        asked += 1
        with (tmp_path / "w0.jsonl").open("a") as file:  # its last words, at the very moment the job ends
            file.write(entry("w0", 1.0 + asked, f"after {asked}"))
        return asked < 2

    assert await read(reader, follow=more) == ["one", "after 1", "after 2"]


async def test_a_file_that_is_rotated_while_it_is_followed_loses_no_line(tmp_path: Path) -> None:
    current = tmp_path / "w0.jsonl"
    current.write_text(entry("w0", 1.0, "one") + entry("w0", 2.0, "two"))
    seen: list[str] = []
    looks = 0

    def follow() -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:  # the agent writes on, rotates, and begins a shorter file
            with current.open("a") as file:
                file.write(entry("w0", 3.0, "three"))
            current.rename(tmp_path / "w0.jsonl.1")
            current.write_text(entry("w0", 4.0, "four"))
        return looks < 3

    async for batch in LogReader(tmp_path, no_worlds, worker="w0").read(follow=follow):
        seen += [line.line for line in batch]
    assert seen == ["one", "two", "three", "four"]
    assert await read(LogReader(tmp_path, no_worlds)) == ["one", "two", "three", "four"]


async def test_each_world_is_asked_for_once_however_long_a_log_is_followed(tmp_path: Path) -> None:
    worlds = [world(generation, float(generation), "w1", "w0") for generation in range(1, 4)]
    asked: list[int] = []
    looks = 0

    def newer(after: int) -> list[WorldRow]:
        asked.append(after)
        formed = worlds[: 1 + looks]
        return [row for row in formed if row.generation > after]

    def follow() -> bool:
        nonlocal looks
        looks += 1
        with (tmp_path / "w0.jsonl").open("a") as file:
            file.write(entry("w0", 1.0 + looks, f"line {looks}"))
        return looks < 2

    (tmp_path / "w0.jsonl").write_text(entry("w0", 1.0, "line 0"))
    reader = LogReader(tmp_path, newer)
    lines = [line async for batch in reader.read(follow=follow) for line in batch]
    assert [(line.line, line.rank) for line in lines] == [("line 0", 1), ("line 1", 1), ("line 2", 1)]
    assert asked == [0, 1, 2]


def test_a_file_that_is_renamed_between_a_look_and_a_read_is_not_taken_for_another(tmp_path: Path) -> None:
    path = tmp_path / "w0.jsonl"
    path.write_text(entry("w0", 1.0, "one"))
    tail = logs._Tail(path, path.stat().st_ino)
    path.rename(tmp_path / "w0.jsonl.1")
    path.write_text(entry("w0", 2.0, "two"))
    assert tail.read() == ([], False)
    tail.path = tmp_path / "w0.jsonl.1"
    assert [line["line"] for line in tail.read()[0]] == ["one"]
