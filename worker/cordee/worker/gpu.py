"""Which of a host's GPUs this worker uses: one worker, one GPU.

CUDA reads `CUDA_VISIBLE_DEVICES` once, when it is first used, so the choice is made before anything is imported. A
pod sees only the GPUs it was given, mostly one; on a laptop or a bare machine, workers of one job spread over what
there is by their slot numbers. Not yet run on a device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["count_gpus", "visible_devices"]

_VARIABLE = "CUDA_VISIBLE_DEVICES"


def count_gpus(devices: Path = Path("/dev")) -> int:
    """NVIDIA GPUs of this host, counted without loading CUDA."""
    return sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in devices.glob("nvidia*"))


def visible_devices(worker: str, device: str, environment: Mapping[str, str], num_gpus: int) -> str | None:
    """What `CUDA_VISIBLE_DEVICES` is to be for this worker; None: leave it alone.

    A list that is set already is what there is to choose from.
    """
    slot = re.search(r"-w(\d+)$", worker)
    if device == "cpu" or slot is None:
        return None
    given = environment.get(_VARIABLE)
    choices = [str(index) for index in range(num_gpus)] if given is None else [one for one in given.split(",") if one]
    return choices[int(slot[1]) % len(choices)] if choices else None
