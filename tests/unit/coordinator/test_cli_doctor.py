"""`cordee doctor` tells people and programs what the trainer's side finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cordee.coordinator.cli import app
from cordee.coordinator.cli import doctor as command

GAINS = {
    "ways": {"numpy": "numpy", "in_use": "llvm", "installed": "llvm,onednn"},
    "rows": [
        {
            "name": "softmax",
            "size": "2×3",
            "seconds": {"numpy": 0.002, "in_use": 0.001, "installed": 0.0005},
            "gain": 2.0,
            "possible": 4.0,
        }
    ],
    "gain": 2.0,
    "possible": 4.0,
}


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *words], prog_name="cordee")


@pytest.mark.slow  # a process each
def test_it_says_the_same_to_programs_and_to_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORDEE_KERNEL_CACHE", str(tmp_path))  # others fill the usual one meanwhile
    answer = invoke("--no-measure", "-o", "json")
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    told = invoke("--no-measure").stdout
    assert told == command._told(found, wide=False) + "\n"
    for provider in found["kernels"]["providers"]:
        assert f"\n{provider['name']} " in told
        assert provider["state"] in told
    assert found["cache"]["folder"] in told
    assert "OPERATION" not in told
    assert all(line == line.rstrip() for line in told.splitlines())
    assert "\x1b" not in told
    wide = command._told(found | {"gains": GAINS}, wide=True)
    words = [line.split() for line in wide.splitlines()]
    assert ["softmax", "2×3", "2.000", "ms", "1.000", "ms", "0.500", "ms", "2.00×", "4.00×"] in words
    assert ["layer_norm", found["kernels"]["by"]["layer_norm"]] in words


@pytest.mark.slow
def test_a_wrong_choice_of_kernels_is_a_matter_of_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORDEE_KERNELS", "lvm")
    told = invoke("--no-measure")
    assert (told.exit_code, told.stdout) == (2, "")
    assert told.stderr.startswith("error: there are no kernels by 'lvm': CORDEE_KERNELS is auto, numpy, or some of ")
    monkeypatch.setenv("CORDEE_KERNELS", "numpy")
    monkeypatch.setenv("CORDEE_THREADS", "many")
    told = invoke("--no-measure")
    assert told.exit_code == 1
    assert "CORDEE_THREADS must be a whole number of at least 1, not 'many'" in told.stderr
