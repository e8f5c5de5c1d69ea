"""The pictures of a report, as SVG that stands inside its page: colours come from the page's style, hints from titles.

Every mark has a `<title>`, which browsers show when the pointer rests on it; nothing here needs a script.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import pairwise
from typing import Final

from cordee.coordinator.chaos.report import FaultOutcome, Report
from cordee.coordinator.chaos.table import seconds_words

__all__ = ["strips", "timeline"]

WIDTH: Final = 1080
_LEFT: Final = 104
_RIGHT: Final = 16
_LANE: Final = 18
_STEPS_HEIGHT: Final = 130
_WORLD_HEIGHT: Final = 64
_GAP: Final = 30

_Scale = Callable[[float], float]


def timeline(report: Report) -> str:
    """Faults in a lane per kind, over the rate of steps, over the size of the world; one clock below."""
    length = max(report.seconds, 0.001)

    def x(seconds: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * min(max(seconds / length, 0.0), 1.0)

    kinds = sorted({one.kind for one in report.faults})
    lanes_top = 8
    steps_top = lanes_top + _LANE * max(len(kinds), 1) + _GAP - 8
    world_top = steps_top + _STEPS_HEIGHT + _GAP
    axis = world_top + _WORLD_HEIGHT
    parts = [_grid(x, length, lanes_top, axis)]
    for start, end in report.outages:
        parts.append(
            _band("outage", x(start), x(end), steps_top, axis, f"no coordinator for {seconds_words(end - start)}")
        )
    for start, end in report.stalls:
        title = f"no step for {seconds_words(end - start)}, at {_clock(end)}"
        parts.append(_band("stall", x(start), x(end), steps_top, steps_top + _STEPS_HEIGHT, title))
    parts.append(_steps(report, x, steps_top))
    parts.append(_world(report, x, world_top, length))
    for lane, kind in enumerate(kinds):
        y = lanes_top + _LANE * lane + _LANE / 2
        parts.append(f'<text class="label" x="{_LEFT - 10}" y="{y + 4:.1f}">{escape(kind)}</text>')
        parts.append(f'<line class="lane" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.extend(_mark(one, x(one.at_seconds), y) for one in report.faults if one.kind == kind)
    if not kinds:
        parts.append(f'<text class="label" x="{_LEFT - 10}" y="{lanes_top + 13}">no faults</text>')
    return _svg(axis + 26, "Time line: faults, steps per second, workers in the world", parts)


def strips(report: Report) -> str:
    """Every fault's detection, recovery and heal time, a dot each, on one logarithmic scale."""
    rows = [("detection", "detection"), ("recovery", "recovery"), ("stall", "stall"), ("heal", "whole again")]
    dots = [
        (words, [(getattr(one, name), one) for one in report.faults if getattr(one, name) is not None])
        for name, words in rows
    ]
    values = [max(value, 1e-4) for _, row in dots for value, _ in row]
    if not values:
        return ""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9)
    high = max(high, low + 1)

    def x(value: float) -> float:
        return _LEFT + 16 + (WIDTH - _LEFT - _RIGHT - 32) * (math.log10(max(value, 10.0**low)) - low) / (high - low)

    height = 40
    parts: list[str] = []
    bottom = 8 + height * len(dots)
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="8" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 17}">{_power(power)}</text>')
    for index, (words, row) in enumerate(dots):
        y = 8 + height * index + height / 2
        parts.append(f'<text class="label" x="{_LEFT - 10}" y="{y + 4}">{escape(words)}</text>')
        parts.append(f'<line class="lane" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        for place, (value, one) in enumerate(sorted(row, key=lambda pair: pair[0])):
            title = f"{_name(one)}: {words} {seconds_words(value)}"
            shift = (place % 5 - 2) * 4.5  # apart, so that dots of one value can be told
            parts.append(f'<circle class="dot" cx="{x(value):.1f}" cy="{y + shift:.1f}" r="4">{_title(title)}</circle>')
        if row:
            middle = sorted(value for value, _ in row)[len(row) // 2]
            parts.append(
                f'<line class="median" x1="{x(middle):.1f}" x2="{x(middle):.1f}" y1="{y - 15}" y2="{y + 15}">'
                f"{_title(f'median {seconds_words(middle)}')}</line>"
            )
    return _svg(bottom + 26, "How long each fault was noticed, recovered and healed after", parts)


def _steps(report: Report, x: _Scale, top: float) -> str:
    peak = _nice(max([rate for _, rate in report.rate] or [1.0]))
    base = top + _STEPS_HEIGHT

    def y(rate: float) -> float:
        return base - _STEPS_HEIGHT * rate / peak

    points = [f"{x(at):.1f},{y(rate):.1f}" for at, rate in report.rate]
    parts = [_panel("steps / s", top, base, ("0", f"{peak:g}"))]
    if len(points) > 1:
        ends = f"{x(report.rate[0][0]):.1f},{base} ", f" {x(report.rate[-1][0]):.1f},{base}"
        parts.append(f'<polygon class="area" points="{ends[0]}{" ".join(points)}{ends[1]}"/>')
        parts.append(f'<polyline class="curve" points="{" ".join(points)}"/>')
        parts.extend(_hover(report.rate, x, top, base))
    calm = report.goodput["step_seconds"]
    if calm and 1 / calm <= peak:
        at = y(1 / calm)
        parts.append(f'<line class="calm" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}">')
        parts.append(_title(f"in calm: {1 / calm:.1f} steps per second") + "</line>")
    return "".join(parts)


def _hover(rate: Sequence[tuple[float, float]], x: _Scale, top: float, base: float) -> Iterable[str]:
    """Columns that are not seen and tell the value."""
    for (at, value), (later, _) in pairwise(rate):
        width = max(x(later) - x(at), 0.5)
        yield (
            f'<rect class="hover" x="{x(at) - width / 2:.1f}" y="{top}" width="{width:.1f}" height="{base - top}">'
            f"{_title(f'{_clock(at)}: {value:.1f} steps per second')}</rect>"
        )


def _world(report: Report, x: _Scale, top: float, length: float) -> str:
    sizes = [(max(world["at_seconds"], 0.0), len(world["workers"]), world) for world in report.worlds]
    peak = max([size for _, size, _ in sizes] + [int(report.job["workers"]["max"])])
    base = top + _WORLD_HEIGHT

    def y(size: int) -> float:
        return base - _WORLD_HEIGHT * size / peak

    parts = [_panel("workers", top, base, ("0", str(peak)))]
    path = f"M{x(0):.1f},{y(0):.1f}"
    for (at, size, world), (until, _, _) in pairwise([*sizes, (length, 0, {})]):
        path += f"H{x(at):.1f}V{y(size):.1f}H{x(until):.1f}"
        width = max(x(until) - x(at), 0.8)
        title = f"{_clock(at)}: generation {world['generation']} ({world['cause']}), {size} workers"
        parts.append(
            f'<rect class="world" x="{x(at):.1f}" y="{y(size):.1f}" width="{width:.1f}" height="{base - y(size):.1f}">'
            f"{_title(title)}</rect>"
        )
    if sizes:
        parts.append(f'<path class="curve thin" d="{path}"/>')
    return "".join(parts)


def _panel(name: str, top: float, base: float, words: tuple[str, str]) -> str:
    return (
        f'<text class="label" x="{_LEFT - 34}" y="{(top + base) / 2 + 4:.1f}">{name}</text>'
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>'
        f'<text class="tick end" x="{_LEFT - 6}" y="{base + 1:.1f}">{words[0]}</text>'
        f'<text class="tick end" x="{_LEFT - 6}" y="{top + 8:.1f}">{words[1]}</text>'
    )


def _grid(x: _Scale, length: float, top: float, bottom: float) -> str:
    step = next((s for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600) if length / s <= 12), 7200)
    parts = []
    for index in range(int(length // step) + 1):
        at = x(index * step)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 17}">{_clock(index * step)}</text>')
    return "".join(parts)


def _band(kind: str, start: float, end: float, top: float, bottom: float, title: str) -> str:
    width = max(end - start, 1.2)
    return (
        f'<rect class="{kind}" x="{start:.1f}" y="{top}" width="{width:.1f}" height="{bottom - top}">'
        f"{_title(title)}</rect>"
    )


def _mark(one: FaultOutcome, x: float, y: float) -> str:
    kinds = {"recovered": "mark", "open": "mark open", "no effect": "mark open"}
    kinds |= {"not told": "mark out", "left out": "mark out"}
    kind = kinds.get(one.outcome, "mark calmly")
    words = [f"{_name(one)} at {_clock(one.at_seconds)}: {one.outcome}"]
    words += [
        f"{name} {seconds_words(value)}"
        for name, value in (
            ("noticed after", one.detection),
            ("training went on after", one.recovery),
            ("whole after", one.heal),
        )
        if value is not None
    ]
    words += [one.note] if one.note else []
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5">{_title(", ".join(words))}</circle>'


def _name(one: FaultOutcome) -> str:
    return f"{one.kind} {', '.join(one.workers)}".strip()


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def _clock(seconds: float) -> str:
    whole = int(seconds)
    if whole >= 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"


def _power(power: int) -> str:
    if power < 0:
        return f"{10.0 ** (power + 3):g} ms"
    return f"{10.0**power:g} s"


def _nice(value: float) -> float:
    """The next round number."""
    if value <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * scale >= value)


def _svg(height: float, title: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
