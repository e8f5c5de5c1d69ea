"""Where the time of an elastic step goes: looks at the clock before and after the calls that a step is made of."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from cordee.trainer import data
from cordee.trainer.elastic import early, step, sums
from cordee.worker import reduction

__all__ = ["Parts"]


class Parts:
    """Seconds per committed step, by part; `waiting` is within `exchange`: until the last peer is in it, too."""

    NAMES = ("loading", "folding", "exchange", "waiting", "update")

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._seconds: dict[str, float] = defaultdict(float)
        self._begun = 0.0
        self._time(data.DataLoader, "shard_batch", "loading")
        self._time(sums.GradientSums, "fold", "folding")
        self._time(sums.GradientSums, "apply", "update")
        self._time(step, "all_reduce", "exchange")
        self._time(early.EarlyExchange, "exchange", "exchange")
        run, opened = reduction.Reduction.run, reduction.Reduction._open

        def note_begin(*args: Any, **options: Any) -> Any:
            self._begun = time.perf_counter()
            return run(*args, **options)

        def note_header(*args: Any) -> Any:
            self._seconds["waiting"] += time.perf_counter() - self._begun
            self._begun = time.perf_counter()  # of several peers the last one counts
            return opened(*args)

        reduction.Reduction.run = note_begin  # type: ignore[method-assign]
        reduction.Reduction._open = note_header  # type: ignore[method-assign]

    def _time(self, owner: Any, name: str, part: str) -> None:
        call: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **options: Any) -> Any:
            before = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                self._seconds[part] += time.perf_counter() - before

        setattr(owner, name, timed)

    def committed(self) -> None:
        """A step is over."""
        self.steps.append({name: self._seconds[name] for name in self.NAMES})
        self._seconds.clear()
