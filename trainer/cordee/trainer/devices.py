"""What PyTorch's scripts say of devices, where a process has one: `device`, and the few names of `torch.cuda`.

All tensors of a process are on one device, which `CORDEE_DEVICE` chooses. So `cuda.is_available()` says whether this
process computes on a GPU, and the first line of every script (`device = "cuda" if cuda.is_available() else "cpu"`)
names the device that is in use.
"""

from __future__ import annotations

from typing import Any

from cordee.trainer.array import default_module, device_name
from cordee.trainer.errors import DeviceError
from cordee.trainer.kernels.cuda import memory as private
from cordee.trainer.kernels.cuda.doubts import look
from cordee.trainer.random import manual_seed

__all__ = [
    "current_device",
    "device",
    "device_count",
    "empty_cache",
    "get_device_name",
    "is_available",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "memory_allocated",
    "synchronize",
]


class device(str):  # noqa: N801  (PyTorch's name)
    """A device's name, with its parts: `device("cuda:0").type` is "cuda". It is a string, and equals one.

    Raises:
        DeviceError: the name is none of `cpu`, `cuda` and `cuda:n`.
    """

    __slots__ = ()

    def __new__(cls, type: str, index: int | None = None) -> device:
        kind, colon, number = str(type).partition(":")
        if kind not in ("cpu", "cuda") or (colon and not number.isdigit()) or (colon and index is not None):
            raise DeviceError(f"unknown device {type!r}: a device is cpu, cuda, or cuda:n")
        return super().__new__(cls, type if index is None else f"{type}:{index}")

    @property
    def type(self) -> str:
        """`cpu` or `cuda`."""
        return str(self).partition(":")[0]

    @property
    def index(self) -> int | None:  # type: ignore[override]
        """The number behind the colon; None without one."""
        number = self.partition(":")[2]
        return int(number) if number else None

    def __repr__(self) -> str:
        index = self.index
        return f"device(type={self.type!r})" if index is None else f"device(type={self.type!r}, index={index})"


manual_seed_all = manual_seed


def is_available() -> bool:
    """Whether this process computes on a GPU."""
    return device_name() == "cuda"


def device_count() -> int:
    """How many GPUs this process uses: 1 or 0. More of them are more workers (`cordee run`)."""
    return int(is_available())


def current_device() -> int:
    """The number of the GPU in use, among those that this process sees."""
    return int(_cupy("current_device").cuda.runtime.getDevice())


def get_device_name(device: object = None) -> str:
    """What the GPU calls itself."""
    del device
    name = _cupy("get_device_name").cuda.runtime.getDeviceProperties(current_device())["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def synchronize(device: object = None) -> None:
    """Waits until the GPU has done what it was told, and raises what was wrong with indices; at once on the CPU."""
    del device
    if is_available():
        default_module().cuda.runtime.deviceSynchronize()
        look(wait=True)


def empty_cache() -> None:
    """Gives memory that is kept for later back to the GPU; nothing on the CPU."""
    if is_available():
        default_module().get_default_memory_pool().free_all_blocks()
        private.free_all_blocks()


def memory_allocated(device: object = None) -> int:
    """Bytes of the GPU's memory that tensors, recorded steps and libraries' workspaces take; 0 on the CPU."""
    del device
    return int(default_module().get_default_memory_pool().used_bytes()) + private.used_bytes() if is_available() else 0


def max_memory_allocated(device: object = None) -> int:
    """Bytes that the pools of the GPU's memory have grown to; 0 on the CPU."""
    del device
    if not is_available():
        return 0
    return int(default_module().get_default_memory_pool().total_bytes()) + private.total_bytes()


def _cupy(name: str) -> Any:
    if not is_available():
        raise DeviceError(f"cuda.{name}: this process computes on the CPU (CORDEE_DEVICE chooses)")
    return default_module()
