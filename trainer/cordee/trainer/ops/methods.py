"""Hangs the operations onto `Tensor` as its methods and operators.

The functions themselves become the methods, so that `a + b` costs one Python frame. A family of operations says in its
`METHODS` which of its functions are methods, and in `INPLACE` which of them have a twin with an underscore that writes
into the tensor. `surface.pyi`, which declares them for type checkers, is written from here by
`scripts/make_surface.py`; a test holds the two together.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from cordee.trainer.array import DTypeLike, as_array, bfloat16, is_complex
from cordee.trainer.autograd.graph import Operand
from cordee.trainer.errors import DeviceError
from cordee.trainer.ops import (
    company,
    compare,
    complex_numbers,
    elementwise,
    indexing,
    inplace,
    products,
    repetition,
    shape,
)
from cordee.trainer.surface import Surface
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["OPERATORS", "attach", "collect"]


def _reflected(function: Any) -> Any:
    """`b - a` for a tensor a, where b is none."""

    def call(self: Tensor, other: Operand) -> Tensor:
        return function(other, self)  # type: ignore[no-any-return]

    return call


def _left_product(self: Tensor, other: Any) -> Tensor:
    """`array @ a`; products themselves take tensors only."""
    return products.matmul(other if isinstance(other, Tensor) else wrap(as_array(other)), self)


# -- dtypes and devices ------------------------------------------------------------------------------------------------


def to(
    self: Tensor,
    *args: Any,
    dtype: DTypeLike = None,
    device: str | None = None,
    copy: bool = False,
    non_blocking: bool = False,
) -> Tensor:
    """The same values in another dtype: `to(dtype)`, `to(device)`, `to(device, dtype)` or `to(other)`.

    All tensors of a process are on one device: its name is accepted, another's is refused. `non_blocking` is for
    PyTorch's sake: nothing is moved.
    """
    del non_blocking
    for arg in args:
        if isinstance(arg, Tensor):
            dtype = arg.dtype
        elif isinstance(arg, bool) or arg is None:  # PyTorch's non_blocking
            continue
        elif isinstance(arg, str) and arg.partition(":")[0] in ("cpu", "cuda"):
            device = arg
        else:
            dtype = arg
    if device is not None and device.partition(":")[0] != self.device:
        raise DeviceError(
            f"this process computes on {self.device}: CORDEE_DEVICE chooses the device of all its tensors"
        )
    wanted = self.dtype if dtype is None else np.dtype(dtype)
    if wanted != self.dtype:
        return elementwise.CAST.run(self, dtype=wanted, source=self.dtype)
    return elementwise.clone(self) if copy else self


def cpu(self: Tensor) -> Tensor:
    """This tensor, in a process that computes on the CPU."""
    return to(self, "cpu")


def cuda(self: Tensor) -> Tensor:
    """This tensor, in a process that computes on a GPU."""
    return to(self, "cuda")


def type_as(self: Tensor, other: Tensor) -> Tensor:
    """The same values in the dtype of `other`."""
    return to(self, other.dtype)


def type(self: Tensor, dtype: DTypeLike = None) -> Any:
    """The same values in another dtype; without one, the name of this one's."""
    return self.dtype.name if dtype is None else to(self, dtype)


def _caster(name: str, dtype: Any) -> Any:
    def call(self: Tensor) -> Tensor:
        return self if self.data.dtype == dtype else elementwise.CAST.run(self, dtype=dtype, source=self.dtype)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"The same values as {np.dtype(dtype).name}."
    return call


_CASTS: dict[str, Any] = {
    "float": np.dtype("float32"), "double": np.dtype("float64"), "half": np.dtype("float16"), "bfloat16": bfloat16,
    "long": np.dtype("int64"), "int": np.dtype("int32"), "short": np.dtype("int16"), "char": np.dtype("int8"),
    "byte": np.dtype("uint8"), "bool": np.dtype("bool"), "cfloat": np.dtype("complex64"),
    "cdouble": np.dtype("complex128"),
}  # fmt: skip


# -- what stands between functions and methods -------------------------------------------------------------------------


def _iterate(self: Tensor) -> Any:
    if not self.ndim:
        raise TypeError("a 0-dimensional tensor cannot be iterated over")
    return iter(company.unbind(self))


def where(self: Tensor, condition: Operand, other: Operand) -> Tensor:
    """These values where the condition holds, `other` elsewhere."""
    return elementwise.where(condition, self, other)  # type: ignore[no-any-return]


def contiguous(self: Tensor) -> Tensor:
    """This tensor in row-major order: itself when it is so already."""
    return self if self.is_contiguous() else elementwise.clone(self)


def view_as(self: Tensor, other: Tensor) -> Tensor:
    """The same elements in the shape of `other`."""
    return shape.reshape(self, other.shape)


def reshape_as(self: Tensor, other: Tensor) -> Tensor:
    """The same elements in the shape of `other`."""
    return shape.reshape(self, other.shape)


def expand_as(self: Tensor, other: Tensor) -> Tensor:
    """Repeated, without a copy, up to the shape of `other`."""
    return repetition.broadcast_to(self, other.shape)


def fill(self: Tensor, value: Operand) -> Tensor:
    """A tensor of the same shape that holds one value."""
    return inplace.assign(self, ..., value)


def zero(self: Tensor) -> Tensor:
    """A tensor of the same shape that holds zeros."""
    return inplace.assign(self, ..., 0)


def detach_(self: Tensor) -> Tensor:
    """Take this tensor out of its graph."""
    self._node = None
    return self


def _adjoint(self: Tensor) -> Tensor:
    turned = shape.transpose(self, -1, -2)
    return turned.conj() if is_complex(self.dtype) else turned


METHODS = "to cpu cuda type type_as where contiguous view_as reshape_as expand_as detach_"
INPLACE = "fill zero"

OPERATORS: dict[str, Any] = {
    "T": property(shape.reverse_dims),
    "mT": property(shape.matrix_transpose),
    "H": property(shape.adjoint),
    "mH": property(_adjoint),
    "real": property(complex_numbers.real),
    "imag": property(complex_numbers.imag),
    "__add__": elementwise.plain_add,
    "__radd__": elementwise.plain_add,
    "__sub__": elementwise.plain_sub,
    "__rsub__": _reflected(elementwise.plain_sub),
    "__mul__": elementwise.mul,
    "__rmul__": elementwise.mul,
    "__truediv__": elementwise.plain_div,
    "__rtruediv__": _reflected(elementwise.plain_div),
    "__pow__": elementwise.pow,
    "__rpow__": _reflected(elementwise.pow),
    "__matmul__": products.matmul,
    "__rmatmul__": _left_product,
    "__neg__": elementwise.neg,
    "__pos__": elementwise.positive,
    "__abs__": elementwise.abs,
    "__eq__": compare.eq,
    "__ne__": compare.ne,
    "__lt__": compare.lt,
    "__le__": compare.le,
    "__gt__": compare.gt,
    "__ge__": compare.ge,
    "__and__": compare.bitwise_and,
    "__rand__": _reflected(compare.bitwise_and),
    "__or__": compare.bitwise_or,
    "__ror__": _reflected(compare.bitwise_or),
    "__lshift__": compare.bitwise_left_shift,
    "__rlshift__": _reflected(compare.bitwise_left_shift),
    "__rshift__": compare.bitwise_right_shift,
    "__rrshift__": _reflected(compare.bitwise_right_shift),
    "__xor__": compare.bitwise_xor,
    "__rxor__": _reflected(compare.bitwise_xor),
    "__invert__": compare.bitwise_not,
    "__floordiv__": elementwise.floor_divide,
    "__rfloordiv__": _reflected(elementwise.floor_divide),
    "__mod__": elementwise.remainder,
    "__rmod__": _reflected(elementwise.remainder),
    "__getitem__": indexing.getitem,
    "__setitem__": inplace.setitem,
    "__iter__": _iterate,
    "copy_": inplace.copy_,
}
_RESHAPING = ("squeeze", "unsqueeze", "t", "transpose", "swapaxes", "swapdims")
_AUGMENTED = ("add", "sub", "mul", "truediv", "pow", "floordiv", "mod", "and", "or", "xor", "lshift", "rshift")


def collect(families: list[ModuleType]) -> dict[str, Any]:
    """All methods by name: those that the families name, their in-place twins, the operators and the casts."""
    import sys

    methods: dict[str, Any] = dict(OPERATORS)
    methods.update({name: _caster(name, dtype) for name, dtype in _CASTS.items()})
    for family in [*families, sys.modules[__name__]]:
        for name in getattr(family, "METHODS", "").split():
            methods[name] = getattr(family, name)
        for name in getattr(family, "INPLACE", "").split():
            methods[name + "_"] = inplace.in_place(getattr(family, name), name + "_")
    for name in _RESHAPING:
        methods[name + "_"] = inplace.becoming(getattr(shape, name), name + "_")
    for name in _AUGMENTED:
        methods[f"__i{name}__"] = inplace.in_place(OPERATORS[f"__{name}__"], f"`{name}=`")
    return methods


def attach(families: list[ModuleType]) -> None:
    """Do it."""
    for name, method in collect(families).items():
        setattr(Surface, name, method)
