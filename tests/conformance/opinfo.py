"""Replays the samples of PyTorch's operator database against Cordee, for one operator or for the scoreboard.

    python tests/conformance/opinfo.py --only softmax --show-failures       # one operator, in seconds
    python tests/conformance/opinfo.py --only 'linalg.*,fft.*' --dtype float64
    python tests/conformance/opinfo.py --update      # all; rewrites scoreboard.json, floor.json and the page
    python tests/conformance/opinfo.py --check       # all; exit code 1 when an operator does worse than on the board

Needs PyTorch with `torch.testing._internal` (`pip install torch expecttest`). `--update` refuses to lower a total of
`floor.json`: repair what broke instead.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the files beside this one

import torch
from opinfo_replay import Outcome, replay
from scoreboard import COUNTS, FLOOR, PAGE, below_floor, load, page, raise_floor, save
from torch.testing._internal.common_methods_invocations import op_db


def _full(op: Any) -> str:
    return f"{op.name}/{op.variant_test_name}" if op.variant_test_name else op.name


def chosen(only: str | None) -> list[int]:
    """The numbers in `op_db` of the operators that fit one of the patterns."""
    patterns = only.split(",") if only else ["*"]
    return [
        number
        for number, op in enumerate(op_db)
        if any(fnmatch.fnmatchcase(_full(op), p) or fnmatch.fnmatchcase(op.name, p) for p in patterns)
    ]


def _replay(task: tuple[int, str | None]) -> Outcome:
    number, dtype = task
    return replay(op_db[number], dtype)


def replay_all(numbers: list[int], jobs: int, dtype: str | None = None) -> list[Outcome]:
    """Replay them in several processes."""
    torch.set_num_threads(1)
    tasks = [(number, dtype) for number in numbers]
    if len(tasks) < 4 or jobs == 1:
        return list(map(_replay, tasks))
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        return list(pool.imap_unordered(_replay, tasks, chunksize=2))


def as_row(outcome: Outcome) -> dict[str, Any]:
    """What the board keeps of an outcome: no zeros, no failures."""
    row = asdict(outcome)
    for name in ("name", "failures"):
        del row[name]
    kept = {key: value for key, value in row.items() if value not in ("", 0, None) or value is False}
    return {**kept, **{right: row[right] for tried, right in COUNTS.items() if row[tried]}}


def show(outcome: Outcome, failures: int) -> None:
    """One operator on one line; below it its failures, alike ones together."""
    o = outcome
    line = f"{o.name:44} {o.status:13}"
    if o.status == "covered":
        line += f" samples {o.passed}/{o.samples}  gradients {o.gradients_passed}/{o.gradients}"
        line += f"  errors {o.errors_raised}/{o.errors}"
        line += "".join(
            f"  {n} {'ok' if v else 'NO'}" for n, v in (("method", o.method), ("in-place", o.in_place)) if v is not None
        )
        line += f"  aliases {o.aliases_present}/{o.aliases}" if o.aliases else ""
    print(line + (f" ({o.reason})" if o.reason else ""))
    alike = Counter((f.kind, f.message.partition(";")[0]) for f in o.failures)
    for (kind, head), times in alike.most_common(failures):
        first = next(f for f in o.failures if f.kind == kind and f.message.partition(";")[0] == head)
        print(f"    {times} x {kind} {first.dtype} {first.sample[:300]}\n          {first.message}")


def worse(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """The operators that do worse than on the board."""
    found = []
    for name, row in now.items():
        old = before.get(name)
        if old is None:
            continue
        if old["status"] == "covered" != row["status"]:
            found.append(f"{name}: was covered, is {row['status']}")
        found += [
            f"{name}: {right} {row.get(right, 0)}/{row.get(tried, 0)}, on the board {old[right]}/{old[tried]}"
            for tried, right in COUNTS.items()
            if old.get(tried) and row.get(right, 0) < old[right]
        ]
        found += [
            f"{name}: {k} was right" for k in ("method", "in_place") if old.get(k) is True and row.get(k) is not True
        ]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", help="names or patterns, separated by commas: softmax, 'linalg.*', max/binary")
    parser.add_argument("--dtype", help="only samples of this dtype")
    parser.add_argument(
        "--show-failures", nargs="?", type=int, const=20, default=0, metavar="N", help="at most N kinds"
    )
    parser.add_argument("--failing", action="store_true", help="leave out the operators without failures")
    parser.add_argument("--missing", action="store_true", help="list the names that were not found, and nothing else")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--update", action="store_true", help="rewrite the board, the floor and the page")
    parser.add_argument("--check", action="store_true", help="exit code 1 when something does worse than on the board")
    options = parser.parse_args()
    numbers = chosen(options.only)
    if not numbers:
        parser.error(f"no operator of op_db fits {options.only!r}")
    outcomes = sorted(replay_all(numbers, options.jobs, options.dtype), key=lambda outcome: outcome.name)
    for outcome in outcomes:
        if options.missing:
            print(outcome.name) if outcome.status == "missing" else None
        elif not (options.failing and not outcome.failures):
            show(outcome, options.show_failures)
    now = {outcome.name: as_row(outcome) for outcome in outcomes}
    board = load()
    if options.check and (found := worse(now, board["ops"])):
        print("\n".join(found), file=sys.stderr)
        return 1
    if options.update:
        updated = {**board, "torch": torch.__version__.partition("+")[0], "ops": {**board["ops"], **now}}
        floor = json.loads(FLOOR.read_text()) if FLOOR.exists() else {}
        if fallen := below_floor(updated, floor):
            print("a total fell, nothing is written:\n" + "\n".join(fallen), file=sys.stderr)
            return 1
        save(updated)
        raise_floor(updated)
        PAGE.write_text(page(updated))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
