"""`cordee jobs`, `status`, `scale`, `cancel`, `wait`: look at jobs and steer them."""

from typing import Annotated

import typer

from cordee.coordinator.cli.errors import guarded, say
from cordee.coordinator.cli.options import Format, JobArgument, OutputOption, ServerOption, StateOption
from cordee.coordinator.cli.output import dump, is_document, job_details, job_table, print_job, write

__all__ = ["cancel", "jobs", "scale", "status", "wait"]


@guarded
def jobs(server: ServerOption = None, state: StateOption = None, output: OutputOption = None) -> None:
    """List jobs, newest first: the service's, and those of live `cordee run`s."""
    from cordee.coordinator.client import connect

    with connect(server, state) as coordinators:
        found = coordinators.jobs()
    if is_document(output):
        dump({"jobs": [dict(job) for job in found]}, output)
    elif found:
        write(job_table(found, wide=output is Format.WIDE))
    else:
        say("no jobs yet; submit one: cordee submit SCRIPT")


@guarded
def status(
    job: JobArgument, server: ServerOption = None, state: StateOption = None, output: OutputOption = None
) -> None:
    """Show everything about a job: progress, workers, events, and the traceback if its script failed."""
    from cordee.coordinator.client import connect

    with connect(server, state) as coordinators:
        _, found = coordinators.find(job)
    if is_document(output):
        dump(dict(found), output)
    else:
        write(job_details(found, wide=output is Format.WIDE))


@guarded
def scale(
    job: JobArgument,
    workers: Annotated[str, typer.Argument(metavar="N|MIN:MAX", help="The new range of worker counts.")],
    server: ServerOption = None,
    state: StateOption = None,
    output: OutputOption = None,
) -> None:
    """Give a running job another number of workers; its result stays the same, bit for bit."""
    from cordee.coordinator.client import connect
    from cordee.coordinator.spec import parse_workers

    wanted = parse_workers(workers)
    with connect(server, state) as coordinators:
        client, found = coordinators.find(job)
        print_job(client.scale(found["id"], wanted.min, wanted.max), output)


@guarded
def cancel(
    job: JobArgument, server: ServerOption = None, state: StateOption = None, output: OutputOption = None
) -> None:
    """Stop a job."""
    from cordee.coordinator.client import connect

    with connect(server, state) as coordinators:
        client, found = coordinators.find(job)
        print_job(client.cancel(found["id"]), output)


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
    from cordee.coordinator.cli.submit import attach, there
    from cordee.coordinator.client import connect

    with connect(server, state) as coordinators:
        client, found = coordinators.find(job)
        code, found = attach(
            client,
            found,
            show_output=False,
            payload_on_stdout=True,
            again=there(server, state),
            timeout_seconds=timeout,
        )
    if output is not None:
        print_job(found, output)
    else:
        write(f"{found['id']} {found['state']}")
    raise typer.Exit(code)
