"""The table that `training_step.py` prints: a row per model, Cordee's figures beside PyTorch's, and their means."""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

__all__ = ["Line", "Measured", "print_header", "print_means"]

AIM_MEAN, AIM_ROW = 0.8, 1.05


def ratio(ours: float | None, peer: float | None) -> float:
    return math.nan if ours is None or peer is None else ours / peer


class Measured(NamedTuple):
    """Of one child: median seconds per step, by the clock and of the CPU; bytes of growth and in all; the warm-up's
    losses."""

    seconds: float
    cpu_seconds: float
    memory: int
    peak: int
    losses: list[float]


class Line(NamedTuple):
    """A row of the table: what was measured, and what of it is compared."""

    title: str
    measured: dict[str, Measured]
    same: bool

    @property
    def eager(self) -> str:
        """The faster of PyTorch's layouts."""
        names = [name for name in self.measured if name.startswith("torch") and "compile" not in name]
        return min(names, key=lambda name: self.measured[name].seconds, default="")

    @property
    def compiled(self) -> str:
        return next((name for name in self.measured if "compile" in name), "")

    def of(self, name: str, field: str) -> float | None:
        return getattr(self.measured[name], field) if name in self.measured else None

    @property
    def ratios(self) -> tuple[float, float, float, float]:
        """To eager's time, its CPU time, compiled's time, eager's memory; NaN where there is nothing to compare."""
        pairs = (
            ("seconds", self.eager),
            ("cpu_seconds", self.eager),
            ("seconds", self.compiled),
            ("memory", self.eager),
        )
        return tuple(ratio(self.of("cordee", field), self.of(peer, field)) for field, peer in pairs)  # type: ignore[return-value]

    def __str__(self) -> str:
        eager, cpu, compiled, memory = self.ratios
        cells = [
            _cell(self.of("cordee", "seconds"), 1e3, 3),
            _cell(self.of(self.eager, "seconds"), 1e3, 3),
            "cl" if "cl" in self.eager else "",
            _cell(eager, 1, 2),
            _cell(cpu, 1, 2),
            _cell(self.of(self.compiled, "seconds"), 1e3, 3),
            _cell(compiled, 1, 2),
            _cell(self.of("cordee", "memory"), 1e-6, 1),
            _cell(self.of(self.eager, "memory"), 1e-6, 1),
            _cell(memory, 1, 2),
        ]
        return _aligned(self.title, cells) + ("" if self.same else "  losses differ")


def _cell(value: float | None, scale: float, digits: int) -> str:
    return "–" if value is None or math.isnan(value) else f"{value * scale:.{digits}f}"


def _aligned(title: str, cells: list[str]) -> str:
    widths = (9, 9, 3, 7, 6, 10, 7, 9, 9, 7)
    return f"{title:35}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def print_header() -> None:
    print(_aligned("", ["ms", "", "", "", "", "", "", "peak MB", "", ""]))
    columns = ["cordee", "torch", "", "ratio", "cpu", "compiled", "ratio", "cordee", "torch", "ratio"]
    print(_aligned("training step", columns), flush=True)


def print_means(lines: list[Line]) -> None:
    """The geometric means, and what was aimed at."""
    means = []
    for column in range(4):
        values = [line.ratios[column] for line in lines if not math.isnan(line.ratios[column])]
        means.append(statistics.geometric_mean(values) if values else math.nan)
    if not math.isnan(means[0]):
        eager, cpu, compiled, memory = (_cell(mean, 1, 2) for mean in means)
        cells = ["", "", "", eager, cpu, "", compiled, "", "", memory]
        print(_aligned("geometric mean", cells))
        worst = max(line.ratios[0] for line in lines if not math.isnan(line.ratios[0]))
        print(
            f"{'aims':35}mean ≤ {AIM_MEAN}, and no row above {AIM_ROW}: here {means[0]:.2f} and {worst:.2f}", flush=True
        )
