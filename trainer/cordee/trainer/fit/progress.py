"""What a training shows on a terminal: a bar that moves, or, where there is no terminal, a line per epoch."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, TextIO

from cordee.trainer.fit.callbacks import Callback

if TYPE_CHECKING:
    from cordee.trainer.elastic import Step

__all__ = ["ProgressBar"]

_INTERVAL_SECONDS = 0.1
_WIDTH = 24


class ProgressBar(Callback):
    """Writes to standard error, so that standard output stays the script's. Only one worker of a job shows it.

    Args:
        verbose: 1: a bar; 2: a line per epoch; "auto": a bar on a terminal, else lines.
        stream: where to write; standard error by default.
    """

    last = True

    def __init__(self, verbose: int | str = "auto", stream: TextIO | None = None) -> None:
        self.stream = stream
        self.verbose = verbose
        self._started = 0.0
        self._shown = 0.0

    def _out(self) -> TextIO:
        return self.stream or sys.stderr

    def _moves(self) -> bool:
        return self.verbose == 1 or (self.verbose == "auto" and self._out().isatty())

    def on_epoch_begin(self, epoch: int) -> None:
        self._started = time.perf_counter()
        self._shown = 0.0

    def on_step_end(self, step: Step, figures: dict[str, float]) -> None:
        now = time.perf_counter()
        if not self._moves() or not self.model.leads or now - self._shown < _INTERVAL_SECONDS:
            return
        self._shown = now
        total = self.model.steps_per_epoch
        done = step.index + 1
        filled = _WIDTH * done // total
        seconds = now - self._started
        left = seconds / done * (total - done)
        self._out().write(
            f"\r\x1b[2K{self._head(step.epoch)} {'━' * filled}{'╌' * (_WIDTH - filled)} {done}/{total}  "
            f"{_seconds(left)} left  {_figures(figures)}"
        )
        self._out().flush()

    def on_epoch_end(self, epoch: int, figures: dict[str, float]) -> None:
        if not self.model.leads:
            return
        clear = "\r\x1b[2K" if self._moves() else ""
        seconds = time.perf_counter() - self._started
        self._out().write(f"{clear}{self._head(epoch)}  {_seconds(seconds)}  {_figures(figures)}\n")
        self._out().flush()

    def _head(self, epoch: int) -> str:
        width = len(str(self.model.epochs))
        return f"epoch {epoch:{width}d}/{self.model.epochs}"


def _figures(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:{'.4f' if math.isfinite(value) else ''}}" for name, value in figures.items())


def _seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
