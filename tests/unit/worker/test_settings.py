"""A worker's environment is read once and checked whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from cordee.worker.settings import SettingsError, WorkerSettings

GOOD = {
    "CORDEE_JOB": "digits-abc234",
    "CORDEE_WORKER": "digits-abc234-w0",
    "CORDEE_COORDINATOR": "[::1]:4711",
    "CORDEE_TOKEN": "secret",
    "CORDEE_WORKDIR": "/var/jobs/digits",
    "CORDEE_SCRIPT": "examples/digits.py",
    "CORDEE_ARGS": '["--epochs", "3"]',
    "CORDEE_BUNDLE": "ab" * 32,
    "CORDEE_THREADS": "2",
    "CORDEE_ORPHAN_SECONDS": "3600",
    "CORDEE_CHECKPOINT_SECONDS": "0",
    "CORDEE_CHECKPOINT_STEPS": "100",
    "CORDEE_CHECKPOINT_KEEP": "5",
    "CORDEE_LEDGER": "1",
    "CORDEE_MESH_HOST": "10.0.0.7",
    "CORDEE_GRACE_SECONDS": "90",
}


def test_everything_the_launcher_says_is_read() -> None:
    settings = WorkerSettings.from_environment({**GOOD, "CORDEE_INCARNATION": "cafe"})
    assert settings == WorkerSettings(
        "digits-abc234", "digits-abc234-w0", "cafe", "[::1]:4711", "secret", Path("/var/jobs/digits"),
        "examples/digits.py", ("--epochs", "3"), "ab" * 32, threads=2, orphan_seconds=3600.0, checkpoint_seconds=0.0,
        checkpoint_steps=100, checkpoint_keep=5, ledger=True, mesh_host="10.0.0.7", grace_seconds=90.0,
    )  # fmt: skip
    assert settings.source == Path("/var/jobs/digits/source") / ("ab" * 32)


def test_each_process_is_a_new_incarnation() -> None:
    first, second = (WorkerSettings.from_environment(GOOD).incarnation for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    "name", ["CORDEE_JOB", "CORDEE_WORKER", "CORDEE_COORDINATOR", "CORDEE_TOKEN", "CORDEE_WORKDIR", "CORDEE_SCRIPT",
             "CORDEE_BUNDLE"],
)  # fmt: skip
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{name} is not set \(.+ python script.py$"):
        WorkerSettings.from_environment({key: value for key, value in GOOD.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CORDEE_COORDINATOR", "localhost"),
        ("CORDEE_COORDINATOR", "localhost:http"),
        ("CORDEE_COORDINATOR", "localhost:70000"),
        ("CORDEE_WORKDIR", "relative/folder"),
        ("CORDEE_SCRIPT", "../train.py"),
        ("CORDEE_SCRIPT", "/etc/train.py"),
        ("CORDEE_ARGS", "--epochs 3"),
        ("CORDEE_ARGS", "[3]"),
        ("CORDEE_BUNDLE", "../../etc"),
        ("CORDEE_THREADS", "0"),
        ("CORDEE_THREADS", "many"),
        ("CORDEE_ORPHAN_SECONDS", "0"),
        ("CORDEE_ORPHAN_SECONDS", "nan"),
        ("CORDEE_GRACE_SECONDS", "soon"),
        ("CORDEE_CHECKPOINT_SECONDS", "-1"),
        ("CORDEE_CHECKPOINT_STEPS", "1.5"),
        ("CORDEE_CHECKPOINT_KEEP", "0"),
    ],
)
def test_a_wrong_variable_is_named_with_what_it_should_be(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is '.*', which is not .+") as error:
        WorkerSettings.from_environment({**GOOD, name: value})
    assert repr(value) in str(error.value)
