"""What newcomers run first runs: every script in `examples/`, alone and in a job, and the scripts in the docs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
SETTINGS: dict[str, tuple[str, ...]] = {
    "char_transformer.py": (
        *("--layers", "1", "--heads", "2", "--width", "32", "--context", "32", "--dropout", "0.1"),
        *("--steps", "20", "--every", "10", "--write", "20"),
    ),
    "digits.py": ("--epochs", "2", "--width", "32"),
    "fit_digits.py": ("--epochs", "4", "--patience", "1"),
    "gan_digits.py": ("--epochs", "2", "--width", "32"),
    "lenet_digits.py": ("--epochs", "2"),
}
"""Arguments that make an example short; one without an entry runs as it is."""

_PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHOWN = {
    str(page.relative_to(ROOT)): body
    for page in sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
    for body in _PYTHON.findall(page.read_text(encoding="utf-8"))
    if body.startswith('"""') and "elastic.Run(" in body
}
"""Whole programs in the docs, by page. (That every other block runs is tested in tests/unit/test_docs_run.py.)"""


def run(command: list[str], environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_every_example_ends_the_same_alone_and_with_two_workers(
    script: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = SETTINGS.get(script.name, ())
    alone = run([sys.executable, str(script), *arguments], environment, tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert alone.stderr == ""
    cordee = [sys.executable, "-m", "cordee.coordinator.cli"]
    job = run([*cordee, "run", str(script), "--workers", "2", "-o", "json", "--", *arguments], environment, tmp_path)
    assert job.returncode == 0, job.stderr
    result: dict[str, Any] = json.loads(job.stdout)
    assert result["steps"] > 0
    # An example's last word is its weights' fingerprint, or the beginning of it.
    assert result["weights_sha256"].startswith(alone.stdout.split()[-1])


LATER = {"docs/how-to/write-an-elastic-script.md"}  # alone, each page runs in tests/unit/test_docs_run.py, too


@pytest.mark.parametrize("page", [pytest.param(p, marks=pytest.mark.long) if p in LATER else p for p in SHOWN])
def test_every_program_in_the_docs_ends_the_same_alone_and_with_two_workers(
    page: str, environment: dict[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SHOWN[page], encoding="utf-8")
    alone = run([sys.executable, "-W", "error", str(script)], environment, tmp_path)
    assert alone.returncode == 0, alone.stderr
    cordee = [sys.executable, "-m", "cordee.coordinator.cli"]
    job = run([*cordee, "run", str(script), "--workers", "2", "-o", "json"], environment, tmp_path)
    assert job.returncode == 0, job.stderr
    assert json.loads(job.stdout)["weights_sha256"] == alone.stdout.split()[-1]


def test_the_settings_are_of_examples_that_exist() -> None:
    assert SETTINGS.keys() <= {script.name for script in EXAMPLES}
    assert {"docs/tutorial/first-model.md", "docs/how-to/write-an-elastic-script.md"} <= SHOWN.keys()
