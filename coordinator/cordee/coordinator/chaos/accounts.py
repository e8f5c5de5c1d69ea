"""Where the time of a disturbed run went: its stalls, taken apart, and how long a step takes in calm."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cordee.coordinator.chaos.history import BREAKING, History, Sign, World
from cordee.coordinator.chaos.recording import Injection, Recording, Sample

__all__ = ["Stall", "calm_step_seconds", "rate_of_steps", "split_stalls"]

SETTLE_SECONDS: Final = 1.0
"""After a change the caches are cold and a successor's start is not quite over."""
_CHUNK_SECONDS: Final = 1.0
_LATE_SECONDS: Final = 0.05
"""Two workers' notes of one moment come on two streams."""


@dataclass(frozen=True, slots=True)
class Stall:
    """A time without a commit, and what was waited for in it, in seconds."""

    start: float
    end: float
    parts: Mapping[str, float]


def split_stalls(
    recording: Recording, history: History, injected: Sequence[Injection], step_seconds: float
) -> list[Stall]:
    stalls: list[Stall] = []
    edge = recording.start
    for one in history.resumptions:
        begin, finish = max(one.time - one.stall_seconds, edge), min(one.time, recording.end)
        if finish <= begin:
            continue
        edge = finish
        parts = _split(begin, finish, recording, history, injected, step_seconds)
        stalls.append(Stall(begin, finish, parts))
    return stalls


def _split(
    begin: float,
    end: float,
    recording: Recording,
    history: History,
    injected: Sequence[Injection],
    step_seconds: float,
) -> dict[str, float]:
    """What was waited for in a stall. Of it one step's time is useful: it ends with a commit.

    last commit … fault: the step at hand, lost · fault … sign: detection · sign … world: rendezvous, or a minimum that
    is waited for · world … commit: the joiner's heal, and the step
    """
    worlds = [world for world in history.worlds if begin <= world.time <= end]
    formed = worlds[-1].time if worlds else begin
    earlier = history.world_at(begin)
    fault = next((one.time for one in injected if begin <= one.time <= formed), None)
    signs = [sign for sign in history.signs if begin <= sign.time <= formed and sign.kind in BREAKING]
    seen = signs[0].time if signs else (formed if fault is not None else begin)
    was_at = fault if fault is not None and fault <= seen else (seen if signs else begin)
    minimum = int(recording.job["workers"]["min"])
    survivors = len(earlier.workers) - len(_missing(signs, worlds, earlier)) if earlier is not None else minimum
    waiting = "below_minimum" if (signs or fault is not None) and survivors < minimum else "rendezvous"
    healing = sum(seconds for time, seconds in history.heals if formed <= time <= end + _LATE_SECONDS)
    after = end - formed
    heal = min(healing, max(after - step_seconds, 0.0))
    again = after - heal
    useful = min(step_seconds, again + (was_at - begin))
    parts = {
        "detection": seen - was_at,
        waiting: max(formed - seen, 0.0),
        "heal": heal,
        "redone": max(was_at - begin + again - useful, 0.0),
    }
    return {name: seconds for name, seconds in parts.items() if seconds > 0}


def _missing(signs: Sequence[Sign], worlds: Sequence[World], before: World) -> set[str]:
    """Who of a world was lost by what happened."""
    said = {
        worker for sign in signs if sign.kind == "lost" for worker in before.workers if worker in _words(sign.message)
    }
    left_behind = set(before.workers) - set(worlds[-1].workers) if worlds else set[str]()
    return said | left_behind


def _words(message: str) -> set[str]:
    return {word.rpartition("-")[2].strip(":,.") for word in message.split()}


def calm_step_seconds(
    samples: Sequence[Sample], busy_with: Iterable[tuple[float, float]], recording: Recording, history: History
) -> tuple[float | None, str]:
    """A step's median time when nothing was going on, and how it was found."""
    busy: list[tuple[float, float]] = [(outage.start, outage.end or recording.end) for outage in recording.outages]
    busy += [(a, b + SETTLE_SECONDS) for a, b in busy_with]
    busy += [(one.time - one.stall_seconds, one.time + SETTLE_SECONDS) for one in history.resumptions]
    full = max((s.workers for s in samples), default=0)
    calm = _chunks(samples, busy, full)
    if len(calm) >= 3:
        return statistics.median(calm), "measured in the run's own calm stretches"
    running = _chunks(samples, [], 0)
    if running:
        return statistics.median(running), "measured over the whole run: it had no calm stretch long enough"
    return None, "unknown: too few steps were seen"


def _chunks(samples: Sequence[Sample], busy: Sequence[tuple[float, float]], full: int) -> list[float]:
    """Seconds per step, of stretches of about a second each that touch no busy time."""
    found: list[float] = []
    origin: Sample | None = None
    for sample in samples:
        if sample.state != "running" or sample.workers < full or sample.step == 0:
            origin = None
            continue
        if origin is None or any(a < sample.time and origin.time < b for a, b in busy):
            origin = None if any(a <= sample.time < b for a, b in busy) else sample
            continue
        if sample.time - origin.time >= _CHUNK_SECONDS and sample.step > origin.step:
            found.append((sample.time - origin.time) / (sample.step - origin.step))
            origin = sample
    return found


def rate_of_steps(samples: Sequence[Sample], start: float, end: float) -> tuple[tuple[float, float], ...]:
    """Steps per second, in some 300 buckets at most, no finer than a quarter of a second."""
    if len(samples) < 2:
        return ()
    width = max((end - start) / 300, 0.25)
    points: list[tuple[float, float]] = []
    origin = samples[0]
    for sample in samples[1:]:
        if sample.time - origin.time >= width:
            rate = max(sample.step - origin.step, 0) / (sample.time - origin.time)
            points.append((round((sample.time + origin.time) / 2 - start, 3), round(rate, 3)))
            origin = sample
    return tuple(points)
