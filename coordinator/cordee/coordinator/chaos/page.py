"""A report as one HTML page: no script, nothing from elsewhere, light or dark as the reader's system is."""

from collections.abc import Sequence
from html import escape
from typing import Any, Final

from cordee.coordinator.chaos.report import LOSSES, FaultOutcome, Report, Same
from cordee.coordinator.chaos.style import STYLE
from cordee.coordinator.chaos.table import percent, seconds_words
from cordee.coordinator.chaos.timeline import strips, timeline

__all__ = ["page"]


_THREE: Final = ("detection", "recovery", "stall", "heal")


def page(report: Report) -> str:
    """The whole document."""
    body = [
        _head(report),
        _tiles(report),
        f'<h2>Time line</h2><div class="card">{timeline(report)}</div>{_legend(report)}',
        _losses(report),
        _kinds(report),
        _faults(report.faults),
        _ending(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Cordee chaos: {escape(report.title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _head(report: Report) -> str:
    verdict = f'<span class="verdict {report.verdict}">{report.verdict.upper()}</span>'
    problems = "".join(f"<p>{escape(problem)}</p>" for problem in report.problems)
    job = report.job
    return (
        f"{verdict}<h1>{escape(report.title)}</h1>"
        f'<p class="quiet">job <code>{escape(str(job["id"]))}</code>, {escape(str(job["state"]))}, '
        f"{job['workers']['min']} to {job['workers']['max']} workers, {report.goodput['steps']:,} steps · "
        f"plan <code>{escape(report.spec)}</code></p>" + (f'<div class="problems">{problems}</div>' if problems else "")
    )


def _tiles(report: Report) -> str:
    everything = report.kinds["all"]
    tiles = [
        _same_tile("weights", report.proof.weights),
        _ledger_tile(report),
        _goodput_tile(report.goodput),
        _tile(str(everything["count"] + report.coordinator["kills"]), "faults"),
        _tile(_middle(everything["stall"]), "survivors' stall, median"),
        _tile(_middle(everything["heal"]), "whole again, median"),
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _goodput_tile(goodput: dict[str, Any]) -> str:
    if goodput["throughput"] is not None:
        return _tile(percent(goodput["throughput"]["ratio"]), "of the undisturbed throughput")
    return _tile(percent(goodput["while_training"]), "goodput while training")


def _tile(value: str, words: str, kind: str = "") -> str:
    return f'<div class="tile {kind}"><b>{escape(value)}</b><span>{escape(words)}</span></div>'


def _same_tile(name: str, same: Same) -> str:
    if same.equal is None:
        return _tile("–", f"{name}: {same.words or 'not compared'}")
    words = f"{name} {(same.sha256 or '')[:12]}"
    return _tile("same bits", words, "good") if same.equal else _tile("not the same", words, "bad")


def _ledger_tile(report: Report) -> str:
    once, same = report.proof.exactly_once, report.proof.ledger
    if once is None:
        return _same_tile("ledger", same)
    if not once or same.equal is False:
        return _tile("not exact", f"ledger: {report.proof.exactly_once_words}", "bad")
    return _tile("exactly once", f"every sample; {report.proof.exactly_once_words}", "good")


def _legend(report: Report) -> str:
    outcomes = {one.outcome for one in report.faults}
    keys = [("recovered", "", "a fault that cost a worker"), ("no loss", "calmly", "one that nobody was missing by")]
    keys += [
        ("open", "open", "not over at the end"),
        ("no effect", "open", "without effect"),
        ("not told", "out", "too soon followed by another, or the end"),
        ("left out", "out", "left out"),
    ]
    items = [f'<span><i class="key {kind}"></i>{words}</span>' for name, kind, words in keys if name in outcomes]
    if report.stalls:
        items.append('<span><i class="key box stalled"></i>no step was committed</span>')
    if report.outages:
        items.append('<span><i class="key box away"></i>no coordinator</span>')
    if report.goodput["step_seconds"]:
        items.append('<span><i class="key dash"></i>rate in calm</span>')
    return f'<div class="legend">{"".join(items)}</div>'


def _losses(report: Report) -> str:
    goodput = report.goodput
    step, wall = goodput["step_seconds"], goodput["wall_seconds"]
    if step is None or not wall:
        return '<h2>Where the time went</h2><p class="quiet">Too few steps were seen to say.</p>'
    lost = {name: seconds for name, seconds in report.losses.items() if abs(seconds) >= 0.0005}
    most = max([abs(seconds) for seconds in lost.values()] or [1.0])
    words = f"useful: {goodput['steps']:,} steps of {seconds_words(step)}"
    share = percent(goodput["ratio"])
    rows = [_row(words, goodput["useful_seconds"], share)]
    for name, seconds in lost.items():
        kind = "start" if name in {"starting", "ending"} else "lost" if seconds > 0 else ""
        width = 320 * abs(seconds) / most
        bar = f'<i class="bar {kind}" style="width:{width:.0f}px"></i>'
        rows.append(_row(LOSSES[name], seconds, percent(seconds / wall), bar))
    rows.append(_row("wall time", wall, ""))
    found, in_turns = goodput["throughput"], ""
    if found is not None:
        in_turns = (
            f'<p class="quiet">In turns on one machine: {found["calm"]:.2f} steps per second in the calm stretches, '
            f"{found['disturbed']:.2f} in the disturbed ones between them: {percent(found['ratio'])}.</p>"
        )
    head = '<tr><th></th><th class="number">seconds</th><th class="number">of the wall time</th><th></th></tr>'
    return (
        f'<h2>Where the time went</h2><div class="card"><table>{head}{"".join(rows)}</table></div>'
        f'<p class="quiet">Goodput is useful time over wall time: {share} of all of it, '
        f"{percent(goodput['while_training'])} without the start and the end. "
        f"A step in calm takes {seconds_words(step)}, {escape(goodput['step_seconds_from'])}.</p>{in_turns}"
    )


def _row(words: str, seconds: float, share: str, bar: str = "") -> str:
    return (
        f'<tr><td>{escape(words)}</td><td class="number">{seconds:.2f}</td><td class="number">{share}</td>'
        f'<td class="wide">{bar}</td></tr>'
    )


def _kinds(report: Report) -> str:
    if not report.faults:
        return ""
    rows = []
    for kind, figures in report.kinds.items():
        cells = "".join(f'<td class="number">{_three(figures[name])}</td>' for name in _THREE)
        total = ' class="total"' if kind == "all" else ""
        rows.append(f'<tr{total}><td>{escape(kind)}</td><td class="number">{figures["count"]}</td>{cells}</tr>')
    heads = "".join(
        f'<th class="number">{words}</th>' for words in ("faults", "detection", "recovery", "stall", "whole again")
    )
    picture = strips(report)
    return (
        f'<h2>By kind</h2><div class="card"><table><tr><th></th>{heads}</tr>{"".join(rows)}</table></div>'
        '<p class="quiet">Median / 95th percentile / worst, in seconds from the fault; the stall is from the last step '
        "committed before to the first one after.</p>" + (f'<div class="card">{picture}</div>' if picture else "")
    )


def _faults(faults: Sequence[FaultOutcome]) -> str:
    rows = []
    for one in faults:
        cells = "".join(
            f'<td class="number">{"–" if (value := getattr(one, name)) is None else _figure(value)}</td>'
            for name in _THREE
        )
        bad = ' class="bad"' if one.outcome in {"open", "no effect"} else ""
        words = escape(one.outcome + (f": {one.note}" if one.note else ""))
        rows.append(
            f'<tr><td class="number">{one.number}</td><td class="number">{one.at_seconds:.1f}</td>'
            f'<td>{escape(one.kind)}</td><td class="wide">{escape(", ".join(one.workers))}</td>'
            f"<td>{escape(one.sign)}</td>{cells}<td{bad}>{words}</td></tr>"
        )
    heads = "".join(
        f'<th class="{kind}">{words}</th>'
        for words, kind in (
            ("#", "number"), ("at", "number"), ("kind", ""), ("on", ""), ("first sign", ""), ("detection", "number"),
            ("recovery", "number"), ("stall", "number"), ("whole again", "number"), ("outcome", ""),
        )
    )  # fmt: skip
    if not rows:
        return ""
    return (
        f"<h2>Every fault</h2><details{' open' if len(rows) <= 40 else ''}><summary>{len(rows)} faults</summary>"
        f'<div class="card"><table><tr>{heads}</tr>{"".join(rows)}</table></div></details>'
    )


def _ending(report: Report) -> str:
    notes = "".join(f"<p>{escape(note)}</p>" for note in report.notes)
    proof = report.proof
    rows = [
        (name, same.sha256, same.reference, same.words)
        for name, same in (("weights", proof.weights), ("ledger", proof.ledger))
        if same.sha256 or same.reference
    ]
    compared = "".join(
        f"<tr><td>{name}</td><td><code>{escape(ours or '–')}</code></td><td><code>{escape(theirs or '–')}</code></td>"
        f'<td class="wide">{escape(words)}</td></tr>'
        for name, ours, theirs, words in rows
    )
    head = "<tr><th></th><th>this run</th><th>undisturbed</th><th></th></tr>"
    away = report.coordinator["away"]
    killed = (
        f"<p>The coordinator was killed {report.coordinator['kills']} times and was away for "
        f"{seconds_words(away['median'])} (median; worst {seconds_words(away['worst'])}); "
        f"{report.coordinator['steps_meanwhile']} steps were committed meanwhile.</p>"
        if away
        else ""
    )
    return (
        (f'<h2>The same result</h2><div class="card"><table>{head}{compared}</table></div>' if compared else "")
        + (f"<h2>Notes</h2>{killed}{notes}" if killed or notes else "")
        + f'<h2>Again</h2><p>The plan is a function of its seed: <code>--spec "{escape(report.spec)}"</code> '
        "injects the same kinds at the same moments, on the same workers as long as they live.</p>"
    )


def _three(figures: dict[str, Any] | None) -> str:
    return "–" if figures is None else " / ".join(_figure(figures[name]) for name in ("median", "p95", "worst"))


def _figure(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _middle(figures: dict[str, Any] | None) -> str:
    return "–" if figures is None else seconds_words(figures["median"])
