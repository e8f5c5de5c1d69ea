"""What an agent knows of its worker's last process when that is gone: how it ended, where it stood, how far it was.

The next process of the worker tells the coordinator (`Hello.previous`), because an agent has no connection to it. The
stacks are written by the dying process itself, by `faulthandler`, into memory that its agent holds: on a fault in
native code, and when the agent asks (SIGUSR1) because it hears nothing, be the interpreter lock held or not.

Standard library only: the agent imports this.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

__all__ = ["ENVIRONMENT", "STACKS_ENVIRONMENT", "PostMortem", "leave_stacks", "newest_frame", "tidy_stacks"]

ENVIRONMENT = "CORDEE_PREVIOUS"
"""Tells a worker how its predecessor ended, as JSON."""
STACKS_ENVIRONMENT = "CORDEE_STACKS"
"""Holds the number of the inherited file descriptor that stacks are written to."""
MAX_STACK_CHARACTERS = 8000


class PostMortem:
    """One process's end."""

    __slots__ = ("asked", "code", "incarnation", "out_of_memory", "patience", "silent", "stack", "step", "words")

    def __init__(
        self,
        incarnation: str,
        code: int,
        words: str,
        stack: str,
        step: int,
        asked: bool,
        silent: bool = False,
        patience: int = 1,
        out_of_memory: bool = False,
    ) -> None:
        self.incarnation = incarnation
        self.code = code
        """The exit code; negative: a signal's number."""
        self.words = words
        """What it did, after "the worker": `was killed by SIGSEGV`."""
        self.stack = stack
        self.step = step
        """The last step it committed, as far as its agent heard; 0: none."""
        self.asked = asked
        """Its end was asked for: nobody is to blame."""
        self.silent = silent
        """It was killed because it gave no sign of life."""
        self.patience = patience
        """How many times longer than usual the next one may be silent."""
        self.out_of_memory = out_of_memory
        """The kernel killed it for want of memory."""

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def encode(self) -> str:
        return json.dumps(self.fields())

    @classmethod
    def take(cls, environment: dict[str, str] | os._Environ[str]) -> PostMortem | None:
        """Takes the predecessor's end out of the environment; None: there was none, or it cannot be read."""
        try:
            told: Mapping[str, Any] = json.loads(environment.pop(ENVIRONMENT, ""))
            return cls(**told)
        except (ValueError, TypeError):
            return None

    def last_words(self) -> str:
        """All of it in one line: how, how far, where."""
        step = f" after step {self.step}" if self.step else ""
        frame = newest_frame(self.stack)
        return f"{self.words}{step}" + (f", in {frame}" if frame else "")


def tidy_stacks(raw: bytes) -> str:
    """What `faulthandler` wrote, the thread that matters first, cut to a length that travels.

    It writes the newest thread first, and the main thread last; the one that faulted, or took the signal, is the
    current one.
    """
    head, *threads = _threads(raw.decode("utf-8", "replace").strip())
    if threads:
        current = next((thread for thread in threads if thread.startswith("Current thread ")), None)
        main = threads[-1]
        threads.sort(key=lambda thread: (thread is not current, thread is not main))
    text = "\n\n".join(part for part in (head, *threads) if part)
    if len(text) > MAX_STACK_CHARACTERS:
        text = text[:MAX_STACK_CHARACTERS].rpartition("\n")[0] + "\n  …"
    return text


def _threads(text: str) -> list[str]:
    """What comes before the first thread's stack, and each thread's."""
    parts = [""]
    for line in text.split("\n"):
        if line.startswith(("Thread 0x", "Current thread 0x")):
            parts.append(line)
        elif line.strip():
            parts[-1] += f"\n{line}" if parts[-1] else line
    return parts


def newest_frame(stack: str) -> str:
    """The frame that the first thread was in: `"train.py", line 7 in f`. Empty: there is none."""
    for line in stack.split("\n"):
        _, found, frame = line.partition("  File ")
        if found:
            return frame
    return ""


def leave_stacks() -> None:
    """From now on this process leaves its stacks to its agent, on a fault and when asked. Nothing without an agent."""
    number = os.environ.pop(STACKS_ENVIRONMENT, "")
    if not number.isdigit():
        return
    import faulthandler
    import signal

    fd = int(number)
    os.set_inheritable(fd, False)
    faulthandler.enable(file=fd, all_threads=True)
    faulthandler.register(signal.SIGUSR1, file=fd, all_threads=True, chain=False)

    def disown() -> None:
        """A process that the script forks leaves nothing: it is not the agent's."""
        if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:  # else the script has a handler of its own
            faulthandler.unregister(signal.SIGUSR1)
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, fd, inheritable=False)
        os.close(null)

    os.register_at_fork(after_in_child=disown)
