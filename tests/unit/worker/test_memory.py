"""Whether the kernel killed for want of memory: control groups of both kinds, as kernels write them, and a real one."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.worker.agents import Agent

from cordee.worker import exit_codes
from cordee.worker.memory import RECENT_SECONDS, Memory, Recent, candidates, describe, kills_in, limit_in

V1 = "12:cpu,cpuacct:/a\n9:memory:/kubepods/pod1/c1\n1:name=systemd:/\n0::/\n"
V2 = "0::/kubepods.slice/pod1/c1\n"
OOM_CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
EVENTS = "low 0\nhigh 0\nmax 21\noom 4\noom_kill {}\noom_group_kill 0\n"
SIGKILLED = (
    "was killed by the kernel: more memory was used than the limit of 2 GiB (a pod's: spec.pod.resources.memory)"
)


@pytest.mark.parametrize(
    ("text", "kills"),
    [
        (OOM_CONTROL.format(3), 3),
        (EVENTS.format(12), 12),
        ("oom_kill_disable 0\nunder_oom 0\n", None),  # before Linux 4.13
        ("oom_kill many\n", None),
        ("", None),
    ],
)
def test_both_kinds_count_by_the_same_name(text: str, kills: int | None) -> None:
    assert kills_in(text) == kills


@pytest.mark.parametrize(
    ("text", "limit"),
    [("max\n", None), ("2147483648\n", 2 << 30), ("9223372036854771712\n", None), ("", None), ("-1\n", None)],
)
def test_a_limit_is_in_bytes_and_none_is_said_in_two_ways(text: str, limit: int | None) -> None:
    assert limit_in(text) == limit


@given(st.text())
def test_whatever_is_in_these_files_is_read(text: str) -> None:
    assert kills_in(text) is None or "oom_kill" in text
    limit_in(text)
    candidates(text)


@pytest.mark.parametrize(
    ("limit", "amount"),
    [(1 << 30, "1 GiB"), (1536 << 20, "1.5 GiB"), (64 << 20, "64 MiB"), (4096, "4 KiB"), (9, "9 B")],
)
def test_a_limit_is_told_as_people_write_it(limit: int, amount: str) -> None:
    assert f"the limit of {amount} (" in describe(limit)


@pytest.mark.parametrize("own", [True, False], ids=["as the kernel calls it", "as a container sees it"])
@pytest.mark.parametrize(
    ("groups", "place", "counter", "count", "limit"),
    [
        (V1, "memory/kubepods/pod1/c1", "memory.oom_control", OOM_CONTROL, "memory.limit_in_bytes"),
        (V2, "kubepods.slice/pod1/c1", "memory.events", EVENTS, "memory.max"),
    ],
    ids=["v1", "v2"],
)
def test_one_more_kill_is_what_it_was(
    tmp_path: Path, groups: str, place: str, counter: str, count: str, limit: str, own: bool
) -> None:
    folder = tmp_path / (place if own else "memory" if groups is V1 else "")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / counter).write_text(count.format(1))
    (folder / limit).write_text("2147483648\n")
    memory = Memory(groups, str(tmp_path))
    before = memory.kills()
    assert before == 1
    assert memory.words(before) == ""
    (folder / counter).write_text(count.format(2))
    assert memory.words(before) == SIGKILLED
    (folder / limit).write_text("max\n")
    assert memory.words(before) == "was killed by the kernel, which had no memory left"


def test_a_kill_of_long_ago_is_not_taken_for_this_one(tmp_path: Path) -> None:
    def count(kills: int) -> None:
        (tmp_path / "memory.events").write_text(EVENTS.format(kills))

    count(0)
    recent = Recent(Memory("0::/", str(tmp_path)), 0.0)
    count(1)  # somebody else, in the same group
    recent.alive(10.0)
    assert recent.words(), "as far as is known it may have been this one, whose last word this is"
    recent.alive(10.0 + RECENT_SECONDS / 2)
    assert recent.words()
    recent.alive(10.0 + RECENT_SECONDS)
    assert recent.words() == ""
    count(2)
    recent.alive(12.0 + RECENT_SECONDS)
    assert recent.words(), "and now it was"


def test_where_nobody_counts_nothing_is_claimed(tmp_path: Path) -> None:
    memory = Memory(V1 + V2, str(tmp_path))
    assert memory.kills() is None
    assert memory.words(None) == ""


def test_this_machines_own_groups_are_no_error() -> None:
    memory = Memory()
    assert memory.words(memory.kills()) == ""


@pytest.fixture
def limited() -> Iterator[Path]:
    """A control group with 256 MiB, where this test may make one."""
    old = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists()
    folder = Path("/sys/fs/cgroup", "memory" if old else "", f"cordee-{uuid.uuid4().hex[:8]}")
    try:
        folder.mkdir()
        (folder / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(256 << 20))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no control group of our own can be made here: {error.strerror}")
    yield folder
    folder.rmdir()


@pytest.mark.slow
def test_an_agent_says_that_its_worker_alone_was_killed_for_its_memory(
    limited: Path, start_bare: Callable[..., Agent]
) -> None:
    enter = f"import os\nopen({str(limited / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
    policy = "from cordee.worker.restart import RestartPolicy\n"
    rest = f"{policy}import cordee.worker.agent as a\na.RestartPolicy = lambda: RestartPolicy(0)\n"
    agent = start_bare("bytearray(1 << 30)", before=enter + rest)
    assert agent.wait() == exit_codes.GAVE_UP
    (line,) = agent.lines("agent")
    assert line.startswith(
        "the worker was killed by the kernel: more memory was used than the limit of 256 MiB (a pod's"
    )
