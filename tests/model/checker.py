"""Runs the model checker (spin) over `elastic.pml`: what to build, what to run, and what must come of it.

    python tests/model/checker.py            # the small configurations and the mutants, as the tests run them
    python tests/model/checker.py --long     # the large ones as well: minutes to hours, gigabytes

spin makes a C program of the model, which the C compiler makes a checker of; the number of faults, their kinds, and a
mutant are told to it by its environment, so a size is compiled once. Both are in every distribution (`apt-get install
spin gcc`).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LONG", "MUTANTS", "SHORT", "Outcome", "Size", "Task", "build", "missing_tools", "run"]

MODEL = Path(__file__).with_name("elastic.pml")

KILL, AGENT, FREEZE, POWER, BREAK, LINK, CRASH, SCALE, LEAVE, SAVE = (1 << k for k in range(10))
ALL = KILL | AGENT | FREEZE | POWER | BREAK | LINK | CRASH | SCALE | LEAVE


@dataclass(frozen=True)
class Size:
    """What a checker is compiled for. `cycles`: it looks for histories that never end, instead of for broken laws."""

    slots: int = 2
    spares: int = 2
    minimum: int = 1
    last: int = 2
    cycles: bool = False


@dataclass(frozen=True)
class Task:
    """One search through all histories. `halfway`: they begin in a world that trains, instead of with nothing."""

    name: str
    kinds: int = 0
    faults: int = 1
    halfway: bool = True
    size: Size = Size()
    mutant: int = 0
    breaks: str = ""
    """Of a mutant: part of the law that it breaks, as the checker says it."""
    hash_bits: int = 22


@dataclass(frozen=True)
class Outcome:
    error: str
    """What was found: a law that does not hold, or a state that nothing leads out of; empty: nothing."""
    states: int
    depth: int
    seconds: float


THREE = Size(slots=3, spares=1, minimum=2)

SHORT = (
    Task("undisturbed, from the start", faults=0, halfway=False),
    Task("undisturbed, three workers", faults=0, size=THREE),
    Task("any one fault but a freeze, in a world", ALL & ~FREEZE),
    Task("the coordinator dies, from the start", CRASH, halfway=False),
    Task("undisturbed: no history goes on for ever", faults=0, size=Size(cycles=True)),
)

LONG = (
    Task("any one fault, checkpoints saved or not", ALL | SAVE, hash_bits=26),
    Task("any one fault, from the start", ALL & ~FREEZE, halfway=False, hash_bits=26),
    Task("any one fault: no history goes on for ever", ALL & ~FREEZE, size=Size(cycles=True), hash_bits=26),
    Task("two faults: deaths, broken streams and links, the coordinator", KILL | BREAK | LINK | CRASH, 2, hash_bits=27),
    Task("two faults: deaths, machines that vanish", KILL | AGENT | POWER, 2, hash_bits=26),
    Task("two faults: resizing, preemption, deaths", KILL | SCALE | LEAVE, 2, hash_bits=26),
    Task("two faults: resizing, preemption, the coordinator", CRASH | SCALE | LEAVE, 2, hash_bits=26),
    Task("two faults: a freeze and the coordinator", FREEZE | CRASH, 2, size=Size(spares=1), hash_bits=27),
    Task("three workers, one dies", KILL, size=THREE, hash_bits=27),
    Task("three workers, a broken stream or link", BREAK | LINK, size=THREE, hash_bits=26),
    Task("three workers, the coordinator dies", CRASH, size=THREE, hash_bits=27),
)

MUTANTS = (
    Task("a world is formed before all live members have arrived", ALL, mutant=1, breaks="(far!=15)"),
    Task("a process that was counted as lost may come back", FREEZE | CRASH, 2, mutant=2, breaks="dfenced"),
    Task("state is taken from a member that is not the furthest", ALL, mutant=3, breaks="step[giver[p]]"),
    Task(
        "an update is applied before every contribution is there", faults=0, size=THREE, mutant=4, breaks="shards[par]"
    ),
    Task("a world, a result, is stored after it was sent", ALL, mutant=5, breaks="(acknowledged& ~(ddone))"),
    Task("a restarted coordinator does not wait for the members it knows", CRASH | LINK, 2, mutant=6, breaks="cut_off"),
    Task("nobody is told that the world is broken", POWER, mutant=7, breaks="invalid end state"),
    Task("a restarted coordinator starts agents without asking which ones run", CRASH, mutant=8, breaks="agents[s]<=1"),
    Task(
        "new workers begin anew while the others' streams are broken",
        BREAK,
        halfway=False,
        mutant=9,
        breaks="(far!=15)",
    ),
    Task(
        "the late Hello of an old process passes for a newer one's", KILL, halfway=False, mutant=10, breaks="mode[inc["
    ),
)


def missing_tools() -> str:
    """What is not installed, in a sentence; empty when nothing is."""
    missing = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    return f"{' and '.join(missing)} not installed: apt-get install {' '.join(missing)}" if missing else ""


def build(size: Size, folder: Path) -> Path:
    """Compiles a checker in `folder`, which must exist, and returns it."""
    bounds = [f"-DSLOTS={size.slots}", f"-DSPARES={size.spares}", f"-DMINIMUM={size.minimum}", f"-DLAST={size.last}"]
    subprocess.run(["spin", "-a", *bounds, str(MODEL)], cwd=folder, check=True, capture_output=True)
    # Not -O2: the generated code is one function of a megabyte. COLLAPSE: less memory for half of the speed.
    mode = ["-O0", "-DNP"] if size.cycles else ["-O1", "-DSAFETY"]
    options = ["-w", *mode, "-DNOREDUCE", "-DCOLLAPSE", "-DVECTORSZ=2048", "-o", "pan", "pan.c"]
    subprocess.run(["gcc", *options], cwd=folder, check=True, capture_output=True)
    return folder / "pan"


def run(pan: Path, task: Task, *, timeout: float | None = None) -> Outcome:
    """Searches through all histories of `task`, up to the first error."""
    told = {"FAULTS": task.faults, "KINDS": task.kinds, "MUTANT": task.mutant, "HALFWAY": int(task.halfway)}
    options = ["-m200000", f"-w{task.hash_bits}", *(["-l"] if task.size.cycles else [])]
    done = subprocess.run(
        [str(pan.absolute()), *options],
        cwd=pan.parent,
        env=os.environ | {name: str(value) for name, value in told.items()},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    said = done.stdout
    found = re.search(r"^pan:\d+: (.*) \(at depth \d+\)$", said, re.MULTILINE)
    depth, errors = _numbers(r"depth reached (\d+), errors: (\d+)", said)
    [states] = _numbers(r"(\d+) states, stored", said)
    if "max search depth too small" in said or "out of memory" in said:
        raise RuntimeError(f"the search was cut short:\n{said}")
    assert bool(found) == bool(errors), said
    seconds = re.search(r"elapsed time ([\d.e+-]+)", said)
    return Outcome(found[1] if found else "", states, depth, float(seconds[1]) if seconds else 0.0)


def _numbers(pattern: str, text: str) -> tuple[int, ...]:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"the checker did not say what it found:\n{text}")
    return tuple(int(group) for group in found.groups())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="the large configurations as well")
    parser.add_argument("--only", default="", help="those with this in their name")
    arguments = parser.parse_args()
    if missing := missing_tools():
        print(missing, file=sys.stderr)
        return 1
    tasks = [*SHORT, *MUTANTS, *(LONG if arguments.long else ())]
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        checkers: dict[Size, Path] = {}
        for task in (task for task in tasks if arguments.only in task.name):
            if task.size not in checkers:
                folder = Path(scratch, str(len(checkers)))
                folder.mkdir()
                checkers[task.size] = build(task.size, folder)
            outcome = run(checkers[task.size], task)
            as_wanted = task.breaks in outcome.error if task.mutant else not outcome.error
            wrong += not as_wanted
            verdict = f"found: {outcome.error[:60]}" if outcome.error else "holds"
            figures = f"{outcome.states:>12,} states, depth {outcome.depth:>3}, {outcome.seconds:7.1f} s"
            print(f"{'ok ' if as_wanted else 'BAD'} {task.name:<70} {figures}  {verdict}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
