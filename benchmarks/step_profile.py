"""Where a training step goes: by operation, forward and backward, and what is outside all of them.

Cordee's part comes from its op records: while Python tells of every call, the outermost functions that belong to a
record are timed, so what a rule calls is part of that rule's operation; what is left of a step's parts is the tape, the
layers' own Python, the walk back, and the telling itself, which is most of it where a step takes less than some
milliseconds. PyTorch's part comes from its own profiler, by operator. The parts are also timed without either.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

__all__ = ["print_profile", "profile_cordee", "profile_torch"]

Parts = dict[str, Callable[[], Any]]
"""What a step is made of, in order: functions by name."""


class _OpTimes:
    """A profile function: seconds and calls by (operation, part) of what is outermost."""

    def __init__(self) -> None:
        from cordee.trainer.autograd.record import REGISTRY

        names: dict[Any, dict[str, None]] = defaultdict(dict)
        for name, record in REGISTRY.items():
            for rule in (record.forward, *record.vjps, record.vjp, *record.writes, record.adds):
                if hasattr(rule, "__code__"):
                    names[rule.__code__][name] = None
        self.names = {code: list(sharing) for code, sharing in names.items()}
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.calls: dict[tuple[str, str], int] = defaultdict(int)
        self.part = ""
        self._frame: Any = None
        self._label, self._start = "", 0.0

    def __call__(self, frame: Any, event: str, _: Any) -> None:
        if event == "call":
            if self._frame is None and frame.f_code in self.names:
                names = self.names[frame.f_code]
                self._frame, self._label = frame, names[0] if len(names) == 1 else _called(frame, names)
                self._start = time.perf_counter()
        elif event == "return" and frame is self._frame:
            key = self._label, self.part
            self.seconds[key] += time.perf_counter() - self._start
            self.calls[key] += 1
            self._frame = None


def _called(frame: Any, names: list[str]) -> str:
    """Which of the operations that share this function it is: its caller knows."""
    record = frame.f_back.f_locals.get("op")
    name = getattr(record, "name", "")
    return name if name in names else f"{names[0]}, or {len(names) - 1} others"


def _timed(parts: Parts, num_steps: int) -> dict[str, float]:
    """Median seconds of each part."""
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(num_steps):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def profile_cordee(parts: Parts, num_steps: int) -> dict[str, Any]:
    """Milliseconds of the parts, and by operation: `[name, calls, forward, backward]`."""
    totals = _timed(parts, num_steps)
    found = _OpTimes()
    whole: dict[str, float] = defaultdict(float)
    for _ in range(num_steps):
        for name, part in parts.items():
            found.part = name
            sys.setprofile(found)
            start = time.perf_counter()
            part()
            whole[name] += time.perf_counter() - start
            sys.setprofile(None)
    scale = 1e3 / num_steps
    ops = [
        [
            name,
            (found.calls[name, "forward"] + found.calls[name, "backward"]) / num_steps,
            found.seconds[name, "forward"] * scale,
            found.seconds[name, "backward"] * scale,
        ]
        for name in dict.fromkeys(name for name, _ in found.seconds)
    ]
    inside = [sum(row[column] for row in ops) for column in (2, 3)]
    ops.append(["outside operations", 1, whole["forward"] * scale - inside[0], whole["backward"] * scale - inside[1]])
    return {"parts": {name: seconds * 1e3 for name, seconds in totals.items()}, "ops": ops}


def profile_torch(torch: Any, parts: Parts, num_steps: int) -> dict[str, Any]:
    """The same of PyTorch: its operators do not say to which part they belong, so `[name, calls, milliseconds, 0]`."""
    totals = _timed(parts, num_steps)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(num_steps):
            for part in parts.values():
                part()
    ops = [
        [event.key, event.count / num_steps, event.self_cpu_time_total / 1e3 / num_steps, 0.0]
        for event in profiler.key_averages()
    ]
    return {"parts": {name: seconds * 1e3 for name, seconds in totals.items()}, "ops": ops}


def print_profile(library: str, profile: dict[str, Any], num_rows: int = 14) -> None:
    """The operations that take most, and what is outside them."""
    parts, ops = profile["parts"], sorted(profile["ops"], key=lambda row: -(row[2] + row[3]))
    total = sum(parts.values())
    both = library == "cordee"
    # PyTorch's operators are those of the update, too.
    told = sum(row[2] + row[3] for row in ops) + (parts["zero_grad"] + parts["update"] if both else 0.0)

    def line(name: str, calls: str, forward: float, backward: float | None = None) -> None:
        spent = forward + (backward or 0.0)
        cells = f"{forward:10.3f}" + (f"{backward:10.3f}" if backward is not None else " " * 10)
        print(f"    {name:42}{calls:>7}{cells}{spent / told:8.1%}")

    print(f"  {library}: {total:.3f} ms, {', '.join(f'{name} {each:.3f}' for name, each in parts.items())}")
    print(f"    {'':42}{'calls':>7}{'forward' if both else 'itself':>10}{'backward' if both else '':>10}{'':>8}")
    for name, calls, forward, backward in ops[:num_rows]:
        line(name[:41], f"{calls:g}", forward, backward if both else None)
    rest = ops[num_rows:]
    if rest:
        sums = sum(row[2] for row in rest), sum(row[3] for row in rest)
        line(f"{len(rest)} others", "", sums[0], sums[1] if both else None)
    if both:
        line("zero_grad and update", "", parts["zero_grad"] + parts["update"])
    sys.stdout.flush()
