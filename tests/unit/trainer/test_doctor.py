"""The doctor says what is there and what is not, and times what is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cordee.trainer import kernels
from cordee.trainer.doctor import findings, gains, machine
from cordee.trainer.doctor.__main__ import main
from cordee.trainer.doctor.cases import CASES
from cordee.trainer.kernels.providers import PROVIDERS, TABLE


@pytest.fixture(autouse=True)
def _chosen_again() -> Iterator[None]:
    yield
    kernels.choose("auto")


def provider(found: dict[str, object], name: str) -> dict[str, object]:
    told = found["kernels"]["providers"]  # type: ignore[index]
    return next(each for each in told if each["name"] == name)  # type: ignore[no-any-return]


def test_everybody_who_can_compute_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--no-measure"]) == 0
    found = json.loads(capsys.readouterr().out)
    told = found["kernels"]["providers"]
    assert [each["name"] for each in told] == list(PROVIDERS)
    for each in told:
        assert (each["state"] == "in use") == (each["name"] in kernels.in_use()), each
        assert (each["state"] == "lacking") == bool(each["lack"]), each
        assert each["lack"] or each["identity"], each
    assert found["kernels"]["identity"] == kernels.identity()
    assert set(TABLE) <= set(found["kernels"]["by"])
    assert found["gains"] is None


def test_what_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(PROVIDERS["llvm"]), "installed", lambda _: False)
    kernels.choose("auto")
    found = findings.examine()
    assert provider(found, "llvm")["state"] == "lacking"
    assert set(found["kernels"]["by"].values()) == {"numpy"}
    (advice,) = [sentence for sentence in found["advice"] if "llvmlite" in sentence]
    assert "pip install 'cordee[fast]'" in advice
    assert "Until then NumPy computes: fused elementwise operations, " in advice
    assert "softmax" in advice
    assert "_grad" not in advice


def test_what_is_installed_and_left_out_is_told() -> None:
    if PROVIDERS["llvm"].lack():
        pytest.skip(PROVIDERS["llvm"].lack())
    kernels.choose("numpy")
    found = findings.examine()
    assert provider(found, "llvm")["state"] == "not chosen"
    assert any(sentence.startswith("CORDEE_KERNELS leaves out llvm") for sentence in found["advice"])


def test_a_cache_that_cannot_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setenv("CORDEE_KERNEL_CACHE", str(tmp_path))
    found = findings.examine()
    assert "may write to" in found["cache"]["trouble"]
    told = any("compiled anew in each process" in sentence for sentence in found["advice"])
    assert told == ("llvm" in kernels.in_use())


def test_a_wrong_choice_is_one_sentence() -> None:
    asked = subprocess.run(
        [sys.executable, "-P", "-m", "cordee.trainer.doctor"],
        env={**os.environ, "CORDEE_KERNELS": "lvm"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (asked.returncode, asked.stderr) == (2, "")
    assert json.loads(asked.stdout)["error"].startswith("there are no kernels by 'lvm'")


def test_the_cpu_is_read_as_linux_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(
        "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: sse avx2 avx512f\n\nprocessor\t: 1\nflags\t: amx_bf16\n"
    )
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    found = machine.cpu(file)
    assert found["name"] == "A CPU"
    assert found["instructions"] == {"avx2": True, "avx512": True, "avx512_bf16": False, "amx_bf16": False}
    file.write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    assert machine.cpu(file)["instructions"] == {"neon": True, "bf16": True, "sve": False}
    assert machine.cpu(tmp_path / "none")["instructions"] == {"neon": False, "bf16": False, "sve": False}


def test_a_gpu_that_the_driver_knows_is_told(tmp_path: Path) -> None:
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "gpus" / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA H200\nIRQ: 7\n")
    assert machine.gpu(tmp_path)["known"] == ["NVIDIA H200"]
    assert machine.gpu(tmp_path / "none")["known"] == []


@pytest.mark.slow  # processes that compute
def test_gains_are_those_of_real_runs() -> None:
    kernels.choose("numpy")
    found = gains.measure(num_bursts=1, num_cases=2)
    assert [row["name"] for row in found["rows"]] == [case.name for case in CASES[:2]]
    installed = [name for name, each in PROVIDERS.items() if each.device == "cpu" and not each.lack()]
    assert found["ways"] == {"numpy": "numpy", **({"installed": ",".join(installed)} if installed else {})}
    assert found["gain"] is None  # NumPy beside NumPy
    for row in found["rows"]:
        assert all(seconds > 0 for seconds in row["seconds"].values())
        assert row["seconds"].keys() == found["ways"].keys()
        assert row["possible"] == (row["seconds"]["numpy"] / row["seconds"]["installed"] if installed else None)


def test_every_case_computes_and_has_a_gradient() -> None:
    for case in CASES:
        case.make()()
