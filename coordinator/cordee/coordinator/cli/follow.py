"""Follow a job until it has ended: its changes, rank 0's output and who is started again, in one stream of events.

Two threads listen (the job's changes, its log), the main thread shows. Both survive a coordinator that goes away and
comes back within `PATIENCE_SECONDS`: training goes on without it, so following does too. A signal is an event as well,
so that what it does is decided in one place and not inside a handler.

When a job ends a worker's process says why it stops, in the words of the job's reason, and it stands beside the state
already: such a line is held until the next one, or the job's end, tells whether it is news.
"""

import contextlib
import math
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cordee.coordinator.cli.log_lines import lines_to_the_end
from cordee.coordinator.client import Client, ClientError, UnreachableError
from cordee.coordinator.views import OUTPUT_STREAMS, TERMINAL_STATES

if TYPE_CHECKING:
    from cordee.coordinator.cli.display import Display
    from cordee.coordinator.views import JobView, LogLine

__all__ = ["PATIENCE_SECONDS", "Followed", "Interrupts", "follow"]

PATIENCE_SECONDS: Final = 30.0
_LAST_LINES_SECONDS: Final = 3.0
_RETRY_SECONDS: Final = 0.2
_HOLD_SECONDS: Final = 1.0
_WORKER_SAYS: Final = "cordee: "


@dataclass(frozen=True)
class _Changed:
    job: "JobView"


@dataclass(frozen=True)
class _Wrote:
    line: "LogLine"


@dataclass(frozen=True)
class _LogEnded:
    pass


@dataclass(frozen=True)
class _Signalled:
    number: int


@dataclass(frozen=True)
class _Lost:
    error: ClientError


_Event = _Changed | _Wrote | _LogEnded | _Signalled | _Lost


@dataclass(frozen=True)
class Followed:
    """How it ended: the job as last seen, and whether following was given up by a signal."""

    job: "JobView"
    left: bool = False


class Interrupts:
    """SIGINT, SIGTERM and SIGHUP as `KeyboardInterrupt` at first, and as events once a job is followed."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._sink: Callable[[int], None] | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN:  # nohup, or a shell's background job: whoever ignores it means it
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]

    def _handle(self, number: int, _frame: object) -> None:
        if self._sink is None:
            raise KeyboardInterrupt
        self._sink(number)

    @contextlib.contextmanager
    def to(self, sink: Callable[[int], None]) -> Iterator[None]:
        """Signals go to `sink` for a while."""
        before, self._sink = self._sink, sink
        try:
            yield
        finally:
            self._sink = before


def follow(
    client: Client,
    job: "JobView",
    display: "Display",
    interrupts: Interrupts,
    *,
    show_output: bool,
    output_since: float = 0.0,
    on_signal: Callable[[int], bool],
    patience_seconds: float = PATIENCE_SECONDS,
    timeout_seconds: float | None = None,
) -> Followed:
    """Show a job until it has ended.

    `on_signal` gets the number of signals so far and says whether to leave now. `timeout_seconds` leaves by itself.
    Output from before `output_since` (Unix seconds) is not shown.
    Raises `ClientError` when the coordinator stays away.
    """
    events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
    stop = threading.Event()
    listeners = [threading.Thread(target=_watch, args=(client, job["id"], events, stop, patience_seconds), daemon=True)]
    log_open = show_output
    if show_output:
        listeners.append(
            threading.Thread(target=_read_log, args=(client, job["id"], events, stop, output_since), daemon=True)
        )
    for listener in listeners:
        listener.start()
    output = _Output(display)
    num_signals = 0
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    ended_at: float | None = None
    if job["state"] not in TERMINAL_STATES:
        display.update(job)
    with interrupts.to(lambda number: events.put(_Signalled(number))):
        try:
            while job["state"] not in TERMINAL_STATES or log_open:
                now = time.monotonic()
                if ended_at is not None and now - ended_at > _LAST_LINES_SECONDS:
                    break  # an agent's last lines are late; `cordee logs` has them
                if deadline is not None and ended_at is None and now >= deadline:
                    return Followed(job, left=True)
                try:
                    event = events.get(timeout=0.25)
                except queue.Empty:
                    output.rest()
                    continue
                match event:
                    case _Changed(changed):
                        job = changed
                        if job["state"] not in TERMINAL_STATES:
                            display.update(job)
                        elif ended_at is None:
                            ended_at = time.monotonic()
                    case _Wrote(line):
                        if _is_rank_0(line):
                            output.add(line)
                        elif _is_restart(line):
                            display.note(f"{line['worker'].rpartition('-')[2]}: {line['line']}")
                    case _LogEnded():
                        log_open = False
                    case _Signalled():
                        num_signals += 1
                        if on_signal(num_signals):
                            return Followed(job, left=True)
                    case _Lost(error):
                        raise error
        finally:
            stop.set()
            client.end_streams()
            for listener in listeners:
                listener.join(timeout=_LAST_LINES_SECONDS)
            output.end(job["reason"])
    return Followed(job)


class _Output:
    """The script's lines on their way to the display."""

    def __init__(self, display: "Display") -> None:
        self._display = display
        self._held: tuple[float, LogLine] | None = None

    def add(self, line: "LogLine") -> None:
        self._release()
        if line["stream"] == "stderr" and line["line"].startswith(_WORKER_SAYS):
            self._held = time.monotonic(), line
        else:
            self._display.line(line)

    def rest(self) -> None:
        """Nothing has come for a while."""
        if self._held is not None and time.monotonic() - self._held[0] > _HOLD_SECONDS:
            self._release()

    def end(self, reason: str) -> None:
        """The job has ended, or is left: what repeats its reason is not shown."""
        if self._held is not None and reason and reason.startswith(self._held[1]["line"].removeprefix(_WORKER_SAYS)):
            self._held = None
        self._release()

    def _release(self) -> None:
        if self._held is not None:
            self._display.line(self._held[1])
            self._held = None


def _is_rank_0(line: "LogLine") -> bool:
    """What stands for the whole world: rank 0's own output, and before the first world the first worker's."""
    if line["stream"] not in OUTPUT_STREAMS:
        return False
    return line["rank"] == 0 or (line["rank"] is None and line["worker"].endswith("-w0"))


def _is_restart(line: "LogLine") -> bool:
    """An agent starts its worker again: a script that dies before it has said a word would look like waiting."""
    return line["stream"] == "agent" and "it is started again" in line["line"]


def _watch(
    client: Client, job_id: str, events: "queue.SimpleQueue[_Event]", stop: threading.Event, patience_seconds: float
) -> None:
    while not stop.is_set():
        try:
            for job in client.watch(job_id):
                events.put(_Changed(job))
                if job["state"] in TERMINAL_STATES or stop.is_set():
                    return
        except UnreachableError as error:
            if not stop.is_set() and not client.wait_until_alive(patience_seconds):
                events.put(_Lost(error))
                return
        except ClientError as error:
            events.put(_Lost(error))
            return
        stop.wait(_RETRY_SECONDS)


def _read_log(
    client: Client, job_id: str, events: "queue.SimpleQueue[_Event]", stop: threading.Event, since: float
) -> None:
    """Lines as they come. How long a coordinator may stay away is the watch's to say."""
    lines = lines_to_the_end(client, job_id, since=since, patience_seconds=math.inf, stop=stop)
    with contextlib.suppress(ClientError):
        for line in lines:
            events.put(_Wrote(line))
    events.put(_LogEnded())
