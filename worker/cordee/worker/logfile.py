"""The job's log on this machine: what a worker prints, line by line, as JSON.

Each line says when, by whom, by which incarnation and on which stream. The file is capped: when it is full it becomes
`<name>.1` (the one before is dropped) and a new one begins. A log is never worth a training run: when the disk is full
or the folder is gone, lines are dropped and counted, and the count is written when writing works again.

Standard library only: the agent imports this.
"""

from __future__ import annotations

import codecs
import json
import os
import time
from collections.abc import Callable, Sequence

__all__ = ["LineSplitter", "LogFile"]

MAX_LOG_BYTES = 64 << 20
MAX_LINE_CHARACTERS = 16 << 10
PARTIAL_SECONDS = 1.0
"""An unfinished line (a prompt, a progress bar) is shown after this long."""


class LogFile:
    """Appends JSON lines to `path`; never raises for the disk's sake."""

    def __init__(self, path: str, worker: str, max_bytes: int = MAX_LOG_BYTES) -> None:
        self.on_written: Callable[[str, Sequence[str]], None] = lambda _stream, _lines: None
        """Told of each stream's lines, once they are in the file, or could not be."""
        self._path = path
        self._worker = worker
        self._max_bytes = max_bytes
        self._fd = -1
        self._size = 0
        self._dropped = 0

    def write(self, stream: str, incarnation: str, lines: list[str]) -> None:
        if not lines:
            return
        now = time.time()
        if self._dropped and self._append(now, "agent", incarnation, [self._dropped_line()]):
            self._dropped = 0
        if not self._append(now, stream, incarnation, lines):
            self._dropped += len(lines)
        self.on_written(stream, lines)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _dropped_line(self) -> str:
        return f"{self._dropped} log lines were dropped: the log could not be written"

    def _append(self, now: float, stream: str, incarnation: str, lines: list[str]) -> bool:
        entry = {"time": round(now, 6), "worker": self._worker, "incarnation": incarnation, "stream": stream}
        data = "".join(json.dumps({**entry, "line": line}, ensure_ascii=False) + "\n" for line in lines)
        encoded = data.encode("utf-8", "backslashreplace")
        try:
            if self._fd < 0 or self._size + len(encoded) > self._max_bytes:
                self._open()
            written = os.write(self._fd, encoded)
            if written < len(encoded):
                # Half a line would spoil the next one: take it back. Readers skip lines that are no JSON anyway.
                os.ftruncate(self._fd, self._size)
                return False
        except OSError:
            self.close()
            return False
        self._size += written
        return True

    def _open(self) -> None:
        """Opens the file, and begins a new one when it is full."""
        self.close()
        os.makedirs(os.path.dirname(self._path), exist_ok=True)  # noqa: PTH103, PTH120  pathlib costs start-up time
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o644)
        size = os.fstat(fd).st_size
        if size >= self._max_bytes // 2 and size > 0 and size + MAX_LINE_CHARACTERS > self._max_bytes:
            os.close(fd)
            os.replace(self._path, self._path + ".1")  # noqa: PTH105
            fd = os.open(self._path, flags, 0o644)
            size = 0
        self._fd, self._size = fd, size


class LineSplitter:
    """Cuts a stream of bytes into lines of text.

    A line ends at a newline. What a carriage return has overwritten is not kept, so a progress bar is one line. An
    unfinished line is given out after a while, and an endless one in pieces.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._since = 0.0

    @property
    def deadline(self) -> float | None:
        """When the unfinished line is to be flushed; None: there is none."""
        return self._since + PARTIAL_SECONDS if self._text else None

    def feed(self, data: bytes, now: float) -> list[str]:
        """The lines that `data` completes."""
        *lines, rest = (self._text + self._decoder.decode(data)).split("\n")
        if lines or not self._text:
            self._since = now
        shown = [piece for line in lines for piece in _pieces(_overwritten(line.rstrip("\r")))]
        if len(rest) > MAX_LINE_CHARACTERS:
            *full, rest = _pieces(_overwritten(rest))
            shown += full
        self._text = rest
        return shown

    def flush(self) -> list[str]:
        """The unfinished line."""
        text, self._text = _overwritten(self._text.rstrip("\r")), ""
        return [text] if text else []


def _overwritten(line: str) -> str:
    return line.rsplit("\r", 1)[-1] if "\r" in line else line


def _pieces(line: str) -> list[str]:
    if len(line) <= MAX_LINE_CHARACTERS:
        return [line]
    return [line[start : start + MAX_LINE_CHARACTERS] for start in range(0, len(line), MAX_LINE_CHARACTERS)]
