"""`cordee ledger` says what the trainer's proof says, to people and to programs, and nothing that is not proven."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cordee.coordinator.cli import app
from cordee.coordinator.cli import ledger as command
from cordee.trainer import data
from cordee.trainer.elastic.ledger_entry import LedgerData, frame, pack_entry, pack_part
from cordee.trainer.elastic.state import ORDER_KIND


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, ["ledger", *map(str, words)], prog_name="cordee")


def write(path: Path, steps: int, *, seed: int = 1) -> Path:
    """The first steps of six samples in batches of two, in two shards, by two workers."""
    loader = data.DataLoader(range(6), 2, shuffle=True, shards=2, seed=seed)
    text = LedgerData.of(loader, ORDER_KIND).line()
    for number in range(steps):
        epoch, index = divmod(number, 3)
        parts = []
        for shard in range(2):
            batch = loader.shard_batch(epoch, index, shard)
            assert batch is not None
            assert batch.indices is not None
            parts.append(pack_part(0, 0, shard, [batch.indices]))
        text += frame(pack_entry(number + 1, epoch + 1, index, 1, parts))
    path.write_bytes(text)
    return path


@pytest.mark.slow  # each proof is a process
def test_a_ledger_is_proven_in_every_form(tmp_path: Path) -> None:
    path = write(tmp_path / "samples.ledger", 7)
    told = invoke(path)
    assert told.exit_code == 0, told.output
    lines = told.stdout.splitlines()
    assert lines[0] == (
        "proven so far: every sample exactly once in 2 finished epochs, and at most once in epoch 3, up to its step 1 "
        "of 3"
    )
    assert [line.split()[:6] for line in lines if line[:1].isdigit()] == [
        ["1", "3/3", "6", "6", "0", "0"],
        ["2", "3/3", "6", "6", "0", "0"],
        ["3", "1/3", "2", "2", "-", "0"],
    ]
    answer = json.loads(invoke(path, "-o", "json").stdout)
    assert (answer["job"], answer["proven"], answer["samples"]) == (None, True, 14)
    assert answer["epochs"][0]["sha256"] in command._told(answer, wide=True)


@pytest.mark.slow
def test_two_ledgers_are_compared(tmp_path: Path) -> None:
    path = write(tmp_path / "one.ledger", 7)
    for steps, seed, words, code in (
        (7, 1, "read the same, step by step", 0),
        (7, 2, "reads other data", 1),
    ):
        told = invoke(path, "--compare", write(tmp_path / "other.ledger", steps, seed=seed))
        assert told.exit_code == code, told.output
        assert words in told.stdout


@pytest.mark.slow
def test_what_is_no_ledger_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("nothing")
    for path, code, words in (
        (tmp_path / "x.txt", 1, "x.txt has no first line: nothing was written to it, or it is no ledger"),
        (tmp_path / "nowhere.ledger", 102, "there is no ledger"),
    ):
        told = invoke(path)
        assert told.exit_code == code, told.output
        assert told.stderr.startswith("error: ")
        assert words in told.stderr


ANSWER: dict[str, Any] = {
    "job": "j", "file": "f", "claim": "not proven: 12 violations", "loader": "l", "proven": False, "epochs": [],
    "redone": 1, "steps": 9, "worlds": 2, "samples": 5, "sha256": "00", "skipped_bytes": 17,
    "violations": ["step 1 is missing"] * 10, "num_violations": 12,
}  # fmt: skip


def test_of_what_is_not_proven_nothing_is_claimed() -> None:
    told = command._told(ANSWER, wide=False)
    assert told.startswith("not proven: 12 violations\n")
    assert "without a gap" not in told
    assert "with the same samples" not in told
    assert "17 bytes of entries that somebody did not finish" in told
    assert told.endswith("- step 1 is missing\n- and 2 more")


@pytest.mark.parametrize(
    ("job", "words", "code"),
    [
        ({"folder": "/nowhere/at/all"}, "keeps no ledger", 102),  # the coordinator's machine is another one
        (
            {"events": [{"kind": "ledger_failed", "message": "the disk is full"}]},
            "has no ledger: the disk is full",
            102,
        ),
        ({"step": 0}, "has no ledger yet: it has made no step", 102),
        ({}, "keeps no ledger", 102),
    ],
)
def test_a_job_without_a_ledger_is_told_why(
    job: dict[str, Any], words: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"id": "digits-1", "folder": str(tmp_path), "events": [], "step": 5, "state": "running", **job}

    class Coordinators:
        def __enter__(self) -> Coordinators:
            return self

        def __exit__(self, *_: object) -> None: ...

        def find(self, ref: str) -> tuple[Coordinators, dict[str, Any]]:
            return self, found

        def files(self, ref: str) -> list[Any]:
            return []

    monkeypatch.setattr("cordee.coordinator.cli.reach.reach", lambda server, state: Coordinators())
    told = invoke("digits")
    assert told.exit_code == code
    assert words in told.stderr
