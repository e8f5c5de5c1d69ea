"""A report for a terminal: the verdict first, then the figures."""

from collections.abc import Sequence
from typing import Any, Final

from cordee.coordinator.chaos.report import LOSSES, Report

__all__ = ["headline", "percent", "same_words", "seconds_words", "table"]

_NUM_REASONS: Final = 3
"""So many of those why faults were left out are told in a line; the report's page has all."""


def table(report: Report) -> str:
    """Everything but the single faults, in columns that need no wide terminal."""
    parts = [headline(report), _facts(report), _kinds(report), _losses(report)]
    if report.notes:
        parts.append("\n".join(f"note: {note}" for note in report.notes))
    return "\n\n".join(part for part in parts if part)


def headline(report: Report) -> str:
    """What to remember."""
    if report.passed:
        return f"{report.verdict.upper()}  {report.title}"
    return "\n".join([f"FAILED  {report.title}", *(f"  {problem}" for problem in report.problems)])


def _facts(report: Report) -> str:
    goodput, proof, job = report.goodput, report.proof, report.job
    left_out = [one.note for one in report.faults if one.outcome == "left out"]
    done = len(report.faults) - len(left_out)
    why = "; ".join(dict.fromkeys(left_out[:_NUM_REASONS]))
    step = goodput["step_seconds"]
    rows = [
        ("job", f"{job['id']} {job['state']}, {job['workers']['min']}:{job['workers']['max']} workers"),
        ("plan", report.spec),
        ("faults", f"{done}" + (f" ({len(left_out)} left out: {why})" if left_out else "")),
        (
            "goodput",
            f"{percent(goodput['ratio'])} of the wall time, {percent(goodput['while_training'])} while training",
        ),
        ("step", "unknown" if step is None else f"{seconds_words(step)} in calm, {goodput['step_seconds_from']}"),
        *_throughput(report),
        ("weights", same_words(proof.weights)),
        ("ledger", same_words(proof.ledger)),
    ]
    if proof.exactly_once is not None:
        word = "every sample exactly once" if proof.exactly_once else "NOT exactly once"
        rows.append(("samples", f"{word}: {proof.exactly_once_words}"))
    if report.coordinator["kills"]:
        away, steps = report.coordinator["away"], report.coordinator["steps_meanwhile"]
        back = "" if away is None else f", away for {seconds_words(away['median'])} / {seconds_words(away['worst'])}"
        rows.append(("coordinator", f"killed {report.coordinator['kills']} times{back}; {steps} steps meanwhile"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def _throughput(report: Report) -> list[tuple[str, str]]:
    found = report.goodput["throughput"]
    if found is None:
        return []
    rates = f"{found['disturbed']:.2f} steps/s disturbed, {found['calm']:.2f} in calm, in turns"
    return [("throughput", f"{percent(found['ratio'])} of the undisturbed: {rates}")]


def _kinds(report: Report) -> str:
    header = ["", "FAULTS", "DETECTION", "RECOVERY", "STALL", "HEAL"]
    rows = [header]
    for kind, figures in report.kinds.items():
        if figures["count"]:
            cells = [_three(figures[name]) for name in ("detection", "recovery", "stall", "heal")]
            rows.append([kind, str(figures["count"]), *cells])
    if len(rows) == 1:
        return ""
    return columns(rows) + "\nmedian / p95 / worst, in seconds; a dash: there was nothing of the kind"


def _losses(report: Report) -> str:
    goodput = report.goodput
    if goodput["step_seconds"] is None or not goodput["wall_seconds"]:
        return ""
    wall = goodput["wall_seconds"]
    rows = [
        ["WHERE THE TIME WENT", "SECONDS", ""],
        ["useful steps", f"{goodput['useful_seconds']:.2f}", percent(goodput["ratio"])],
    ]
    rows += [
        [words, f"{report.losses[name]:.2f}", percent(report.losses[name] / wall)]
        for name, words in LOSSES.items()
        if abs(report.losses[name]) >= 0.005
    ]
    rows.append(["wall time", f"{wall:.2f}", ""])
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned; nothing is cut."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _three(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "–"
    return " / ".join(_short(figures[name]) for name in ("median", "p95", "worst"))


def _short(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def seconds_words(seconds: float) -> str:
    """`4.2 ms`, `0.31 s`, `12 s`."""
    if seconds < 0.1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def percent(ratio: float | None) -> str:
    """`98.2 %`."""
    return "–" if ratio is None else f"{ratio * 100:.1f} %"


def same_words(same: Any) -> str:
    """What a comparison came to."""
    if same.equal is None:
        return same.words or "not compared"
    digest = (same.sha256 or "")[:16]
    return f"{'the same bits' if same.equal else 'NOT THE SAME'}: {digest}" + (f" ({same.words})" if same.words else "")
