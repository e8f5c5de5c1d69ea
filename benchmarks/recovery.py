"""How long a killed worker holds the others up, and how long until it is a member again; and how long a job takes to
start.

    python benchmarks/recovery.py [--kills 20] [--peers torchrun torchft ray] [--mass 14 --of 16] [--peer-defaults]

Three workers train an MLP 64-256-10. A worker is chosen by seed and killed with SIGKILL, again and again; every process
writes a line with the time of each committed step. Measured from the kill:

  survivors   to the first step committed in a world without the victim (by any survivor)
  whole       to the first step committed by the victim's successor
  start       from the launch of the command to the first committed step, with nothing running before

Beside it, where they are installed: `torchrun` with gloo, the same model and a checkpoint at every step, with the
setting that lets it recover at all (a store of its own per restart), for which both are the same moment, since all
workers restart; torchft, with the tightest settings that work (its defaults wait for 5 s), a process per replica group;
and Ray Train with gloo, a checkpoint reported at every step and a controller that looks for losses 20 times a second
(every 2 s by its defaults), where all workers restart as well. Then the loss of `--mass` of `--of` workers at the same
moment, for Cordee alone.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from machine import median, print_machine, print_rows

HERE = Path(__file__).resolve().parent
WORKERS = 3
MASS_ROUNDS = 3
DEADLINE_SECONDS = 120.0
PEERS = ["torchrun", "torchft", "ray"]


@dataclass(frozen=True)
class Commit:
    """A committed step, as the process that committed it wrote it down."""

    time: float
    worker: str
    pid: int
    step: int
    generation: int
    size: int


@dataclass
class Figures:
    """What was measured of one system, in seconds."""

    start: list[float] = field(default_factory=list)
    survivors: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    restarted_survivors: int = 0
    repeated: list[int] = field(default_factory=list)  # steps that were committed and had to be done again, per kill


class StepLogs:
    """Follows the step logs of all processes in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}
        self.commits: list[Commit] = []

    def poll(self) -> list[Commit]:
        """The commits that were written since the last call."""
        fresh = []
        for path in self._folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._offsets[path] = self._offsets.get(path, 0) + len(whole)
            for line in whole.splitlines():
                entry = json.loads(line)
                fresh.append(Commit(**{"generation": 0, **entry}))
        fresh.sort(key=lambda commit: commit.time)
        self.commits.extend(fresh)
        return fresh

    def wait(self, wanted: Callable[[Commit], bool], since: int, deadline: float) -> Commit | None:
        """The first commit after position `since` that is `wanted`; None when the deadline passes."""
        seen = since
        while True:
            self.poll()
            tail = sorted(self.commits[seen:], key=lambda commit: commit.time)
            for commit in tail:
                if wanted(commit):
                    return commit
            if time.monotonic() > deadline:
                return None
            time.sleep(0.002)


@dataclass(frozen=True)
class Peer:
    """What Cordee is measured beside."""

    title: str
    module: str
    command: Callable[[Path, int, bool], list[str]]  # records, steps, the tightest settings?
    kills: int
    environment: dict[str, str]
    figures: Figures = field(default_factory=Figures)


def current_members(logs: StepLogs) -> dict[str, int]:
    """Worker → pid of those that committed the newest step of a full world."""
    # Not the highest: who goes back to a checkpoint has been further before.
    newest = logs.commits[-1].step
    return {commit.worker: commit.pid for commit in logs.commits if commit.step >= newest - 1}


def last_to_commit(workers: set[str], since: float) -> Callable[[Commit], bool]:
    """True for the commit with which every one of `workers` has committed after `since`."""

    def completes(commit: Commit) -> bool:
        if commit.time > since:
            workers.discard(commit.worker)
        return not workers

    return completes


@contextlib.contextmanager
def launched(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with (log / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **environment}, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


@contextlib.contextmanager
def records_folder() -> Iterator[Path]:
    # Daemons that outlive their launcher by a moment still write there.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def quantile(values: list[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def measure_mass(command: list[str], log: Path, lost: int, workers: int, figures: Figures, seed: int) -> None:
    """Launches `command`, kills `lost` of its `workers` at once, a few times, and adds to `figures`."""
    chooser = random.Random(seed)
    logs = StepLogs(log)
    with launched(command, log, {}):
        for _ in range(MASS_ROUNDS):
            position = len(logs.commits)
            whole = logs.wait(lambda c: c.size == workers, position, time.monotonic() + DEADLINE_SECONDS)
            if whole is None:
                print("# the world did not become whole; stopped here")
                return
            time.sleep(1.0)
            logs.poll()
            members = current_members(logs)
            generation = max(commit.generation for commit in logs.commits)
            victims = chooser.sample(sorted(members), lost)
            position = len(logs.commits)
            killed_at = time.time()
            for victim in victims:
                os.kill(members[victim], signal.SIGKILL)
            deadline = time.monotonic() + DEADLINE_SECONDS
            survivor = logs.wait(lambda c, g=generation: c.generation > g, position, deadline)
            back = logs.wait(lambda c, g=generation: c.generation > g and c.size == workers, position, deadline)
            if survivor is None or back is None:
                print(f"# loss of {lost} of {workers}: not whole within {DEADLINE_SECONDS:.0f} s; stopped here")
                return
            figures.survivors.append(survivor.time - killed_at)
            figures.whole.append(back.time - killed_at)
            after = current_members(logs)
            figures.restarted_survivors += sum(after.get(w, p) != p for w, p in members.items() if w not in victims)


def measure(
    command: list[str], log: Path, environment: dict[str, str], kills: int, figures: Figures, seed: int
) -> None:
    """Launches `command`, kills one of its workers `kills` times, and adds to `figures`."""
    chooser = random.Random(seed)
    logs = StepLogs(log)
    began = time.time()
    with launched(command, log, environment):
        first = logs.wait(lambda commit: commit.size == WORKERS, 0, time.monotonic() + DEADLINE_SECONDS)
        if first is None:
            print(f"# no step within {DEADLINE_SECONDS:.0f} s; its output:\n{(log / 'output.txt').read_text()[-2000:]}")
            return
        figures.start.append(min(commit.time for commit in logs.commits) - began)
        for _ in range(kills):
            position = len(logs.commits)
            settled = logs.wait(lambda commit: commit.size == WORKERS, position, time.monotonic() + DEADLINE_SECONDS)
            if settled is None:
                print("# the world did not become whole again; stopped here")
                return
            time.sleep(chooser.uniform(0.3, 0.8))
            logs.poll()
            members = current_members(logs)
            generation = max(commit.generation for commit in logs.commits)
            victim = chooser.choice(sorted(members))
            position = len(logs.commits)
            killed_pid = members[victim]
            killed_at = time.time()
            os.kill(killed_pid, signal.SIGKILL)
            deadline = time.monotonic() + DEADLINE_SECONDS
            # torchrun and Ray have no generation: there, everybody restarts, so any commit of a new process counts.
            survivor = logs.wait(
                lambda c, at=killed_at, g=generation, m=members: (
                    c.time > at and (c.generation > g if c.generation else c.pid not in m.values())
                ),
                position,
                deadline,
            )
            back = logs.wait(
                lambda c, at=killed_at, v=victim, p=killed_pid: c.worker == v and c.pid != p and c.time > at,
                position,
                deadline,
            )
            if survivor is None or back is None:
                print(f"# kill of worker {victim}: no step within {DEADLINE_SECONDS:.0f} s; stopped here")
                return
            figures.survivors.append(survivor.time - killed_at)
            figures.whole.append(back.time - killed_at)
            furthest = max(commit.step for commit in logs.commits if commit.time < survivor.time)
            figures.repeated.append(max(0, furthest + 1 - survivor.step))
            # Who else is a new process is seen when everybody has committed again.
            missing = set(members)
            logs.wait(
                lambda c, at=back.time, m=missing: c.time > at and (m.discard(c.worker) or not m), position, deadline
            )
            after = current_members(logs)
            figures.restarted_survivors += sum(after.get(w, p) != p for w, p in members.items() if w != victim)


def cordee_command(log: Path, steps: int, workers: int = WORKERS) -> list[str]:
    return [
        sys.executable, "-m", "cordee.coordinator.cli", "run", str(HERE / "workloads" / "mlp_cordee.py"),
        "--workers", f"1:{workers}", "--state", str(log / "state"), "--",
        "--records", str(log), "--steps", str(steps), "--shards", str(max(12, workers)),
    ]  # fmt: skip


def torchrun_command(log: Path, steps: int, _tight: bool) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(WORKERS), "--max-restarts", "1000",
        "--monitor-interval", "0.1", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0",
        str(HERE / "workloads" / "mlp_torch.py"), "--records", str(log), "--steps", str(steps),
    ]  # fmt: skip


def torchft_command(log: Path, steps: int, tight: bool) -> list[str]:
    return [
        sys.executable, str(HERE / "workloads" / "mlp_torchft.py"), "--records", str(log), "--steps", str(steps),
        "--workers", str(WORKERS), *(["--tight"] if tight else []),
    ]  # fmt: skip


def ray_command(log: Path, steps: int, tight: bool) -> list[str]:
    return [
        sys.executable, str(HERE / "workloads" / "mlp_ray.py"), "--records", str(log), "--steps", str(steps),
        "--workers", str(WORKERS), *(["--tight"] if tight else []),
    ]  # fmt: skip


def row(name: str, values: list[float], *peers: list[float]) -> list[str]:
    def words(sample: list[float]) -> str:
        if not sample:
            return "–"
        return f"{median(sample):.3f} / {quantile(sample, 0.99):.3f} / {max(sample):.3f} ({len(sample)})"

    ratios = [f"{median(values) / median(peer):.3f}" if values and peer else "–" for peer in peers]
    return [name, words(values), *(cell for pair in zip(map(words, peers), ratios, strict=True) for cell in pair)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--starts", type=int, default=3, help="launches to take the start time of")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="those that are not here are left out")
    parser.add_argument("--torch-kills", type=int, default=5)
    parser.add_argument("--torchft-kills", type=int, default=10)
    parser.add_argument("--ray-kills", type=int, default=5)
    parser.add_argument("--peer-defaults", action="store_true", help="instead of torchft's and Ray's tightest settings")
    parser.add_argument("--mass", type=int, default=14, help="how many workers are lost at once; 0: none")
    parser.add_argument("--of", type=int, default=16, help="of how many")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # Longer than any number of kills takes; the job is cancelled when they are through.
    steps, tight = 1_000_000, not arguments.peer_defaults
    threads = {"OMP_NUM_THREADS": "1"}
    recoverable = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", **threads}
    known = {
        "torchrun": Peer("torchrun, gloo", "torch", torchrun_command, arguments.torch_kills, recoverable),
        "torchft": Peer("torchft", "torchft", torchft_command, arguments.torchft_kills, threads),
        "ray": Peer("Ray Train, gloo", "ray", ray_command, arguments.ray_kills, threads),
    }
    print_machine("numpy", "torch", "torchft", "ray")
    print(f"# {WORKERS} workers, MLP 64-256-10, seed {arguments.seed}; seconds, median / p99 / worst (how many)")
    peers = {}
    for name in arguments.peers:
        if importlib.util.find_spec("torch") is None or importlib.util.find_spec(known[name].module) is None:
            print(f"# {name} is not installed: left out")
        else:
            peers[name] = known[name]
    ours = Figures()
    for launch in range(arguments.starts):
        last = launch == arguments.starts - 1
        with records_folder() as log:
            measure(cordee_command(log, steps), log, {}, arguments.kills if last else 0, ours, arguments.seed)
        for peer in peers.values():
            with records_folder() as log:
                kills = peer.kills if last else 0
                measure(peer.command(log, steps, tight), log, peer.environment, kills, peer.figures, arguments.seed)
    mass = Figures()
    if arguments.mass:
        with records_folder() as log:
            command = cordee_command(log, steps, arguments.of)
            measure_mass(command, log, arguments.mass, arguments.of, mass, arguments.seed)
    others = [peer.figures for peer in peers.values()]
    none: list[list[float]] = [[] for _ in others]
    print_rows(
        ["", "cordee", *(cell for peer in peers.values() for cell in (peer.title, "ratio of medians"))],
        [
            row("start to first step", ours.start, *(figures.start for figures in others)),
            row("kill to survivors' next step", ours.survivors, *(figures.survivors for figures in others)),
            row("kill to whole again", ours.whole, *(figures.whole for figures in others)),
            row(f"{arguments.mass} of {arguments.of} lost: survivors' next step", mass.survivors, *none),
            row(f"{arguments.mass} of {arguments.of} lost: whole again", mass.whole, *none),
        ],
    )
    restarted = {"cordee": ours.restarted_survivors + mass.restarted_survivors}
    restarted |= {name: peer.figures.restarted_survivors for name, peer in peers.items()}
    print("# survivors' processes restarted: " + ", ".join(f"{name} {count}" for name, count in restarted.items()))
    repeated = {"cordee": ours.repeated} | {name: peer.figures.repeated for name, peer in peers.items()}
    print("# committed steps done again, worst: " + ", ".join(f"{n} {max(r, default=0)}" for n, r in repeated.items()))


if __name__ == "__main__":
    main()
