"""The worker process, whole: how each way for a script to end reaches the coordinator and the exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cordee.rpc.v1 import worker_pb2 as pb
from cordee.worker import exit_codes
from cordee.worker.departure import LEAVE_SECONDS

pytestmark = pytest.mark.slow
WAIT_SECONDS = 20.0

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(job: Callable[..., dict[str, str]]) -> Iterator[Start]:
    """`start(script, VARIABLE=value)`: a worker process that runs the script."""
    started: list[subprocess.Popen[str]] = []

    def make(script: str, *, without: str = "", **extra: str) -> subprocess.Popen[str]:
        environment = {name: value for name, value in {**os.environ, **job(script, **extra)}.items() if name != without}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cordee.worker.main"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield make
    for process in started:
        process.kill()
        process.communicate()


def world_of_one(stream: Any, hello: pb.Hello, generation: int = 1) -> None:
    member = pb.Member(rank=0, worker=hello.worker, incarnation=hello.incarnation, address=hello.address)
    stream.send(world=pb.World(generation=generation, members=[member], cause="start"))


MEET = """
from cordee.trainer.elastic import runtime
world = runtime.current().rendezvous(step=None, reason="join")
print("world", world.generation, world.rank, world.size, world.member_steps, flush=True)
"""


def test_a_script_that_ends_normally_is_finished(coordinator: Any, start: Start, tmp_path: Path) -> None:
    process = start(
        "import sys, os\nprint(__name__, sys.argv, os.getcwd(), sys.path[0])\nprint(os.environ['OMP_NUM_THREADS'])\n",
        CORDEE_ARGS='["--epochs", "3"]',
        CORDEE_THREADS="2",
    )
    stream, hello = coordinator.accept()
    assert (hello.job, hello.worker, hello.generation, hello.has_state) == ("job", "job-w0", 0, False)
    assert stream.metadata["authorization"] == "Bearer the-jobs-worker-token"
    finished = stream.expect("finished")
    output, errors = process.communicate(timeout=WAIT_SECONDS)
    source = tmp_path / "job" / "source"
    folder = next(source.iterdir())
    assert output.splitlines() == [f"__main__ ['train.py', '--epochs', '3'] {folder} {folder}", "2"]
    assert process.returncode == exit_codes.FINISHED, errors
    assert (finished.step, finished.weights_sha256) == (0, "")
    assert stream.closed_in_order


def test_a_script_that_raises_fails_the_job_with_its_traceback(coordinator: Any, start: Start) -> None:
    process = start("def f():\n    raise ValueError('no such thing')\n\nf()\n")
    stream, _ = coordinator.accept()
    failed = stream.expect("script_failed")
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == exit_codes.SCRIPT_FAILED
    assert failed.exception == "ValueError: no such thing"
    assert failed.traceback.splitlines()[:4] == [
        "Traceback (most recent call last):",
        '  File "train.py", line 4, in <module>',
        "    f()",
        '  File "train.py", line 2, in f',
    ]
    assert "ValueError: no such thing" in errors


@pytest.mark.parametrize(
    ("script", "exception"),
    [
        ("def f(:\n", "SyntaxError: "),
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("raise SystemExit(3)", "SystemExit: the script called sys.exit(3)"),
    ],
)
def test_what_is_the_scripts_fault_is_not_tried_again(
    coordinator: Any, start: Start, script: str, exception: str
) -> None:
    process = start(script)
    stream, _ = coordinator.accept()
    assert stream.expect("script_failed").exception.startswith(exception)
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == exit_codes.SCRIPT_FAILED


def test_running_out_of_memory_is_worth_another_start(coordinator: Any, start: Start) -> None:
    process = start("raise MemoryError")
    coordinator.accept()
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == exit_codes.CRASHED


def test_sys_exit_zero_is_a_normal_end(coordinator: Any, start: Start) -> None:
    process = start("import sys\nsys.exit(0)")
    stream, _ = coordinator.accept()
    stream.expect("finished")
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == exit_codes.FINISHED


def test_a_job_without_a_source_fails_with_a_sentence(coordinator: Any, start: Start) -> None:
    process = start("pass")
    coordinator.bundle = b""
    stream, _ = coordinator.accept()
    assert stream.expect("script_failed").exception.startswith("BundleError: the coordinator has no source")
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == exit_codes.SCRIPT_FAILED


def test_a_missing_variable_is_named(start: Start) -> None:
    process = start("pass", without="CORDEE_TOKEN")
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == exit_codes.UNUSABLE
    assert errors.startswith("cordee: CORDEE_TOKEN is not set (the job's worker token)")


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (pb.STOP_REASON_CANCELLED, exit_codes.STOPPED),
        (pb.STOP_REASON_FAILED, exit_codes.STOPPED),
        (pb.STOP_REASON_FENCED, exit_codes.FENCED),
    ],
)
def test_a_stop_ends_a_computing_script_through_its_finally(
    coordinator: Any, start: Start, reason: pb.StopReason, code: int
) -> None:
    process = start(
        "try:\n"
        "    print('computing', flush=True)\n"
        "    while True:\n"
        "        try:\n"
        "            sum(range(1000))\n"
        "        except Exception:\n"
        "            pass\n"
        "finally:\n"
        "    print('cleaned up')\n"
    )
    assert process.stdout is not None
    stream, _ = coordinator.accept()
    assert process.stdout.readline() == "computing\n"
    stream.send(stop=pb.Stop(reason=reason))
    output, _ = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, output) == (code, "cleaned up\n")


def test_a_stop_ends_a_script_that_will_not_let_go(coordinator: Any, start: Start) -> None:
    process = start(
        "import time\n"
        "print('computing', flush=True)\n"
        "while True:\n"
        "    try:\n"
        "        time.sleep(60)\n"
        "    except BaseException:\n"
        "        pass\n"
    )
    assert process.stdout is not None
    stream, _ = coordinator.accept()
    assert process.stdout.readline() == "computing\n"
    stream.send(stop=pb.Stop(reason=pb.STOP_REASON_CANCELLED))
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == exit_codes.STOPPED


def test_a_stuck_script_says_where_it_stands_and_is_not_waited_for(coordinator: Any, start: Start) -> None:
    process = start(
        "import time\n"
        "def wait_for_ever():\n"
        "    while True:\n"
        "        try:\n"
        "            print('waiting', flush=True)\n"
        "            time.sleep(600)\n"
        "        except BaseException:\n"
        "            pass\n"
        "wait_for_ever()\n"
    )
    assert process.stdout is not None
    stream, _ = coordinator.accept()
    assert process.stdout.readline() == "waiting\n"
    asked = time.monotonic()
    stream.send(stop=pb.Stop(reason=pb.STOP_REASON_STUCK))
    note = stream.expect("note")
    assert note.kind == "stack"
    assert "in wait_for_ever" in note.message
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == exit_codes.FENCED
    assert time.monotonic() - asked < LEAVE_SECONDS  # a script that is not stuck would get all of them


def test_a_worker_joins_drains_and_goes(coordinator: Any, start: Start) -> None:
    process = start(MEET + 'runtime.current().rendezvous(step=7, reason="change")\n')
    stream, hello = coordinator.accept()
    arrived = stream.expect("arrived")
    assert (arrived.generation, arrived.has_state, arrived.reason) == (0, False, pb.ARRIVAL_REASON_JOIN)
    world_of_one(stream, hello)
    arrived = stream.expect("arrived")
    assert (arrived.generation, arrived.step, arrived.has_state) == (1, 7, True)
    assert arrived.reason == pb.ARRIVAL_REASON_CHANGE
    stream.send(stop=pb.Stop(reason=pb.STOP_REASON_DRAINED))
    output, errors = process.communicate(timeout=WAIT_SECONDS)
    assert output == "world 1 0 1 (None,)\n"
    assert process.returncode == exit_codes.DRAINED, errors


def test_sigterm_asks_to_leave_and_training_goes_on(coordinator: Any, start: Start) -> None:
    process = start(
        MEET
        + "import time\n"
        + "while not runtime.current().change_pending(): time.sleep(0.01)\n"
        + "runtime.current().rendezvous(step=1, reason='change')\n"
    )
    stream, hello = coordinator.accept()
    stream.expect("arrived")
    world_of_one(stream, hello)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert stream.expect("leaving").reason == "SIGTERM"
    stream.send(change_pending=pb.ChangePending(generation=1))
    stream.expect("arrived")
    stream.send(stop=pb.Stop(reason=pb.STOP_REASON_DRAINED))
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == exit_codes.DRAINED


def test_who_waits_says_whom_it_reaches(coordinator: Any, start: Start) -> None:
    process = start(MEET)
    stream, hello = coordinator.accept()
    stream.expect("arrived")
    me = pb.Member(worker=hello.worker, incarnation=hello.incarnation, address=hello.address)
    stream.send(probe=pb.Probe(peers=[me, pb.Member(worker="w", incarnation="gone", address="127.0.0.1:1")]))
    assert list(stream.expect("reached").incarnations) == [hello.incarnation]
    world_of_one(stream, hello)
    stream.expect("finished")
    stream.send(stop=pb.Stop(reason=pb.STOP_REASON_FINISHED))
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0


def test_a_coordinator_that_is_gone_for_good_ends_the_worker(coordinator: Any, start: Start) -> None:
    process = start("import time\ntime.sleep(60)", CORDEE_ORPHAN_SECONDS="0.5")
    coordinator.accept()
    coordinator.stop()
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == exit_codes.STOPPED
    assert "no coordinator answered for 0.5 s" in errors


def test_a_finish_is_said_to_a_coordinator_that_comes_back(coordinator: Any, start: Start, tmp_path: Path) -> None:
    go = tmp_path / "go"
    process = start(
        f"print('here', flush=True)\nimport os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    )
    _, hello = coordinator.accept()
    assert process.stdout is not None
    process.stdout.readline()
    coordinator.stop()
    coordinator.start()
    _, again = coordinator.accept()
    coordinator.stop()
    go.touch()
    coordinator.start()
    stream, last = coordinator.accept()
    assert hello.incarnation == again.incarnation == last.incarnation
    stream.expect("finished")
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == exit_codes.FINISHED


def test_a_second_sigterm_ends_a_worker_that_has_not_left_yet(coordinator: Any, start: Start) -> None:
    process = start("import time\nprint('computing', flush=True)\nwhile True: time.sleep(0.01)")
    stream, _ = coordinator.accept()
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    stream.expect("leaving")
    process.terminate()
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == exit_codes.DRAINED


def test_a_script_may_start_processes_of_its_own(coordinator: Any, start: Start) -> None:
    process = start(
        "import multiprocessing, subprocess, sys\n"
        "def square(x): return x * x\n"
        "if __name__ == '__main__':\n"
        "    for method in ('fork', 'spawn'):\n"
        "        with multiprocessing.get_context(method).Pool(2) as pool:\n"
        "            print(pool.map(square, range(4)))\n"
        "    subprocess.run([sys.executable, '-c', 'print(\"child\")'], check=True)\n"
    )
    stream, _ = coordinator.accept()
    stream.expect("finished")
    output, errors = process.communicate(timeout=WAIT_SECONDS)
    assert output.splitlines() == ["[0, 1, 4, 9]", "[0, 1, 4, 9]", "child"]
    assert errors == ""
    assert process.returncode == exit_codes.FINISHED


def test_a_process_that_a_script_forked_ends_as_under_plain_python(coordinator: Any, start: Start) -> None:
    process = start(
        "import multiprocessing, os, sys, time\n"
        "sleeper = multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,))\n"
        "sleeper.start()\n"
        "sleeper.terminate()\n"
        "sleeper.join(10)\n"
        "print('terminated', sleeper.exitcode)\n"
        "for ending in ('sys.exit(4)', 'sys.exit()', '1 / 0', ''):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        exec(ending)\n"
        "        break\n"
        "    _, status = os.waitpid(child, 0)\n"
        "    print(os.waitstatus_to_exitcode(status), flush=True)\n"
    )
    stream, _ = coordinator.accept()
    stream.expect("finished")
    output, errors = process.communicate(timeout=WAIT_SECONDS)
    assert output.splitlines() == ["terminated -15", "4", "0", "1", "0"]
    assert "ZeroDivisionError" in errors
    assert process.returncode == exit_codes.FINISHED


def test_a_script_cannot_print_the_jobs_token(coordinator: Any, start: Start) -> None:
    process = start("import os\nprint(sorted(name for name in os.environ if name.startswith('CORDEE_T')))")
    coordinator.accept()
    output, _ = process.communicate(timeout=WAIT_SECONDS)
    assert output == "['CORDEE_THREADS']\n"
