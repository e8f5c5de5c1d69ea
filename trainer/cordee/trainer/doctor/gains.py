"""How long it takes, by NumPy alone and by who was chosen: two processes by turns, and the median of short bursts.

Processes of their own, because kernels that a process has once used may stay (NumPy's own operations on bfloat16 are
given other loops), and by turns, because a machine is not always equally fast.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from cordee.trainer import kernels
from cordee.trainer.errors import KernelError
from cordee.trainer.kernels.providers import PROVIDERS

__all__ = ["measure"]

NUM_BURSTS, BURST_SECONDS = 7, 0.01


def measure(num_bursts: int = NUM_BURSTS, num_cases: int | None = None) -> dict[str, Any]:
    """Seconds of each case by NumPy alone, by the kernels in use, and by all that are installed, where those are more.

    `gain` is how many times as fast as NumPy alone those in use are, `possible` those that are installed; None: there
    is nothing to compare.

    Raises:
        KernelError: a measuring process did not answer.
    """
    from cordee.trainer.doctor.cases import CASES

    used = _on_cpu(kernels.in_use())
    all_of_them = _on_cpu([name for name, provider in PROVIDERS.items() if not provider.lack()])
    ways = {"numpy": "numpy"}
    if used:
        ways["in_use"] = ",".join(used)
    if set(all_of_them) - set(used):
        ways["installed"] = ",".join(all_of_them)
    rows = []
    with ExitStack() as stack:
        children = {way: stack.enter_context(_Child(names)) for way, names in ways.items()}
        for number, case in enumerate(CASES[:num_cases]):
            for child in children.values():
                child.ask(number)  # compiled, and warm
            times: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(num_bursts):
                for way, child in children.items():
                    times[way].append(child.ask(number))
            seconds = {way: statistics.median(each) for way, each in times.items()}
            rows.append(
                {
                    "name": case.name,
                    "size": case.size,
                    "seconds": seconds,
                    "gain": _factor(seconds, "in_use"),
                    "possible": _factor(seconds, "installed"),
                }
            )
    return {"ways": ways, "rows": rows, "gain": _mean(rows, "gain"), "possible": _mean(rows, "possible")}


def _on_cpu(names: Sequence[str]) -> list[str]:
    return [name for name in names if PROVIDERS[name].device == "cpu"]


def _factor(seconds: dict[str, float], way: str) -> float | None:
    return seconds["numpy"] / seconds[way] if way in seconds else None


def _mean(rows: Sequence[dict[str, Any]], what: str) -> float | None:
    """The geometric one."""
    known = [row[what] for row in rows if row[what] is not None]
    return math.exp(statistics.fmean(map(math.log, known))) if known else None


class _Child:
    """A process that computes with certain kernels, and answers how long a case took."""

    def __init__(self, names: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import _serve; _serve()"],
            env={**os.environ, "CORDEE_KERNELS": names, "CORDEE_DEVICE": "cpu"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def ask(self, number: int) -> float:
        """Seconds of one call, on average over a burst."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{number}\n")
            self._process.stdin.flush()
            return float(json.loads(self._process.stdout.readline()))
        except (OSError, ValueError):
            raise KernelError(f"a process that measured ended with exit code {self._process.wait()}") from None


def _serve() -> None:
    """The child: reads numbers of cases, and writes how long a call took."""
    from cordee.trainer.doctor.cases import CASES

    calls: dict[int, tuple[Callable[[], Any], int]] = {}
    for line in sys.stdin:
        number = int(line)
        if number not in calls:
            call = CASES[number].make()
            call()
            calls[number] = call, max(1, round(BURST_SECONDS / _seconds(call, 1)))
        sys.stdout.write(json.dumps(_seconds(*calls[number])) + "\n")
        sys.stdout.flush()


def _seconds(call: Callable[[], Any], num_calls: int) -> float:
    start = time.perf_counter()
    for _ in range(num_calls):
        call()
    return (time.perf_counter() - start) / num_calls
