"""A job's logs: the lines its agents write, merged by time, each with the rank its worker had then.

Agents append to `jobs/<id>/logs/<worker>.jsonl`, and rename it to `<worker>.jsonl.1` when it has grown too long;
nothing passes through the coordinator, so logs are complete however often it was away. Those of pods, which have other
disks, come as `<worker>.jsonl.<name>` (`appends`). Following looks at the files' sizes a few times a second and reads
what was added. A file is known by its inode: it goes on under its new name.
"""

import asyncio
import bisect
import heapq
import json
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cordee.coordinator.service.store import WorldRow

__all__ = ["LogLine", "LogReader", "RankHistory"]

FOLLOW_SECONDS: Final = 0.12
_CHUNK_BYTES: Final = 1 << 20
_BATCH_LINES: Final = 2000
_MAX_LINE_BYTES: Final = 1 << 20
_SUFFIX: Final = ".jsonl"


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of output. The rank is None before the worker's first world."""

    time: float
    worker: str
    rank: int | None
    stream: str
    line: str


class RankHistory:
    """Which rank a worker had at a time. A long job has many worlds: each is added once, and none is searched for."""

    def __init__(self) -> None:
        self.generation = 0
        """Of the newest world added."""
        self._ranks: dict[str, tuple[list[float], list[int]]] = {}

    def add(self, worlds: Sequence[WorldRow]) -> None:
        """The next worlds, oldest first."""
        for world in worlds:
            self.generation = world.generation
            for rank, worker in enumerate(world.members):
                times, ranks = self._ranks.setdefault(worker, ([], []))
                times.append(world.formed_at)
                ranks.append(rank)

    def rank(self, worker: str, time: float) -> int | None:
        """Its rank in the world of that time, or else in the last world before that it was in."""
        times, ranks = self._ranks.get(worker, ((), ()))
        index = bisect.bisect_right(times, time)
        return ranks[index - 1] if index else None


class _Tail:
    """Whole lines of one file, as they are added."""

    def __init__(self, path: Path, inode: int) -> None:
        self.path = path
        self._inode = inode
        self._offset = 0
        self._rest = b""

    def grown(self, size: int) -> bool:
        """Whether there is something to read, now that the file is so long."""
        return size > self._offset

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """The next lines, and whether there may be more at once."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_ino != self._inode:
                    return [], False  # renamed since the last look: the next one finds it again
                file.seek(self._offset)
                data = file.read(_CHUNK_BYTES)
        except OSError:
            return [], False
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE_BYTES:
            self._rest = b""
        parsed = []
        worker = worker_of(self.path)  # its file is the worker's own, whatever a line says
        for line in lines:
            try:
                entry = json.loads(line)
            except (
                ValueError,
                RecursionError,
            ):  # an agent killed while it wrote; or a pod's, which writes what it likes
                continue
            if isinstance(entry, dict) and _is_time(entry.get("time")) and entry.get("worker") == worker:
                parsed.append(entry)
        return parsed, len(data) == _CHUNK_BYTES


def worker_of(path: Path) -> str:
    """Whose log a file is."""
    return path.name.partition(_SUFFIX)[0]


def _is_time(value: object) -> bool:
    return (
        isinstance(value, int | float) and abs(value) < 1e12
    )  # which infinity, NaN and a number of 1,000 digits are not


class LogReader:
    """Reads the logs of one job. `worlds` gives its worlds after a generation; it is asked again while following."""

    def __init__(
        self,
        folder: Path,
        worlds: Callable[[int], Sequence[WorldRow]],
        *,
        rank: int | None = None,
        worker: str | None = None,
    ) -> None:
        self._folder = folder
        self._worlds = worlds
        self._rank = rank
        self._worker = worker
        self._ranks = RankHistory()
        self._tails: dict[int, _Tail] = {}

    async def read(
        self, *, tail: int | None = None, follow: Callable[[], bool] | None = None
    ) -> AsyncIterator[list[LogLine]]:
        """Lines in the order of their times, in batches.

        `tail` is how many of the lines written so far come. `follow` says whether more are to be waited for; it is
        asked before each look, so what was written before it first said no is given still.
        """
        latest = deque[LogLine](maxlen=tail) if tail is not None else None
        async for batch in self._drain():
            if latest is None:
                yield batch
            else:
                latest.extend(batch)
        if latest:
            yield list(latest)
        while follow is not None:
            more = follow()
            async for batch in self._drain():
                yield batch
            if not more:
                return
            await asyncio.sleep(FOLLOW_SECONDS)

    async def _drain(self) -> AsyncIterator[list[LogLine]]:
        """What has been added since the last call."""
        if not await asyncio.to_thread(self._look):
            return
        self._ranks.add(self._worlds(self._ranks.generation))
        pending: dict[_Tail, deque[dict[str, Any]]] = {tail: deque() for tail in self._tails.values()}
        batch: list[LogLine] = []
        # A merge of sorted files: a file's next line is needed only when its earlier ones are used up.
        heap: list[tuple[float, int, _Tail]] = []
        for index, tail in enumerate(pending):
            await self._fill(tail, pending[tail])
            if pending[tail]:
                heap.append((float(pending[tail][0]["time"]), index, tail))
        heapq.heapify(heap)
        while heap:
            _, index, tail = heapq.heappop(heap)
            line = self._line(pending[tail].popleft())
            if line is not None:
                batch.append(line)
            if not pending[tail]:
                await self._fill(tail, pending[tail])
            if pending[tail]:
                heapq.heappush(heap, (float(pending[tail][0]["time"]), index, tail))
            if len(batch) >= _BATCH_LINES:
                yield batch
                batch = []
        if batch:
            yield batch

    async def _fill(self, tail: _Tail, lines: deque[dict[str, Any]]) -> None:
        more = True
        while more and not lines:
            found, more = await asyncio.to_thread(tail.read)
            lines.extend(found)

    def _look(self) -> bool:
        """Find the files, new ones and those that were renamed; whether any has grown."""
        grown = False
        seen = {}
        for path in self._folder.glob("*.jsonl*"):
            if self._worker is not None and worker_of(path) != self._worker:
                continue
            try:
                status = path.stat()
            except OSError:  # renamed while we looked
                continue
            tail = seen[status.st_ino] = self._tails.get(status.st_ino) or _Tail(path, status.st_ino)
            tail.path = path
            grown = grown or tail.grown(status.st_size)
        self._tails = seen
        return grown

    def _line(self, entry: dict[str, Any]) -> LogLine | None:
        worker, time = str(entry["worker"]), float(entry["time"])
        rank = self._ranks.rank(worker, time)
        if self._rank is not None and rank != self._rank:
            return None
        return LogLine(time, worker, rank, str(entry.get("stream", "stdout")), str(entry.get("line", "")))
