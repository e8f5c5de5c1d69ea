"""What it brings that gradients travel while backward still runs: a step of 2 workers with and without it.

    python benchmarks/overlap.py [--steps 160] [--links 0 1250 125]

The workload is that of `steady.py`. Workers of one machine exchange gradients through shared memory and share its
cores, so a network is simulated as well: every exchange takes as long as its bytes would at so many MB/s (125: 1
Gbit/s), and no processor meanwhile. The two ways take turns every few steps of one run, so that whatever else the
machine does meets both. (By itself Cordee does not overlap where all workers share memory.) Figures are medians of all
steps without the first quarter; `after backward` is the part of a step from the end of the shards to the commit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import tempfile
from pathlib import Path

from machine import median, print_machine, print_rows
from steady import WIDTHS, cordee_command

BLOCK = 8
"""Steps until the other way has its turn."""


def run_once(width: int, steps: int, link: float, shards: int) -> dict[bool, tuple[float, float]]:
    """By whether gradients travelled early: seconds per step, and of these after backward.

    Raises:
        RuntimeError: the launch did not end well; its output is in the error.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = cordee_command(folder, 2, width, steps, shards, False)
        command += ["--link", str(link), "--alternate", str(BLOCK)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        (times_file,), (commits_file,) = folder.glob("*.json"), folder.glob("*.commits")
        times, commits = json.loads(times_file.read_text()), json.loads(commits_file.read_text())
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for index in range(len(times) // 4, len(times)):
        found[index // BLOCK % 2 == 1].append((times[index] - times[index - 1], commits[index]))
    return {
        way: (median([step for step, _ in pairs]), median([rest for _, rest in pairs])) for way, pairs in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--links", type=float, nargs="+", default=[0.0, 1250.0, 125.0], help="MB/s; 0: as it is")
    parser.add_argument("--parameters", choices=list(WIDTHS), nargs="+", default=list(WIDTHS))
    parser.add_argument("--shards", type=int, default=2)
    arguments = parser.parse_args()
    print_machine("numpy")
    print("# MLP 256-w-w-w-10, global batch 256, 2 workers with 1 thread each")
    rows = []
    for name, link in itertools.product(arguments.parameters, arguments.links):
        found = run_once(WIDTHS[name], arguments.steps, link, arguments.shards)
        (late, late_rest), (early, early_rest) = found[False], found[True]
        row = [name, f"{link:g} MB/s" if link else "shared memory", f"{late * 1e3:.2f}", f"{early * 1e3:.2f}"]
        rows.append([*row, f"{early / late:.2f}", f"{late_rest * 1e3:.2f}", f"{early_rest * 1e3:.2f}"])
    print_rows(
        ["parameters", "link", "all at the end, ms", "overlapped, ms", "ratio", "after backward, ms", "overlapped, ms"],
        rows,
    )


if __name__ == "__main__":
    main()
