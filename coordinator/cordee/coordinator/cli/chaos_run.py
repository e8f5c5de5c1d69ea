"""`cordee run --chaos`: the job is disturbed while it trains, runs once more in peace, and the results are compared."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cordee.coordinator.chaos.plan import COORDINATOR, Plan
from cordee.coordinator.cli.errors import ExitCode, UsageError, say

if TYPE_CHECKING:
    from cordee.coordinator.chaos.recording import Injection, Recording
    from cordee.coordinator.chaos.report import Report
    from cordee.coordinator.cli.chaos_report import Reference
    from cordee.coordinator.cli.display import Display
    from cordee.coordinator.cli.follow import Interrupts
    from cordee.coordinator.cli.prepare import Prepared
    from cordee.coordinator.client import Client
    from cordee.coordinator.views import JobView

__all__ = ["ChaosRun", "Disturbance", "chaos_run", "describe_injection"]

FOLDER: Final = "chaos"
REFERENCE_FOLDER: Final = "reference"
_LAST_SECONDS: Final = 60.0


@dataclass(frozen=True)
class ChaosRun:
    """What `--chaos` and its options say."""

    plan: Plan
    report: Path | None
    reference: "Reference | None"
    with_reference: bool

    @property
    def supervised(self) -> bool:
        """The coordinator is to die, so it must be a process of its own."""
        return COORDINATOR in self.plan.kinds

    def coordinator(self, folder: Path, interrupts: "Interrupts", *, slots: int) -> AbstractContextManager[Any]:
        """The coordinator of the disturbed run, and a client of it."""
        if self.supervised:
            from cordee.coordinator.cli.supervised import supervised

            return supervised(folder, interrupts, slots=slots)
        from cordee.coordinator.cli.embedded import embedded

        return embedded(folder, interrupts, slots=slots)

    def begin(
        self, client: "Client", job: "JobView", display: "Display", coordinator: Any, *, from_submission: bool
    ) -> "Disturbance":
        """Start disturbing."""
        return Disturbance(
            client,
            job["id"],
            self.plan,
            display.note,
            coordinator=coordinator if self.supervised else None,
            from_submission=from_submission,
        )

    def conclude(
        self,
        recording: "Recording",
        job: "JobView",
        prepared: "Prepared",
        folder: Path,
        interrupts: "Interrupts",
        *,
        as_json: bool,
    ) -> "Report":
        """The undisturbed run, the comparison, the report and its files."""
        from cordee.coordinator.chaos.report import make_report
        from cordee.coordinator.chaos.table import table
        from cordee.coordinator.cli.chaos_report import PAGE_FILE, prove, write_report

        reference, why_none, lacking = self.reference, "", ""
        if job["state"] != "succeeded":
            reference, why_none = None, f"not compared: the job is {job['state']}"
        elif reference is None and self.with_reference:
            say("cordee: chaos: now the same job undisturbed, to compare with")
            reference = _undisturbed(prepared, folder / REFERENCE_FOLDER, interrupts, as_json=as_json)
            why_none = lacking = "" if reference is not None else "the undisturbed run did not come to its end"
        elif reference is None:
            why_none = "not compared: --no-reference"
        proof = prove(job, reference, why_none=why_none, ledger_asked=True)  # `run` asks for one with --chaos
        report = make_report(recording, replace(proof, lacking=lacking))
        where = self.report or folder / FOLDER
        write_report(report, recording, where)
        say(f"\n{table(report)}\n\nthe report is {where / PAGE_FILE}")
        return report


def chaos_run(spec: str | None, report: Path | None, reference: str | None, no_reference: bool) -> ChaosRun | None:
    """The options as one thing; an error for those that mean nothing."""
    if spec is None:
        given = {"--report": report is not None, "--reference": reference is not None, "--no-reference": no_reference}
        for option, is_given in given.items():
            if is_given:
                raise UsageError(
                    f"{option} belongs to --chaos", f"an option {option} of the script's own stands behind '--'"
                )
        return None
    if reference is not None and no_reference:
        raise UsageError("--reference and --no-reference cannot both be meant")
    from cordee.coordinator.chaos.grammar import parse_plan
    from cordee.coordinator.cli.chaos_report import reference_of

    found = reference_of(reference) if reference is not None else None
    where = report.expanduser().absolute() if report is not None else None
    return ChaosRun(parse_plan(spec), where, found, not no_reference)


class Disturbance:
    """A director at work beside the thread that shows the job."""

    def __init__(
        self,
        client: "Client",
        job: str,
        plan: Plan,
        note: Callable[[str], None],
        *,
        coordinator: Any = None,
        from_submission: bool,
    ) -> None:
        from cordee.coordinator.chaos.director import Director
        from cordee.coordinator.client import Client

        # A connection of its own: its watch is ended when it has seen enough, not when the display has.
        self._client = Client(client.endpoint)
        self._director: Director = Director(
            self._client,
            job,
            plan,
            coordinator=coordinator,
            on_injection=lambda injection: note(f"chaos: {describe_injection(injection)}"),
            from_submission=from_submission,
            to_the_end=True,
        )
        self._recording: Recording | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="cordee-chaos", daemon=True)
        self._thread.start()

    def end(self) -> "Recording | None":
        """What was recorded; to be called when the job has ended, while its coordinator is there."""
        self._thread.join(_LAST_SECONDS)
        self._director.stop()
        self._thread.join(_LAST_SECONDS)
        self._client.close()
        if self._recording is None:
            say(f"warning: chaos: there is no report: {self._error or 'the recording did not end'}")
        return self._recording

    def _run(self) -> None:
        try:
            self._recording = self._director.run()
        except Exception as error:
            self._error = error


def describe_injection(injection: "Injection") -> str:
    """A fault in a line."""
    from cordee.coordinator.chaos.history import shorts

    if injection.left_out:
        return f"{injection.kind} left out: {injection.left_out}"
    words = f"{injection.kind} {' '.join(shorts(injection.workers))}".strip()
    return words + (f" for {injection.seconds:g} s" if injection.seconds else "")


def verdict_code(code: ExitCode, report: "Report | None") -> ExitCode:
    """The command's exit code: a result that is not the same is an error, even if the job succeeded."""
    return ExitCode.ERROR if code is ExitCode.DONE and (report is None or not report.passed) else code


def _undisturbed(prepared: "Prepared", folder: Path, interrupts: "Interrupts", *, as_json: bool) -> "Reference | None":
    from cordee.coordinator.cli.chaos_report import Reference, reference_of_job
    from cordee.coordinator.cli.display import make_display
    from cordee.coordinator.cli.embedded import embedded
    from cordee.coordinator.cli.follow import follow
    from cordee.coordinator.client import ClientError

    document = prepared.document.to_document()
    document["spec"]["chaos"] = False
    slots = prepared.document.spec.workers.max
    with (
        embedded(folder, interrupts, slots=slots) as (coordinator, client),
        make_display(payload_on_stdout=as_json) as display,
    ):
        job = coordinator.submit(document, prepared.bundle.data, prepared.bundle.sha256)

        def on_signal(count: int) -> bool:
            def cancel() -> None:
                try:
                    client.cancel(job["id"])
                except ClientError:  # it has ended meanwhile
                    return

            threading.Thread(target=cancel, daemon=True).start()
            return count > 1

        job = follow(client, job, display, interrupts, show_output=False, on_signal=on_signal).job
    if job["state"] != "succeeded":
        say(f"cordee: chaos: the undisturbed run is {job['state']}")
        return None
    found = reference_of_job(job)
    return Reference("an undisturbed run of the same job", found.weights_sha256, found.ledger)
