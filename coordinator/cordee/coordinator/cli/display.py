"""What a person sees of a job in progress: a live display on a terminal, plain lines elsewhere.

Both show the script's own lines (rank 0's) above or between, on stdout when stdout is not taken by `-o json`. The plain
form writes a line when the state, the workers or the recoveries change, and every few seconds while steps go on; it
never writes a control code.
"""

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, Self, TextIO

from cordee.coordinator.cli.output import clean, duration, progress_words

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from cordee.coordinator.views import JobView, LogLine

__all__ = ["Display", "LiveDisplay", "PlainDisplay", "make_display", "state_words"]

_PLAIN_EPOCH_SECONDS: Final = 2.0
_PLAIN_SECONDS: Final = 5.0
_REFRESHES_PER_SECOND: Final = 8
_STYLES: Final = {
    "pending": "yellow",
    "starting": "cyan",
    "running": "green",
    "recovering": "bold yellow",
    "succeeded": "bold green",
    "failed": "bold red",
    "cancelled": "bold magenta",
}


class Display(Protocol):
    """Shows a job; a context manager, so that the terminal is left as it was."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def update(self, job: "JobView") -> None:
        """The job has changed."""
        ...

    def line(self, line: "LogLine") -> None:
        """The script has written a line."""
        ...

    def note(self, text: str) -> None:
        """Something about the run itself."""
        ...

    def has_shown(self, text: str) -> bool:
        """Whether the script has written all these lines just now."""
        ...


def make_display(*, payload_on_stdout: bool) -> Display:
    """A live display where stderr is a terminal. `payload_on_stdout`: the script's lines must go to stderr."""
    out = sys.stderr if payload_on_stdout else sys.stdout
    if sys.stderr.isatty():
        from rich.console import Console

        console = Console(stderr=True)
        if console.is_terminal and not console.is_dumb_terminal:
            return LiveDisplay(console, out)
    return PlainDisplay(out)


class _Shown:
    """The last lines the script has written, to not print a traceback a second time."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=400)

    def add(self, line: str) -> None:
        self._lines.append(line.rstrip())

    def has(self, text: str) -> bool:
        wanted = [line.rstrip() for line in text.splitlines() if line.strip()]
        return bool(wanted) and set(wanted) <= set(self._lines)


class PlainDisplay:
    """Lines, for logs and pipes."""

    def __init__(self, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._shown = _Shown()
        self._last: JobView | None = None
        self._last_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.flush()

    def update(self, job: "JobView") -> None:
        """Write a line if there is news, or if the last one is old."""
        now, last = self._clock(), self._last
        if last is not None and _standing(last) == _standing(job):
            wait = _PLAIN_EPOCH_SECONDS if last["epoch"] != job["epoch"] else _PLAIN_SECONDS
            if now - self._last_at < wait or last["step"] == job["step"]:
                return
        self._last, self._last_at = job, now
        self.note(f"{job['id']}: {', '.join(state_words(job))}")

    def line(self, line: "LogLine") -> None:
        """The script's line, where its like goes."""
        self._shown.add(line["line"])
        out = sys.stderr if line["stream"] == "stderr" else self._out
        out.write(line["line"] + "\n")
        out.flush()

    def note(self, text: str) -> None:
        """A line of ours."""
        sys.stderr.write(f"cordee: {text}\n")
        sys.stderr.flush()

    def has_shown(self, text: str) -> bool:
        """Whether the script has written all these lines just now."""
        return self._shown.has(text)


def _standing(job: "JobView") -> tuple[object, ...]:
    """What is news at once."""
    return job["state"], job["reason"], job["recoveries"], job["workers"]["now"], job["workers"]["wanted"]


def _reason(job: "JobView") -> str:
    """Why it is in its state, where that is not plain."""
    return "" if job["state"] in {"running", "succeeded"} else clean(job["reason"])


def state_words(job: "JobView") -> list[str]:
    """A job's state and progress."""
    words = [job["state"]]
    reason = _reason(job)
    if reason.startswith(job["state"]):  # "cancelled by the user" says it all
        words = [reason]
    elif reason:
        words.append(reason.removesuffix("."))  # a scheduler's sentence; ours goes on
    words += progress_words(job)
    words.append(f"workers {job['workers']['now']}/{job['workers']['wanted']}")
    if job["recoveries"]:
        words.append(f"recoveries {job['recoveries']}")
    return words


class LiveDisplay:
    """A bar and a line of facts that stay at the bottom of the terminal, redrawn a few times a second."""

    def __init__(self, console: "Console", out: TextIO) -> None:
        self._console = console
        self._out = out
        self._shown = _Shown()
        self._job: JobView | None = None
        self._since = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.live import Live

        self._live = Live(
            get_renderable=self._render,
            console=self._console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, job: "JobView") -> None:
        """Shown at the next refresh."""
        if self._job is None or self._job["id"] != job["id"]:
            self._since = time.monotonic() - job["seconds"]
        self._job = job

    def line(self, line: "LogLine") -> None:
        """Above the display when it goes to this terminal, else to where stdout goes."""
        self._shown.add(line["line"])
        if line["stream"] == "stderr" or self._out.isatty():
            from rich.text import Text

            self._console.print(Text.from_ansi(line["line"]), soft_wrap=True, highlight=False)
        else:
            self._out.write(line["line"] + "\n")
            self._out.flush()

    def note(self, text: str) -> None:
        """A line of ours, above the display."""
        from rich.text import Text

        self._console.print(Text(f"cordee: {text}", style="dim"), soft_wrap=True, highlight=False)

    def has_shown(self, text: str) -> bool:
        """Whether the script has written all these lines just now."""
        return self._shown.has(text)

    def _render(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        job = self._job
        if job is None:
            return Text("starting …", style="cyan")
        total = job["steps_total"]
        head = Table.grid(padding=(0, 2), expand=False)
        bar = ProgressBar(total=total or 1, completed=job["step"] if total else 0, width=32, pulse=not total)
        head.add_row(
            Text(job["id"], style="bold"),
            Text(job["state"], style=_STYLES.get(job["state"], "")),
            bar,
            Text(duration(time.monotonic() - self._since), style="dim"),
        )
        workers = job["workers"]
        facts = Text("  ·  ").join(
            [
                *(Text(word) for word in progress_words(job)),
                Text(
                    f"workers {workers['now']}/{workers['wanted']}",
                    style="" if workers["now"] >= workers["wanted"] else "yellow",
                ),
                Text(f"recoveries {job['recoveries']}", style="yellow" if job["recoveries"] else "dim"),
            ]
        )
        rows: list[RenderableType] = [head, facts]
        if reason := _reason(job):
            rows.append(Text(reason, style="dim"))
        return Group(*rows)
