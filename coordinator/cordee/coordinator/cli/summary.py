"""The last lines of a followed job: how it ended, what it came to, and where everything is. For people, on stderr."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cordee.coordinator.cli.errors import report, say
from cordee.coordinator.cli.output import clean, count, duration, facts, is_here, number, printable, weights_words

if TYPE_CHECKING:
    from cordee.coordinator.views import JobView

__all__ = ["summarise"]


def _nothing_shown(_text: str) -> bool:
    return False


def summarise(job: "JobView", folder: Path | str, *, shown: Callable[[str], bool] = _nothing_shown) -> None:
    """Say how a job ended; `shown` tells whether its script has written a text (the traceback) already."""
    error = job["error"]
    if error is not None:
        if not shown(error["traceback"]):
            say(printable(error["traceback"]).rstrip())
        on = f" on {error['worker']}" if error["worker"] else ""
        raised = error["exception"] != job["reason"]  # else it is the coordinator's own finding
        what = f"script failed{on}" if raised else "job failed"
        report(f"the {what}: {clean(error['exception'])}")
    elif job["state"] == "failed":
        report(f"the job failed: {clean(job['reason']) or 'see its events with cordee status'}")
    counts = (
        count(job["step"], "step"),
        count(job["samples"], "sample"),
        count(job["generations"], "generation"),
        count(job["recoveries"], "recovery", "recoveries"),
    )
    say(f"{job['id']} {job['state']} in {duration(job['seconds'])}: {', '.join(counts)}")
    pairs = {clean(name): number(value, ".6g") for name, value in job["metrics"].items()}
    if job["weights_path"] and job["weights_sha256"]:
        pairs["weights"] = weights_words(job, job["weights_path"], folder)
        pairs["sha256"] = job["weights_sha256"]
    if is_here(folder):
        pairs["folder"] = str(folder)
    if pairs:
        say("\n".join(f"  {line}" for line in facts(pairs).splitlines()))
