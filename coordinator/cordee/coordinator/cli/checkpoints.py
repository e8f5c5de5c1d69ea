"""`cordee checkpoints`: what a job has saved, whether it is whole, and its weights in a file of their own.

The reading is the trainer's, which this package does not import: it runs as a process of its own and answers in JSON.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cordee.coordinator.cli.completion import complete_jobs
from cordee.coordinator.cli.errors import ExitCode, UsageError, guarded, say
from cordee.coordinator.cli.options import Format, OutputOption, ServerOption, StateOption
from cordee.coordinator.cli.output import clean, columns, dump, duration, is_document, size, write
from cordee.coordinator.errors import CoordinatorError, NotFoundError

__all__ = ["checkpoints"]

_TOOL: Final = ("-P", "-m", "cordee.trainer.checkpoint.tool")
_FAILED: Final = 2


@guarded
def checkpoints(
    job: Annotated[
        str,
        typer.Argument(
            metavar="JOB|PLACE",
            help="A job's id or name; or the folder or URL that checkpoints lie in.",
            autocompletion=complete_jobs,
        ),
    ],
    verify: Annotated[bool, typer.Option("--verify", help="Read everything and compare the hashes.")] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export", metavar="FILE", help="Write the weights to a .safetensors file, under their own names."
        ),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option("--step", metavar="N", min=0, help="Export this one (default: the newest that is whole)."),
    ] = None,
    server: ServerOption = None,
    state: StateOption = None,
    output: OutputOption = None,
) -> None:
    """List a job's checkpoints, verify them, or export the weights of one. Works after the job's end as well.

    Exit code 1 when one is damaged.
    """
    if step is not None and export is None:
        raise UsageError("--step says which checkpoint to export", "give a file as well: --export weights.safetensors")
    root, name = _located(job, server, state)
    if export is not None:
        answer, _ = _run(["export", root, str(export.absolute()), *([] if step is None else ["--step", str(step)])])
        for damaged in answer["passed_over"]:
            say(f"warning: passed over a damaged checkpoint: {damaged}")
        if is_document(output):
            dump({"job": name, **answer}, output)
        else:
            write(f"{answer['file']}: {answer['arrays']} arrays of step {answer['step']}, {size(answer['bytes'])}")
        return
    answer, damaged = _run(["list", root, *(["--verify"] if verify else [])])
    if is_document(output):
        dump({"job": name, **answer}, output)
    elif answer["checkpoints"]:
        write(_table(answer["checkpoints"], wide=output is Format.WIDE))
        for each in answer["checkpoints"]:
            if each["problem"]:
                say(f"step {each['step']} is damaged: {clean(each['problem'])}")
    else:
        say(f"no checkpoints in {clean(answer['root'])}")
    raise typer.Exit(ExitCode.ERROR if damaged else ExitCode.DONE)


def _located(ref: str, server: str | None, state: Path | None) -> tuple[str, str | None]:
    """Where the checkpoints lie, and the job's id, if it is a job's."""
    from cordee.coordinator.cli.reach import reach

    if "://" in ref:
        return ref, None
    if os.sep in ref and Path(ref).is_dir():
        return str(Path(ref).absolute()), None
    with reach(server, state) as coordinators:
        _, found = coordinators.find(ref)
    root = found["checkpoints"]
    if not root:
        raise CoordinatorError(
            f"the job {found['id']} writes no checkpoints: its pods share no storage",
            "give it a place with spec.checkpoint.storage, or the platform one with the chart's storage.url",
        )
    if "://" not in root and not Path(found["folder"]).is_dir() and not Path(root).is_dir():
        raise NotFoundError(
            f"the folder of {found['id']}, {clean(found['folder'])}, is not on this machine",
            "checkpoints in a job's folder are read where the coordinator runs; those in a bucket anywhere",
        )
    return root, found["id"]


def _run(words: list[str]) -> tuple[dict[str, Any], bool]:
    """The tool's answer, and whether it found damage."""
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
        raise CoordinatorError(f"the checkpoints cannot be read: {last[0]} (exit code {process.returncode})") from None
    if process.returncode == _FAILED:
        raise CoordinatorError(str(answer["error"]))
    return answer, process.returncode != 0


def _table(found: list[dict[str, Any]], *, wide: bool) -> str:
    now = time.time()
    rows = [["STEP", "STATE", "AGE", "SIZE", "PARTS", *(["FORMAT"] if wide else []), "WHERE"]]
    for each in found:
        state = "verified" if each["state"] == "whole" and each["verified"] else each["state"]
        parts = "-" if each["parts"] is None else str(each["parts"])
        age = duration(max(0.0, now - each["created"]))
        form = [each["format"] or "-"] if wide else []
        rows.append([str(each["step"]), state, age, size(each["bytes"]), parts, *form, clean(each["where"])])
    return columns(rows)
