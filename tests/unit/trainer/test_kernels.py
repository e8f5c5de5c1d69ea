"""The registry of kernels: who is chosen, who is asked, and what is said where something is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cordee.trainer import kernels
from cordee.trainer import ops as ops  # declares the kernels
from cordee.trainer.errors import KernelError
from cordee.trainer.kernels import team
from cordee.trainer.kernels.providers import PROVIDERS, TABLE


@pytest.fixture(autouse=True)
def _chosen_again() -> Iterator[None]:
    yield
    kernels.choose("auto")


def test_everything_in_the_table_is_declared_and_there() -> None:
    for name, places in TABLE.items():
        assert name in kernels.KERNELS
        for provider, place in places.items():
            assert provider in PROVIDERS
            module, _, function = place.partition(":")
            if not PROVIDERS[provider].lack():
                assert callable(getattr(importlib.import_module(module), function))


def test_numpy_alone() -> None:
    assert kernels.choose("numpy") == ()
    assert kernels.identity() == "numpy"
    assert kernels.KERNELS["softmax"].providers() == ()
    a = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(kernels.KERNELS["softmax"](np, a, axis=1), np.full((2, 3), 1 / 3, np.float32))


def test_who_does_not_take_an_operand_leaves_it_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = kernels.KERNELS["softmax"]
    asked = []

    def refuses(a: object, *, axis: int) -> object:
        asked.append(axis)
        return NotImplemented

    monkeypatch.setattr(kernel, "_providers", {np: (refuses,)})
    assert kernel(np, np.ones((1, 2), np.float32), axis=1).tolist() == [[0.5, 0.5]]
    assert asked == [1]


@pytest.mark.parametrize(("names", "sentence"), [("lvm", "no kernels by 'lvm'"), ("llvm,", "no kernels by ''")])
def test_a_wrong_name(names: str, sentence: str) -> None:
    with pytest.raises(KernelError, match=sentence):
        kernels.choose(names)


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(PROVIDERS["llvm"]), "installed", lambda _: False)
    with pytest.raises(KernelError, match=r"llvmlite is not installed: pip install 'cordee\[fast\]'"):
        kernels.choose("llvm")
    assert kernels.choose("auto") == ()


def test_a_package_that_is_not_made_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(PROVIDERS["onednn"]), "installed", lambda _: False)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert PROVIDERS["onednn"].lack() == "onednn-cpu-gomp is not made for riscv64"


@pytest.mark.parametrize("there", ["cupy-cuda12x", "cupy-cuda13x", "cupy", ""])
def test_a_package_for_another_cuda_is_as_good(there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package != there:
            raise importlib.metadata.PackageNotFoundError(package)
        return "14.2.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert PROVIDERS["nvrtc"].version() == ("14.2.0" if there else "")
    assert PROVIDERS["nvrtc"].installed() == bool(there)


def test_the_quota_of_a_container(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert team.available_cores(tmp_path) == min(2, team.available_cores(tmp_path / "none"))
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert team.available_cores(tmp_path) == team.available_cores(tmp_path / "none")
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert team.available_cores(tmp_path) == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("passive", "2000")),
        ({"OMP_WAIT_POLICY": "passive"}, ("passive", None)),
        ({"GOMP_SPINCOUNT": "9"}, ("passive", "9")),
    ],
    ids=["unset", "as a worker", "chosen"],
)
def test_how_the_teams_threads_wait(
    given: dict[str, str], expected: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    for name in names:
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is taken back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    team.library.__wrapped__()
    assert tuple(os.environ.get(name) for name in names) == expected
