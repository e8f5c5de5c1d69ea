"""What all tests share: the device, a fixed seed that is printed, and Hypothesis' profiles."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SEED = 20260401

settings.register_profile("default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=["cpu", "cuda", "stand-in"],
        default="cpu",
        help="where the engine's tensors live; cuda needs CuPy and a device; stand-in: CuPy's rules, on the host",
    )
    parser.addoption(
        "--second-try",
        action="store_true",
        help="a test marked slow that fails is run once more; both are reported. For machines that others load, too",
    )


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # thousands of tests are collected, and none is garbage: to look for it takes as long as to make them
    # Before anything imports the engine: it reads its device and its thread count from the environment once.
    device = config.getoption("--device")
    os.environ["CORDEE_DEVICE"] = "cpu" if device == "cpu" else "cuda"
    if device == "cuda":
        os.environ.setdefault("CUDA_LAUNCH_BLOCKING", "1")  # what is wrong with indices is raised where it is asked
    if device == "stand-in":
        sys.path.insert(0, str(Path(__file__).parent / "conformance" / "cupy_stand_in"))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (sys.path[0], os.environ.get("PYTHONPATH"))))


def pytest_collection_finish() -> None:
    gc.freeze()  # nor are they later
    gc.enable()


def pytest_report_header(config: pytest.Config) -> str:
    return f"cordee: device {config.getoption('--device')}, seed {SEED}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--second-try"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.flaky(reruns=1))
    if config.getoption("--device") != "cuda":
        skip = pytest.mark.skip(reason="needs --device cuda")
        for item in items:
            if item.get_closest_marker("cuda"):  # the keywords know folders of that name, too
                item.add_marker(skip)


@pytest.fixture
def seed() -> int:
    """The seed of every random choice in a test."""
    return SEED
