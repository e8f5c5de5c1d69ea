"""Flat storage: the parameters of a group in one buffer, their gradients in its twin.

Each `parameter.data` becomes a view of `FlatGroup.data`, and the gradients that backward computes land in views of
`FlatGroup.grad` (`parameter._sink`). So an update is a few operations on whole buffers, an all-reduce needs neither
packing nor buckets, and "a slice of the training state" is a slice of an array. Every parameter starts at a multiple of
64 bytes: vector instructions like it, and the alignment is the same in every process. The gaps between parameters hold
zeros in `data` and `grad`, for ever (zero is what every optimiser makes of zeros).

A parameter has one home. When a second optimiser is built over it, or somebody assigns to `parameter.data`, its values
are copied and it moves; the group it has left notices at its next `adopt` (every step calls it) and takes it back,
values and gradient included. So two optimisers over one parameter give the right numbers, taking turns, at the price of
a copy per turn.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cordee.trainer.array import array_module
from cordee.trainer.tensors import Leaf, next_number, wrap

if TYPE_CHECKING:
    from cordee.trainer.nn.parameter import Parameter

__all__ = ["FlatGroup", "Segment", "homes"]

_ALIGNMENT_BYTES = 64


_NONE: dict[str, float] = {}


class Segment(NamedTuple):
    """Neighbouring parameters that are to be updated alike."""

    where: slice
    """Their part of the buffers."""
    updates: int
    """How many each of them has had."""
    numbers: dict[str, float]
    """The numbers that each of them has, as in `FlatGroup.numbers`."""
    parameters: slice
    """Which they are."""


class FlatGroup:
    """Parameters of one dtype and one set of options, in one buffer. See the module's docstring.

    `data`, `grad` and the arrays in `state` are one-dimensional, contiguous and equally long, and are never replaced:
    whoever loads or heals state writes into them. (Only `land` replaces `grad`, by the buffer that is used in turn with
    it.) State of another shape than its parameter's is in `parts`, and state
    that is one number per parameter in `numbers`.
    """

    def __init__(self, names: Sequence[str], parameters: Sequence[Parameter], options: dict[str, Any]) -> None:
        self.names = tuple(names)
        self.parameters: tuple[Parameter, ...] = tuple(parameters)
        self.options = options
        """Live: the very dictionary in `Optimizer.param_groups`."""
        first = self.parameters[0].data
        align = max(_ALIGNMENT_BYTES // first.dtype.itemsize, 1)
        starts, size = [], 0
        for parameter in self.parameters:
            starts.append(size)
            size += -(-parameter.data.size // align) * align
        self._like = array_module(first).empty(0, first.dtype)  # keeping `first` itself would keep its memory
        self._size = size
        self.slices = tuple(
            slice(start, start + parameter.data.size) for start, parameter in zip(starts, self.parameters, strict=True)
        )
        """Where each parameter lies."""
        self._extents = (*starts, size)
        self.data = self.new_twin()
        self.grad = self.new_twin()
        self.state: dict[str, Any] = {}
        self.parts: dict[str, dict[int, Any]] = {}
        """Arrays by name and by the parameter's place."""
        self.numbers: dict[str, NDArray[np.float64]] = {}
        """By name, one number per parameter."""
        self.steps = np.zeros(len(self.parameters), dtype=np.int64)
        """How many updates each parameter has had: those in which it had a gradient."""
        self._views = tuple(self.view(self.data, index) for index in range(len(self.parameters)))
        self._sinks = tuple(self.view(self.grad, index) for index in range(len(self.parameters)))
        self._other: tuple[Any, tuple[Any, ...]] | None = None
        self.adopt()
        _GROUPS.add(self)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self._like.dtype
        return dtype

    @property
    def size(self) -> int:
        """Elements per buffer, gaps included."""
        return self._size

    def new_twin(self, dtype: Any = None) -> Any:
        """A zeroed buffer of the same length, dtype (unless another is given) and device, aligned."""
        dtype = self._like.dtype if dtype is None else dtype
        xp = array_module(self._like)
        if xp is not np:  # a device's allocator aligns by itself
            return xp.zeros(self._size, dtype)
        raw = np.zeros(self._size * dtype.itemsize + _ALIGNMENT_BYTES, dtype=np.uint8)
        offset = -raw.__array_interface__["data"][0] % _ALIGNMENT_BYTES
        return raw[offset : offset + self._size * dtype.itemsize].view(dtype)

    def sink(self, index: int) -> Any:
        """The part of `grad` that belongs to a parameter, in its shape: the very array that backward writes to."""
        return self._sinks[index]

    @property
    def has_landing(self) -> bool:
        """Whether there is a second buffer for gradients."""
        return self._other is not None

    @property
    def landing(self) -> Any:
        """A second buffer for gradients, for sums to land in while `grad` is still needed."""
        if self._other is None:
            buffer = self.new_twin()
            self._other = buffer, tuple(self.view(buffer, index) for index in range(len(self.parameters)))
        return self._other[0]

    def land(self) -> None:
        """What is in `landing` are the gradients from now on. Which parameters have one stays as it is."""
        assert self._other is not None
        before = self._sinks
        (self.grad, self._sinks), self._other = self._other, (self.grad, before)
        for parameter, old, new in zip(self.parameters, before, self._sinks, strict=True):
            if parameter._sink is old:
                parameter._sink = new
                if parameter._grad is not None:
                    parameter._grad = wrap(new)

    def view(self, buffer: Any, index: int) -> Any:
        """The part of a twin that belongs to a parameter, in the parameter's shape."""
        return buffer[self.slices[index]].reshape(self.parameters[index].data.shape)

    def arrays(self, index: int) -> dict[str, Any]:
        """The state of a parameter that is arrays, by name, as views."""
        found = {name: self.view(buffer, index) for name, buffer in self.state.items()}
        found.update((name, parts[index]) for name, parts in self.parts.items() if index in parts)
        return found

    def adopt(self) -> None:
        """Sees to it that every parameter, and its gradient, lives in this group's buffers. Cheap when they do."""
        for parameter, view, sink in zip(self.parameters, self._views, self._sinks, strict=True):
            if parameter.data is not view:
                self._take(parameter, view)
            if parameter._sink is not sink:
                parameter._sink = sink
            held = parameter._grad
            if held is not None and held.data is not sink:
                sink[...] = held.data
                parameter._grad = wrap(sink)

    def _take(self, parameter: Parameter, view: Any) -> None:
        data = parameter.data
        if data.shape != view.shape or data.dtype != view.dtype:
            name = self.names[self.parameters.index(parameter)]
            raise ValueError(
                f"parameter {name!r} was {view.dtype}{list(view.shape)} when the optimiser was built and is now "
                f"{data.dtype}{list(data.shape)}; build the optimiser after changing parameters"
            )
        view[...] = array_module(view).asarray(data)  # on a device, also of a host array
        parameter.data = view

    def touched(self) -> NDArray[np.bool_]:
        """Which parameters have a gradient now. Gradients that lie elsewhere are fetched into `grad` first."""
        self.adopt()
        return np.array([parameter._grad is not None for parameter in self.parameters])

    def mark_touched(self, mask: Sequence[bool] | NDArray[np.bool_]) -> None:
        """Sets which parameters have a gradient: its values are what `grad` holds there."""
        for parameter, sink, has_grad in zip(self.parameters, self._sinks, mask, strict=True):
            parameter._grad = wrap(sink) if has_grad else None

    def mark_written(self) -> None:
        """Tells the graphs that have read them that the parameters with a gradient are about to change."""
        number = Leaf.newest = next_number()
        for parameter in self.parameters:
            if parameter._grad is not None and isinstance(parameter._node, Leaf):
                parameter._node.written = number

    def fill_untouched(self) -> None:
        """Puts zeros where `grad` still holds what an earlier step left, because the parameter has no gradient now."""
        for parameter, sink in zip(self.parameters, self._sinks, strict=True):
            if parameter._grad is None:
                sink[...] = 0

    def segments(self) -> list[Segment]:
        """The parts of the buffers that have a gradient, as few as can be."""
        keys: list[Any] = self.steps.tolist()
        if self.numbers:
            keys = list(zip(keys, *(values.tolist() for values in self.numbers.values()), strict=True))
        extents = self._extents
        found: list[Segment] = []
        first = last = -1  # the stretch at hand, from a parameter up to before another
        for index, parameter in enumerate(self.parameters):
            if parameter._grad is None:
                continue
            if index == last and keys[index] == keys[first]:
                last = index + 1
                continue
            if first >= 0:
                found.append(self._segment(first, last, extents))
            first, last = index, index + 1
        if first >= 0:
            found.append(self._segment(first, last, extents))
        return found

    def _segment(self, first: int, last: int, extents: tuple[int, ...]) -> Segment:
        numbers = {name: float(values[first]) for name, values in self.numbers.items()} if self.numbers else _NONE
        return Segment(slice(extents[first], extents[last]), int(self.steps[first]), numbers, slice(first, last))

    def __deepcopy__(self, memo: dict[int, Any]) -> FlatGroup:
        """Made anew over the copied parameters: copies of views would be views of nothing."""
        twin = FlatGroup(self.names, copy.deepcopy(self.parameters, memo), copy.deepcopy(self.options, memo))
        twin.steps[:] = self.steps
        for name, buffer in self.state.items():
            twin.state[name] = twin.new_twin(buffer.dtype)
            twin.state[name][...] = buffer
        twin.parts = copy.deepcopy(self.parts, memo)
        twin.numbers = copy.deepcopy(self.numbers, memo)
        return twin

    def __repr__(self) -> str:
        return f"FlatGroup({len(self.parameters)} parameters, {self._size} × {self.dtype})"


_GROUPS: weakref.WeakSet[FlatGroup] = weakref.WeakSet()


def homes() -> dict[int, tuple[FlatGroup, int]]:
    """The group that each parameter lives in, and its place there, by the `id` of the array that is its `data`."""
    return {id(view): (group, index) for group in _GROUPS for index, view in enumerate(group._views)}
