"""`cordee run`: train in the foreground, with a coordinator inside this process.

The coordinator is the service's own code on a folder of this run, and the job is followed over REST like any other, so
what works here works there. Ctrl-C cancels the job; a second one kills its workers. A command that was itself killed is
typed again with the run's folder as `--state`, and goes on with its job: see `takeup`.
"""

import contextlib
import tempfile
import threading
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cordee.coordinator.cli.errors import ExitCode, exit_code_of_state, guarded, say
from cordee.coordinator.cli.options import (
    ArgsArgument,
    CheckpointOption,
    CheckpointStorageOption,
    DeviceOption,
    EnvOption,
    Format,
    LauncherOption,
    LedgerOption,
    NameOption,
    ReportOption,
    ScriptArgument,
    SourceOption,
    ThreadsOption,
    WarmStartOption,
    WorkersOption,
)
from cordee.coordinator.cli.output import count, write
from cordee.coordinator.cli.script_command import NOTES_KEY, WORDS_KEY
from cordee.coordinator.cli.takeup import describe, find_unfinished, take_up

if TYPE_CHECKING:
    from cordee.coordinator.cli.chaos_run import ChaosRun
    from cordee.coordinator.cli.display import Display
    from cordee.coordinator.cli.follow import Followed, Interrupts
    from cordee.coordinator.cli.prepare import Prepared
    from cordee.coordinator.cli.supervised import SupervisedCoordinator
    from cordee.coordinator.client import Client
    from cordee.coordinator.service.embedded import EmbeddedCoordinator
    from cordee.coordinator.views import JobView

__all__ = ["RESULT_FIELDS", "run"]

# What `-o json` prints, in this order, and nothing else: scripts depend on it.
RESULT_FIELDS: Final = (
    "job",
    "state",
    "steps",
    "samples",
    "generations",
    "recoveries",
    "weights_sha256",
    "seconds",
    "metrics",
)


class RunFormat(StrEnum):
    """How a run's result is printed."""

    JSON = "json"


@guarded
def run(
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
    chaos: Annotated[
        str | None,
        typer.Option(
            "--chaos", metavar="SPEC", help="Disturb the job: 'kill,stop@29s', soak, all. Then compare and report."
        ),
    ] = None,
    report: ReportOption = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", metavar="SHA256|JOB", help="With --chaos: compare with this instead of running it."
        ),
    ] = None,
    no_reference: Annotated[
        bool, typer.Option("--no-reference", help="With --chaos: do not run it undisturbed as well.")
    ] = False,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            metavar="DIR",
            help="The run's folder (default: a new one in your data folder). A run in it that was cut off goes on.",
        ),
    ] = None,
    output: Annotated[
        RunFormat | None, typer.Option("--output", "-o", help="Print the result as one JSON object.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and say where it would run.")] = False,
) -> None:
    """Train in the foreground: start a coordinator here, run SCRIPT on its workers, show the progress.

    Cordee's options may stand before or after SCRIPT; what Cordee does not know goes to the script, and so does
    everything after `--`.
    """
    from cordee.coordinator.cli.chaos_run import chaos_run
    from cordee.coordinator.cli.follow import Interrupts
    from cordee.coordinator.cli.prepare import Wish, prepare

    wish = Wish(
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
        ledger=ledger or chaos is not None,
        allow_chaos=chaos is not None,
    )
    disturbed = chaos_run(chaos, report, reference, no_reference)
    with Interrupts() as interrupts:
        try:
            prepared = prepare(wish)
            for note in (*context.meta.get(NOTES_KEY, ()), *prepared.notes):
                say(f"note: {note}")
            if dry_run:
                _plan(prepared, state, interrupts, as_json=output is not None)
                return
            code = _train(prepared, state, context.meta[WORDS_KEY], interrupts, disturbed, as_json=output is not None)
        except KeyboardInterrupt:
            say("left at once; workers that may have started end by themselves within a minute")
            code = ExitCode.CANCELLED
    raise typer.Exit(code)


def _plan(prepared: "Prepared", state: Path | None, interrupts: "Interrupts", *, as_json: bool) -> None:
    """Ask a coordinator like the one that would run it, on a folder of its own: one on `state` would begin to work."""
    from cordee.coordinator.cli.embedded import embedded
    from cordee.coordinator.cli.submit import print_plan

    if state is not None and (earlier := find_unfinished(prepared, state.expanduser().absolute())) is not None:
        say(f"note: {describe(earlier)}")
    slots = prepared.document.spec.workers.max
    with (
        tempfile.TemporaryDirectory(prefix="cordee-") as folder,
        embedded(Path(folder), interrupts, slots=slots) as (_, client),
    ):
        print_plan(prepared, client.dry_run(prepared.document.to_document()), Format.JSON if as_json else None)


def _train(
    prepared: "Prepared",
    state: Path | None,
    words: Sequence[str],
    interrupts: "Interrupts",
    disturbed: "ChaosRun | None",
    *,
    as_json: bool,
) -> ExitCode:
    from cordee.coordinator.cli.display import make_display
    from cordee.coordinator.cli.embedded import embedded
    from cordee.coordinator.cli.runs import NUM_KEPT, new_run_folder, prune_runs
    from cordee.coordinator.cli.summary import summarise
    from cordee.coordinator.folders import runs_folder
    from cordee.coordinator.past import keep_command

    runs = runs_folder()
    if state is None:
        folder = new_run_folder(runs, prepared.document.metadata.name)
        words = ["--state", str(folder), *words]
    else:
        folder = state.expanduser().absolute()
    earlier = find_unfinished(prepared, folder)
    opened = embedded if disturbed is None else disturbed.coordinator
    with opened(folder, interrupts, slots=prepared.document.spec.workers.max) as (coordinator, client):
        keep_command(folder, ["cordee", "run", *words])
        since = time.time()
        if earlier is None:
            since = 0.0
            job = coordinator.submit(prepared.document.to_document(), prepared.bundle.data, prepared.bundle.sha256)
        else:
            job = take_up(client, earlier, prepared)
        with make_display(payload_on_stdout=as_json) as display:
            if earlier is not None:
                display.note(describe(earlier))
            display.note(f"job {job['id']}; state folder {folder}")
            disturbance = None
            if disturbed is not None:
                disturbance = disturbed.begin(client, job, display, coordinator, from_submission=earlier is None)
            followed = _follow(coordinator, client, job, display, interrupts, output_since=since)
            recording = disturbance.end() if disturbance is not None else None
    job = followed.job
    if followed.left:
        job = job.copy()
        job["state"], job["reason"] = "cancelled", "left at once, by a third signal"
    summarise(job, folder, shown=display.has_shown)
    if state is None and (removed := prune_runs(runs)):
        what = count(len(removed), "old run")
        say(f"note: removed {what}, weights and all; the newest {NUM_KEPT} are kept, and those with a --state")
    code, result = exit_code_of_state(job["state"]), _result(job)
    if disturbed is not None:
        from cordee.coordinator.cli.chaos_run import verdict_code

        report = None
        if recording is not None:
            report = disturbed.conclude(recording, job, prepared, folder, interrupts, as_json=as_json)
            result["chaos"] = report.to_json()
        code = verdict_code(code, report)
    if as_json:
        import json

        write(json.dumps(result, ensure_ascii=False, allow_nan=False))
    return code


def _follow(
    coordinator: "EmbeddedCoordinator | SupervisedCoordinator",
    client: "Client",
    job: "JobView",
    display: "Display",
    interrupts: "Interrupts",
    *,
    output_since: float,
) -> "Followed":
    from cordee.coordinator.cli.follow import follow
    from cordee.coordinator.client import ClientError

    def cancel() -> None:
        with contextlib.suppress(ClientError):  # it has ended meanwhile
            client.cancel(job["id"])

    def on_signal(count: int) -> bool:
        if count == 1:
            display.note("cancelling the job (once more: kill its workers)")
            threading.Thread(target=cancel, daemon=True).start()
        else:
            coordinator.kill_jobs()
        return count > 2

    return follow(client, job, display, interrupts, show_output=True, output_since=output_since, on_signal=on_signal)


def _result(job: "JobView") -> dict[str, Any]:
    values = (
        job["id"],
        job["state"],
        job["step"],
        job["samples"],
        job["generations"],
        job["recoveries"],
        job["weights_sha256"],
        round(job["seconds"], 3),
        job["metrics"],
    )
    return dict(zip(RESULT_FIELDS, values, strict=True))
