"""Results on stdout: one JSON or YAML document, or columns for people.

The columns are ours because a table library fits its tables to a terminal: in a pipe it would cut ids in half.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from cordee.coordinator.cli.options import Format
from cordee.coordinator.views import TERMINAL_STATES

if TYPE_CHECKING:
    from cordee.coordinator.views import JobView, Member

__all__ = [
    "clean",
    "columns",
    "count",
    "dump",
    "duration",
    "facts",
    "is_document",
    "is_here",
    "job_details",
    "job_table",
    "number",
    "print_job",
    "printable",
    "progress_words",
    "size",
    "weights_words",
    "write",
]


def write(text: str) -> None:
    """Payload."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def is_document(form: Format | None) -> TypeGuard[Format]:
    """Whether the whole value is wanted, for a program to read."""
    return form is Format.JSON or form is Format.YAML


def dump(value: Any, form: Format) -> None:
    """A value as one document."""
    if form is Format.YAML:
        import yaml

        write(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
    else:
        write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def clean(value: object) -> str:
    """Text of others, on one line and without control characters: a job's name must not move the cursor."""
    return "".join(char if char.isprintable() else "�" for char in str(value).replace("\n", " ").replace("\t", " "))


def duration(seconds: float) -> str:
    """`0.4s`, `12s`, `3m05s`, `2h10m`, `4d03h`."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def size(num_bytes: int) -> str:
    """`17 B`, `1.2 MiB`."""
    amount, unit = float(num_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def number(value: float | None, form: str = ".4g") -> str:
    """A number, or a dash where there is none yet."""
    return "-" if value is None else format(value, form)


def count(number_of: int, thing: str, things: str = "") -> str:
    """`1 step`, `2 steps`."""
    return f"{number_of:,} {thing if number_of == 1 else things or thing + 's'}"


def _pace(member: "Member") -> str:
    """How long a worker computes per shard, and whether that is long."""
    seconds = member.get("shard_seconds")  # an older coordinator does not say
    if seconds is None:
        return "-"
    return f"{seconds * 1000.0:.3g} ms{' (slow)' if member.get('slow') else ''}"


def _first_line(message: str) -> str:
    """Of a stack, what it is the stack of."""
    first, _, rest = message.strip().partition("\n")
    return f"{first} … (all of it: -o wide)" if rest else first


def _of(value: int | None, total: int | None) -> str:
    return "-" if value is None else f"{value}" if not total else f"{value}/{total}"


def _present(job: "JobView") -> str:
    return f"{job['workers']['now']}/{job['workers']['wanted']}"


Column = tuple[str, Callable[["JobView"], str]]

_WORTH_A_WORD: Final = 0.02

_COLUMNS: Final[tuple[Column, ...]] = (
    ("JOB", lambda job: job["id"]),
    ("STATE", lambda job: job["state"]),
    ("WORKERS", lambda job: "-" if job["state"] in TERMINAL_STATES else _present(job)),
    ("EPOCH", lambda job: _of(job["epoch"], job["epochs"])),
    ("STEP", lambda job: _of(job["step"], job["steps_total"])),
    ("LOSS", lambda job: number(job["loss"])),
    ("SAMPLES/S", lambda job: number(job["samples_per_second"], ",.0f")),
    ("RECOVERIES", lambda job: str(job["recoveries"])),
    ("AGE", lambda job: duration(time.time() - job["created_at"])),
)
_WIDE_COLUMNS: Final[tuple[Column, ...]] = (
    *_COLUMNS,
    ("TIME", lambda job: duration(job["seconds"])),
    ("RANGE", lambda job: f"{job['workers']['min']}:{job['workers']['max']}"),
    ("GENERATION", lambda job: str(job["generation"])),
    ("DEVICE", lambda job: job["device"]),
    ("THREADS", lambda job: str(job["threads"])),
    ("LAUNCHER", lambda job: job["launcher"]),
    ("SCRIPT", lambda job: " ".join([job["script"], *job["args"]])),
    ("WEIGHTS", lambda job: (job["weights_sha256"] or "-")[:12]),
)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length, left-aligned; nothing is cut."""
    cleaned = [[clean(cell) for cell in row] for row in rows]
    widths = [max(len(row[index]) for row in cleaned) for index in range(len(cleaned[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cleaned
    )


def job_table(jobs: Sequence["JobView"], *, wide: bool) -> str:
    """A line per job."""
    table = _WIDE_COLUMNS if wide else _COLUMNS
    return columns([[title for title, _ in table], *([cell(job) for _, cell in table] for job in jobs)])


def print_job(job: "JobView", form: Format | None) -> None:
    """One job, in the form that was asked for."""
    if is_document(form):
        dump(dict(job), form)
    else:
        write(job_table([job], wide=form is Format.WIDE))


def facts(pairs: Mapping[str, str]) -> str:
    """`name  value` lines."""
    width = max(len(name) for name in pairs)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in pairs.items())


def is_here(folder: Path | str) -> bool:
    """Whether a coordinator's folder is on this machine, and may be looked at."""
    return os.path.isdir(folder)  # noqa: PTH112 - pathlib's raises where a folder above may not be entered


def weights_words(job: "JobView", path: str, folder: Path | str) -> str:
    """Where the final weights are, or how to come by them."""
    return clean(path) if is_here(folder) else f"with the coordinator: cordee fetch {job['id']}"


def job_details(job: "JobView", *, wide: bool) -> str:
    """Everything about a job, for people; `wide` shows all kept events instead of the newest ten."""
    state = job["state"] + (f" ({clean(job['reason'])})" if job["reason"] else "")
    pairs = {
        "job": job["id"],
        "state": state,
        "script": clean(" ".join([job["script"], *job["args"]])),
        "workers": _workers_words(job),
        "progress": ", ".join(progress_words(job)) or "-",
        "samples": f"{job['samples']:,}",
        "generation": f"{job['generation']} ({count(job['recoveries'], 'recovery', 'recoveries')})",
        "runs on": f"{job['device']}, {count(job['threads'], 'thread')} per worker, launcher {job['launcher']}",
        "created": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job["created_at"])),
        "time": duration(job["seconds"]),
        "folder": clean(job["folder"]) + ("" if is_here(job["folder"]) else " (on the coordinator's machine)"),
    }
    if job["metrics"]:
        pairs["metrics"] = ", ".join(f"{clean(name)} {number(value)}" for name, value in job["metrics"].items())
    if job["weights_sha256"]:
        place = weights_words(job, job["weights_path"], job["folder"]) if job["weights_path"] else "-"
        pairs["weights"] = f"{place} (sha256 {job['weights_sha256']})"
    parts = [facts(pairs)]
    if job["members"]:
        rows = [
            [
                m["worker"],
                number(m["rank"], "d"),
                m["state"],
                str(m["step"]),
                _pace(m),
                str(m["restarts"]),
                number(m["pid"], "d"),
            ]
            for m in job["members"]
        ]
        parts.append(columns([["WORKER", "RANK", "STATE", "STEP", "PER SHARD", "RESTARTS", "PID"], *rows]))
    events = job["events"] if wide else job["events"][-10:]
    if events:
        start = job["created_at"]
        lines = [["EVENT", "AT", "MESSAGE"]]
        lines += [[e["kind"], f"+{duration(e['time'] - start)}", _first_line(e["message"])] for e in events]
        parts.append(columns(lines))
        if wide:
            parts += [f"{clean(e['kind'])}: {printable(e['message'])}" for e in events if "\n" in e["message"].strip()]
    if job["error"]:
        told = job["error"]["traceback"] or job["error"]["exception"]
        parts += [printable(told)] if told != job["reason"] else []
    return "\n\n".join(parts)


def _workers_words(job: "JobView") -> str:
    workers = job["workers"]
    between = f"{workers['min']}:{workers['max']}"
    if job["state"] in TERMINAL_STATES:
        return between
    return f"{workers['now']} of {workers['wanted']} wanted (range {between})"


def printable(text: str) -> str:
    """Several lines of others' text, without control characters."""
    return "\n".join(
        "".join(char if char.isprintable() or char == "\t" else "�" for char in line) for line in text.splitlines()
    )


def progress_words(job: "JobView") -> list[str]:
    """How far a job is, in words; nothing for what is not known yet."""
    words = []
    if job["epoch"] is not None:
        words.append(f"epoch {_of(job['epoch'], job['epochs'])}")
    if job["step"] or job["steps_total"]:
        words.append(f"step {_of(job['step'], job['steps_total'])}")
    if job["loss"] is not None:
        words.append(f"loss {number(job['loss'])}")
    if job["samples_per_second"]:
        words.append(f"{job['samples_per_second']:,.0f} samples/s")
    waits = _share_of_waits(job)
    if waits >= _WORTH_A_WORD:
        words.append(f"waits for data {waits:.0%} of the time")
    return words


def _share_of_waits(job: "JobView") -> float:
    """Which part of a step goes into waiting for data."""
    waited, step = job.get("data_seconds"), job["step_seconds"]  # an older coordinator does not say
    return waited / step if waited and step else 0.0
