"""`cordee logs`: what a job's workers have written.

A log may be followed for days, so every form of it is good as far as it has come: JSON is an object per line, YAML one
growing list.
"""

import json
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cordee.coordinator.cli.errors import guarded, say
from cordee.coordinator.cli.options import Format, JobArgument, ServerOption, StateOption
from cordee.coordinator.cli.output import write

if TYPE_CHECKING:
    from cordee.coordinator.views import LogLine

__all__ = ["logs"]


@guarded
def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    rank: Annotated[int | None, typer.Option("--rank", metavar="N", min=0, help="Only this rank's lines.")] = None,
    worker: Annotated[str | None, typer.Option("--worker", metavar="WORKER", help="Only this worker's lines.")] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", metavar="N", min=0, help="Only the last N lines so far.")
    ] = None,
    server: ServerOption = None,
    state: StateOption = None,
    output: Annotated[
        Format | None, typer.Option("--output", "-o", help="Print json (an object per line), yaml, or wide lines.")
    ] = None,
) -> None:
    """Print a job's output, by time. Without --rank or --worker each line begins with its rank.

    What an agent says about its worker (ends, restarts) is marked as such.
    """
    from cordee.coordinator.cli.follow import PATIENCE_SECONDS
    from cordee.coordinator.cli.log_lines import lines_to_the_end
    from cordee.coordinator.cli.reach import reach
    from cordee.coordinator.client import Client
    from cordee.coordinator.views import OUTPUT_STREAMS

    with reach(server, state) as coordinators:
        keeper, found = coordinators.find(job)
        silent = True
        if follow and isinstance(keeper, Client):
            lines = lines_to_the_end(
                keeper,
                found["id"],
                rank=rank,
                worker=worker,
                tail=tail,
                patience_seconds=PATIENCE_SECONDS,
                stop=threading.Event(),
            )
        else:
            lines = keeper.logs(found["id"], follow=follow, rank=rank, worker=worker, tail=tail)
        try:
            for line in lines:
                silent = False
                plain = (rank is not None or worker is not None) and line["stream"] in OUTPUT_STREAMS
                if output is not None:
                    write(_FORMS[output](line))
                else:
                    write(line["line"] if plain else f"{_origin(line)} {line['line']}")
        except KeyboardInterrupt:
            raise typer.Exit(0) from None
        if silent and output is Format.YAML:
            write("[]")
        if silent and tail != 0:
            whose = f" of worker {worker}" if worker is not None else f" of rank {rank}" if rank is not None else ""
            say(f"{found['id']} has no lines{whose} (yet)")


def _origin(line: "LogLine") -> str:
    """`[0]` for a rank, `[w2]` for a worker that has none yet, `[agent w2]` for what its agent says."""
    from cordee.coordinator.views import OUTPUT_STREAMS

    slot = line["worker"].rpartition("-")[2]
    if line["stream"] not in OUTPUT_STREAMS:
        return f"[{line['stream']} {slot}]"
    return f"[{slot}]" if line["rank"] is None else f"[{line['rank']}]"


def _json(line: "LogLine") -> str:
    return json.dumps(line, ensure_ascii=False)


def _yaml(line: "LogLine") -> str:
    import yaml

    return yaml.safe_dump([dict(line)], sort_keys=False, allow_unicode=True)


def _wide(line: "LogLine") -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line["time"]))
    rank = "-" if line["rank"] is None else line["rank"]
    where = f"{line['worker']}  {rank}  {line['stream']}"
    return f"{at}.{int(line['time'] % 1 * 1000):03d}  {where}  {line['line']}"


_FORMS: Final[dict[Format, Callable[["LogLine"], str]]] = {Format.JSON: _json, Format.YAML: _yaml, Format.WIDE: _wide}
