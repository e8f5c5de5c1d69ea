"""`cordee fetch`: a job's result, on this machine, wherever the coordinator runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cordee.coordinator.cli.errors import guarded, say
from cordee.coordinator.cli.options import Format, JobArgument, OutputOption, ServerOption, StateOption
from cordee.coordinator.cli.output import clean, columns, dump, duration, is_document, size, write
from cordee.coordinator.errors import NotFoundError

if TYPE_CHECKING:
    from cordee.coordinator.views import KeptFile

__all__ = ["fetch"]


@guarded
def fetch(
    job: JobArgument,
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH]...", help="Only these files, or those below these folders.", show_default=False),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Where they are put (default: a folder named as the job)."),
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Say what there is, and fetch nothing.")] = False,
    server: ServerOption = None,
    state: StateOption = None,
    output: OutputOption = None,
) -> None:
    """Download what a job keeps: its weights (result/), its script's files (output/), its ledger.

    Each file is compared with its SHA-256. What is there already is not fetched again.
    """
    from cordee.coordinator.cli.reach import reach
    from cordee.coordinator.downloads import place_below

    with reach(server, state) as coordinators:
        keeper, found = coordinators.find(job)
        files = _chosen(keeper.files(found["id"]), paths or [], found["id"])
        if list_only:
            _show(files, found["id"], output)
            return
        folder = to if to is not None else Path(found["id"])
        fetched = []
        for file in files:
            target = place_below(folder, file["path"])
            sha256 = keeper.fetch(found["id"], file["path"], target)
            fetched.append({"path": file["path"], "file": str(target), "size": file["size"], "sha256": sha256})
            if not is_document(output):
                write(f"{clean(str(target))}  {size(file['size'])}  sha256 {sha256}")
    if is_document(output):
        dump({"job": found["id"], "files": fetched}, output)


def _chosen(files: "list[KeptFile]", paths: list[str], job: str) -> "list[KeptFile]":
    chosen = [file for file in files if not paths or any(_is_below(file["path"], path) for path in paths)]
    for path in paths:
        if not any(_is_below(file["path"], path) for file in files):
            raise NotFoundError(f"{job} keeps no {path!r}", f"see what it keeps: cordee fetch {job} --list")
    if not files:
        say(f"{job} keeps no files (yet): its result is written when its script has ended")
    return chosen


def _is_below(path: str, wanted: str) -> bool:
    wanted = wanted.rstrip("/")
    return path == wanted or path.startswith(f"{wanted}/")


def _show(files: "list[KeptFile]", job: str, output: Format | None) -> None:
    import time

    if is_document(output):
        dump({"job": job, "files": [dict(file) for file in files]}, output)
    elif files:
        now = time.time()
        rows = [
            [clean(file["path"]), size(file["size"]), duration(max(0.0, now - file["modified_at"]))] for file in files
        ]
        write(columns([["FILE", "SIZE", "AGE"], *rows]))
