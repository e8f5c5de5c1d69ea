"""`cordee checkpoints` over a folder: list, verify, export, and the sentences for what is not there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "trainer"))
from checkpoint_support import arrays, save

from cordee.trainer.checkpoint.layout import MANIFEST
from cordee.trainer.checkpoint.storage import LocalStorage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two whole checkpoints, a damaged one and an unfinished one."""
    folder = tmp_path_factory.mktemp("checkpoints")
    storage = LocalStorage(folder)
    for step in (10, 20, 30, 40):
        save(storage, step, world_size=2)
    part = max((folder / "step-000000000030").glob("part-*"), key=lambda path: path.stat().st_size)
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    (folder / "step-000000000040" / MANIFEST).unlink()
    return folder


def cordee(*words: str, code: int = 0) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "cordee.coordinator.cli", "checkpoints", *words],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


def test_a_folder_is_listed_and_verified(root: Path) -> None:
    lines = cordee(str(root)).stdout.splitlines()
    assert lines[0].split() == ["STEP", "STATE", "AGE", "SIZE", "PARTS", "WHERE"]
    # Nothing was read but sizes: that one byte is another does not show.
    assert [line.split()[:2] for line in lines[1:]] == [
        ["10", "whole"], ["20", "whole"], ["30", "whole"], ["40", "unfinished"],
    ]  # fmt: skip
    done = cordee(str(root), "--verify", "-o", "json", code=1)
    found = json.loads(done.stdout)
    assert found["job"] is None
    assert [each["state"] for each in found["checkpoints"]] == ["whole", "whole", "damaged", "unfinished"]
    assert "its SHA-256 is not the manifest's" in found["checkpoints"][2]["problem"]
    done = cordee(str(root), "--verify", code=1)
    assert re.search(r"^30 +damaged .*step-000000000030$", done.stdout, re.MULTILINE)
    assert "step 30 is damaged: " in done.stderr


def test_weights_are_exported_for_anybody_to_read(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    done = cordee(str(root), "--export", str(file))
    assert "2 arrays of step 20" in done.stdout
    assert "passed over a damaged checkpoint" in done.stderr
    weights = load_file(file)
    assert weights.keys() == {"weight", "count"}
    assert weights["weight"].tobytes() == arrays(20)["model.weight"].tobytes()
    told = json.loads(cordee(str(root), "--export", str(file), "--step", "10", "-o", "json").stdout)
    assert (told["step"], told["arrays"]) == (10, 2)
    assert load_file(file)["count"] == 10


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["ROOT", "--export", "FILE", "--step", "11"], 1, "holds no checkpoint of step 11; there are: 10, 20, 30"),
        (["ROOT", "--export", "FILE", "--step", "30"], 1, "its SHA-256 is not the manifest's"),
        (["ROOT", "--step", "10"], 2, "--step says which checkpoint to export"),
        (["s3://"], 1, "is no storage that is known: give a folder, s3://bucket/prefix"),
        (["no-such-job"], 1, "no coordinator runs here"),
    ],
)
def test_what_is_not_there_is_a_sentence(
    root: Path, tmp_path: Path, words: list[str], code: int, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    given = [{"ROOT": str(root), "FILE": str(tmp_path / "w.safetensors")}.get(word, word) for word in words]
    assert sentence in cordee(*given, code=code).stderr
    assert not (tmp_path / "w.safetensors").exists()


def test_an_empty_place_is_no_error(tmp_path: Path) -> None:
    done = cordee(f"{tmp_path}{os.sep}")
    assert (done.stdout, f"no checkpoints in {tmp_path}" in done.stderr) == ("", True)
