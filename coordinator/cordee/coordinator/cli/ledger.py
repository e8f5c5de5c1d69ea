"""`cordee ledger`: prove, by what its steps noted, that a job read every sample exactly once per epoch.

The counting is the trainer's, which this package does not import: it runs as a process of its own and answers in JSON.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cordee.coordinator.cli.completion import complete_jobs
from cordee.coordinator.cli.errors import ExitCode, guarded, say
from cordee.coordinator.cli.options import Format, OutputOption, ServerOption, StateOption
from cordee.coordinator.cli.output import clean, columns, count, dump, facts, is_document, write
from cordee.coordinator.errors import CoordinatorError, NotFoundError

if TYPE_CHECKING:
    from cordee.coordinator.discovery import Keeper
    from cordee.coordinator.views import JobView

__all__ = ["LEDGER_FILE", "ledger", "missing_ledger", "prove_ledger"]

_TOOL: Final = ("-P", "-m", "cordee.trainer.elastic.ledger_tool")
LEDGER_FILE: Final = Path("ledger") / "samples.ledger"
_UNREADABLE: Final = 2
_SHORT: Final = 16


@guarded
def ledger(
    job: Annotated[
        str,
        typer.Argument(
            metavar="JOB|FILE",
            help="A job's id or name; or a ledger that a script kept by itself.",
            autocompletion=complete_jobs,
        ),
    ],
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="JOB|FILE",
            help="Another ledger, which is to have the same content.",
            autocompletion=complete_jobs,
        ),
    ] = None,
    server: ServerOption = None,
    state: StateOption = None,
    output: OutputOption = None,
) -> None:
    """Prove that a job read every sample exactly once per epoch (it was started with --ledger).

    Works while the job trains, and after its end. Exit code 0: proven, and equal to what it was compared with; 1: not.
    """
    with contextlib.ExitStack() as stack:
        words, name = _located(job, server, state, stack)
        other = None if compare is None else _located(compare, server, state, stack)
        if other is not None:
            words += ["--compare", other[0][0]]
        answer = {"job": name, **prove_ledger(words)}
    if other is not None:
        answer["compared"] = {"job": other[1], **answer["compared"]}
    if is_document(output):
        dump(answer, output)
    else:
        write(_told(answer, wide=output is Format.WIDE))
    good = answer["proven"] and (other is None or answer["compared"]["equal"])
    raise typer.Exit(ExitCode.DONE if good else ExitCode.ERROR)


def _located(
    ref: str, server: str | None, state: Path | None, stack: contextlib.ExitStack
) -> tuple[list[str], str | None]:
    """What the tool is told to find the ledger, and what is known of it; and the job's id, if it is of a job. A copy
    that had to be made is there as long as the stack is."""
    from cordee.coordinator.cli.reach import reach

    path = Path(ref)
    if os.sep in ref or path.suffix:  # no id and no name
        if not path.is_file():
            raise NotFoundError(f"there is no ledger {ref}", "give a job's id or name, or the path of a ledger")
        return [str(path.absolute())], None
    with reach(server, state) as coordinators:
        keeper, found = coordinators.find(ref)
        path = Path(found["folder"]) / LEDGER_FILE
        if not path.is_file():
            path = _gathered(keeper, found, stack)
    if any(event["kind"] == "ledger_failed" for event in found["events"]):
        say(f"note: {found['id']}: the ledger could not be written for a while; cordee status {found['id']} says why")
    known = "--steps" if found["state"] == "succeeded" else "--at-least"
    return [str(path), known, str(found["step"])], found["id"]


def _gathered(keeper: "Keeper", job: "JobView", stack: contextlib.ExitStack) -> Path:
    """The folder with what each worker noted, where they share none; NotFoundError when nobody has."""
    from cordee.coordinator.downloads import place_below

    folder = Path(job["folder"]) / LEDGER_FILE.parent
    if folder.is_dir() and any(folder.glob("*.ledger")):
        return folder
    kept = [file["path"] for file in keeper.files(job["id"]) if file["path"].endswith(".ledger")]
    if not kept:
        raise missing_ledger(job, Path(job["folder"]) / LEDGER_FILE)
    copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cordee-ledger-")))
    for path in kept:
        keeper.fetch(job["id"], path, place_below(copy, path))
    return copy / LEDGER_FILE.parent


def missing_ledger(job: Mapping[str, Any], path: Path) -> CoordinatorError:
    """Why there is none at `path`, where the job's would be."""
    for event in reversed(job["events"]):
        if event["kind"] == "ledger_failed":
            return NotFoundError(f"{job['id']} has no ledger: {event['message']}")
    if not job["step"]:
        return NotFoundError(f"{job['id']} has no ledger yet: it has made no step")
    return NotFoundError(
        f"{job['id']} keeps no ledger: there is no {path}",
        "start a job with --ledger, or with 'ledger: true' in its spec",
    )


def prove_ledger(words: list[str]) -> dict[str, Any]:
    """What the tool says of a ledger (its path and options), or a `CoordinatorError`."""
    process = subprocess.run(
        [sys.executable, *_TOOL, *words],
        env={**os.environ, "CORDEE_DEVICE": "cpu"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer: dict[str, Any] = json.loads(process.stdout)
    except ValueError:
        last = process.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise CoordinatorError(f"the proof could not be made: {last[0]} (exit code {process.returncode})") from None
    if process.returncode == _UNREADABLE:
        raise CoordinatorError(str(answer["error"]))
    return answer


def _told(answer: dict[str, Any], *, wide: bool) -> str:
    """The proof, for people."""
    head = {"job": answer["job"]} if answer["job"] else {}
    head |= {"ledger": answer["file"], "data": answer["loader"]}
    rows = [["EPOCH", "STEPS", "SAMPLES", "DISTINCT", "MISSING", "TWICE", "SHA-256"]]
    rows += [
        [
            str(epoch["epoch"]),
            f"{epoch['steps']}/{epoch['steps_total']}",
            str(epoch["samples"]),
            str(epoch["distinct"]),
            "-" if epoch["missing"] is None else str(epoch["missing"]),
            str(epoch["twice"]),
            epoch["sha256"] if wide else epoch["sha256"][:_SHORT],
        ]
        for epoch in answer["epochs"]
    ]
    again = count(answer["redone"], "step")
    tail = {
        "steps": f"{answer['steps']:,}, without a gap, in {count(answer['worlds'], 'world')}",
        "again": f"{again} done in more than one world, with the same samples" if answer["redone"] else "no step",
        "samples": f"{answer['samples']:,}",
        "sha256": answer["sha256"],
    }
    if not answer["proven"]:
        tail["steps"] = f"{answer['steps']:,}, in {count(answer['worlds'], 'world')}"
        tail["again"] = f"{again} done in more than one world"
    if answer["skipped_bytes"]:
        tail["unread"] = f"{answer['skipped_bytes']} bytes of entries that somebody did not finish"
    if answer.get("compared"):
        tail["compared"] = _compared(answer)
    parts = [clean(answer["claim"]), facts({name: clean(value) for name, value in head.items()})]
    if answer["epochs"]:
        parts.append(columns(rows))
    parts.append(facts(tail))
    if answer["violations"]:
        rest = answer["num_violations"] - len(answer["violations"])
        told = [f"- {clean(violation)}" for violation in answer["violations"]]
        parts.append("\n".join([*told, *([f"- and {rest} more"] if rest else [])]))
    return "\n\n".join(parts)


def _compared(answer: dict[str, Any]) -> str:
    other = answer["compared"]
    name = other["job"] or other["file"]
    if not other["same_data"]:
        return f"{name} reads other data: {other['loader']}"
    if other["first_difference"] is not None:
        return f"{name} read other samples, first in step {other['first_difference']}"
    if not other["steps_compared"]:
        return f"{name} has no step in common"
    if other["sha256"] == answer["sha256"]:
        return f"{name} read the same, step by step"
    return f"{name} read the same in the {other['steps_compared']} steps that both have made"
