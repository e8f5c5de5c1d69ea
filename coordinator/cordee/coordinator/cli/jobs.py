"""`cordee jobs`, `status`, `scale`, `cancel`, `delete`, `wait`: look at jobs and steer them.

They know the jobs of coordinators that are gone as well (`cordee run` ends with its job): `past` reads those.
"""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cordee.coordinator.cli.errors import UsageError, exit_code_of_state, guarded, hint, say
from cordee.coordinator.cli.options import Format, JobArgument, OutputOption, ServerOption, StateOption
from cordee.coordinator.cli.output import dump, is_document, job_details, job_table, print_job, write
from cordee.coordinator.views import INTERRUPTED, TERMINAL_STATES

if TYPE_CHECKING:
    from cordee.coordinator.discovery import Keeper
    from cordee.coordinator.past import PastCoordinator
    from cordee.coordinator.views import JobView

__all__ = ["cancel", "delete", "jobs", "scale", "status", "wait"]


_NUM_ENDED: Final = 20


class Status(StrEnum):
    """A state of jobs, or a word for several."""

    ACTIVE = "active"
    ENDED = "ended"
    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    RECOVERING = "recovering"
    INTERRUPTED = "interrupted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@guarded
def jobs(
    status: Annotated[
        list[Status] | None,
        typer.Option("--status", help="Only jobs in this state; repeatable.", show_choices=True),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", metavar="PREFIX", help="Only jobs whose name begins so.", show_default=False)
    ] = "",
    ended: Annotated[
        int, typer.Option("--ended", metavar="N", min=0, help="How many of those that have ended, the newest.")
    ] = _NUM_ENDED,
    everything: Annotated[bool, typer.Option("--all", "-a", help="All that have ended.")] = False,
    server: ServerOption = None,
    state: StateOption = None,
    output: OutputOption = None,
) -> None:
    """List jobs, newest first: the service's, and those of `cordee run`s, also of runs that have ended.

    All that have not ended are shown, and the newest of those that have.
    """
    from cordee.coordinator.cli.reach import reach
    from cordee.coordinator.selection import Selection

    states = tuple(one.value for one in status or ())
    # One more than is shown: it tells that there are more.
    wanted = Selection(states, name, None if everything else ended + 1)
    with reach(server, state) as coordinators:
        found = coordinators.jobs(wanted)
    shown = found if everything else Selection(ended=ended).of(found)
    if is_document(output):
        dump({"jobs": [dict(job) for job in shown]}, output)
    elif shown:
        write(job_table(shown, wide=output is Format.WIDE))
        if any(job["state"] == INTERRUPTED for job in shown):
            hint("cordee status JOB says how an interrupted job goes on")
    elif not found:
        say("no such jobs" if states or name else "no jobs yet; start one: cordee run SCRIPT, or cordee submit SCRIPT")
    if len(found) > len(shown):
        hint("more jobs have ended: cordee jobs --all shows them, --ended N so many of them")


@guarded
def status(
    job: JobArgument, server: ServerOption = None, state: StateOption = None, output: OutputOption = None
) -> None:
    """Show everything about a job: progress, workers, events, and the traceback if its script failed."""
    from cordee.coordinator.cli.reach import reach

    with reach(server, state) as coordinators:
        keeper, found = coordinators.find(job)
    if is_document(output):
        dump(dict(found), output)
    else:
        write(job_details(found, wide=output is Format.WIDE))
    if (past := _left_behind(keeper, found)) is not None:
        hint(past.hint)


@guarded
def scale(
    job: JobArgument,
    workers: Annotated[str, typer.Argument(metavar="N|MIN:MAX", help="The new range of worker counts.")],
    server: ServerOption = None,
    state: StateOption = None,
    output: OutputOption = None,
) -> None:
    """Give a running job another number of workers; its result stays the same, bit for bit."""
    from cordee.coordinator.cli.reach import reach
    from cordee.coordinator.spec import parse_workers

    wanted = parse_workers(workers)
    with reach(server, state) as coordinators:
        keeper, found = coordinators.find(job)
        print_job(keeper.scale(found["id"], wanted.min, wanted.max), output)


@guarded
def cancel(
    job: JobArgument, server: ServerOption = None, state: StateOption = None, output: OutputOption = None
) -> None:
    """Stop a job. One that was interrupted is ended as well, and workers of it that still live."""
    from cordee.coordinator.cli.reach import reach

    with reach(server, state) as coordinators:
        keeper, found = coordinators.find(job)
        past = _left_behind(keeper, found)
        ended = keeper.cancel(found["id"]) if past is None else _end_left_behind(past, found["id"])
        print_job(ended, output)


@guarded
def delete(
    job: JobArgument, server: ServerOption = None, state: StateOption = None, output: OutputOption = None
) -> None:
    """Remove a job that has ended, with its history, its logs and its results."""
    from cordee.coordinator.cli.reach import reach
    from cordee.coordinator.selection import Selection

    with reach(server, state) as coordinators:
        keeper, found = coordinators.find(job)
        # What cannot be undone is not done to the newest of several.
        others = [one["id"] for one in coordinators.jobs(Selection(name_prefix=job)) if one["name"] == job]
        if job != found["id"] and len(others) > 1:
            few = f"{', '.join(others[:3])}{', …' if len(others) > 3 else ''}"
            raise UsageError(f"{len(others)} jobs are called {job!r}", f"say which one by its id: {few}")
        keeper.delete(found["id"])
    if output is not None:
        print_job(found, output)
    else:
        say(f"removed {found['id']}")


@guarded
def wait(
    job: JobArgument,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", min=0, help="Give up after so long (exit code 101).")
    ] = None,
    server: ServerOption = None,
    state: StateOption = None,
    output: OutputOption = None,
) -> None:
    """Wait until a job has ended; the exit code says how: 0 succeeded, 100 failed, 103 cancelled, 101 not yet."""
    from cordee.coordinator.cli.reach import reach
    from cordee.coordinator.cli.submit import attach, there
    from cordee.coordinator.cli.summary import summarise
    from cordee.coordinator.client import Client

    with reach(server, state) as coordinators:
        keeper, found = coordinators.find(job)
        code = exit_code_of_state(found["state"])
        if found["state"] in TERMINAL_STATES:
            summarise(found, found["folder"])
        elif isinstance(keeper, Client):
            code, found = attach(
                keeper,
                found,
                show_output=False,
                payload_on_stdout=True,
                again=there(server, state),
                timeout_seconds=timeout,
            )
        else:
            say(f"{found['id']}: {found['reason']}")
            if (past := _left_behind(keeper, found)) is not None:
                hint(past.hint)
    if output is not None:
        print_job(found, output)
    else:
        write(f"{found['id']} {found['state']}")
    raise typer.Exit(code)


def _left_behind(keeper: "Keeper", job: "JobView") -> "PastCoordinator | None":
    """The folder of a job that has not ended and whose coordinator is gone."""
    from cordee.coordinator.past import PastCoordinator

    if isinstance(keeper, PastCoordinator) and job["state"] not in TERMINAL_STATES and not keeper.held:
        return keeper
    return None


def _end_left_behind(past: "PastCoordinator", job_id: str) -> "JobView":
    """Cancel a job without a coordinator: by one that lives for as long as that takes.

    Not where it would take up other jobs, too: starting those, or leaving them, is not what was asked for.
    """
    from cordee.coordinator.cli.embedded import embedded
    from cordee.coordinator.cli.follow import Interrupts

    if [job.view["id"] for job in past.unfinished()] != [job_id]:
        return past.cancel(job_id)
    past.close()
    with Interrupts() as interrupts, embedded(past.folder, interrupts) as (_, client):
        return client.cancel(job_id)
