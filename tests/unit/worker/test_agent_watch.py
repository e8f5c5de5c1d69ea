"""What an agent does about a worker that is stopped, silent or crashed, and what the next one is told of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.unit.worker.agents import JOIN, Agent, eventually, is_gone, world_of_one

from cordee.worker import exit_codes

pytestmark = pytest.mark.slow

SECOND_TELLS = (
    "import faulthandler, os, signal, sys, time\n"
    "stacks = int(os.environ['CORDEE_STACKS'])\n"
    "if 'CORDEE_PREVIOUS' in os.environ:\n"
    "    print(os.environ['CORDEE_PREVIOUS'], flush=True)\n"
    "    say('f0')\n"
    "    sys.exit(0)\n"
    "print(os.getpid(), flush=True)\n"
)
"""What a bare worker begins with: its second process prints what it was told of the first, and ends."""


def told(agent: Agent) -> dict[str, Any]:
    """What the second process was told."""
    import json

    assert agent.wait() == exit_codes.FINISHED
    heard = json.loads(agent.lines("stdout")[-1])
    assert isinstance(heard, dict)
    return heard


def test_a_worker_whose_interpreter_lock_is_held_is_replaced_and_its_stack_told(
    start_bare: Callable[..., Agent],
) -> None:
    agent = start_bare(
        SECOND_TELLS + "import collections, itertools\n"
        "faulthandler.register(signal.SIGUSR1, file=stacks)\n"
        "def hold():\n"
        "    collections.deque(itertools.repeat(0), maxlen=0)\n"  # a loop in C, without an end
        "say('m'), say('b12')\n"
        "hold()\n",
        heartbeat_seconds=0.5,
    )
    previous = told(agent)
    assert previous["words"] == "gave no sign of life for 0.5 s and was killed"
    assert (previous["code"], previous["step"], previous["asked"]) == (-signal.SIGKILL, 12, False)
    assert "in hold" in previous["stack"]
    noted = agent.lines("agent")
    assert noted[0] == "the worker gave no sign of life for 0.5 s and was killed"
    assert any("in hold" in line for line in noted)
    assert "it is started again at once (restart 1)" in noted[-2]


def test_a_worker_that_was_stopped_is_replaced(start_bare: Callable[..., Agent]) -> None:
    agent = start_bare(SECOND_TELLS + "os.kill(os.getpid(), signal.SIGSTOP)")
    previous = told(agent)
    assert previous["words"] == "was stopped by SIGSTOP for 0.25 s and killed"
    assert is_gone(int(agent.lines("stdout")[0]))


def test_a_worker_that_goes_on_in_time_is_left_alone(start_bare: Callable[..., Agent]) -> None:
    agent = start_bare(
        "import os, signal, subprocess, sys\n"
        "say('m')\n"
        "again = f'import os, signal, time; time.sleep(0.2); os.kill({os.getpid()}, signal.SIGCONT)'\n"
        "subprocess.Popen([sys.executable, '-S', '-c', again])\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
        "say('f0')\n",
        stopped_seconds=15.0,
    )
    assert agent.wait() == exit_codes.FINISHED
    assert len(agent.lines("agent")) == 1


def test_an_agent_that_was_stopped_itself_holds_nothing_against_its_worker(start_bare: Callable[..., Agent]) -> None:
    agent = start_bare(
        "import sys, time\n"
        "say('m')\n"
        "print('here', flush=True)\n"
        "for _ in range(40):\n"
        "    say('b1')\n"
        "    time.sleep(0.05)\n"
        "say('f0')\n",
        heartbeat_seconds=1.0,
    )
    agent.wait_line("stdout", "here")
    agent.process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)  # longer than the limit: the passing of time is what is tested
    agent.process.send_signal(signal.SIGCONT)
    assert agent.wait() == exit_codes.FINISHED
    assert len(agent.lines("agent")) == 1


def test_a_crash_in_native_code_leaves_its_stack(start_bare: Callable[..., Agent]) -> None:
    agent = start_bare(
        SECOND_TELLS + "faulthandler.enable(file=stacks)\ndef touch():\n    faulthandler._sigsegv()\ntouch()\n"
    )
    previous = told(agent)
    assert (previous["code"], previous["words"]) == (-signal.SIGSEGV, "was killed by SIGSEGV")
    assert "Segmentation fault" in previous["stack"]
    assert "in touch" in previous["stack"]


def test_an_end_that_was_not_announced_is_a_crash(start_bare: Callable[..., Agent]) -> None:
    previous = told(start_bare(SECOND_TELLS + "os._exit(0)"))
    assert (previous["code"], previous["words"]) == (0, "ended with code 0 without finishing")


def test_being_fenced_is_told_as_an_end_that_was_asked_for(start_bare: Callable[..., Agent]) -> None:
    assert told(start_bare(SECOND_TELLS + "sys.exit(73)"))["asked"]


def test_nothing_that_a_worker_has_started_outlives_it(start_bare: Callable[..., Agent]) -> None:
    agent = start_bare(
        SECOND_TELLS + "import subprocess\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "if not os.fork():\n"  # a daemon: its parent ends before it
        "    os.setsid()\n"
        "    if not os.fork():\n"
        "        print(os.getpid(), flush=True)\n"
        "        time.sleep(600)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "time.sleep(0.2)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    told(agent)
    pids = [int(line) for line in agent.lines("stdout")[:-1]]
    assert len(pids) == 3
    for pid in pids:
        eventually(lambda pid=pid: is_gone(pid), "its end")  # type: ignore[misc]


def test_a_killed_worker_that_does_not_die_is_not_waited_for(start_bare: Callable[..., Agent]) -> None:
    agent = start_bare(
        SECOND_TELLS + "os.kill(os.getpid(), signal.SIGSTOP)",
        before=(
            "import cordee.worker.agent, cordee.worker.watch\n"
            "cordee.worker.agent.kill_group = lambda pid: None\n"  # a kernel that cannot let go of it
            "cordee.worker.agent.end_orphans = lambda *spared: 0\n"
            "cordee.worker.watch.DEATH_SECONDS = 0.2"
        ),
    )
    try:
        assert told(agent)["words"] == "was stopped by SIGSTOP for 0.25 s and killed"
        assert "the worker was killed and does not die: the agent goes on without it" in agent.lines("agent")
    finally:
        os.kill(int(agent.lines("stdout")[0]), signal.SIGKILL)


def test_a_native_call_that_is_slow_but_right_gets_through(start_bare: Callable[..., Agent]) -> None:
    """It holds the interpreter's lock for longer than the limit, at the same step in every process."""
    agent = start_bare(
        "import ctypes, faulthandler, os, signal, sys, threading, time\n"
        "faulthandler.register(signal.SIGUSR1, file=int(os.environ['CORDEE_STACKS']))\n"
        "def beat():\n"
        "    while True:\n"
        "        say('b12'), time.sleep(0.05)\n"
        "say('m')\n"
        "threading.Thread(target=beat, daemon=True).start()\n"
        "time.sleep(0.2)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})\n"  # it would end the sleep
        "ctypes.PyDLL(None).usleep(900_000)\n"  # a call through PyDLL keeps the lock
        "say('f0')\n"
        "sys.exit(0)\n",
        heartbeat_seconds=0.5,
    )
    assert agent.wait() == exit_codes.FINISHED
    assert "the worker gave no sign of life for 0.5 s and was killed" in agent.lines("agent")


def test_a_worker_tells_the_coordinator_how_the_last_one_ended(
    coordinator: Any, start: Callable[..., Agent], tmp_path: Path
) -> None:
    """The whole way: a held lock, seen by its agent; the stack, through the environment, in the next one's hello."""
    hold = "import collections, itertools\ndef hold():\n    collections.deque(itertools.repeat(0), maxlen=0)\n"
    agent = start(hold + JOIN.replace("time.sleep(60)", "hold()"), CORDEE_HEARTBEAT_TIMEOUT_SECONDS="1")
    stream, first = coordinator.accept()
    assert not first.HasField("previous")
    stream.expect("arrived")
    world_of_one(stream, first, 4)
    stream, second = coordinator.accept()
    previous = second.previous
    assert previous.incarnation == first.incarnation
    assert previous.words == "gave no sign of life for 1 s and was killed"
    assert (previous.code, previous.step, previous.asked) == (-signal.SIGKILL, 4, False)
    assert (previous.silent, previous.patience) == (True, 2)
    assert 'train.py", line 3 in hold' in previous.stack
    # Again on every stream: the first one may have been to a coordinator that is gone.
    coordinator.stop()
    coordinator.start()
    _, again = coordinator.accept()
    assert again.incarnation == second.incarnation
    assert again.previous == previous
    assert psutil.pid_exists(second.pid)
    agent.process.terminate()
