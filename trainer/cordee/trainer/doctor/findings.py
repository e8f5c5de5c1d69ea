"""All that can be said without running anything, and what follows from it: what is in use, what is not, and why."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import threadpoolctl  # type: ignore[import-untyped]

from cordee.trainer import kernels
from cordee.trainer import ops as ops  # declares the kernels
from cordee.trainer.array import get_num_threads
from cordee.trainer.doctor.machine import cpu, gpu
from cordee.trainer.kernels import team
from cordee.trainer.kernels.llvm import cache
from cordee.trainer.kernels.providers import GENERATORS, PROVIDERS, TABLE, Provider

__all__ = ["examine"]


def examine() -> dict[str, Any]:
    """The findings, as JSON has them.

    Raises:
        KernelError: CORDEE_KERNELS names what is not there.
    """
    chosen = kernels.in_use()
    found: dict[str, Any] = {
        "versions": {
            "cordee": importlib.metadata.version("cordee"),
            "python": ".".join(map(str, sys.version_info[:3])),
            "numpy": np.__version__,
        },
        "machine": cpu(),
        "gpu": gpu(),
        "threads": {
            "num": get_num_threads(),
            "chosen_by": "CORDEE_THREADS" if os.environ.get("CORDEE_THREADS") else None,
            "team": team.library() is not None,
            "team_size": team.size(),
        },
        "numpy": {"instructions": np.show_config(mode="dicts")["SIMD Extensions"].get("found", []), "blas": _blas()},
        "kernels": {
            "wanted": os.environ.get("CORDEE_KERNELS") or None,
            "in_use": list(chosen),
            "identity": kernels.identity(),
            "providers": [_provider(provider, chosen) for provider in PROVIDERS.values()],
            "by": {name: _who(name, chosen) for name in sorted(kernels.KERNELS)},
        },
        "cache": _cache(),
    }
    found["advice"] = list(_advice(found))
    return found


def _blas() -> list[dict[str, Any]]:
    """The libraries that products go to, with the loops that they chose for this CPU."""
    return [
        {
            "library": pool["internal_api"],
            "version": pool["version"],
            "loops": pool.get("architecture"),
            "threads": pool["num_threads"],
        }
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    ]


def _provider(provider: Provider, chosen: tuple[str, ...]) -> dict[str, Any]:
    lack = provider.lack()
    in_use = provider.name in chosen
    return {
        "name": provider.name,
        "doc": provider.doc,
        "device": provider.device,
        "package": provider.package,
        "version": provider.version() if provider.installed() else None,
        "state": "in use" if in_use else "lacking" if lack else "not chosen",
        "lack": lack,
        "identity": "" if lack else provider.identity(),
        "kernels": sorted(name for name, places in TABLE.items() if provider.name in places),
        "formulas": provider.name in GENERATORS,
    }


def _who(name: str, chosen: tuple[str, ...]) -> str:
    """Who is asked first to compute this kernel on the CPU."""
    asked = (each for each in chosen if each in TABLE.get(name, {}) and PROVIDERS[each].device == "cpu")
    return next(asked, "numpy")


def _cache() -> dict[str, Any]:
    """Where compiled loops are kept."""
    folder, trouble, sizes = cache.folder(), cache.trouble(), []
    for file in () if trouble else folder.glob("*.o"):
        with contextlib.suppress(OSError):  # others may remove them
            sizes.append(file.stat().st_size)
    return {"folder": str(folder), "trouble": trouble, "files": len(sizes), "bytes": sum(sizes)}


def _advice(found: dict[str, Any]) -> Iterator[str]:
    """What would change something, a sentence each."""
    machine, threads, gpu = found["machine"], found["threads"], found["gpu"]
    for provider in found["kernels"]["providers"]:
        if provider["device"] == "cuda" and not gpu["known"]:
            continue
        others = {name.removesuffix("_grad") for name in provider["kernels"] if found["kernels"]["by"][name] == "numpy"}
        what = ", ".join([*(["fused elementwise operations"] if provider["formulas"] else []), *sorted(others)])
        if not what:  # another is asked first for all that it has
            continue
        if provider["state"] == "lacking":
            yield f"{provider['lack']}. Until then NumPy computes: {what}"
        elif provider["state"] == "not chosen":
            yield f"CORDEE_KERNELS leaves out {provider['name']}, which is installed. So NumPy computes: {what}"
    if "llvm" in found["kernels"]["in_use"] and (trouble := found["cache"]["trouble"]):
        yield f"Loops are compiled anew in each process: {trouble}. CORDEE_KERNEL_CACHE names another folder"
    if threads["num"] > machine["at_once"]:
        yield f"{threads['num']} threads are told to compute, and {machine['at_once']} can run at once: they wait"
    elif threads["num"] < machine["at_once"]:
        yield (
            f"A process by itself computes on {threads['num']} of {machine['at_once']} cores: CORDEE_THREADS, or "
            "--threads of a job, chooses another number, which is part of what decides the bits"
        )
    if threads["num"] > 1 and not threads["team"]:
        yield "Kernels run on one thread: libgomp.so.1 is not there (Debian: apt install libgomp1)"
    if gpu["trouble"]:
        yield gpu["trouble"]
    elif gpu["known"] and gpu["lack"]:
        yield f"A GPU is there and not used: {gpu['lack']}"
