"""The head of every benchmark's output: on what machine and with which versions its figures were made.

PyTorch may be in an environment of its own: `TORCH_PYTHON` names its interpreter then.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["describe_machine", "median", "print_machine", "print_rows"]


def describe_machine(*packages: str, device: str = "cpu") -> list[str]:
    """Processor, cores and load, and the GPU if that computes; Python and the versions of `packages`."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{package} {_version(package)}" for package in ("cordee", *packages)]
    load = os.getloadavg()[0]
    lines = [f"{model}, {cores} cores, {platform.system()} {platform.release()}; load {load:.1f}"]
    return [*lines, *([_gpu()] if device == "cuda" else []), ", ".join(versions)]


def _gpu() -> str:
    ask = ["nvidia-smi", "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "a GPU that nvidia-smi does not know"


def _version(package: str) -> str:
    elsewhere = os.environ.get("TORCH_PYTHON")
    if package == "torch" and elsewhere:
        ask = "import importlib.metadata; print(importlib.metadata.version('torch'))"
        return subprocess.run([elsewhere, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def print_machine(*packages: str, device: str = "cpu") -> None:
    """Prints `describe_machine`."""
    for line in describe_machine(*packages, device=device):
        print(f"# {line}")
    sys.stdout.flush()


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")


def print_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table in aligned columns."""
    widths = [max(len(str(row[column])) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()
