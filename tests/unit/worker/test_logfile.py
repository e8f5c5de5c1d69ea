"""What a worker prints becomes lines; what cannot be written is counted and never raised."""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.worker.logfile import MAX_LINE_CHARACTERS, PARTIAL_SECONDS, LineSplitter, LogFile


def entries(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@given(
    text=st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=200),
    cuts=st.lists(st.integers(0, 800), max_size=10),
)
def test_lines_do_not_depend_on_how_the_bytes_came(text: str, cuts: list[int]) -> None:
    data = text.encode()
    ends = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    splitter = LineSplitter()
    lines: list[str] = []
    for start, end in itertools.pairwise(ends):
        lines += splitter.feed(data[start:end], 0.0)
    lines += splitter.flush()
    expected = text.split("\n")
    assert lines == (expected[:-1] if not expected[-1] else expected)


def test_a_progress_bar_is_one_line() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"\r 10 %\r 50 %\r100 %\n", 0.0) == ["100 %"]
    assert splitter.feed(b"\r 10 %\r 50 %", 0.0) == []
    assert splitter.flush() == [" 50 %"]
    assert splitter.feed(b"windows\r\n", 0.0) == ["windows"]


def test_an_endless_line_comes_in_pieces_and_bytes_that_are_no_text_come_as_they_can() -> None:
    splitter = LineSplitter()
    lines = splitter.feed(b"x" * (2 * MAX_LINE_CHARACTERS + 5), 0.0)
    assert [len(line) for line in lines] == [MAX_LINE_CHARACTERS] * 2
    assert splitter.feed(b"\n\xff\xfe\n", 0.0) == ["x" * 5, "\ufffd\ufffd"]


def test_an_unfinished_line_is_due_a_while_after_it_began() -> None:
    splitter = LineSplitter()
    due = [splitter.deadline]
    for data, now in ((b"one\ntw", 5.0), (b"o", 5.5)):
        splitter.feed(data, now)
        due.append(splitter.deadline)
    splitter.flush()
    assert [*due, splitter.deadline] == [None, 5.0 + PARTIAL_SECONDS, 5.0 + PARTIAL_SECONDS, None]


def test_the_log_is_capped_and_one_old_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "w.jsonl"
    log = LogFile(str(path), "w", max_bytes=10_000)
    for number in range(500):
        log.write("stdout", "aa", [f"line {number} {'.' * 50}"])
    log.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["w.jsonl", "w.jsonl.1"]
    assert path.stat().st_size <= 10_000
    assert path.with_name("w.jsonl.1").stat().st_size <= 10_000
    numbers = [int(str(entry["line"]).split()[1]) for entry in entries(path.with_name("w.jsonl.1")) + entries(path)]
    assert numbers == list(range(numbers[0], 500))  # in order, none lost in between


def test_a_log_goes_on_where_the_last_agent_left_it(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    for text in ("before", "after"):
        log = LogFile(str(path), "w")
        log.write("stdout", "aa", [text])
        log.close()
    assert [entry["line"] for entry in entries(path)] == ["before", "after"]


def test_dropped_lines_are_counted_once_writing_works_again(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.write_text("a file where the folder should be")
    log = LogFile(str(folder / "w.jsonl"), "w")
    log.write("stdout", "aa", ["lost 1", "lost 2"])
    folder.unlink()
    log.write("stdout", "aa", ["kept"])
    log.close()
    assert [(entry["stream"], entry["line"]) for entry in entries(folder / "w.jsonl")] == [
        ("agent", "2 log lines were dropped: the log could not be written"),
        ("stdout", "kept"),
    ]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    code = (
        "import resource, signal, sys\n"
        "from cordee.worker.logfile import LogFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"  # a write beyond it is cut short
        "log = LogFile(sys.argv[1], 'w')\n"
        "for number in range(50): log.write('stdout', 'aa', [f'line {number}'])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "log.write('stdout', 'aa', ['room again'])\n"
    )
    if resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY:
        pytest.skip("this process may not lift its own file size limit")
    subprocess.run([sys.executable, "-c", code, str(path)], env=dict(os.environ), check=True, timeout=20)
    lines = [str(entry["line"]) for entry in entries(path)]  # every line is JSON
    written = len(lines) - 2
    assert 0 < written < 50
    assert lines == [
        *(f"line {number}" for number in range(written)),
        f"{50 - written} log lines were dropped: the log could not be written",
        "room again",
    ]
