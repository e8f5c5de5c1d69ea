"""The agent over real processes: it restarts, logs, passes on, and never leaves a worker behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.unit.worker.agents import JOIN, WAIT_SECONDS, Agent, eventually, is_gone, world_of_one

from cordee.worker import exit_codes

pytestmark = pytest.mark.slow


def test_a_killed_worker_is_back_with_a_new_incarnation_each_time_at_once(
    coordinator: Any, start: Callable[..., Agent]
) -> None:
    agent = start(JOIN)
    seen: set[str] = set()
    for generation in (1, 2, 3, 4):
        stream, hello = coordinator.accept()
        stream.expect("arrived")
        world_of_one(stream, hello, generation)
        agent.wait_line("stdout", "member", generation)
        seen.add(hello.incarnation)
        os.kill(hello.pid, signal.SIGKILL)
        stream.until_end()
    assert len(seen) == 4
    eventually(lambda: len(agent.lines("agent")) >= 4)
    # One that died after it had committed a step is always started again at once.
    assert all("was killed by SIGKILL; it is started again at once" in line for line in agent.lines("agent")[:4])
    logged = {json.loads(line)["incarnation"] for line in agent.log.read_text().splitlines()}
    assert seen <= logged


def test_a_killed_agent_takes_its_worker_with_it(coordinator: Any, start: Callable[..., Agent]) -> None:
    agent = start("import subprocess\nsubprocess.run(['sleep', '60'])")
    stream, hello = coordinator.accept()
    eventually(lambda: bool(psutil.Process(hello.pid).children()))
    (child,) = psutil.Process(hello.pid).children()
    agent.process.kill()
    stream.until_end()
    eventually(lambda: is_gone(hello.pid), "the worker's end")
    assert agent.wait() == -signal.SIGKILL
    with contextlib.suppress(psutil.NoSuchProcess):  # the worker may have had the time to take it along
        child.kill()


def test_a_killed_agent_takes_even_a_stopped_worker_with_it(coordinator: Any, start: Callable[..., Agent]) -> None:
    agent = start("import time\ntime.sleep(60)")
    _, hello = coordinator.accept()
    os.kill(hello.pid, signal.SIGSTOP)
    agent.process.kill()
    eventually(lambda: is_gone(hello.pid), "the worker's end")


def test_a_killed_agents_worker_takes_its_own_children_with_it(start: Callable[..., Agent], coordinator: Any) -> None:
    agent = start("import subprocess, sys\nchild = subprocess.Popen(['sleep', '60'])\nprint(child.pid)\nchild.wait()")
    _, hello = coordinator.accept()
    eventually(lambda: bool(agent.lines("stdout")))
    (pid,) = agent.lines("stdout")
    os.kill(hello.pid, signal.SIGKILL)
    eventually(lambda: is_gone(int(pid)), "the end of what the worker had started")


@pytest.mark.parametrize(
    ("code", "agent_code"),
    [(code, code) for code in (0, 2, 70, 71, 72)],
)
def test_a_final_exit_code_is_passed_on(start_bare: Callable[..., Agent], code: int, agent_code: int) -> None:
    agent = start_bare(f"say('f{code}')\nraise SystemExit({code})")
    assert agent.wait() == agent_code
    assert len(agent.lines("agent")) == 1


def test_a_fenced_worker_is_started_afresh(start_bare: Callable[..., Agent], tmp_path: Path) -> None:
    marker = tmp_path / "been"
    agent = start_bare(
        f"import os, sys\nif os.path.exists({str(marker)!r}): say('f0'), sys.exit(0)\n"
        f"open({str(marker)!r}, 'w')\nsys.exit(73)"
    )
    assert agent.wait() == exit_codes.FINISHED
    assert "was fenced" in agent.lines("agent")[0]


def test_everything_printed_is_logged_to_the_last_byte(start_bare: Callable[..., Agent]) -> None:
    agent = start_bare(
        "import sys, os\n"
        "print('\\n'.join(f'line {i}' for i in range(5000)))\n"
        "print('a warning, ünïcode', file=sys.stderr)\n"
        "sys.stdout.write('no newline at the end')\n"
        "sys.stdout.flush()\n"
        "say('f0')\n"
        "os._exit(0)\n"
    )
    assert agent.wait() == 0
    assert agent.lines("stdout") == [*(f"line {i}" for i in range(5000)), "no newline at the end"]
    assert agent.lines("stderr") == ["a warning, ünïcode"]
    entry = json.loads(agent.log.read_text().splitlines()[0])
    assert set(entry) == {"time", "worker", "incarnation", "stream", "line"}
    assert abs(entry["time"] - time.time()) < 60


def test_an_unfinished_line_is_shown_while_the_worker_runs(start_bare: Callable[..., Agent]) -> None:
    agent = start_bare("import sys, time\nsys.stdout.write('Proceed? ')\nsys.stdout.flush()\ntime.sleep(60)")
    agent.wait_line("stdout", "Proceed? ")


def test_a_disk_that_cannot_be_written_does_not_end_training(start_bare: Callable[..., Agent], tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    agent = start_bare("print('unheard')\nsay('f0')")
    assert agent.wait() == 0


def test_sigterm_is_passed_on_and_answered_with_drained(start_bare: Callable[..., Agent]) -> None:
    agent = start_bare(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (say('f71'), sys.exit(71)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    agent.wait_line("stdout", "ready")
    agent.process.terminate()
    assert agent.wait() == exit_codes.DRAINED


STUBBORN = (
    "import signal, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\n"
    "print('ready', flush=True)\n"
    "while True: time.sleep(60)\n"
)


def test_a_worker_that_does_not_leave_in_time_is_killed(start_bare: Callable[..., Agent]) -> None:
    agent = start_bare(STUBBORN, grace_seconds=0.2)
    agent.wait_line("stdout", "ready")
    agent.process.terminate()
    assert agent.wait() == exit_codes.DRAINED
    assert "asked" in agent.lines("stdout")


def test_a_second_sigterm_kills_the_worker_at_once(start_bare: Callable[..., Agent]) -> None:
    agent = start_bare(STUBBORN)
    agent.wait_line("stdout", "ready")
    agent.process.terminate()
    agent.wait_line("stdout", "asked")
    agent.process.terminate()
    assert agent.wait() == exit_codes.DRAINED


def test_a_worker_that_crashes_at_start_waits_longer_each_time(start_bare: Callable[..., Agent]) -> None:
    agent = start_bare("raise SystemExit(1)")
    eventually(lambda: len(agent.lines("agent")) >= 4)
    waits = [line.partition("started again ")[2].partition(" (")[0] for line in agent.lines("agent")]
    assert waits[:4] == ["at once", "in 0.2 s", "in 0.4 s", "in 0.8 s"]
    agent.process.terminate()  # while it waits to start the worker, or while the worker starts
    assert agent.wait() == exit_codes.DRAINED


def test_a_stray_child_that_holds_the_pipe_does_not_hold_the_agent(start_bare: Callable[..., Agent]) -> None:
    agent = start_bare(
        "import subprocess\nsubprocess.Popen(['sleep', '60'], start_new_session=True)\nprint('gone')\nsay('f0')"
    )
    assert agent.wait() == 0
    assert agent.lines("stdout") == ["gone"]


def test_an_agent_that_gives_up_says_what_its_worker_died_of(
    start_bare: Callable[..., Agent], capfd: pytest.CaptureFixture[str]
) -> None:
    agent = start_bare(
        "import os, signal\n"
        "say('m'), say('b7')\n"  # it commits steps: started again at once
        "os.kill(os.getpid(), signal.SIGSEGV)"
    )
    assert agent.wait() == exit_codes.GAVE_UP
    assert capfd.readouterr().err.splitlines() == ["the last time it was killed by SIGSEGV after step 7"]


def test_an_agent_without_its_environment_says_so() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CORDEE_")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cordee.worker.agent"],
        env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == exit_codes.UNUSABLE
    assert done.stderr.startswith("cordee: CORDEE_WORKER and CORDEE_WORKDIR not set.")


def test_the_agent_imports_nothing_heavy() -> None:
    code = (
        "import sys, cordee.worker.agent\n"
        "print(sorted({'numpy', 'grpc', 'google', 'asyncio', 'ctypes', 'logging', 'dataclasses'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", f"import sys\nsys.path[:] = {sys.path!r}\n{code}"],
                          capture_output=True, text=True, timeout=WAIT_SECONDS, check=True)  # fmt: skip
    assert done.stdout == "[]\n"
