"""`cordee submit`: hand a job to a coordinator and go on; and `cordee schema`, the files' JSON Schemas."""

import shlex
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cordee.coordinator.cli.errors import ExitCode, exit_code_of_state, guarded, say
from cordee.coordinator.cli.options import (
    AllowChaosOption,
    ArgsArgument,
    CheckpointOption,
    CheckpointStorageOption,
    DeviceOption,
    EnvOption,
    Format,
    LauncherOption,
    LedgerOption,
    NameOption,
    OutputOption,
    ScriptArgument,
    ServerOption,
    SourceOption,
    StateOption,
    ThreadsOption,
    WarmStartOption,
    WorkersOption,
)
from cordee.coordinator.cli.output import dump, is_document, print_job, write
from cordee.coordinator.cli.script_command import NOTES_KEY

if TYPE_CHECKING:
    from cordee.coordinator.cli.prepare import Prepared
    from cordee.coordinator.client import Client
    from cordee.coordinator.views import JobView, Plan

__all__ = ["attach", "print_plan", "schema", "submit", "there"]


@guarded
def submit(
    context: typer.Context,
    script: ScriptArgument,
    args: ArgsArgument = None,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    launcher: LauncherOption = None,
    name: NameOption = None,
    env: EnvOption = None,
    checkpoint_every: CheckpointOption = None,
    checkpoint_storage: CheckpointStorageOption = None,
    warm_start: WarmStartOption = None,
    source: SourceOption = None,
    ledger: LedgerOption = False,
    allow_chaos: AllowChaosOption = False,
    server: ServerOption = None,
    state: StateOption = None,
    output: OutputOption = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show the job until it ends; Ctrl-C detaches.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and say where it would run.")] = False,
) -> None:
    """Hand a job (SCRIPT, or a job file) to a coordinator. The first line on stdout is the job's id.

    Options override the fields of a job file. They may stand before or after SCRIPT; what Cordee does not know goes to
    the script, and so does everything after `--`.
    """
    from cordee.coordinator.cli.prepare import Wish, prepare
    from cordee.coordinator.cli.reach import reach
    from cordee.coordinator.cli.warm import weights_of_job

    prepared = prepare(
        Wish(
            script=script,
            args=tuple(args) if args else None,
            workers=workers,
            threads=threads,
            device=device,
            launcher=launcher,
            name=name,
            env=tuple(env or ()),
            checkpoint_every=checkpoint_every,
            checkpoint_storage=checkpoint_storage,
            warm_start=warm_start,
            source=source,
            ledger=ledger,
            allow_chaos=allow_chaos,
        ),
        weights_of_job=partial(weights_of_job, server=server, state=state),
        elsewhere=True,
    )
    for note in (*context.meta.get(NOTES_KEY, ()), *prepared.notes):
        say(f"note: {note}")
    with reach(server, state) as coordinators:
        client = coordinators.service
        document = prepared.document.to_document()
        if dry_run:
            print_plan(prepared, client.dry_run(document), output)
            return
        job = client.submit(document, prepared.bundle.data, prepared.bundle.sha256)
        if output is None:
            write(job["id"])
        elif not follow:
            print_job(job, output)
        if follow:
            code, job = attach(
                client, job, show_output=True, payload_on_stdout=output is not None, again=there(server, state)
            )
            if output is not None:
                print_job(job, output)
            raise typer.Exit(code)
        if output is None:
            say("Next steps:")
            for command in ("status", "logs -f", "wait", "cancel"):
                say(f"  cordee {command} {job['id']}{there(server, state)}")


def attach(
    client: "Client",
    job: "JobView",
    *,
    show_output: bool,
    payload_on_stdout: bool,
    again: str,
    timeout_seconds: float | None = None,
) -> "tuple[ExitCode, JobView]":
    """Show a job until it ends. A signal or the time's end detaches: the job goes on.

    `again` are the options by which it is found again.
    """
    from cordee.coordinator.cli.display import make_display
    from cordee.coordinator.cli.follow import Interrupts, follow
    from cordee.coordinator.cli.summary import summarise

    with Interrupts() as interrupts, make_display(payload_on_stdout=payload_on_stdout) as display:
        followed = follow(
            client,
            job,
            display,
            interrupts,
            show_output=show_output,
            on_signal=lambda _count: True,
            timeout_seconds=timeout_seconds,
        )
    if followed.left:
        say(f"the job goes on; to see it again: cordee wait {job['id']}{again}")
        return ExitCode.UNFINISHED, followed.job
    summarise(followed.job, followed.job["folder"], shown=display.has_shown)
    return exit_code_of_state(followed.job["state"]), followed.job


def there(server: str | None, state: Path | None) -> str:
    """The options that lead to the same coordinator again, to be put behind a command."""
    named = (("--server", server), ("--state", state))
    return "".join(f" {option} {shlex.quote(str(value))}" for option, value in named if value is not None)


def print_plan(prepared: "Prepared", plan: "Plan", form: Format | None) -> None:
    """What a dry run found."""
    if is_document(form):
        dump(dict(plan), form)
        return
    place, spec, bundle = plan["placement"], prepared.document.spec, prepared.bundle
    source = "source elsewhere"
    if bundle.sha256:
        source = f"bundle of {bundle.num_files} file(s), {len(bundle.data) / 1024:,.1f} KiB"
    write(f"valid: {prepared.document.metadata.name} ({spec.script}, workers {spec.workers}, {source})")
    write(f"placement: {place['message']}, launcher {place['launcher']}")


class Schema(StrEnum):
    """The files that have a schema."""

    JOB = "job"
    CONFIG = "config"


@guarded
def schema(
    file: Annotated[Schema, typer.Argument(help="The job file, or the coordinator's configuration.")] = Schema.JOB,
) -> None:
    """Print a file's JSON Schema, for editors and other tools."""
    if file is Schema.JOB:
        from cordee.coordinator.spec import job_schema as chosen
    else:
        from cordee.coordinator.config import config_schema as chosen
    dump(chosen(), Format.JSON)
