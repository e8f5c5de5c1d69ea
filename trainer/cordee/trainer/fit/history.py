"""What `fit` returns: every epoch's figures, and a plot of them that needs nothing but a browser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

__all__ = ["History"]

_COLOURS = ("#2364aa", "#ea7317", "#3da35d", "#b23a6b", "#73628a", "#8d6a1b")


class History:
    """Figures by epoch.

    Attributes:
        history: by name ("loss", "val_accuracy", …) the value of each epoch; NaN where an epoch had none.
        epoch: the epochs' numbers, from 1.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []
        self._json: tuple[int, dict[str, Any]] = (-1, {})
        """What `to_json` gave, and for how many epochs: an elastic run asks at every step."""

    def __getitem__(self, name: str) -> list[float]:
        if name not in self.history:
            raise KeyError(f"there is no {name!r}; there are {', '.join(sorted(self.history)) or 'no figures yet'}")
        return self.history[name]

    def __len__(self) -> int:
        return len(self.epoch)

    def append(self, epoch: int, figures: dict[str, float]) -> None:
        """Add an epoch's figures."""
        for name in figures:
            self.history.setdefault(name, [math.nan] * len(self.epoch))
        self.epoch.append(epoch)
        for name, values in self.history.items():
            values.append(float(figures.get(name, math.nan)))

    def last(self) -> dict[str, float]:
        """The newest epoch's figures."""
        return {name: values[-1] for name, values in self.history.items()} if self.epoch else {}

    def to_json(self) -> dict[str, Any]:
        """As JSON has it, which knows no NaN."""
        if self._json[0] == len(self.epoch):
            return self._json[1]
        listed = {
            name: [value if math.isfinite(value) else str(value) for value in values]
            for name, values in self.history.items()
        }
        self._json = (len(self.epoch), {"epoch": list(self.epoch), "history": listed})
        return self._json[1]

    def load_json(self, data: dict[str, Any]) -> None:
        """Take over what `to_json` gave."""
        self._json = (-1, {})
        self.epoch = [int(number) for number in data["epoch"]]
        self.history = {name: [float(value) for value in values] for name, values in data["history"].items()}

    def __repr__(self) -> str:
        if not self.epoch:
            return "History(no epochs)"
        figures = ", ".join(f"{name}={value:.4g}" for name, value in self.last().items())
        return f"History({len(self.epoch)} epochs; last: {figures})"

    def _repr_svg_(self) -> str:
        """What notebooks show."""
        return self.svg()

    def plot(self, path: str | Path = "history.svg", names: Sequence[str] | None = None) -> Path:
        """Write the curves to an SVG file and return its path: one panel per figure, training and validation in it.

        Args:
            names: which figures; "loss" stands for "val_loss" too. All by default.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.svg(names), encoding="utf-8")
        return path

    def svg(self, names: Sequence[str] | None = None) -> str:
        """The curves as SVG."""
        wanted = list(dict.fromkeys(name.removeprefix("val_") for name in (names or self.history)))
        panels = [{key: self.history[key] for key in (name, f"val_{name}") if key in self.history} for name in wanted]
        panels = [panel for panel in panels if panel]
        width, height = 420, 260
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{max(len(panels), 1) * width}" height="{height}" '
            f'font-family="system-ui,sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
        )
        parts = [head]
        for i, panel in enumerate(panels):
            parts.append(f'<g transform="translate({i * width} 0)">{self._panel(panel, width, height)}</g>')
        return "\n".join([*parts, "</svg>\n"])

    def _panel(self, curves: dict[str, list[float]], width: int, height: int) -> str:
        left, right, top, bottom = 56, 16, 34, 34
        values = [value for curve in curves.values() for value in curve if math.isfinite(value)]
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
        first, last = self.epoch[0], max(self.epoch[-1], self.epoch[0] + 1)

        def x(epoch: float) -> float:
            return left + (epoch - first) / (last - first) * (width - left - right)

        def y(value: float) -> float:
            return top + (high - value) / (high - low) * (height - top - bottom)

        parts = [
            f'<line x1="{left}" x2="{width - right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#e4e7eb"/>'
            f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end" fill="#52606d">{tick:.4g}</text>'
            for tick in _ticks(low, high)
        ]
        parts += [
            f'<text x="{x(epoch):.1f}" y="{height - 14}" text-anchor="middle" fill="#52606d">{epoch}</text>'
            for epoch in sorted({first, (first + last) // 2, last})
        ]
        for i, (name, curve) in enumerate(curves.items()):
            colour = _COLOURS[i % len(_COLOURS)]
            points = [
                f"{x(epoch):.1f},{y(value):.1f}"
                for epoch, value in zip(self.epoch, curve, strict=True)
                if math.isfinite(value)
            ]
            if len(points) == 1:
                cx, cy = points[0].split(",")
                parts.append(f'<circle cx="{cx}" cy="{cy}" r="3" fill="{colour}"/>')
            parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
            parts.append(f'<text x="{left + i * 130}" y="18" fill="{colour}" font-weight="600">{escape(name)}</text>')
        return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5)
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step) + 1)]
