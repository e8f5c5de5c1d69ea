"""The head of every benchmark's output: on what machine and with which versions its figures were made."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["median", "print_machine", "print_rows"]


def print_machine(*packages: str) -> None:
    """Prints processor, cores, Python and the versions of `packages` (those that are installed)."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = [f"Python {platform.python_version()}"]
    for package in ("cordee", *packages):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    print(f"# {model}, {cores} cores, {platform.system()} {platform.release()}; load {os.getloadavg()[0]:.1f}")
    print(f"# {', '.join(versions)}")
    sys.stdout.flush()


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")


def print_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table in aligned columns."""
    widths = [max(len(str(row[column])) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()
