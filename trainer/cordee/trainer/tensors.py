"""The tensor: an array, and the node that made it.

Everything a tensor can compute is an op; `cordee.trainer.ops.methods` hangs the ops onto this class as methods and
operators (so that a call costs one Python frame, not two); `surface.pyi` declares them for type checkers.

`data` is the raw array and may be written to by those who know what they do (optimisers). `_grad` is the gradient that
`backward()` left; `_sink` is where an optimiser wants it to be written: a view of its flat gradient buffer.
"""

from __future__ import annotations

import copy
import functools
import itertools
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cordee.trainer.array import Array, DTypeLike, array_module, as_array, device_name, is_complex, is_float, to_numpy
from cordee.trainer.devices import device
from cordee.trainer.errors import GraphError, ShapeError
from cordee.trainer.kernels.cuda.doubts import look
from cordee.trainer.surface import Surface

if TYPE_CHECKING:
    from cordee.trainer.autograd.graph import Node
    from cordee.trainer.autograd.hooks import Handle

__all__ = ["Leaf", "Tensor", "forget_gradient", "next_number", "wrap"]


_CPU = device("cpu")


def _heard(values: Any) -> Any:
    """What was waited for of a GPU, unless that has found something wrong by then."""
    look()
    return values


next_number = itertools.count(1).__next__
"""Numbers what happens to tensors, in time: the recording of an operation, and every write into a leaf."""


class Leaf:
    """Where the graph ends: a tensor of the user's, referred to weakly.

    `written` is the number of the last write into it: a graph recorded before has saved values that are no longer.
    `newest` is that of the last write into any leaf: what is recorded since needs no look at each.
    """

    __slots__ = ("__weakref__", "hooks", "ref", "written")
    newest: ClassVar[int] = 0
    edges: tuple[()] = ()

    def __init__(self, tensor: Tensor) -> None:
        self.ref = weakref.ref(tensor)
        self.written = 0


class Tensor(Surface):
    """A multi-dimensional array that remembers how it was computed."""

    __slots__ = ("__weakref__", "_base", "_grad", "_node", "_sink", "data")
    __array_ufunc__ = None  # ndarray + tensor is the tensor's business

    data: Array
    _node: Node | Leaf | None
    _grad: Tensor | None
    _sink: Array | None
    _base: Tensor
    """Of a view: the tensor whose memory it shares. Unset otherwise, so that it costs other tensors nothing."""

    def __init__(self, data: Any, requires_grad: bool = False, *more: int) -> None:
        self.data = data.data if isinstance(data, Tensor) else as_array(data)
        self._node = None
        self._grad = None
        self._sink = None
        if requires_grad:
            if requires_grad is not True or more:
                raise TypeError(
                    f"Tensor({data!r}, {requires_grad!r}, …): memory of some sizes is ct.empty(2, 3) here, values are "
                    "ct.tensor([2, 3])"
                )
            self.requires_grad = True

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    @property
    def device(self) -> device:
        return _CPU if isinstance(self.data, np.ndarray) else device(device_name(self.data))

    @property
    def is_cuda(self) -> bool:
        return not isinstance(self.data, np.ndarray)

    @property
    def itemsize(self) -> int:
        return self.data.itemsize

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dimension."""
        return self.data.shape if dim is None else self.data.shape[dim]

    def dim(self) -> int:
        return self.data.ndim

    def numel(self) -> int:
        return self.data.size

    nelement, ndimension = numel, dim

    def element_size(self) -> int:
        """The bytes of one element."""
        return self.data.itemsize

    def stride(self, dim: int | None = None) -> Any:
        """By how many elements an index of a dimension moves; of one dimension, or of all."""
        steps = tuple(step // self.data.itemsize for step in self.data.strides)
        return steps if dim is None else steps[dim]

    def is_floating_point(self) -> bool:
        return is_float(self.data.dtype)

    def is_complex(self) -> bool:
        return is_complex(self.data.dtype)

    def is_contiguous(self) -> bool:
        return self.data.flags.c_contiguous

    def __len__(self) -> int:
        if not self.data.shape:
            raise TypeError("a 0-dimensional tensor has no length")
        return self.data.shape[0]  # type: ignore[no-any-return]

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        from cordee.trainer.printing import tensor_text

        return tensor_text(self)

    # -- its values, outside the graph -----------------------------------------------------------------------------

    def numpy(self) -> Array:
        """The values as a NumPy array: shared memory on the CPU, a copy from a device."""
        if self._node is not None:
            raise GraphError("this tensor requires a gradient, which NumPy would lose: call detach().numpy()")
        data = self.data
        return to_numpy(data) if type(data) is np.ndarray else _heard(to_numpy(data))

    def __array__(self, dtype: DTypeLike = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def item(self) -> Any:
        """The single value, as a Python number."""
        if self.data.size != 1:
            raise ShapeError(f"item() needs a tensor of one element; this one has shape {self.shape}")
        data = self.data
        return data.item() if type(data) is np.ndarray else _heard(data.item())

    def tolist(self) -> Any:
        data = self.data
        return data.tolist() if type(data) is np.ndarray else _heard(data.tolist())

    def _number(self, what: str) -> Any:
        if self.data.size != 1:
            raise ShapeError(
                f"{what} needs a tensor of one element; this one has shape {self.shape}"
                + (": use .any() or .all()" if what == "bool()" else "")
            )
        return self.data.item()

    def __float__(self) -> float:
        return float(self._number("float()"))

    def __int__(self) -> int:
        return int(self._number("int()"))

    def __complex__(self) -> complex:
        return complex(self._number("complex()"))

    def __bool__(self) -> bool:
        return bool(self._number("bool()"))

    def __index__(self) -> int:
        if self.data.dtype.kind not in "iu":
            raise TypeError(f"only integer tensors can be an index, not {self.dtype.name}")
        return int(self._number("an index"))

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.data.size == 1 and spec else format(repr(self), spec)

    def detach(self) -> Tensor:
        """The same array, outside the graph."""
        return wrap(self.data, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        kind, array, requires_grad, attributes = self._parts("deep-copied")
        twin = _remade(kind, array_module(array).array(array), requires_grad, copy.deepcopy(attributes, memo))
        memo[id(self)] = twin
        if self._grad is not None:
            twin._grad = copy.deepcopy(self._grad, memo)
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        """For pickle and multiprocessing: values and what the user has set, without gradient and graph."""
        kind, array, requires_grad, attributes = self._parts("pickled")
        return _remade, (kind, to_numpy(array), requires_grad, attributes)

    def _parts(self, what: str) -> tuple[type[Tensor], Array, bool, dict[str, Any]]:
        if not self.is_leaf:
            raise GraphError(f"only tensors made by the user can be {what}: call detach() first")
        return type(self), self.data, self.requires_grad, dict(getattr(self, "__dict__", {}))

    # -- other libraries -------------------------------------------------------------------------------------------

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """The memory as a DLPack capsule, for `from_dlpack` of NumPy, CuPy, PyTorch and others; nothing is copied."""
        from cordee.trainer.interop.dlpack import dlpack_capsule

        keywords = {"stream": stream, "max_version": max_version, "dl_device": dl_device, "copy": copy}
        return dlpack_capsule(self, keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        from cordee.trainer.interop.dlpack import dlpack_device

        return dlpack_device(self)

    def to_device(self, device: str, /, *, stream: Any = None) -> Tensor:  # noqa: ARG002
        """The array API's name for `to(device)`; all tensors of a process are on one device."""
        return self.to(device)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        """The functions of the array API standard for tensors: `cordee.trainer.array_api`."""
        from cordee.trainer.array_api import namespace

        return namespace(api_version)

    # -- gradients -------------------------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        return self._node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value == (self._node is not None):
            return
        if not value and not self.is_leaf:
            raise GraphError("a computed tensor requires a gradient as long as its inputs do: call detach()")
        if value and self.data.dtype.kind in "iub":
            raise TypeError(f"only floating-point tensors can require a gradient, not {self.dtype.name}")
        self._node = Leaf(self) if value else None

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        self.requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> bool:
        """Made by the user, not by an operation."""
        return self._node is None or isinstance(self._node, Leaf)

    @property
    def grad(self) -> Tensor | None:
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"a gradient is a tensor or None, not {type(value).__name__}")
        if value is not None and value.shape != self.shape:
            raise ShapeError(f"a gradient of shape {value.shape} does not fit a tensor of shape {self.shape}")
        if value is not None and value.dtype != self.dtype:
            raise TypeError(f"the gradient of a {self.dtype.name} tensor is not {value.dtype.name}: use .to(dtype)")
        if value is None:
            forget_gradient(self)
        else:
            self._grad = value

    @property
    def grad_fn(self) -> Node | None:
        return None if isinstance(self._node, Leaf) else self._node

    def backward(
        self,
        gradient: Tensor | float | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Tensor | Sequence[Tensor] | None = None,
    ) -> None:
        """Add the gradient of this tensor to `.grad` of every leaf it was computed from, or only of `inputs`.

        `gradient` is the gradient of this tensor itself; a number stands for that number everywhere, and without it the
        tensor must hold one element, and 1 is taken.
        """
        _backward()(self, gradient, retain_graph, create_graph, inputs)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Handle:
        """Call `hook(gradient)` whenever this tensor's gradient has been computed; what it returns replaces it.

        Returns a handle, whose `remove()` takes the hook away.
        """
        from cordee.trainer.autograd.hooks import register_hook

        return register_hook(self, hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], Any]) -> Handle:
        """Call `hook(tensor)` whenever backward has added to the `.grad` of this leaf."""
        from cordee.trainer.autograd.hooks import register_accumulated

        return register_accumulated(self, hook)

    def retain_grad(self) -> None:
        """Keep the gradient of this computed tensor in its `.grad`, as backward does for leaves."""
        from cordee.trainer.autograd.hooks import retain_grad

        retain_grad(self)


@functools.cache
def _backward() -> Callable[..., None]:
    """The function, which is made of tensors: imported when it is first needed, and only then."""
    from cordee.trainer.autograd.backward import backward

    return backward


def forget_gradient(tensor: Tensor) -> None:
    """Set a gradient to None. One that somebody else holds gets memory of its own: the next goes where it lies."""
    gradient = tensor._grad
    tensor._grad = None
    if gradient is not None and tensor._sink is not None and sys.getrefcount(gradient) > 2:
        gradient.data = gradient.data.copy()


def _remade(kind: type[Tensor], array: Any, requires_grad: bool, attributes: dict[str, Any]) -> Tensor:
    """A tensor of any subclass from its parts."""
    made = object.__new__(kind)
    Tensor.__init__(made, array, requires_grad)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


_new = object.__new__


def wrap(data: Any, node: Node | Leaf | None = None) -> Tensor:
    """A tensor around an array and a node, as ops return it: nothing is looked at or converted."""
    tensor = _new(Tensor)
    tensor.data = data
    tensor._node = node
    tensor._grad = None
    tensor._sink = None
    return tensor
