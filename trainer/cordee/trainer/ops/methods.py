"""Hangs the operations onto `Tensor` as its methods and operators.

The functions themselves become the methods, so that `a + b` costs one Python frame. Their declarations for type
checkers and editors are in `cordee/trainer/surface.pyi`; a test holds the two together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.array import DTypeLike
from cordee.trainer.autograd.graph import Operand, apply_one
from cordee.trainer.autograd.mode import MODE
from cordee.trainer.errors import DeviceError, GraphError, ShapeError
from cordee.trainer.ops import activation, compare, elementwise, indexing, products, reduction, shape
from cordee.trainer.surface import Surface
from cordee.trainer.tensors import Leaf, Tensor

__all__ = ["METHODS", "attach"]


def _reflected(function: Any) -> Any:
    """`b - a` for a tensor a, where b is none."""

    def call(self: Tensor, other: Operand) -> Tensor:
        return function(other, self)  # type: ignore[no-any-return]

    return call


def _in_place(function: Any) -> Any:
    """`a += b`: under no_grad it writes into a; while recording, the name then stands for a new tensor."""

    def call(self: Tensor, other: Operand) -> Tensor:
        if MODE.enabled:
            if isinstance(self._node, Leaf):
                raise GraphError("changing a tensor that requires a gradient would falsify it: do it under no_grad()")
            return function(self, other)  # type: ignore[no-any-return]
        result = function(self, other)
        if result.dtype.kind == "f" and self.dtype.kind != "f":
            raise TypeError(
                f"{function.__name__}: {result.dtype.name} numbers do not fit in place into {self.dtype.name}"
            )
        if result.shape != self.shape:
            raise ShapeError(
                f"{function.__name__}: the result has shape {result.shape} and does not fit in place into {self.shape}"
            )
        self._check_writable()
        self.data[...] = result.data
        return self

    return call


def _to(self: Tensor, dtype: DTypeLike) -> Tensor:
    """The same values in another dtype. The name of the device is accepted too, and must be the one in use."""
    if dtype in ("cpu", "cuda"):
        if dtype != self.device:
            raise DeviceError(
                f"this process computes on {self.device}: CORDEE_DEVICE chooses the device of all its tensors"
            )
        return self
    wanted = np.dtype(dtype)
    return self if wanted == self.dtype else apply_one(elementwise.CAST, self, dtype=wanted, source=self.dtype)


def _caster(dtype: DTypeLike) -> Any:
    return lambda self: _to(self, dtype)


def _iterate(self: Tensor) -> Any:
    return iter(shape.unbind(self))


def _where(self: Tensor, condition: Operand, other: Operand) -> Tensor:
    return elementwise.where(condition, self, other)


def _contiguous(self: Tensor) -> Tensor:
    return self if self.is_contiguous() else elementwise.clone(self)


def _view_as(self: Tensor, other: Tensor) -> Tensor:
    return shape.reshape(self, other.shape)


def _expand_as(self: Tensor, other: Tensor) -> Tensor:
    return shape.broadcast_to(self, other.shape)


def _named(module: Any, names: str) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names.split()}


METHODS: dict[str, Any] = {
    **_named(elementwise, "rsqrt sign sin sqrt square sub"),
    **_named(
        elementwise,
        "abs add clamp cos div exp expm1 log log1p maximum minimum mul neg pow reciprocal",
    ),
    **_named(activation, "erf log_softmax relu sigmoid softmax tanh"),
    **_named(products, "addmm bmm dot matmul mm mv outer"),
    **_named(
        reduction, "all amax amin any argmax argmin argsort cumsum logsumexp max mean min norm prod std sum topk var"
    ),
    **_named(
        shape,
        "broadcast_to chunk expand flatten flip movedim permute repeat reshape split squeeze swapaxes t transpose tril",
    ),
    **_named(shape, "triu unbind unflatten unsqueeze view"),
    **_named(indexing, "gather index_select masked_fill masked_select narrow nonzero select"),
    **_named(
        compare,
        "allclose ceil eq equal floor floor_divide ge gt isfinite isinf isnan le logical_and logical_not logical_or",
    ),
    **_named(compare, "logical_xor lt ne remainder round"),
    "clip": elementwise.clamp,
    "where": _where,
    "to": _to,
    "type_as": lambda self, other: _to(self, other.dtype),
    "float": _caster(np.float32),
    "double": _caster(np.float64),
    "half": _caster(np.float16),
    "long": _caster(np.int64),
    "int": _caster(np.int32),
    "bool": _caster(np.bool_),
    "clone": elementwise.clone,
    "contiguous": _contiguous,
    "view_as": _view_as,
    "reshape_as": _view_as,
    "expand_as": _expand_as,
    "T": property(shape.t),
    "mT": property(lambda self: shape.transpose(self, -1, -2)),
    "__add__": elementwise.add,
    "__radd__": _reflected(elementwise.add),
    "__iadd__": _in_place(elementwise.add),
    "__sub__": elementwise.sub,
    "__rsub__": _reflected(elementwise.sub),
    "__isub__": _in_place(elementwise.sub),
    "__mul__": elementwise.mul,
    "__rmul__": _reflected(elementwise.mul),
    "__imul__": _in_place(elementwise.mul),
    "__truediv__": elementwise.div,
    "__rtruediv__": _reflected(elementwise.div),
    "__itruediv__": _in_place(elementwise.div),
    "__pow__": elementwise.pow,
    "__rpow__": _reflected(elementwise.pow),
    "__matmul__": products.matmul,
    "__neg__": elementwise.neg,
    "__abs__": elementwise.abs,
    "__eq__": compare.eq,
    "__ne__": compare.ne,
    "__lt__": compare.lt,
    "__le__": compare.le,
    "__gt__": compare.gt,
    "__ge__": compare.ge,
    "__and__": compare.bitwise_and,
    "__or__": compare.bitwise_or,
    "__xor__": compare.bitwise_xor,
    "__invert__": compare.bitwise_not,
    "__floordiv__": compare.floor_divide,
    "__rfloordiv__": _reflected(compare.floor_divide),
    "__mod__": compare.remainder,
    "__rmod__": _reflected(compare.remainder),
    "__getitem__": indexing.getitem,
    "__setitem__": indexing.setitem,
    "__iter__": _iterate,
}


def attach() -> None:
    """Do it."""
    for name, method in METHODS.items():
        setattr(Surface, name, method)
