"""The proof, at length: the sixteen scenarios, and the soak.

    python benchmarks/chaos.py [--only 4,9]                    the scenarios, a line each: some six minutes
    python benchmarks/chaos.py --soak [--workers 16] [--every 29] [--minutes 15] [--report DIR]

The soak re-enacts the best figure that was published: kills, stops and partitions, one per 29 s, 97.7 % of the
throughput kept (32 replicas on 16 cores, with DiLoCo, that is without synchrony in each step). Here every step is
synchronous, and the weights must be those of an undisturbed run, bit for bit, with every sample consumed exactly once.

Throughput is measured in turns, in the same run: a calm minute, then ten faults, then a calm minute, and so on. The
ratio is that of committed steps per second with faults to those without. `--minutes` is the time with faults; the calm
comes on top. First the same job runs undisturbed with 2 workers, for its weights and its ledger: their number does not
matter.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chaos_scenarios import SCENARIOS, Scenario
from machine import print_machine, print_rows

HERE = Path(__file__).resolve().parent
SCRIPT = HERE / "workloads" / "soak.py"
SCENARIO_STEPS, PACE = 600, 0.03
SCENARIO_ARGUMENTS = ["--steps", str(SCENARIO_STEPS), "--batch", "512", "--width", "64"]
CALM_SECONDS = 60.0
FAULTS_PER_ROUND = 10


class FailedError(RuntimeError):
    """A command did not end as it should."""


class Runs:
    """`cordee run`, in a data folder of its own, so that runs find each other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = {**os.environ, "XDG_DATA_HOME": str(folder / "data"), "NO_COLOR": "1"}

    def run(self, options: list[str], arguments: list[str], *, expect: int = 0, job_file: str = "") -> dict[str, Any]:
        """The JSON that a run prints; what it says is kept in a file."""
        script = SCRIPT
        if job_file:
            script = self._folder / "job.yaml"
            script.write_text(job_file)
        command = [sys.executable, "-m", "cordee.coordinator.cli", "run", str(script), *options, "-o", "json", "--"]
        log = self._folder / "last.log"
        with log.open("w") as said:
            done = subprocess.run(
                [*command, *arguments],
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                check=False,
            )
        try:
            result: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            result = {}
        if done.returncode != expect or not result:
            problems = "; ".join(result.get("chaos", {}).get("problems", []))
            last = "" if problems else "\n".join(log.read_text().splitlines()[-12:])
            raise FailedError(problems or f"exit code {done.returncode} instead of {expect}: {last}")
        return result


@contextmanager
def runs() -> Iterator[Runs]:
    with tempfile.TemporaryDirectory(prefix="cordee-chaos-") as folder:
        yield Runs(Path(folder))


# --- the scenarios ------------------------------------------------------------------------------------------------


def play(here: Runs, scenario: Scenario, reference: str, folder: Path) -> str:
    """Runs one; what is to be said of it. Raises `FailedError`."""
    options = ["--workers", scenario.workers, "--chaos", scenario.spec, "--reference", reference]
    options += ["--report", str(folder), "--checkpoint-every", "2"]
    arguments = [*SCENARIO_ARGUMENTS, "--pace", str(PACE)]
    result = here.run(options, arguments, expect=100 if scenario.fails else 0, job_file=job_file(scenario))
    report = result["chaos"]
    seen = {event["kind"] for event in json.loads((folder / "recording.json").read_text())["events"]}
    if missing := set(scenario.sees) - seen:
        raise FailedError(f"nothing was noted of: {', '.join(sorted(missing))}")
    done = [one for one in report["faults"] if one["outcome"] != "left out"]
    if len(done) < len(report["faults"]) and not scenario.spec.startswith("soak"):
        raise FailedError(
            "; ".join(f"{one['kind']} left out: {one['note']}" for one in report["faults"] if one["note"])
        )
    if scenario.fails:
        return f"the job failed at step {result['steps']}, {report['seconds']:.1f} s after it began"
    proof, times = report["proof"], report["kinds"]["all"]
    if not (proof["weights"]["equal"] and proof["ledger"]["equal"] and proof["exactly_once"]):
        raise FailedError(f"not proven: {proof}")
    words = [f"{len(done)} fault{'' if len(done) == 1 else 's'}"]
    words += [
        f"{name} {times[name]['median']:.2f} / {times[name]['worst']:.2f} s"
        for name in ("stall", "heal")
        if times[name]
    ]
    if report["coordinator"]["kills"]:
        words.append(f"{report['coordinator']['steps_meanwhile']} steps without a coordinator")
    return ", ".join(words)


def job_file(scenario: Scenario) -> str:
    """Needed where the command line has no option for it."""
    if not scenario.policy:
        return ""
    return (
        "apiVersion: cordee.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: soak}\n"
        f"spec: {{script: {SCRIPT}, source: {SCRIPT.parent}, failurePolicy: {scenario.policy}}}\n"
    )


def scenarios(only: set[int], folder: Path | None) -> bool:
    """All of them; whether all went well."""
    good = True
    with runs() as here, tempfile.TemporaryDirectory() as temporary:
        kept = folder or Path(temporary)
        reference = here.run(["--workers", "1", "--ledger"], SCENARIO_ARGUMENTS)
        print(f"# weights {reference['weights_sha256'][:16]} after {reference['steps']} steps, undisturbed, 1 worker")
        for scenario in SCENARIOS:
            if only and scenario.number not in only:
                continue
            began = time.monotonic()
            words, verdict = "", "test"
            if scenario.spec:
                try:
                    words = play(here, scenario, reference["job"], kept / f"scenario-{scenario.number:02d}")
                    verdict = "ok"
                except FailedError as error:
                    words, verdict, good = str(error), "FAILED", False
            print(f"{scenario.number:2}  {verdict:6}  {scenario.title}", flush=True)
            if words:
                print(f"            {words}; {time.monotonic() - began:.0f} s in all")
            for test in scenario.tests:
                print(f"            {test}")
    return good


# --- the soak -----------------------------------------------------------------------------------------------------


def soak(workers: int, every: float, minutes: float, report: Path, seed: int, size: list[str]) -> bool:
    """The long one; whether it went well."""
    disturbed = every * FAULTS_PER_ROUND
    rounds = max(math.ceil(minutes * 60 / disturbed), 1)
    length = rounds * (disturbed + CALM_SECONDS)
    spec = (
        f"kill,stop,partition@{every:g}s; calm {CALM_SECONDS:g}s every {disturbed + CALM_SECONDS:g}s; for {length:g}s"
    )
    with runs() as here:
        # How many steps there are in the time, with one more calm minute after the last fault.
        # Its one fault never comes, so it proves nothing and says so with exit code 1.
        trial = here.run(
            ["--workers", f"1:{workers}", "--chaos", "at 1h kill", "--no-reference"],
            ["--steps", "300", *size],
            expect=1,
        )
        seconds = trial["chaos"]["goodput"]["step_seconds"]
        steps = int((length + CALM_SECONDS) / seconds) // 25 * 25
        arguments = ["--steps", str(steps), *size]
        print(f"# a step takes {seconds * 1000:.1f} ms with {workers} workers; {steps} steps")
        print(f"# plan: {spec}; seed {seed}", flush=True)
        began = time.monotonic()
        reference = here.run(["--workers", "2", "--ledger"], arguments)
        took = time.monotonic() - began
        print(f"# undisturbed with 2 workers: {took:.0f} s, weights {reference['weights_sha256'][:16]}", flush=True)
        options = ["--workers", f"1:{workers}", "--chaos", f"{spec}; seed {seed}", "--reference", reference["job"]]
        try:
            result = here.run([*options, "--report", str(report)], arguments)
        except FailedError as error:
            print(f"FAILED: {error}; the report is in {report}")
            return False
    found = result["chaos"]
    rows = [
        [kind, str(figures["count"]), *(three(figures[name]) for name in ("detection", "stall", "heal"))]
        for kind, figures in found["kinds"].items()
    ]
    print_rows(["kind", "faults", "detection", "survivors' stall", "whole again"], rows)
    print("# median / p95 / worst, in seconds")
    for name, lost in found["losses"].items():
        if name not in {"starting", "ending"} and abs(lost) > 0.005:
            print(f"# {name}: {lost:.2f} s")
    throughput, proof = found["goodput"]["throughput"], found["proof"]
    same = {name: proof[name]["equal"] for name in ("weights", "ledger")}
    print(f"weights equal: {same['weights']}; ledger equal: {same['ledger']}; {proof['exactly_once_words']}")
    if throughput is None:
        print("throughput: too short to be measured in turns")
        return True
    print(
        f"throughput with faults / without: {throughput['disturbed']:.3f} / {throughput['calm']:.3f} steps per second "
        f"= {throughput['ratio'] * 100:.2f} % (published best, without synchronous steps: 97.7 %)"
    )
    return True


def three(spread: dict[str, float] | None) -> str:
    return "–" if spread is None else " / ".join(f"{spread[name]:.3f}" for name in ("median", "p95", "worst"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="scenarios, such as 4,9")
    parser.add_argument("--soak", action="store_true")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--every", type=float, default=29.0, help="seconds between two faults")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--report", type=Path, help="where the reports are kept")
    given = parser.parse_args()
    print_machine("numpy")
    if given.soak:
        size = ["--batch", str(given.batch), "--width", str(given.width)]
        report = given.report or Path(tempfile.mkdtemp(prefix="cordee-soak-"))
        good = soak(given.workers, given.every, given.minutes, report.absolute(), given.seed, size)
        print(f"# {report.absolute() / 'report.html'}")
    else:
        only = {int(number) for number in given.only.split(",") if number}
        good = scenarios(only, given.report.absolute() if given.report else None)
    sys.exit(not good)


if __name__ == "__main__":
    main()
