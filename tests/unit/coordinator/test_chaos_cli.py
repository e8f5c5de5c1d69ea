"""What `cordee chaos` and `cordee run --chaos` refuse, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cordee.coordinator.cli import app


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without coordinators, with a script."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("CORDEE_SERVER", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("print('hello')\n")
    return tmp_path


def refused(*words: str, code: int = 2) -> str:
    done = CliRunner().invoke(app, list(words), prog_name="cordee")
    assert done.exit_code == code, (words, done.output)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--spec", "kil@3s"), "did you mean 'kill'?"),
        (("--kinds", "kill,flood"), "there is no fault 'flood'"),
        (("--every", "soon"), "'soon' is no time"),
        (("--for", "ever"), "'ever' is no time"),
        (("--spec", "soak", "--every", "3s"), "--every and --kinds belong to a command without it"),
        (("--spec", "at 1s coordinator"), "cordee run --chaos SPEC has a coordinator of its own"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_a_sentence(options: tuple[str, ...], words: str) -> None:
    assert words in refused("chaos", "digits", *options)


def test_a_job_that_is_nowhere_is_not_disturbed() -> None:
    assert "no coordinator runs here" in refused("chaos", "digits", code=1)


@pytest.mark.parametrize("options", [("--report", "x"), ("--no-reference",), ("--reference", "0" * 64)])
def test_options_of_a_disturbance_mean_nothing_without_one(options: tuple[str, ...]) -> None:
    said = refused("run", "train.py", *options)
    assert f"{options[0]} belongs to --chaos" in said
    assert "stands behind '--'" in said


def test_two_references_cannot_both_be_meant() -> None:
    words = ("run", "train.py", "--chaos", "soak", "--reference", "0" * 64, "--no-reference")
    assert "cannot both be meant" in refused(*words)
    assert "position 1" in refused("run", "train.py", "--chaos", "sok")
