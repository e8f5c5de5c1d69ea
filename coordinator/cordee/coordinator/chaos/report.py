"""Figures from a recording: what each fault did, what it cost, and whether the result is the same.

For a fault: *detection* is from the fault to the first sign of it in the job's history, *recovery* to the first step
that the survivors committed after it, *heal* to the first step in a world that has everybody back whom it hit.

Goodput is useful time over wall time, and useful is what an undisturbed job had needed for the committed steps: their
number times the median step time in calm. That is given, or measured in the stretches of the run itself when nobody
was missing and no fault was at work. Every other second is accounted for: before and after training, and inside each
stall by what was waited for. What is left over is that steps took longer (or shorter) than in calm: fewer workers, the
start of a successor on the same cores, a slow worker, storage.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from cordee.coordinator.chaos.accounts import calm_step_seconds, rate_of_steps, split_stalls, takes_all, throughput
from cordee.coordinator.chaos.history import BREAKING, History, Sign, World, read_history, shorts
from cordee.coordinator.chaos.plan import COORDINATOR, MASS
from cordee.coordinator.chaos.recording import Injection, Recording, Sample
from cordee.coordinator.faults import FAULTS

__all__ = ["FORMAT", "LOSSES", "FaultOutcome", "Proof", "Report", "Same", "Spread", "make_report", "spread"]

FORMAT: Final = "cordee-chaos-report/1"

LOSSES: Final = {
    "starting": "starting, before the first step",
    "detection": "detection: from the fault to its first sign",
    "rendezvous": "rendezvous: the next world, and its connections",
    "failed": "worlds that broke before their first step",
    "below_minimum": "below the minimum: waiting for a successor",
    "heal": "heal: who joins, or is behind, takes the state",
    "redone": "the step at hand, computed again",
    "ending": "ending, after the last step",
    "slower": "steps that took longer (below 0: less) than in calm",
}
"""Where time goes that is not useful, in the order in which it is told."""

_UNNOTICED_SECONDS: Final = 3.0
"""For so long a fault that nobody noticed may have been at work."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How a handful of times lie."""

    count: int
    median: float
    p95: float
    worst: float


def spread(values: Iterable[float | None]) -> Spread | None:
    """Median, the value that 95 % do not exceed (nearest rank), worst; None if there is no value."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    return Spread(len(known), statistics.median(known), known[math.ceil(0.95 * len(known)) - 1], known[-1])


@dataclass(frozen=True, slots=True)
class FaultOutcome:
    """A fault and what came of it; seconds from the fault, None where there was nothing of the kind."""

    number: int
    at_seconds: float
    """From the beginning of the recording."""
    kind: str
    workers: tuple[str, ...]
    sign: str
    """The kind of the first event that shows it."""
    detection: float | None
    recovery: float | None
    heal: float | None
    stall: float | None
    """For how long no step was committed."""
    outcome: str
    """`recovered`; `no loss` (nobody was missing by it); `open` (the recording ends before it is over); `left out`;
    `no effect` (it should have ended a process, and nothing was seen of it); `not told` (the same, but another fault on
    the worker, or the end, came too soon for anything to be seen)."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Same:
    """Whether a digest is that of the undisturbed run."""

    sha256: str | None = None
    reference: str | None = None
    words: str = ""
    """What was compared with what, or why not."""

    @property
    def equal(self) -> bool | None:
        """None: nothing to compare."""
        return None if not (self.sha256 and self.reference) else self.sha256 == self.reference


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether the result is what it would have been."""

    weights: Same = Same()
    ledger: Same = Same()
    exactly_once: bool | None = None
    """The ledger holds every sample of every epoch exactly once; None: there is no ledger."""
    exactly_once_words: str = ""
    lacking: str = ""
    """Why a comparison that was asked for could not be made."""


@dataclass(frozen=True)
class Report:
    """Everything a reader gets."""

    title: str
    job: dict[str, Any]
    spec: str
    seed: int
    seconds: float
    faults: tuple[FaultOutcome, ...]
    kinds: dict[str, dict[str, Any]]
    """By kind, and `all`: count, and the spreads of detection, recovery, heal and stall."""
    goodput: dict[str, Any]
    losses: dict[str, float]
    coordinator: dict[str, Any]
    proof: Proof
    problems: tuple[str, ...]
    rate: tuple[tuple[float, float], ...]
    """Committed steps per second, over the time."""
    worlds: tuple[dict[str, Any], ...]
    stalls: tuple[tuple[float, float], ...]
    outages: tuple[tuple[float, float], ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Nothing is wrong."""
        return not self.problems

    @property
    def verdict(self) -> str:
        """`passed`: recovered, and compared, and the same. `recovered`: the result was not compared. Else `failed`."""
        return "failed" if self.problems else "passed" if self.proof.weights.equal else "recovered"

    def to_json(self) -> dict[str, Any]:
        """The report as a document; see docs/reference/chaos-report.md."""
        document = asdict(self)
        proof = self.proof
        for name, same in (("weights", proof.weights), ("ledger", proof.ledger)):
            document["proof"][name]["equal"] = same.equal
        return {"format": FORMAT, "passed": self.passed, "verdict": self.verdict, **document}


def make_report(recording: Recording, proof: Proof | None = None, *, step_seconds: float | None = None) -> Report:
    """The figures. `step_seconds` is a step's time undisturbed, where it is known from elsewhere."""
    proof = proof or Proof()
    history = read_history(recording.events)
    start, end = recording.start, recording.end
    injected = [one for one in recording.injections if not one.left_out]
    outcomes = [_outcome(one, recording, history) for one in recording.injections]
    samples = sorted((s for s in recording.samples if start <= s.time <= end), key=lambda s: s.time)
    steps = samples[-1].step - samples[0].step if samples else 0
    basis = "given"
    if step_seconds is None:
        busy = [_busy(one, injection) for one, injection in zip(outcomes, recording.injections, strict=True)]
        step_seconds, basis = calm_step_seconds(samples, filter(None, busy), recording, history)
    stalls = split_stalls(recording, history, injected, step_seconds or 0.0)
    wall = max(end - start, 0.0)
    useful = steps * (step_seconds or 0.0)
    losses = dict.fromkeys(LOSSES, 0.0)
    for stall in stalls:
        for name, seconds in stall.parts.items():
            losses[name] += seconds
    first = next((s for s in samples if s.step > (samples[0].step if not recording.from_submission else 0)), None)
    if recording.from_submission:
        began = first.time - first.step * (step_seconds or 0.0) if first is not None else end
        losses["starting"] = max(began - start, 0.0)
    last = next((s for s in samples if s.step == samples[-1].step), None) if samples else None
    if last is not None and recording.job.get("finished_at"):
        losses["ending"] = max(end - last.time, 0.0)
    training = wall - losses["starting"] - losses["ending"]
    losses["slower"] = wall - useful - sum(losses.values()) if step_seconds else 0.0
    job = {
        name: recording.job.get(name)
        for name in ("id", "name", "state", "reason", "step", "samples", "seconds", "generations", "recoveries")
    }
    job["workers"] = {key: recording.job["workers"][key] for key in ("min", "max")}
    return Report(
        title=f"{recording.job['name']}: {len(injected)} faults in {wall:.0f} s",
        job=job,
        spec=recording.spec,
        seed=recording.seed,
        seconds=wall,
        faults=tuple(outcomes),
        kinds=_by_kind(outcomes),
        goodput={
            "ratio": useful / wall if wall and step_seconds else None,
            "while_training": useful / training if training > 0 and step_seconds else None,
            "useful_seconds": useful,
            "wall_seconds": wall,
            "steps": steps,
            "step_seconds": step_seconds,
            "step_seconds_from": basis,
            "throughput": throughput(samples, recording),
        },
        losses=losses,
        coordinator=_coordinator(recording, samples),
        proof=proof,
        problems=tuple(_problems(recording, outcomes, proof)),
        rate=rate_of_steps(samples, start, end),
        worlds=tuple(
            {
                "at_seconds": world.time - start,
                "generation": world.generation,
                "cause": world.cause,
                "step": world.step,
                "workers": world.workers,
            }
            for world in history.worlds
            if world.time <= end
        ),
        stalls=tuple((stall.start - start, stall.end - start) for stall in stalls),
        outages=tuple((outage.start - start, (outage.end or end) - start) for outage in recording.outages),
        notes=recording.notes,
    )


# --- a fault


def _outcome(one: Injection, recording: Recording, history: History) -> FaultOutcome:
    workers = shorts(one.workers)
    at = one.time - recording.start
    if one.left_out:
        return FaultOutcome(one.number, at, one.kind, workers, "", None, None, None, None, "left out", one.left_out)
    if one.kind == COORDINATOR:
        # One that is killed while it starts is away once.
        outage = next((o for o in recording.outages if o.start - 0.5 <= one.time <= (o.end or math.inf)), None)
        back = None if outage is None or outage.end is None else outage.end - one.time
        outcome = "open" if back is None else "recovered"
        note = "" if back is None else "the coordinator answers again; training did not wait for it"
        return FaultOutcome(one.number, at, one.kind, workers, "", None, back, None, None, outcome, note)
    again = [
        other.time
        for other in recording.injections
        if other.time > one.time and not other.left_out and set(other.workers) & set(one.workers)
    ]
    sign = _first_sign(one, workers, min([*again, math.inf]), history)
    first = None if sign is None else _first_change(one, sign, history)
    resumed = None if first is None else history.resumed_after(first.time)
    kept = FaultOutcome(
        one.number,
        at,
        one.kind,
        workers,
        sign=sign.kind if sign is not None else "",
        detection=sign.time - one.time if sign is not None else None,
        recovery=None,
        heal=None,
        stall=None,
        outcome="no loss" if sign is None or sign.kind not in BREAKING else "open",
    )
    if sign is None and (one.kind == MASS or FAULTS[one.kind].ends):
        if min([*again, recording.end]) - one.time < _UNNOTICED_SECONDS:
            before = "another fault" if again else "the end"
            return replace(kept, outcome="not told", note=f"nothing was seen of it before {before}")
        return replace(kept, outcome="no effect", note="nothing was seen of it: the worker may not have carried it out")
    if kept.outcome == "no loss" or first is None or resumed is None:
        return kept
    whole = next((w for w in history.worlds if w.time >= first.time and set(workers) <= set(w.workers)), None)
    healed = None
    if whole is not None:
        committed = history.resumed_after(whole.time)
        healed = (committed.time if committed is not None else whole.time) - one.time
    return replace(
        kept,
        recovery=resumed.time - one.time,
        heal=healed,
        stall=max(resumed.stall_seconds, resumed.time - one.time if takes_all(one, history) else 0.0),
        outcome="recovered",
        note="" if healed is not None else "not whole again before the recording ended",
    )


def _first_sign(one: Injection, workers: Sequence[str], until: float, history: History) -> Sign | None:
    """The first event that shows the fault; of a `mass` the one by which all are known."""
    groups: list[Sequence[str]] = [[worker] for worker in workers] if one.kind == MASS else [workers]
    found = [_sign_of(group, one, until, history) for group in groups]
    known = [sign for sign in found if sign is not None]
    return max(known, key=lambda sign: sign.time) if known and len(known) == len(found) else None


def _sign_of(workers: Sequence[str], one: Injection, until: float, history: History) -> Sign | None:
    """What is said of these workers, or a world formed without one of them, whichever is first."""
    said = history.first_sign(workers, one.time, until, anybody=one.kind in {"damage", "disk-full"})
    world = history.first_loss(workers, one.time, until)
    return min([sign for sign in (said, world) if sign is not None], key=lambda sign: sign.time, default=None)


def _first_change(one: Injection, sign: Sign, history: History) -> World | None:
    """The world that was formed because of a fault."""
    before = history.world_at(one.time)
    return next(
        (
            w
            for w in history.worlds
            if w.time >= one.time and w != before and (w.time >= sign.time or w.cause == "loss")
        ),
        None,
    )


def _busy(one: FaultOutcome, injection: Injection) -> tuple[float, float] | None:
    """While a fault was at work."""
    if one.outcome == "left out":
        return None
    times = [seconds for seconds in (one.heal, one.recovery, injection.seconds) if seconds is not None]
    over = max(times) if one.outcome == "recovered" else max([*times, _UNNOTICED_SECONDS])
    return injection.time, injection.time + over


def _by_kind(outcomes: Sequence[FaultOutcome]) -> dict[str, dict[str, Any]]:
    done = [one for one in outcomes if one.outcome != "left out"]
    groups = {kind: [one for one in done if one.kind == kind] for kind in sorted({one.kind for one in done})}
    groups["all"] = [one for one in done if one.kind != COORDINATOR]
    return {
        kind: {
            "count": len(group),
            **{
                name: (asdict(found) if (found := spread(getattr(one, name) for one in group)) else None)
                for name in ("detection", "recovery", "heal", "stall")
            },
        }
        for kind, group in groups.items()
    }


def _coordinator(recording: Recording, samples: Sequence[Sample]) -> dict[str, Any]:
    """What training did while there was no coordinator."""
    steps = 0
    for outage in recording.outages:
        before = [s for s in samples if s.time <= outage.start]
        after = [s for s in samples if outage.end is not None and s.time >= outage.end]
        if before and after:
            steps += max(after[0].step - before[-1].step, 0)
    gone = [outage.end - outage.start for outage in recording.outages if outage.end is not None]
    found = spread(gone)
    return {"kills": len(recording.outages), "steps_meanwhile": steps, "away": asdict(found) if found else None}


def _problems(recording: Recording, outcomes: Sequence[FaultOutcome], proof: Proof) -> Iterable[str]:
    """What must not be: each a sentence."""
    if recording.job["state"] == "failed":
        yield f"the job failed: {recording.job.get('reason') or 'see its events'}"
    elif all(one.outcome == "left out" for one in outcomes):
        yield "no fault was injected: nothing is proven"
    elif all(one.outcome in {"left out", "not told"} for one in outcomes):
        yield "nothing was seen of any fault: nothing is proven"
    for one in outcomes:
        if one.outcome == "open":
            on = f" on {', '.join(one.workers)}" if one.workers else ""
            yield f"fault {one.number} ({one.kind}{on}) was not over at the end"
        if one.outcome == "no effect":
            yield f"fault {one.number} ({one.kind} on {', '.join(one.workers)}) had no effect that anybody saw"
    if proof.lacking:
        yield proof.lacking
    if proof.weights.equal is False:
        yield "the weights are not those of the undisturbed run"
    if proof.ledger.equal is False:
        yield "the ledger is not that of the undisturbed run"
    if proof.exactly_once is False:
        yield f"the ledger does not hold every sample exactly once: {proof.exactly_once_words}"
