"""What a module owns: parameters, which an optimiser may move, and buffers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cordee.trainer.array import DTypeLike, array_module, default_dtype, default_module, device_name
from cordee.trainer.errors import DeviceError
from cordee.trainer.tensors import Tensor

__all__ = ["Buffer", "Parameter", "buffers_of", "check_device", "destination", "empty_parameter", "parameters_of"]


class Parameter(Tensor):
    """A leaf tensor that is trained. As an attribute of a `Module` it is found by `parameters()`.

    Building an optimiser moves its values into flat storage: `parameter.data` is a view from then on.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad)

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


class Buffer(Tensor):
    """A tensor that is part of a module's state without being trained: assigning it is `register_buffer`."""

    __slots__ = ("persistent",)

    def __init__(self, data: Any, *, persistent: bool = True) -> None:
        super().__init__(data)
        self.persistent = persistent

    def __deepcopy__(self, memo: dict[int, Any]) -> Buffer:
        twin = Buffer(array_module(self.data).array(self.data), persistent=self.persistent)
        memo[id(self)] = twin
        return twin


def empty_parameter(shape: tuple[int, ...], dtype: DTypeLike = None, device: str | None = None) -> Parameter:
    """A parameter whose values are still to be written. `device` can only be the one that the process computes on."""
    if device is not None:
        check_device(device)
    if any(size < 0 for size in shape):
        raise ValueError(f"a parameter's sizes must not be negative, got {shape}")
    return Parameter(default_module().empty(shape, default_dtype() if dtype is None else dtype))


def check_device(device: Any) -> None:
    """Refuse a device that is not the one of this process."""
    ours = device_name()
    if str(device).partition(":")[0] != ours:
        raise DeviceError(
            f"this process computes on {ours}, not {device}: CORDEE_DEVICE chooses the device of all its tensors"
        )


def parameters_of(module: object) -> Iterator[tuple[str, Parameter]]:
    """The parameters among a module's own attributes, by name."""
    for name, value in vars(module).items():
        if isinstance(value, Parameter):
            yield name, value


def buffers_of(module: object) -> Iterator[tuple[str, Tensor]]:
    """The buffers among a module's own attributes, by name; registered ones come first."""
    attributes = vars(module)
    registered = attributes.get("_buffers", ())
    for name in registered:
        value = attributes.get(name)
        if value is not None:
            yield name, value
    for name, value in attributes.items():
        if isinstance(value, Buffer) and name not in registered:
            yield name, value


def destination(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Device and dtype out of PyTorch's ways to call a module's `to`."""
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for value in args:
        if isinstance(value, Tensor):
            dtype = value.dtype
        elif isinstance(value, str) and value.partition(":")[0] in ("cpu", "cuda"):
            device = value
        elif value is not None and not isinstance(value, bool):  # a flag such as non_blocking
            dtype = value
    return device, dtype
