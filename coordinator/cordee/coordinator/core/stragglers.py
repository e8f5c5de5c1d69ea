"""Who is slow: a worker that takes more than twice as long for a shard as the others do, over a while.

A step takes as long as its slowest worker, so one machine with a noisy neighbour slows a whole job down, and nothing
fails. Rank 0 knows what each member took, since every step's exchange carries it, and tells the means a few times a
second. Here they are summed up over a window of some seconds or steps; who is slow in that is said once, with
figures, and once more when it is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

__all__ = ["Change", "Stragglers"]

_SLOW = 2.0
"""How many times the others' median is slow."""
_FINE = 1.5
"""How many times is fine again."""
_LEAST_SECONDS = 0.001
"""Of excess per shard: below that it is noise, and costs nobody anything."""
_WINDOW_STEPS = 20
_WINDOW_SECONDS = 5.0
"""What is looked at: so many steps or so many seconds, whichever is more."""
_LEAST_WORDS = 3
"""Nobody is judged by fewer: the first steps of a process are slow."""
_REPLACE_AGAIN_SECONDS = 60.0
_REPLACE_AGAIN_MAX_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Change:
    """A worker has become a straggler, or is none any more."""

    worker: str
    slow: bool
    seconds: float
    others: float

    @property
    def words(self) -> str:
        figures = f"{self.seconds:.3g} s per shard, where the others take {self.others:.3g} s"
        if self.slow:
            return f"{self.worker} is slow: {figures} ({self.seconds / self.others:.1f} times as long)"
        return f"{self.worker} keeps up again: {figures}"


@dataclass(frozen=True, slots=True)
class _Told:
    at: float
    steps: int
    seconds: Mapping[str, float]


@dataclass(slots=True)
class Stragglers:
    """What one job remembers of its members' paces."""

    paces: dict[str, float] = field(default_factory=dict[str, float])
    """Seconds per shard, over the window."""
    slow: set[str] = field(default_factory=set[str])
    count: int = 0
    """How often somebody became slow."""
    _window: deque[_Told] = field(default_factory=deque[_Told])
    _last_step: int = 0
    _replaced: dict[str, tuple[float, int]] = field(default_factory=dict[str, tuple[float, int]])

    def told(self, paces: Mapping[str, float], step: int, now: float) -> list[Change]:
        """Takes the means of the steps since the last word, and says what has changed."""
        steps = max(step - self._last_step, 1) if self._window else 1
        self._last_step = step
        good = {worker: seconds for worker, seconds in paces.items() if 0.0 < seconds < float("inf")}
        self._window.append(_Told(now, steps, good))
        total = sum(told.steps for told in self._window)
        while total - self._window[0].steps >= _WINDOW_STEPS and now - self._window[1].at >= _WINDOW_SECONDS:
            total -= self._window.popleft().steps
        self.paces, ripe = self._means(set(good), now)
        return self._changes(ripe)

    def forget(self, worker: str) -> None:
        """Another process is in its place, or none."""
        self.paces.pop(worker, None)
        self.slow.discard(worker)
        self._window = deque(
            _Told(told.at, told.steps, {w: s for w, s in told.seconds.items() if w != worker}) for told in self._window
        )

    def may_replace(self, worker: str, now: float) -> bool:
        """Not again and again: a slow machine is slow with any process on it. To be called when it is done."""
        at, times = self._replaced.get(worker, (float("-inf"), 0))
        wait = min(_REPLACE_AGAIN_SECONDS * 2.0 ** min(max(times - 1, 0), 16), _REPLACE_AGAIN_MAX_SECONDS)
        if now - at < wait:
            return False
        self._replaced[worker] = (now, times + 1 if now - at < 2.0 * _REPLACE_AGAIN_MAX_SECONDS else 1)
        return True

    def _means(self, members: set[str], now: float) -> tuple[dict[str, float], list[str]]:
        """Each member's mean, and who was there for long enough to be judged."""
        sums: dict[str, tuple[float, int]] = {}
        words: dict[str, list[float]] = {}
        for told in self._window:
            for worker, seconds in told.seconds.items():
                if worker in members:
                    total, steps = sums.get(worker, (0.0, 0))
                    sums[worker] = total + seconds * told.steps, steps + told.steps
                    words.setdefault(worker, []).append(told.at)
        ripe = [
            worker
            for worker, times in words.items()
            if len(times) >= _LEAST_WORDS and (sums[worker][1] >= _WINDOW_STEPS or now - times[0] >= _WINDOW_SECONDS)
        ]
        return {worker: total / steps for worker, (total, steps) in sums.items()}, sorted(ripe)

    def _changes(self, ripe: list[str]) -> list[Change]:
        changes: list[Change] = []
        for worker in ripe:
            seconds = self.paces[worker]
            others = median([s for w, s in self.paces.items() if w != worker] or [seconds])
            if worker not in self.slow and seconds > _SLOW * others and seconds - others >= _LEAST_SECONDS:
                self.slow.add(worker)
                self.count += 1
                changes.append(Change(worker, True, seconds, others))
            elif worker in self.slow and seconds <= _FINE * others:
                self.slow.discard(worker)
                changes.append(Change(worker, False, seconds, others))
        return changes
