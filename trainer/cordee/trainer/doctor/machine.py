"""What is known of the machine: its CPU, how much of it this process may use, and its GPUs."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from cordee.trainer.array import device_lack, device_name
from cordee.trainer.errors import DeviceError
from cordee.trainer.kernels import team

__all__ = ["cpu", "gpu"]

_INSTRUCTIONS = {
    "x86_64": {"avx2": "avx2", "avx512": "avx512f", "avx512_bf16": "avx512_bf16", "amx_bf16": "amx_bf16"},
    "aarch64": {"neon": "asimd", "bf16": "bf16", "sve": "sve"},
}
"""By machine: what kernels make use of, and the flag by which Linux says that the CPU has it."""


def cpu(information: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """The CPU's name, its cores and what of them may be used, and the instructions that matter to kernels."""
    told = _told(information)
    flags = set((told.get("flags") or told.get("Features") or "").split())
    quota = team.quota()
    return {
        "name": told.get("model name") or platform.processor() or platform.machine(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
        "allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "quota": quota,
        "at_once": team.available_cores(),
        "instructions": {name: flag in flags for name, flag in _INSTRUCTIONS.get(platform.machine(), {}).items()},
    }


def _told(file: Path) -> dict[str, str]:
    """The kernel's `name: value` lines, up to an empty one."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def gpu(drivers: Path = Path("/proc/driver/nvidia")) -> dict[str, Any]:
    """The GPUs that the driver knows, and what CuPy makes of them."""
    lack = device_lack()
    found: dict[str, Any] = {
        "lack": lack,
        "known": [_model(file) for file in sorted(drivers.glob("gpus/*/information"))],
        "cupy": None if "not installed" in lack else _version("cupy"),
        "driver": None,
        "nccl": None,
        "devices": [],
    }
    try:
        found["in_use"], found["trouble"] = device_name() == "cuda", ""
    except DeviceError as error:
        found["in_use"], found["trouble"] = False, str(error)
    if not lack:
        found |= _by_cupy(importlib.import_module("cupy"))
    return found


def _by_cupy(cupy: Any) -> dict[str, Any]:
    runtime = cupy.cuda.runtime
    devices = []
    for number in range(runtime.getDeviceCount()):
        told = runtime.getDeviceProperties(number)
        name = told["name"]
        devices.append(
            {
                "name": name.decode() if isinstance(name, bytes) else str(name),
                "memory_bytes": int(told["totalGlobalMem"]),
                "compute_capability": f"{told['major']}.{told['minor']}",
            }
        )
    nccl = importlib.import_module("cupy.cuda.nccl")
    return {
        "driver": _dotted(runtime.driverGetVersion(), 1000, 10),
        "nccl": str(nccl.get_version()) if getattr(nccl, "available", False) else None,
        "devices": devices,
    }


def _dotted(number: int, major: int, minor: int) -> str:
    """CUDA's way to write 12.4 is 12040."""
    return f"{number // major}.{number % major // minor}"


def _model(file: Path) -> str:
    """A GPU's name, as its driver tells it; else its place on the bus."""
    return _told(file).get("Model") or file.parent.name


def _version(module: str) -> str:
    return str(getattr(importlib.import_module(module), "__version__", "?"))
