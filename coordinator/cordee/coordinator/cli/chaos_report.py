"""The end of a disturbed run: compare its result with an undisturbed one's, make the report, write it down."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cordee.coordinator.errors import CoordinatorError

if TYPE_CHECKING:
    from cordee.coordinator.chaos.recording import Recording
    from cordee.coordinator.chaos.report import Proof, Report

__all__ = ["PAGE_FILE", "RECORDING_FILE", "REPORT_FILE", "Reference", "prove", "reference_of", "write_report"]

PAGE_FILE: Final = "report.html"
REPORT_FILE: Final = "report.json"
RECORDING_FILE: Final = "recording.json"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """An undisturbed result."""

    words: str
    """What it is."""
    weights_sha256: str | None
    ledger: Path | None = None
    """Its ledger, if it kept one."""


def reference_of(text: str, server: str | None = None, state: Path | None = None) -> Reference:
    """What `--reference` names: the SHA-256 of weights, or a job that has succeeded."""
    if _SHA256.fullmatch(text.lower()):
        return Reference("the digest that was given", text.lower())
    from cordee.coordinator.cli.reach import reach

    with reach(server, state) as coordinators:
        _, job = coordinators.find(text)
    if job["state"] != "succeeded":
        raise CoordinatorError(
            f"the job {job['id']} is no reference: it is {job['state']}",
            "a reference is a job that has succeeded, or the SHA-256 of its weights",
        )
    return reference_of_job(job)


def reference_of_job(job: Mapping[str, Any]) -> Reference:
    """A job's result."""
    return Reference(f"the job {job['id']}", job["weights_sha256"], _ledger_of(job))


def prove(
    job: Mapping[str, Any], reference: Reference | None, *, why_none: str = "", ledger_asked: bool = False
) -> "Proof":
    """Whether a job's result is that of the reference, and its ledger exact.

    With `ledger_asked` the job was to keep one: if it made a step and there is none, nothing is proven of its samples.
    """
    from cordee.coordinator.chaos.report import Proof, Same

    none = why_none or "there was no reference to compare with"
    sha256 = job["weights_sha256"]
    if sha256 is None:
        weights = Same(None, None, "the job has no final weights")
    elif reference is None or reference.weights_sha256 is None:
        weights = Same(sha256, None, none)
    else:
        weights = Same(sha256, reference.weights_sha256, f"compared with {reference.words}")
    path = _ledger_of(job)
    if path is None:
        words = "the job kept no ledger"
        if not ledger_asked or not job["step"]:
            return Proof(weights, Same(words=words))
        from cordee.coordinator.cli.ledger import LEDGER_FILE, missing_ledger

        why = missing_ledger(job, Path(job["folder"]) / LEDGER_FILE).message
        return Proof(weights, Same(words=words), exactly_once=False, exactly_once_words=why)
    return _with_ledger(weights, path, job, reference, none)


def _with_ledger(weights: Any, path: Path, job: Mapping[str, Any], reference: Reference | None, none: str) -> "Proof":
    from cordee.coordinator.chaos.report import Proof, Same
    from cordee.coordinator.cli.ledger import prove_ledger

    ended = job["state"] == "succeeded"
    words = [str(path), "--steps" if ended else "--at-least", str(job["step"] if ended else 0)]
    theirs = reference.ledger if reference is not None and ended else None
    if theirs is not None:
        words += ["--compare", str(theirs)]
    try:
        found = prove_ledger(words)
    except CoordinatorError as error:
        return Proof(weights, Same(words=error.message), exactly_once=False, exactly_once_words=error.message)
    compared = found.get("compared")
    if compared is None:
        ledger = Same(found["sha256"], None, none if reference is None else f"{reference.words} kept no ledger")
    else:
        assert reference is not None
        ledger = Same(found["sha256"], compared["sha256"], f"compared with {reference.words}")
    count = len(found["epochs"])
    told = f"{count} epoch{'' if count == 1 else 's'}, {found['samples']:,} samples in {found['steps']:,} steps"
    if not found["proven"]:
        told = "; ".join(found["violations"]) or found["claim"]
    return Proof(weights, ledger, found["proven"], told)


def _ledger_of(job: Mapping[str, Any]) -> Path | None:
    from cordee.coordinator.cli.ledger import LEDGER_FILE

    path = Path(job["folder"]) / LEDGER_FILE
    return path if path.is_file() else None


def write_report(report: "Report", recording: "Recording", folder: Path) -> None:
    """The page, the figures and what they were made of."""
    from cordee.coordinator.chaos.page import page

    documents = {
        PAGE_FILE: page(report),
        REPORT_FILE: json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        RECORDING_FILE: json.dumps(recording.to_json(), ensure_ascii=False, allow_nan=False) + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in documents.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CoordinatorError(
            f"the report cannot be written to {folder}: {error.strerror}", "choose --report DIR"
        ) from None
