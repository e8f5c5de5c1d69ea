"""`cordee chaos`: disturb a job that trains, and report what it made of it."""

from typing import TYPE_CHECKING, Annotated

import typer

from cordee.coordinator.cli.errors import ExitCode, UsageError, exit_code_of_state, guarded, say
from cordee.coordinator.cli.options import JobArgument, OutputOption, ReportOption, ServerOption, StateOption
from cordee.coordinator.cli.output import dump, is_document, write

if TYPE_CHECKING:
    from cordee.coordinator.chaos.plan import Plan
    from cordee.coordinator.chaos.recording import Injection, Recording
    from cordee.coordinator.client import Client
    from cordee.coordinator.discovery import Keeper
    from cordee.coordinator.views import JobView

__all__ = ["chaos"]

DEFAULT_KINDS = "kill,stop,partition"


@guarded
def chaos(
    job: JobArgument,
    spec: Annotated[
        str | None,
        typer.Option("--spec", metavar="SPEC", help="What is to happen: 'kill,stop@29s', 'at 10s kill w2', soak, all."),
    ] = None,
    every: Annotated[str | None, typer.Option("--every", metavar="TIME", help="A fault so often, such as 29s.")] = None,
    kinds: Annotated[
        str | None, typer.Option("--kinds", metavar="K,K…", help=f"Of these kinds (default: {DEFAULT_KINDS}).")
    ] = None,
    length: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="For so long (default: until the job has ended).")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="Another seed, other moments.")] = None,
    report: ReportOption = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="SHA256|JOB", help="Undisturbed weights, or a job, to compare with."),
    ] = None,
    server: ServerOption = None,
    state: StateOption = None,
    output: OutputOption = None,
) -> None:
    """Inject faults into a job that was submitted with --allow-chaos, and report what came of it.

    Ctrl-C injects nothing more and reports. Exit code 0: whatever happened, it was recovered from, and what could be
    compared is the same; 1: not.
    """
    from cordee.coordinator.chaos.report import make_report
    from cordee.coordinator.chaos.table import table
    from cordee.coordinator.cli.chaos_report import PAGE_FILE, prove, reference_of, write_report
    from cordee.coordinator.cli.reach import reach

    plan = _plan(spec, every, kinds, length, seed)
    theirs = reference_of(reference, server, state) if reference is not None else None
    with reach(server, state) as coordinators:
        keeper, found = coordinators.find(job)
        recording = _disturb(_living(keeper, found), found, plan)
    ended = recording.job
    compared = theirs if ended["state"] == "succeeded" else None
    why_none = "" if theirs is None or compared is not None else f"not compared: the job is {ended['state']}"
    made = make_report(recording, prove(ended, compared, why_none=why_none))
    if report is not None:
        write_report(made, recording, report)
        say(f"the report is {report / PAGE_FILE}")
    if is_document(output):
        dump(made.to_json(), output)
    else:
        write(table(made))
    if ended["state"] == "failed":
        raise typer.Exit(exit_code_of_state("failed"))
    raise typer.Exit(ExitCode.DONE if made.passed else ExitCode.ERROR)


def _plan(spec: str | None, every: str | None, kinds: str | None, length: str | None, seed: int | None) -> "Plan":
    from cordee.coordinator.chaos.grammar import parse_plan, parse_time
    from cordee.coordinator.chaos.plan import COORDINATOR, PlanError

    if spec is not None and (every is not None or kinds is not None):
        raise UsageError("--spec says what happens and how often; --every and --kinds belong to a command without it")
    try:
        seconds = None if length is None else parse_time(length)
        if every is not None:
            parse_time(every.removeprefix("~"))
    except PlanError as error:
        raise UsageError(str(error)) from None
    if spec is None:
        spec = f"{kinds or DEFAULT_KINDS}@{every or '29s'}"
    plan = parse_plan(spec, seed=seed, seconds=seconds)
    if COORDINATOR in plan.kinds:
        raise UsageError(
            "this command cannot kill the coordinator: nobody would start it again",
            "cordee run --chaos SPEC has a coordinator of its own, which it kills and starts again",
        )
    return plan


def _living(keeper: "Keeper", job: "JobView") -> "Client":
    from cordee.coordinator.client import Client
    from cordee.coordinator.errors import ConflictError
    from cordee.coordinator.views import TERMINAL_STATES

    if not isinstance(keeper, Client) or job["state"] in TERMINAL_STATES:
        raise ConflictError(f"the job {job['id']} does not train: it is {job['state']}", "give a job that runs")
    return keeper


def _disturb(client: "Client", job: "JobView", plan: "Plan") -> "Recording":
    from cordee.coordinator.chaos.director import Director
    from cordee.coordinator.cli.chaos_run import describe_injection
    from cordee.coordinator.cli.follow import Interrupts

    def on_injection(injection: "Injection") -> None:
        say(f"chaos: {describe_injection(injection)}")

    director = Director(client, job["id"], plan, on_injection=on_injection)
    say(f"chaos: {plan}, on {job['id']} (Ctrl-C: no more faults)")
    with Interrupts() as interrupts, interrupts.to(lambda _number: director.stop()):
        return director.run()
