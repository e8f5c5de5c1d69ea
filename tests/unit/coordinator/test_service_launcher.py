"""The process launcher, with real processes: a small script stands where the agent will."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from cordee.coordinator.service.agents import Agents
from cordee.coordinator.service.launchers import processes
from cordee.coordinator.service.launchers.base import AgentExit, AgentSpec, LauncherError
from cordee.coordinator.service.launchers.process import ProcessLauncher

T = TypeVar("T")

# Says what it was given, then lives until told otherwise. It may leave a child behind, as an agent does its worker.
AGENT = """
import os, signal, subprocess, sys, time
mode = os.environ.get("MODE", "obey")
if mode == "exit":
    said = os.environ.get("SAID", "")
    for name in ("CORDEE_KERNELS", "CORDEE_JOB"):
        said = said.replace("{" + name + "}", str(os.environ.get(name)))
    sys.stderr.write(said)
    sys.exit(int(os.environ["CODE"]))
if mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
if mode == "parent":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("ready", os.environ["CORDEE_WORKER"], os.getsid(0) == os.getpid(), sys.stdin.read() == "", flush=True)
time.sleep(600)
"""


@asynccontextmanager
async def launching(state: Path, **options: object) -> AsyncIterator[ProcessLauncher]:
    launcher = ProcessLauncher(state, command=(sys.executable, "-c", AGENT), **options)  # type: ignore[arg-type]
    try:
        yield launcher
    finally:
        for agent in await launcher.list():
            await launcher.stop(agent.worker, grace_seconds=0)
            await next_exit(launcher)
        await launcher.close()


def spec(state: Path, worker: str = "job-w0", **environment: str) -> AgentSpec:
    folder = state / "jobs" / "job"
    folder.mkdir(parents=True, exist_ok=True)
    return AgentSpec(worker, "job", folder, environment)


async def next_exit(launcher: ProcessLauncher) -> AgentExit:
    async with asyncio.timeout(20):
        return await anext(launcher.exits())


async def until(found: Callable[[], T], *, seconds: float = 20) -> T:
    """The first true value; what is waited for is another process's doing and has no event here."""
    async with asyncio.timeout(seconds):
        while not (value := found()):
            await asyncio.sleep(0.01)
        return value


def output(state: Path, worker: str = "job-w0") -> str:
    path = state / "jobs" / "job" / "logs" / f"{worker}.agent.log"
    return path.read_text() if path.exists() else ""


async def ready(state: Path, worker: str = "job-w0") -> str:
    return await until(lambda: output(state, worker) if "ready" in output(state, worker) else "")


async def test_an_agent_leads_its_own_session_reads_nothing_and_logs_to_its_file(tmp_path: Path) -> None:
    async with launching(tmp_path) as launcher:
        await launcher.start(spec(tmp_path))
        assert await ready(tmp_path) == "ready job-w0 True True\n"


async def test_starting_twice_is_starting_once(tmp_path: Path) -> None:
    async with launching(tmp_path) as launcher:
        await launcher.start(spec(tmp_path))
        [first] = await launcher.list()
        await launcher.start(spec(tmp_path))
        assert await launcher.list() == [first]


async def test_stopping_what_does_not_run_changes_nothing(tmp_path: Path) -> None:
    async with launching(tmp_path) as launcher:
        await launcher.stop("job-w9", grace_seconds=0)
        assert await launcher.list() == []


@pytest.mark.parametrize("code", [0, 3, 74])
async def test_the_exit_code_is_reported_and_the_record_is_gone(tmp_path: Path, code: int) -> None:
    async with launching(tmp_path) as launcher:
        await launcher.start(spec(tmp_path, MODE="exit", CODE=str(code)))
        assert await next_exit(launcher) == AgentExit("job-w0", "job", code)
        assert await launcher.list() == []
        assert list((tmp_path / "agents").iterdir()) == []


async def test_an_agents_last_words_are_its_own(tmp_path: Path) -> None:
    async with launching(tmp_path) as launcher:
        for said, expected in (("\n  gives up: ünïcode \n\n", "gives up: ünïcode"), ("", "")):
            await launcher.start(spec(tmp_path, MODE="exit", CODE="74", SAID=said))
            assert await next_exit(launcher) == AgentExit("job-w0", "job", 74, expected)


async def test_an_agent_inherits_which_kernels_and_nothing_that_its_parent_was_told_as_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORDEE_KERNELS", "numpy")
    monkeypatch.setenv("CORDEE_JOB", "the parent's")
    async with launching(tmp_path) as launcher:
        for environment, expected in (({}, "numpy None"), ({"CORDEE_KERNELS": "llvm"}, "llvm None")):
            await launcher.start(
                spec(tmp_path, MODE="exit", CODE="74", SAID="{CORDEE_KERNELS} {CORDEE_JOB}", **environment)
            )
            assert (await next_exit(launcher)).message == expected


async def test_a_killed_agent_is_reported_with_its_signal(tmp_path: Path) -> None:
    async with launching(tmp_path) as launcher:
        await launcher.start(spec(tmp_path))
        [agent] = await launcher.list()
        assert agent.pid is not None
        os.kill(agent.pid, signal.SIGKILL)
        assert (await next_exit(launcher)).code == -signal.SIGKILL


async def test_an_agent_that_obeys_ends_by_itself(tmp_path: Path) -> None:
    async with launching(tmp_path) as launcher:
        await launcher.start(spec(tmp_path))
        await ready(tmp_path)
        await launcher.stop("job-w0", grace_seconds=30)
        assert (await next_exit(launcher)).code == 5  # its SIGTERM handler's


async def test_a_deaf_agent_is_killed_after_the_grace(tmp_path: Path) -> None:
    async with launching(tmp_path) as launcher:
        await launcher.start(spec(tmp_path, MODE="deaf"))
        await ready(tmp_path)
        await launcher.stop("job-w0", grace_seconds=0.2)
        assert (await next_exit(launcher)).code == -signal.SIGKILL


async def test_what_an_agent_leaves_behind_dies_with_it_even_in_another_session(tmp_path: Path) -> None:
    async with launching(tmp_path) as launcher:
        await launcher.start(spec(tmp_path, MODE="parent"))
        await ready(tmp_path)
        [agent] = await launcher.list()
        [child] = psutil.Process(agent.pid).children()
        await launcher.stop("job-w0", grace_seconds=0)
        await next_exit(launcher)
        await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


async def test_a_start_after_a_kill_waits_for_the_old_agent_to_be_gone(tmp_path: Path) -> None:
    async with launching(tmp_path) as launcher:
        await launcher.start(spec(tmp_path))
        [old] = await launcher.list()
        await launcher.stop("job-w0", grace_seconds=0)
        await launcher.start(spec(tmp_path))
        [new] = await launcher.list()
        assert new.pid != old.pid
        assert (await next_exit(launcher)).code == -signal.SIGKILL


async def test_a_new_launcher_adopts_what_runs_and_sees_it_end(tmp_path: Path) -> None:
    earlier = ProcessLauncher(tmp_path, command=(sys.executable, "-c", AGENT))
    await earlier.start(spec(tmp_path))
    [before] = await earlier.list()
    await earlier.close()
    async with launching(tmp_path) as launcher:
        assert await launcher.list() == [before]
        await launcher.start(spec(tmp_path))  # idempotent over coordinators too
        assert await launcher.list() == [before]
        await launcher.stop("job-w0", grace_seconds=0)
        assert (await next_exit(launcher)).worker == "job-w0"
        assert await launcher.list() == []


async def test_an_agent_started_by_a_coordinator_killed_before_it_knew_the_pid_is_found(tmp_path: Path) -> None:
    earlier = ProcessLauncher(tmp_path, command=(sys.executable, "-c", AGENT))
    await earlier.start(spec(tmp_path))
    await ready(tmp_path)
    [before] = await earlier.list()
    await earlier.close()
    record = tmp_path / "agents" / "job-w0.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"process": None}))
    async with launching(tmp_path) as launcher:
        assert await launcher.list() == [before]


async def test_one_that_ends_while_it_is_looked_for_is_gone_and_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with launching(tmp_path) as launcher:
        promise = {"worker": "j-w0", "job": "j", "folder": str(tmp_path / "jobs" / "j"), "process": None}
        (tmp_path / "agents" / "j-w0.json").write_text(json.dumps(promise))
        gone = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
        await gone.wait()
        monkeypatch.setattr(processes, "stragglers", lambda *_args, **_more: [gone.pid])
        assert await launcher.list() == []
        assert not list((tmp_path / "agents").iterdir())


async def test_a_record_of_a_pid_that_another_process_has_now_adopts_nobody(tmp_path: Path) -> None:
    async with launching(tmp_path) as launcher:
        record = {
            "worker": "job-w0",
            "job": "job",
            "folder": str(tmp_path / "jobs" / "job"),
            "process": {"pid": os.getpid(), "start_ticks": 1, "boot": "another"},
        }
        (tmp_path / "agents" / "job-w0.json").write_text(json.dumps(record))
        assert await launcher.list() == []
        assert list((tmp_path / "agents").iterdir()) == []


async def test_a_damaged_record_is_dropped(tmp_path: Path) -> None:
    async with launching(tmp_path) as launcher:
        (tmp_path / "agents" / "job-w0.json").write_text('{"worker": ')
        assert await launcher.list() == []


async def test_a_command_that_cannot_run_is_refused_in_one_sentence(tmp_path: Path) -> None:
    launcher = ProcessLauncher(tmp_path, command=(str(tmp_path / "no-such-program"),))
    with pytest.raises(LauncherError, match=r"could not start the agent of job-w0: .*no-such-program"):
        await launcher.start(spec(tmp_path))
    assert await launcher.list() == []
    await launcher.close()


async def test_without_pidfds_an_end_is_seen_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_pid: int, _flags: int = 0) -> int:
        raise OSError(38, "Function not implemented")  # ENOSYS: Linux before 5.3

    monkeypatch.setattr(os, "pidfd_open", unknown)
    async with launching(tmp_path) as launcher:
        await launcher.start(spec(tmp_path, MODE="exit", CODE="7"))
        assert (await next_exit(launcher)).code == 7


async def test_what_is_decided_about_one_agent_is_done_in_that_order(tmp_path: Path) -> None:
    told: list[object] = []
    async with launching(tmp_path) as launcher:
        agents = Agents(launcher, lambda _job, event: told.append(event))
        agents.start(spec(tmp_path))
        agents.stop("job", "job-w0", 0.0)  # decided before the process is there
        assert (await next_exit(launcher)).code == -signal.SIGKILL
        assert await launcher.list() == []
        await agents.close()
    assert told == []  # not `AgentAbsent`: there was one to stop
