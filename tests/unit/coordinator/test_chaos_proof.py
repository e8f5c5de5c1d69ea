"""What a disturbed job's ledger proves, when there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cordee.coordinator.cli.chaos_report import prove


@pytest.mark.parametrize(
    ("asked", "job", "exactly_once", "words"),
    [
        (True, {}, False, "soak-abcdef keeps no ledger"),
        (
            True,
            {"events": [{"kind": "ledger_failed", "message": "the disk is full"}]},
            False,
            "has no ledger: the disk is full",
        ),
        (True, {"step": 0}, None, ""),  # cancelled before its first step: there is nothing to note
        (False, {}, None, ""),
    ],
)
def test_a_ledger_that_was_asked_for_and_is_missing_proves_the_samples_wrong(
    asked: bool, job: dict[str, Any], exactly_once: bool | None, words: str, tmp_path: Path
) -> None:
    known = {"id": "soak-abcdef", "folder": str(tmp_path), "events": [], "step": 5, "state": "succeeded"}
    ended = known | {"weights_sha256": "a" * 64} | job
    proof = prove(ended, None, ledger_asked=asked)
    assert proof.exactly_once is exactly_once
    assert words in proof.exactly_once_words
    assert proof.ledger.words == "the job kept no ledger"
