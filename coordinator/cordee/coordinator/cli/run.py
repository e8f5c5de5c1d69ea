"""`cordee run`: train in the foreground, with a coordinator inside this process.

The coordinator is the service's own code on a folder of this run, and the job is followed over REST like any other, so
what works here works there. Ctrl-C cancels the job; a second one leaves at once.
"""

import contextlib
import logging
import tempfile
import threading
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cordee.coordinator.cli.errors import ExitCode, exit_code_of_state, guarded, say
from cordee.coordinator.cli.options import (
    ArgsArgument,
    CheckpointOption,
    DeviceOption,
    EnvOption,
    Format,
    LauncherOption,
    NameOption,
    ScriptArgument,
    SourceOption,
    ThreadsOption,
    WorkersOption,
)
from cordee.coordinator.cli.output import write
from cordee.coordinator.cli.script_command import NOTES_KEY

if TYPE_CHECKING:
    from cordee.coordinator.cli.display import Display
    from cordee.coordinator.cli.follow import Followed, Interrupts
    from cordee.coordinator.cli.prepare import Prepared
    from cordee.coordinator.client import Client
    from cordee.coordinator.service.embedded import EmbeddedCoordinator
    from cordee.coordinator.views import JobView

__all__ = ["RESULT_FIELDS", "run"]

ORPHAN_SECONDS: Final = 60.0  # workers of a run whose terminal is gone do not train on for an hour

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
    source: SourceOption = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="DIR", help="The run's folder (default: a new one in your data folder)."),
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
        source=source,
    )
    with Interrupts() as interrupts:
        try:
            prepared = prepare(wish)
            for note in (*context.meta.get(NOTES_KEY, ()), *prepared.notes):
                say(f"note: {note}")
            if dry_run:
                _plan(prepared, state, interrupts, as_json=output is not None)
                return
            code = _train(prepared, state, interrupts, as_json=output is not None)
        except KeyboardInterrupt:
            say("left at once; workers that may have started end by themselves within a minute")
            code = ExitCode.CANCELLED
    raise typer.Exit(code)


def _plan(prepared: "Prepared", state: Path | None, interrupts: "Interrupts", *, as_json: bool) -> None:
    """Ask a coordinator like the one that would run it."""
    from cordee.coordinator.cli.submit import print_plan

    with contextlib.ExitStack() as stack:
        folder = state or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cordee-")))
        with _coordinator(prepared, folder, interrupts) as (_, client):
            print_plan(prepared, client.dry_run(prepared.document.to_document()), Format.JSON if as_json else None)


@contextlib.contextmanager
def _coordinator(
    prepared: "Prepared", folder: Path, interrupts: "Interrupts"
) -> "Iterator[tuple[EmbeddedCoordinator, Client]]":
    """An embedded coordinator, and a client of it. At the end no worker of this run is left."""
    from cordee.coordinator.client import Client, Endpoint
    from cordee.coordinator.service.embedded import EmbeddedCoordinator
    from cordee.coordinator.service.launchers.process import default_slots

    slots = max(default_slots(), prepared.document.spec.workers.max)
    coordinator = EmbeddedCoordinator(folder, slots=slots, orphan_seconds=ORPHAN_SECONDS).start()
    try:
        endpoint = Endpoint(coordinator.rest_url, coordinator.token, folder)
        with _log_to(folder / "coordinator.log"), Client(endpoint) as client:
            yield coordinator, client
    finally:
        with interrupts.to(lambda _number: coordinator.kill_jobs()):
            coordinator.stop()


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """The embedded coordinator's log goes to a file: stderr is the person's."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("cordee")
    logger.addHandler(handler)
    level, propagates = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates
        handler.close()


def _train(prepared: "Prepared", state: Path | None, interrupts: "Interrupts", *, as_json: bool) -> ExitCode:
    from cordee.coordinator.cli.display import make_display
    from cordee.coordinator.cli.runs import new_run_folder, prune_runs
    from cordee.coordinator.cli.summary import summarise
    from cordee.coordinator.client import runs_folder

    runs = runs_folder()
    own = new_run_folder(runs, prepared.document.metadata.name)
    folder = own if state is None else state.expanduser().absolute()
    with _coordinator(prepared, folder, interrupts) as (coordinator, client):
        job = coordinator.submit(prepared.document.to_document(), prepared.bundle.data, prepared.bundle.sha256)
        with make_display(payload_on_stdout=as_json) as display:
            display.note(f"job {job['id']}; state folder {folder}")
            others = [] if state is None else _unfinished(client, job["id"])
            if others:
                display.note(f"this folder's unfinished jobs run as well while this command does: {', '.join(others)}")
            followed = _follow(coordinator, client, job, display, interrupts)
    job = followed.job
    if followed.left:
        job = job.copy()
        job["state"], job["reason"] = "cancelled", "left at once, by a third signal"
    if state is None:
        prune_runs(runs)
    summarise(job, folder, shown=display.has_shown)
    if as_json:
        import json

        write(json.dumps(_result(job), ensure_ascii=False, allow_nan=False))
    return exit_code_of_state(job["state"])


def _unfinished(client: "Client", but: str) -> list[str]:
    """Jobs of an earlier run on this folder, which the coordinator has taken up again."""
    from cordee.coordinator.views import TERMINAL_STATES

    return [job["id"] for job in client.jobs() if job["state"] not in TERMINAL_STATES and job["id"] != but]


def _follow(
    coordinator: "EmbeddedCoordinator", client: "Client", job: "JobView", display: "Display", interrupts: "Interrupts"
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

    return follow(client, job, display, interrupts, show_output=True, on_signal=on_signal)


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
