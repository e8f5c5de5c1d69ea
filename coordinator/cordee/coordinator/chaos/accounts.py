"""Where the time of a disturbed run went: its stalls, taken apart, and how long a step takes in calm."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from cordee.coordinator.chaos.history import BREAKING, History, Resumption, Sign, World, shorts
from cordee.coordinator.chaos.plan import MASS
from cordee.coordinator.chaos.recording import Injection, Recording, Sample

__all__ = ["Stall", "calm_step_seconds", "rate_of_steps", "split_stalls", "takes_all", "throughput"]

SETTLE_SECONDS: Final = 1.0
"""After a change the caches are cold and a successor's start is not quite over."""
CALM_SETTLE_SECONDS: Final = 10.0
"""So much of a planned calm belongs to the fault before it."""
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
    """Every time without a commit. Of each one step is useful: it ends with a commit."""
    stalls: list[Stall] = []
    edge = recording.start
    for one in history.resumptions:
        begin, finish = max(one.time - one.stall_seconds, edge), min(one.time, recording.end)
        if finish <= begin or one.first:
            continue
        since, edge = edge, finish
        faults = [fault for fault in injected if since < fault.time <= finish]
        scene = _scene(begin, finish, recording, history, faults)
        parts = _told(one, scene, step_seconds) if one.parts else _inferred(scene, history, step_seconds)
        ends = [fault.time for fault in faults if fault.time < begin and takes_all(fault, history)]
        if ends:  # nobody is left to tell since when
            parts["below_minimum"] = parts.get("below_minimum", 0.0) + begin - ends[0]
            begin = ends[0]
        stalls.append(Stall(begin, finish, {name: seconds for name, seconds in parts.items() if seconds > 0}))
    return stalls


def takes_all(fault: Injection, history: History) -> bool:
    """Whether a fault left no survivor."""
    world = history.world_at(fault.time)
    return world is not None and fault.kind == MASS and set(shorts(fault.workers)) >= set(world.workers)


@dataclass(frozen=True, slots=True)
class _Scene:
    """What happened within a stall, by the job's history."""

    begin: float
    end: float
    fault: float | None
    """When the fault was injected that it is of."""
    seen: float
    """When that was noticed."""
    formed: float
    """When the world was formed that ended it."""
    waiting: str
    """What the time before that world was spent on."""
    failed: float
    """How long worlds lasted that came to no step: a link that is still cut, somebody else lost."""


def _scene(begin: float, end: float, recording: Recording, history: History, injected: Sequence[Injection]) -> _Scene:
    # A stall is told in three digits: what happened as it began may seem to lie before it.
    worlds = [world for world in history.worlds if begin - _LATE_SECONDS <= world.time <= end]
    formed = worlds[-1].time if worlds else begin
    earlier = history.world_at(worlds[0].time - 1e-6 if worlds else begin)
    fault = next((one.time for one in injected if one.time <= formed), None)
    signs = [sign for sign in history.signs if begin <= sign.time <= formed and sign.kind in BREAKING]
    seen = signs[0].time if signs else (formed if fault is not None else begin)
    minimum = int(recording.job["workers"]["min"])
    survivors = len(earlier.workers) - len(_missing(signs, worlds, earlier)) if earlier is not None else minimum
    below = (signs or fault is not None) and survivors < minimum
    failed = sum(
        min([sign.time for sign in signs if world.time < sign.time <= later.time] + [later.time]) - world.time
        for world, later in pairwise(worlds)
    )
    return _Scene(begin, end, fault, seen, formed, "below_minimum" if below else "rendezvous", failed)


def _told(one: Resumption, scene: _Scene, step_seconds: float) -> dict[str, float]:
    """By what rank 0 says of it."""
    told = {name: one.parts.get(name, 0.0) for name in ("before", "world", "mesh", "state", "step")}
    at_hand = told["before"] if scene.fault is None else min(max(scene.fault - scene.begin, 0.0), told["before"])
    parts: dict[str, float] = {"rendezvous": told["mesh"], "below_minimum": 0.0}
    parts["detection"] = told["before"] - at_hand
    parts["failed"] = min(scene.failed, told["world"])
    parts[scene.waiting] += told["world"] - parts["failed"]
    parts["heal"] = told["state"]
    parts["redone"] = max(at_hand + told["step"] - step_seconds, 0.0)
    return parts


def _inferred(scene: _Scene, history: History, step_seconds: float) -> dict[str, float]:
    """By the history alone.

    last commit … fault: the step at hand, lost · fault … sign: detection · sign … world: rendezvous, or a minimum that
    is waited for · world … commit: the joiner's heal, and the step
    """
    fault = scene.fault if scene.fault is not None and scene.fault <= scene.seen else scene.seen
    was_at = max(fault, scene.begin)
    healing = sum(seconds for time, seconds in history.heals if scene.formed <= time <= scene.end + _LATE_SECONDS)
    after = scene.end - scene.formed
    heal = min(healing, max(after - step_seconds, 0.0))
    again = after - heal + was_at - scene.begin
    return {
        "detection": scene.seen - was_at,
        scene.waiting: max(scene.formed - scene.seen - scene.failed, 0.0),
        "failed": min(scene.failed, scene.formed - scene.seen),
        "heal": heal,
        "redone": max(again - step_seconds, 0.0),
    }


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
    if recording.calm:
        planned = [(a, b) for a, b in complement(calm_parts(recording), recording.start, recording.end)]
        planned += [(one.time - one.stall_seconds, one.time) for one in history.resumptions]
        calm = _chunks(samples, planned, 0)
        if len(calm) >= 3:
            return statistics.median(calm), "measured in the calm stretches of the plan"
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


def calm_parts(recording: Recording) -> list[tuple[float, float]]:
    """The plan's calm stretches without their beginnings, when the last fault may still be at work."""
    return [(a + CALM_SETTLE_SECONDS, b) for a, b in recording.calm if b - a > CALM_SETTLE_SECONDS]


def complement(parts: Sequence[tuple[float, float]], start: float, end: float) -> list[tuple[float, float]]:
    """What lies between and around some stretches."""
    edges = [start, *(edge for part in parts for edge in part), end]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]


def throughput(samples: Sequence[Sample], recording: Recording) -> dict[str, float] | None:
    """Committed steps per second in the plan's calm stretches, and from the first to the last of them between: the
    rate of an undisturbed job and that of a disturbed one, in turns on the same machine.
    """
    calm = calm_parts(recording)
    last = next((at for at, sample in enumerate(samples) if sample.step == samples[-1].step), 0)
    samples = samples[: last + 1]  # what comes after training is neither
    if len(calm) < 2:
        return None
    disturbed = complement(calm, calm[0][0], calm[-1][1])
    rates = [_rate_in(samples, parts) for parts in (calm, disturbed)]
    if not all(rates):
        return None
    return {"calm": rates[0], "disturbed": rates[1], "ratio": rates[1] / rates[0]}


def _rate_in(samples: Sequence[Sample], parts: Sequence[tuple[float, float]]) -> float:
    steps = seconds = 0.0
    for a, b in parts:
        inside = [sample for sample in samples if a <= sample.time <= b]
        if len(inside) > 1:
            steps += inside[-1].step - inside[0].step
            seconds += inside[-1].time - inside[0].time
    return steps / seconds if seconds else 0.0


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
