"""The warm process: its forks are as good as fresh workers, its faults cost time only, it never outlives its agent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.unit.worker.agents import JOIN, Agent, eventually, is_gone, world_of_one

from cordee.worker import exit_codes

pytestmark = pytest.mark.slow

AFRESH = (
    "import os, sys\n"
    "from cordee.worker.agent import Agent\n"
    "from cordee.worker.logfile import LogFile\n"
    "log = LogFile(f\"{os.environ['CORDEE_WORKDIR']}/logs/{os.environ['CORDEE_WORKER']}.jsonl\", 'w')\n"
    "sys.exit(Agent([sys.executable, '-P', '-m', 'cordee.worker.main'], log).run())"
)
"""An agent without a zygote."""

SELF_PORTRAIT = """
import sys
at_start = [name for name in sys.modules if name.partition(".")[0] in ("cordee", "google", "grpc", "numpy")]
import atexit, faulthandler, gc, json, os, random, resource, signal, stat, sys, threading, warnings
import numpy as np
import threadpoolctl
from cordee import trainer

def kind(fd):
    mode = os.fstat(fd).st_mode
    name = os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]
    return [fd if fd < 3 else 3, stat.S_IFMT(mode), name if not name.startswith("/tmp") else "tmp"]

rows = np.random.default_rng(0).standard_normal((300, 300), dtype=np.float32)
portrait = {
    "argv": sys.argv,
    "path": sys.path[1:],
    "flags": str(sys.flags),
    "main": sorted(name for name in vars(sys.modules["__main__"]) if name.startswith("__")),
    "descriptors": sorted(kind(int(fd)) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")),
    "inheritable": sorted(fd for fd in range(100) if os.path.exists(f"/proc/self/fd/{fd}") and os.get_inheritable(fd)),
    "handlers": {n.name: str(signal.getsignal(n)).partition(" at ")[0] for n in signal.valid_signals() if n < 32
                 if isinstance(n, signal.Signals)},
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "threads": sorted(thread.name for thread in threading.enumerate()),
    "main thread": threading.current_thread() is threading.main_thread(),
    "leads its group": os.getpgid(0) == os.getpid(),
    "environment": sorted(os.environ),
    "streams": [
        [s.name, s.encoding, s.errors, s.line_buffering, s.isatty(), s.fileno()] for s in (sys.stdout, sys.stderr)
    ],
    "stdin": sys.stdin.read(),
    "limits": [resource.getrlimit(n) for n in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_STACK)],
    "umask": os.umask(0o22),
    "collects garbage": gc.isenabled(),
    "filters": len(warnings.filters),
    "recursion": sys.getrecursionlimit(),
    "faults are reported": faulthandler.is_enabled(),
    "blas": sorted({pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}),
    "threads of the job": trainer.get_num_threads(),
    "product": (rows @ rows).tobytes().hex()[:64],
    "numpy's errors": np.geterr(),
}
print(json.dumps(portrait))
draws = [random.random(), float(np.random.random())]
modules = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"at start": at_start, "modules": modules, "draws": draws}))
atexit.register(lambda: print("at exit", flush=True))
"""


def portrait(coordinator: Any, agent: Agent) -> tuple[dict[str, Any], dict[str, Any]]:
    stream, _ = coordinator.accept()
    stream.expect("finished")
    assert agent.wait() == exit_codes.FINISHED
    first, second, last = agent.lines("stdout")
    assert last == "at exit"
    assert agent.lines("stderr") == []
    return json.loads(first), json.loads(second)


def test_a_forked_worker_is_as_good_as_a_fresh_one(
    coordinator: Any, job: Callable[..., dict[str, str]], agents: list[Agent], tmp_path: Path
) -> None:
    found = []
    for worker, command in (("fresh-w0", ["-c", AFRESH]), ("forked-w0", ["-P", "-m", "cordee.worker.agent"])):
        # A folder each, for to unpack the source takes modules that one who finds it there does not import.
        environment = job(SELF_PORTRAIT, worker, CORDEE_THREADS="2", CORDEE_WORKDIR=str(tmp_path / worker))
        agent = Agent(environment, [sys.executable, *command])
        agents.append(agent)
        found.append(portrait(coordinator, agent))
    (fresh, of_fresh), (forked, of_forked) = found
    assert forked == fresh
    assert fresh["blas"] == [2]
    assert of_forked["draws"] != of_fresh["draws"]
    more = set(of_forked["modules"]) - set(of_fresh["modules"])
    # Nothing of the user's. LLVM is what a worker loads as it joins, which this script does not.
    assert more <= {"cordee", "__mp_main__", "llvmlite", "platformdirs"} | sys.stdlib_module_names
    assert set(of_fresh["modules"]) <= set(of_forked["modules"])
    # What a worker imports by itself the zygote has imported: or each start would pay for it.
    warm = (
        "import sys\nfrom cordee.worker.zygote import warm_up\nwarm_up()\nloaded = list(sys.modules)\n"
        "from cordee.trainer.kernels import in_use, team\nin_use()\nlate = sys.modules.keys() - set(loaded)\n"
        "print(*loaded)\nprint(*(name for name in late if 'cordee' not in name))\nprint(team._State.owner)"
    )
    environment = {**os.environ, "CORDEE_THREADS": "2", "CORDEE_KERNELS": "auto"}
    done = subprocess.run([sys.executable, "-c", warm], capture_output=True, text=True, check=True, env=environment)
    loaded, late, owner = done.stdout.splitlines()
    assert set(of_fresh["at start"]) <= set(loaded.split())
    assert late == ""  # the kernels' libraries as well
    assert owner == "None"  # no team of threads, which its forks could not use


def test_each_fork_draws_its_own_random_numbers(coordinator: Any, start: Callable[..., Agent]) -> None:
    agent = start("import os, random, numpy\nprint(random.random(), numpy.random.random(), flush=True)\nos._exit(9)")
    eventually(lambda: len(agent.lines("stdout")) >= 3)
    first, second = zip(*(line.split() for line in agent.lines("stdout")[:3]), strict=True)
    assert len(set(first)) == len(set(second)) == 3


def test_a_forked_workers_script_may_fork_spawn_and_thread(coordinator: Any, start: Callable[..., Agent]) -> None:
    agent = start(
        "import multiprocessing, os, subprocess, sys, threading\n"
        "import numpy as np\n"
        "from cordee.trainer import data\n"
        "class Squares:\n"
        "    def __len__(self): return 8\n"
        "    def __getitem__(self, i): return np.float32(i * i)\n"
        "def square(x): return x * x\n"
        "if __name__ == '__main__':\n"
        "    for method in ('fork', 'spawn'):\n"
        "        with multiprocessing.get_context(method).Pool(2) as pool:\n"
        "            print(pool.map(square, range(4)))\n"
        "    loader = data.DataLoader(Squares(), batch_size=4, num_workers=2, workers='processes')\n"
        "    print([batch.x.tolist() for batch in loader])\n"
        "    subprocess.run([sys.executable, '-c', 'print(\"child\")'], check=True)\n"
        "    thread = threading.Thread(target=lambda: print('thread', flush=True))\n"
        "    thread.start(), thread.join()\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        left = [os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')\n"
        "                if os.path.exists(f'/proc/self/fd/{fd}')]\n"
        "        print('forked', [name for name in left if 'cordee' in name], flush=True)\n"
        "        os._exit(0)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n"
    )
    stream, _ = coordinator.accept()
    stream.expect("finished")
    assert agent.wait() == exit_codes.FINISHED
    assert agent.lines("stdout") == [
        *["[0, 1, 4, 9]"] * 2, "[[0.0, 1.0, 4.0, 9.0], [16.0, 25.0, 36.0, 49.0]]", "child", "thread", "forked []", "0",
    ]  # fmt: skip
    assert agent.lines("stderr") == []


def test_a_failing_script_shows_its_own_frames_only(coordinator: Any, start: Callable[..., Agent]) -> None:
    agent = start("def f():\n    raise ValueError('no such thing')\n\nf()\n")
    stream, _ = coordinator.accept()
    failed = stream.expect("script_failed")
    assert agent.wait() == exit_codes.SCRIPT_FAILED
    assert failed.traceback.count("File ") == 2
    assert not any("zygote" in line for line in agent.lines("stderr"))


def test_signals_reach_a_forked_worker(coordinator: Any, start: Callable[..., Agent]) -> None:
    agent = start("import time\nprint('computing', flush=True)\nwhile True: time.sleep(0.01)")
    stream, _ = coordinator.accept()
    agent.wait_line("stdout", "computing")
    agent.process.terminate()
    assert stream.expect("leaving").reason == "SIGTERM"
    agent.process.send_signal(signal.SIGINT)  # the agent: "again"
    assert agent.wait() == exit_codes.DRAINED


def zygote_of(agent: Agent) -> psutil.Process:
    """The warm process, once it serves."""
    found: list[psutil.Process] = []

    def serves() -> bool:
        found[:] = [child for child in psutil.Process(agent.process.pid).children() if child.name() == "cordee-zygote"]
        return bool(found)

    eventually(serves, "the zygote")
    return found[0]


def test_the_zygote_runs_on_one_thread_and_holds_nothing(coordinator: Any, start: Callable[..., Agent]) -> None:
    agent = start("import time\ntime.sleep(60)")
    _, hello = coordinator.accept()
    zygote = zygote_of(agent)
    assert zygote.num_threads() == 1
    assert psutil.Process(hello.pid).ppid() == agent.process.pid
    assert psutil.Process(hello.pid).name() == "cordee-worker"
    assert zygote.net_connections() == []
    files = Path(f"/proc/{zygote.pid}/fd")
    kinds = sorted(str(file.readlink()).partition(":")[0] for file in files.iterdir())
    assert kinds == ["/dev/null", "pipe", "pipe", "socket"]
    assert "libcuda" not in Path(f"/proc/{zygote.pid}/maps").read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_without_the_zygote_a_worker_comes_all_the_same_and_later_there_is_another(
    coordinator: Any, start: Callable[..., Agent], number: signal.Signals
) -> None:
    agent = start(JOIN)
    for generation in (1, 2):
        stream, hello = coordinator.accept()
        stream.expect("arrived")
        world_of_one(stream, hello, generation)
        agent.wait_line("stdout", "member", generation)
        if generation == 1:
            zygote = zygote_of(agent)
            zygote.send_signal(number)
            eventually(lambda: is_gone(zygote.pid), "the zygote's end")  # noqa: B023
            os.kill(hello.pid, signal.SIGKILL)
    assert psutil.Process(hello.pid).name() != "cordee-worker"
    assert any(line.startswith("the warm process was ") for line in agent.lines("agent"))
    assert zygote_of(agent).pid != zygote.pid
    os.kill(hello.pid, signal.SIGKILL)
    _, third = coordinator.accept()
    assert psutil.Process(third.pid).name() == "cordee-worker"


def test_a_broken_installation_is_told_by_the_worker_itself(
    coordinator: Any, start: Callable[..., Agent], tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "grpc.py").write_text("raise ImportError('this installation is broken')")
    path = os.pathsep.join([str(tmp_path / "broken"), *filter(None, [os.environ.get("PYTHONPATH")])])
    agent = start("pass", PYTHONPATH=path)
    agent.wait_line("stderr", "ImportError: this installation is broken")
    agent.wait_line("agent", "the worker crashed; it is started again at once (restart 1)")
    assert agent.lines("agent")[0].startswith("the warm process ImportError: this installation is broken: until")
    agent.process.terminate()
    assert agent.wait() == exit_codes.DRAINED


@pytest.mark.parametrize("moment", ["at once", "while it imports", "when it has forked"])
def test_nothing_survives_a_killed_agent_whenever_it_is_killed(
    coordinator: Any, start: Callable[..., Agent], moment: str
) -> None:
    agent = start("import time\ntime.sleep(60)")
    process = psutil.Process(agent.process.pid)
    if moment != "at once":
        eventually(lambda: bool(process.children()))
    if moment == "when it has forked":
        coordinator.accept()
    family = process.children(recursive=True)
    process.kill()
    agent.wait()
    for member in family:
        eventually(lambda pid=member.pid: is_gone(pid), "the end of all that it had started")  # type: ignore[misc]
    mark = f"CORDEE_WORKDIR={agent.log.parents[1]}".encode()

    def marked() -> list[str]:
        return [path.name for path in Path("/proc").iterdir() if path.name.isdigit() and mark in environment(path)]

    def environment(process: Path) -> list[bytes]:
        try:
            return (process / "environ").read_bytes().split(b"\0")
        except OSError:
            return []

    eventually(lambda: not marked(), "an end without leftovers")


def test_an_agent_that_is_asked_to_go_before_there_is_a_worker_goes(start: Callable[..., Agent]) -> None:
    agent = start("pass")
    eventually(lambda: bool(psutil.Process(agent.process.pid).children()))
    family = psutil.Process(agent.process.pid).children()
    agent.process.terminate()
    assert agent.wait() == exit_codes.DRAINED
    for member in family:
        eventually(lambda pid=member.pid: is_gone(pid), "the zygote's end")  # type: ignore[misc]
