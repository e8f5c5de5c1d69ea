"""Carries a plan out on a job that runs, and writes down what it sees.

Two threads: one watches the job (its views are the course that the report is drawn from), the caller's injects. Both
go through the coordinator's REST interface, so the job may run anywhere, and both survive a coordinator that goes away:
killing it may be part of the plan. Nothing is decided here that the plan could decide.

Times are brought to the coordinator's clock, by which the job's events are dated: a view says how old its job is.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Any, Final, Protocol

from cordee.coordinator.chaos.plan import COORDINATOR, Live, Order, Plan, Postponed, choose
from cordee.coordinator.chaos.recording import Happening, Injection, Outage, Recording, Sample, sample_of
from cordee.coordinator.client import Client, ClientError, InvalidError, UnreachableError
from cordee.coordinator.faults import Fault
from cordee.coordinator.views import TERMINAL_STATES, InjectedFault, JobView

__all__ = ["Director", "Killable"]

SETTLE_SECONDS: Final = 30.0
"""So long the job is given, after the last fault, to become whole again while it is still recorded."""
PATIENCE_SECONDS: Final = 60.0
"""So long a coordinator may be away."""
_POSTPONED_SECONDS: Final = 30.0
"""So long an order waits for enough workers; one from a rate not beyond the next."""
_TICK_SECONDS: Final = 0.05
_MAX_SAMPLES: Final = 50_000
_NOBODY: Final = "nobody"


class Killable(Protocol):
    """A coordinator that somebody starts again when it is killed."""

    def kill(self) -> None:
        """`kill -9`."""
        ...

    @property
    def outages(self) -> Sequence[tuple[float, float | None]]:
        """From when to when it was away, by this machine's clock."""
        ...


@dataclass
class _Open:
    """An order that is due."""

    order: Order
    until: float
    why: str = ""


class Director:
    """One job, one plan. `run` returns when the plan is through and the job whole again, or when the job has ended."""

    def __init__(
        self,
        client: Client,
        job: str,
        plan: Plan,
        *,
        coordinator: Killable | None = None,
        on_injection: Callable[[Injection], None] = lambda _injection: None,
        from_submission: bool = False,
        to_the_end: bool = False,
    ) -> None:
        self._client = client
        self._job = job
        self._plan = plan
        self._coordinator = coordinator
        self._on_injection = on_injection
        self._from_submission = from_submission
        self._to_the_end = to_the_end
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._view: JobView | None = None
        self._gone: ClientError | None = None
        self._offset = float("inf")
        """What is to be taken from this machine's clock to have the coordinator's."""
        self._samples: list[Sample] = []
        self._injections: list[Injection] = []
        self._notes: list[str] = []
        self._began = 0.0

    def stop(self) -> None:
        """Inject nothing more; `run` returns soon. May be called from anywhere."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()

    def run(self) -> Recording:
        """Carry it out. Raises `ClientError` when there is no such job, or the coordinator stays away."""
        self._see(self._client.job(self._job))
        self._check_allowed()
        watcher = threading.Thread(target=self._watch, name="chaos-watch", daemon=True)
        watcher.start()
        try:
            self._until(lambda: self._over or self._trains)
            began = time.monotonic()
            start = self._now()
            self._began = start
            self._inject(began)
            if self._to_the_end:
                self._until(lambda: self._over)
            else:
                self._settle()
            end = self._now()
        finally:
            self._stop.set()
            self._client.end_streams()
            watcher.join(5.0)
        return self._recording(start, end)

    def _check_allowed(self) -> None:
        """A job that takes no faults says so now, not when the first one is due."""
        if self._ended or self._plan.kinds <= {COORDINATOR}:
            return
        try:
            self._client.inject(self._job, "kill", _NOBODY)
        except (InvalidError, UnreachableError):  # there is no such worker: all else would have been right
            return

    # -- injecting

    def _inject(self, began: float) -> None:
        clock = self._plan.timeline()
        coming = next(clock, None)
        steps = self._plan.awaiting_steps()
        waiting: list[_Open] = []
        while not self._over:
            now = time.monotonic() - began
            if coming is None and not waiting and not steps and self._plan.seconds is None:
                break
            while coming is not None and coming.at_seconds <= now:
                late = [one for one in waiting if one.order.random and coming.random]
                for one in late:  # the next one of its rate is due: it would only pile up
                    self._leave_out(one)
                    waiting.remove(one)
                waiting.append(_Open(coming, now + _POSTPONED_SECONDS))
                coming = next(clock, None)
            step = self._view["step"] if self._view is not None else 0
            while steps and (steps[0].asked.at_step or 0) <= step:
                waiting.append(_Open(steps.pop(0), now + _POSTPONED_SECONDS))
            waiting = [one for one in waiting if not self._done(one, now)]
            if self._plan.seconds is not None and now >= self._plan.seconds:
                break  # what was due by then has had its turn
            due = coming.at_seconds - now if coming is not None else _TICK_SECONDS
            pause = _TICK_SECONDS if waiting or steps else max(min(due, 1.0), 0.0)
            self._pause(pause)
        if self._ended:  # what the plan names and was never due is told as well; a rate has no end
            last = max((one.at_seconds or 0.0 for one in self._plan.schedule), default=0.0)
            later = takewhile(lambda order: order.at_seconds <= last, chain(() if coming is None else (coming,), clock))
            never = [*(order for order in later if not order.random), *steps]
            waiting += [_Open(order, 0.0, "the job had ended before") for order in never]
        for one in waiting:
            self._leave_out(one)

    def _done(self, one: _Open, now: float) -> bool:
        """Whether an order is carried out, or given up."""
        self._try(one)
        if one.why and now >= one.until:
            self._leave_out(one)
            return True
        return not one.why

    def _try(self, one: _Open) -> None:
        """Carry an order out; `why` says why it could not be."""
        one.why = ""
        order = one.order
        if order.asked.kind == COORDINATOR:
            if self._coordinator is None:
                one.why = "nobody would start this coordinator again"
                return
            at = self._now()
            self._coordinator.kill()
            self._inform(Injection(order.number, at, COORDINATOR))
            return
        view = self._view
        if view is None or view["state"] in TERMINAL_STATES:
            one.why = "the job is not there"
            return
        live = [Live(m["worker"], m["rank"]) for m in view["members"] if m["rank"] is not None and m["pid"]]
        workers = view["workers"]
        chosen = choose(order, self._plan.seed, live, minimum=workers["min"], wanted=workers["wanted"])
        if isinstance(chosen, Postponed):
            one.why = chosen.reason
            return
        try:
            self._send(order, chosen)
        except ClientError as error:  # it was lost between the view and the request, or the coordinator is away
            one.why = error.message

    def _send(self, order: Order, faults: Sequence[Fault]) -> None:
        sent: list[InjectedFault] = []
        for fault in faults:
            seconds, amount = fault.seconds or None, fault.amount or None
            try:
                done = self._client.inject(
                    self._job, fault.kind, fault.worker, seconds=seconds, peer=fault.peer, amount=amount
                )
            except ClientError:
                if not sent:
                    raise
                continue  # of a mass one is gone already
            sent.append(done)
        workers = tuple(name for done in sent for name in (done["worker"], done["peer"]) if name)
        first = sent[0]
        self._inform(
            Injection(order.number, first["time"], order.asked.kind, workers, first["seconds"], first["amount"])
        )

    def _leave_out(self, one: _Open) -> None:
        self._inform(Injection(one.order.number, self._now(), one.order.asked.kind, left_out=one.why or "too late"))

    def _inform(self, injection: Injection) -> None:
        self._injections.append(injection)
        self._on_injection(injection)

    def _settle(self) -> None:
        """Wait until the job is whole again after the last fault."""
        if not self._injections or self._over:
            return
        last = max(injection.time + injection.seconds for injection in self._injections)
        deadline = time.monotonic() + SETTLE_SECONDS

        def whole() -> bool:
            view = self._view
            if self._over or view is None or time.monotonic() >= deadline:
                return True
            quiet = self._now() - last >= 3.0
            return quiet and view["state"] == "running" and view["workers"]["now"] == view["workers"]["wanted"]

        self._until(whole)

    # -- watching

    def _watch(self) -> None:
        away_since: float | None = None
        while not self._stop.is_set():
            try:
                for job in self._client.watch(self._job):
                    away_since = None
                    self._see(job)
                    if job["state"] in TERMINAL_STATES or self._stop.is_set():
                        return
            except UnreachableError as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > PATIENCE_SECONDS:
                    self._lost(error)
                    return
            except ClientError as error:
                self._lost(error)
                return
            self._stop.wait(_TICK_SECONDS)

    def _see(self, job: JobView) -> None:
        with self._changed:
            here = time.time()
            if job["finished_at"] is None:
                self._offset = min(self._offset, here - (job["created_at"] + job["seconds"]))
            self._view = job
            at = here - self._offset if self._offset != float("inf") else here
            self._samples.append(sample_of(job, job["finished_at"] or at))
            if len(self._samples) > _MAX_SAMPLES:  # of a long run half as many tell as much
                del self._samples[1::2]
            self._changed.notify_all()

    def _lost(self, error: ClientError) -> None:
        with self._changed:
            self._gone = error
            self._changed.notify_all()

    @property
    def _over(self) -> bool:
        return self._stop.is_set() or self._gone is not None or self._ended

    @property
    def _ended(self) -> bool:
        return self._view is not None and self._view["state"] in TERMINAL_STATES

    @property
    def _trains(self) -> bool:
        return self._view is not None and self._view["step"] > 0

    def _until(self, reached: Callable[[], bool]) -> None:
        with self._changed:
            while not (self._stop.is_set() or self._gone is not None or reached()):
                self._changed.wait(_TICK_SECONDS)

    def _pause(self, seconds: float) -> None:
        """Until something changes, but not for longer."""
        with self._changed:
            if not self._over:
                self._changed.wait(seconds)

    def _now(self) -> float:
        return time.time() - (self._offset if self._offset != float("inf") else 0.0)

    # -- the end

    def _recording(self, start: float, end: float) -> Recording:
        view = self._last_view()
        if self._from_submission:
            start = view["created_at"]
        if view["finished_at"] is not None:
            end = min(end, view["finished_at"])
        if self._gone is not None:
            self._notes.append(f"the recording ends early: {self._gone.message}")
        outages = self._coordinator.outages if self._coordinator is not None else ()
        return Recording(
            spec=str(self._plan),
            seed=self._plan.seed,
            start=start,
            end=end,
            job={**view, "events": [], "members": []},
            from_submission=self._from_submission,
            injections=tuple(self._injections),
            samples=tuple(self._samples),
            events=tuple(self._history()),
            outages=tuple(
                Outage(since - self._offset, None if until is None else until - self._offset)
                for since, until in outages
            ),
            calm=tuple((self._began + a, self._began + b) for a, b in self._plan.calm_windows(end - self._began)),
            notes=tuple(self._notes),
        )

    def _last_view(self) -> JobView:
        try:
            return self._client.job(self._job)
        except ClientError:
            assert self._view is not None
            return self._view

    def _history(self) -> Iterator[Happening]:
        """All events; those of the views if the coordinator is not there to be asked."""
        try:
            rows: list[Any] = list(self._client.events(self._job))
        except ClientError:
            rows = list(chain(self._view["events"] if self._view is not None else ()))
            self._notes.append("only the newest events are known: the coordinator was gone at the end")
        for row in rows:
            yield Happening(row["time"], row["kind"], row["message"])
