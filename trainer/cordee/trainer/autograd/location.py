"""Where in the user's program something happened: the innermost frame that is not the engine's own.

A place is kept as a code object and an instruction offset, which cost next to nothing; the line is worked out when
somebody asks.
"""

from __future__ import annotations

import linecache
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

__all__ = ["HERE", "Location", "here"]

HERE = str(Path(__file__).parent.parent) + os.sep
"""The engine's own folder: frames in it are not the user's."""


OURS = {str(path) for path in Path(HERE).rglob("*.py")}
"""Its files, and the texts that it writes for ops. To look a name up is several times faster than to compare its
beginning."""


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a program; its text is `file:line in function`."""

    code: CodeType
    lasti: int

    @property
    def filename(self) -> str:
        return self.code.co_filename

    @property
    def line(self) -> int:
        for start, end, line in self.code.co_lines():
            if start <= self.lasti < end and line is not None:
                return line
        return self.code.co_firstlineno

    @property
    def source(self) -> str:
        """The line's text, as far as it is known."""
        return linecache.getline(self.filename, self.line).strip()

    def __str__(self) -> str:
        text = f"{self.filename}:{self.line} in {self.code.co_name}"
        return f"{text} ({self.source})" if self.source else text


def here() -> Location:
    """The place in the user's program that is being executed now."""
    frame: FrameType | None = sys._getframe(1)
    found = frame
    while frame is not None:
        found = frame
        if frame.f_code.co_filename not in OURS:
            break
        frame = frame.f_back
    assert found is not None
    return Location(found.f_code, found.f_lasti)
