"""Making tensors: from data, of constants, of numbers in order, from one another.

`device` is taken for PyTorch's sake: all tensors of a process are on one device, and another one's name is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer.array import (
    Array,
    DTypeLike,
    array_module,
    as_array,
    default_dtype,
    default_module,
    device_name,
)
from cordee.trainer.errors import DeviceError, ShapeError, TrainerIndexError
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "arange", "as_tensor", "asarray", "empty", "empty_like", "eye", "from_numpy",
    "full", "full_like", "linspace", "logspace", "meshgrid", "one_hot", "ones", "ones_like", "scalar_tensor", "tensor",
    "tril_indices", "triu_indices", "zeros", "zeros_like",
]  # fmt: skip

METHODS = "new_empty new_full new_ones new_tensor new_zeros"


def finish(array: Any, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """The array as a tensor.

    Raises:
        DeviceError: another device is named than the one in use.
    """
    if device is not None and str(device).partition(":")[0] != device_name():
        raise DeviceError(
            f"this process computes on {device_name()}, not on {device}: CORDEE_DEVICE chooses the device of all its "
            "tensors"
        )
    made = wrap(array)
    if requires_grad:
        made.requires_grad = True
    return made


def sizes(size: tuple[Any, ...]) -> tuple[int, ...]:
    """A shape that was given as one sequence or as several numbers."""
    return tuple(size[0]) if len(size) == 1 and not isinstance(size[0], (int, np.integer)) else size


# -- from data ---------------------------------------------------------------------------------------------------------


def tensor(data: Any, *, dtype: DTypeLike = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of a copy of the data: nested lists, numbers, an array, or a tensor.

    Python floats take the default dtype, whole numbers int64; arrays keep theirs.
    """
    return finish(_converted(data, dtype, True), requires_grad, device)


def _converted(data: Any, dtype: DTypeLike, copy: bool) -> Any:
    if isinstance(data, Tensor):
        data = data.data
    elif isinstance(data, (list, tuple)):
        data = _unwrapped(data)
    array = as_array(data, dtype)
    if dtype is None and array.dtype == np.complex128 and not hasattr(data, "dtype") and default_dtype() != np.float64:
        array = array.astype(np.complex64)
    return array_module(array).array(array) if copy else array


def _unwrapped(data: Any) -> Any:
    """Nested lists with the tensors in them as numbers or lists."""
    if isinstance(data, (list, tuple)):
        return [_unwrapped(item) for item in data]
    return data.tolist() if isinstance(data, (Tensor, np.ndarray, np.generic)) else data


def as_tensor(data: Any, dtype: DTypeLike = None, device: str | None = None) -> Tensor:
    """A tensor of the data, sharing its memory where possible."""
    if isinstance(data, Tensor) and device is None:
        return data if dtype is None or data.dtype == np.dtype(dtype) else data.to(dtype)
    return finish(_converted(data, dtype, False), False, device)


def asarray(
    obj: Any,
    *,
    dtype: DTypeLike = None,
    device: str | None = None,
    copy: bool | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of the data: a copy where one is needed, always (`copy=True`), or never (`copy=False`).

    Raises:
        ValueError: `copy=False`, and a copy is needed.
    """
    array = _converted(obj, dtype, bool(copy))
    source = obj.data if isinstance(obj, Tensor) else obj
    if copy is False and not (hasattr(source, "dtype") and np.may_share_memory(array, source)):
        raise ValueError("asarray: this data cannot be shared without a copy")
    return finish(array, requires_grad, device)


def from_numpy(array: Array) -> Tensor:
    """A tensor that shares a NumPy array's memory (on the CPU)."""
    return wrap(as_array(array))


def scalar_tensor(s: float, *, dtype: DTypeLike = None, device: str | None = None) -> Tensor:
    """A tensor without dimensions, of the default dtype."""
    return finish(default_module().asarray(s, dtype=dtype or default_dtype()), False, device)


# -- constants ---------------------------------------------------------------------------------------------------------


def zeros(*size: Any, dtype: DTypeLike = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Zeros."""
    return finish(default_module().zeros(sizes(size), dtype or default_dtype()), requires_grad, device)


def ones(*size: Any, dtype: DTypeLike = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Ones."""
    return finish(default_module().ones(sizes(size), dtype or default_dtype()), requires_grad, device)


def empty(*size: Any, dtype: DTypeLike = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Memory as it is found."""
    return finish(default_module().empty(sizes(size), dtype or default_dtype()), requires_grad, device)


def full(
    size: Sequence[int] | int,
    fill_value: Any,
    *,
    dtype: DTypeLike = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """One value everywhere; its type decides the dtype."""
    if dtype is None:
        dtype = _converted(fill_value, None, False).dtype
    if isinstance(fill_value, Tensor):
        fill_value = fill_value.item()
    return finish(default_module().full(sizes((size,)), fill_value, dtype), requires_grad, device)


def _like(make: str, input: Tensor, dtype: DTypeLike, *value: Any) -> Any:
    """In memory ordered as the other."""
    return getattr(array_module(input.data), f"{make}_like")(input.data, *value, dtype or input.dtype)


def zeros_like(
    input: Tensor, *, dtype: DTypeLike = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Zeros, in another tensor's shape and dtype."""
    return finish(_like("zeros", input, dtype), requires_grad, device)


def ones_like(
    input: Tensor, *, dtype: DTypeLike = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Ones, in another tensor's shape and dtype."""
    return finish(_like("ones", input, dtype), requires_grad, device)


def empty_like(
    input: Tensor, *, dtype: DTypeLike = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Memory as it is found, in another tensor's shape and dtype."""
    return finish(_like("empty", input, dtype), requires_grad, device)


def full_like(
    input: Tensor, fill_value: Any, *, dtype: DTypeLike = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """One value everywhere, in another tensor's shape and dtype."""
    return finish(_like("full", input, dtype, fill_value), requires_grad, device)


def new_zeros(
    input: Tensor, *size: Any, dtype: DTypeLike = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Zeros of this tensor's dtype."""
    return zeros(*size, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)


def new_ones(
    input: Tensor, *size: Any, dtype: DTypeLike = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Ones of this tensor's dtype."""
    return ones(*size, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)


def new_empty(
    input: Tensor, *size: Any, dtype: DTypeLike = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Memory as it is found, of this tensor's dtype."""
    return empty(*size, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)


def new_full(
    input: Tensor,
    size: Sequence[int],
    fill_value: Any,
    *,
    dtype: DTypeLike = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """One value everywhere, of this tensor's dtype."""
    return full(size, fill_value, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)


def new_tensor(
    input: Tensor, data: Any, *, dtype: DTypeLike = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A copy of the data, of this tensor's dtype."""
    return tensor(data, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)


# -- numbers in order --------------------------------------------------------------------------------------------------


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, (Tensor, np.generic)) else value


def arange(
    start: float,
    end: float | None = None,
    step: float = 1,
    *,
    dtype: DTypeLike = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers from start (0 if only one is given) up to, without, end; whole ones if all three are.

    Raises:
        ValueError: step is 0, or leads away from end.
    """
    first, last, step = (0, _number(start), _number(step)) if end is None else map(_number, (start, end, step))
    if step == 0 or (last - first) * step < 0 or not math.isfinite(last - first):
        raise ValueError(f"arange: a step of {step} does not lead from {first} to {last}")
    xp = default_module()
    whole = all(isinstance(n, int) for n in (first, last, step))
    wanted = np.dtype(dtype) if dtype is not None else np.dtype(np.int64) if whole else default_dtype()
    if whole:
        return finish(xp.arange(first, last, step, dtype=np.int64).astype(wanted, copy=False), requires_grad, device)
    places = xp.arange(math.ceil((last - first) / step), dtype=np.float64)
    return finish((first + places * step).astype(wanted), requires_grad, device)


def _line(start: float, end: float, steps: int, dtype: np.dtype[Any], name: str) -> Any:
    start, end = _number(start), _number(end)
    if dtype.kind in "iu":  # as PyTorch: the bounds first become whole
        start, end = int(start), int(end)
    if steps < 0:
        raise ValueError(f"{name}: the number of steps must not be negative, as {steps} is")
    return default_module().linspace(start, end, steps, dtype=np.float64)


def linspace(
    start: float,
    end: float,
    steps: int,
    *,
    dtype: DTypeLike = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers at equal distances from start to end, both included."""
    wanted = np.dtype(dtype or default_dtype())
    return finish(_line(start, end, steps, wanted, "linspace").astype(wanted, copy=False), requires_grad, device)


def logspace(
    start: float,
    end: float,
    steps: int,
    base: float = 10.0,
    *,
    dtype: DTypeLike = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Powers of the base, with exponents at equal distances from start to end, both included."""
    wanted = np.dtype(dtype or default_dtype())
    powers = _number(base) ** _line(start, end, steps, wanted, "logspace")
    return finish(powers.astype(wanted, copy=False), requires_grad, device)


def eye(
    n: int, m: int | None = None, *, dtype: DTypeLike = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Ones on the diagonal of an n × m matrix (n × n), zeros elsewhere."""
    return finish(default_module().eye(n, m, dtype=dtype or default_dtype()), requires_grad, device)


def tril_indices(
    row: int, col: int, offset: int = 0, *, dtype: DTypeLike = np.int64, device: str | None = None
) -> Tensor:
    """Rows and columns, (2, n), of what is on and below a diagonal of a row × col matrix."""
    found = np.tril_indices(row, offset, col)
    return finish(default_module().asarray(np.stack(found), dtype=dtype), False, device)


def triu_indices(
    row: int, col: int, offset: int = 0, *, dtype: DTypeLike = np.int64, device: str | None = None
) -> Tensor:
    """Rows and columns, (2, n), of what is on and above a diagonal of a row × col matrix."""
    found = np.triu_indices(row, offset, col)
    return finish(default_module().asarray(np.stack(found), dtype=dtype), False, device)


# -- from one another --------------------------------------------------------------------------------------------------


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """The coordinates of a grid: of vectors of n₀, n₁, … elements, tensors of shape (n₀, n₁, …), without copies.

    `indexing="xy"` exchanges the first two dimensions.

    Raises:
        ShapeError: an operand has more than one dimension.
    """
    axes: list[Tensor] = list(tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else tensors)
    if indexing not in ("ij", "xy"):
        raise ValueError(f"meshgrid: indexing is 'ij' or 'xy', not {indexing!r}")
    if any(t.ndim > 1 for t in axes):
        raise ShapeError(f"meshgrid needs vectors, not shapes {', '.join(str(t.shape) for t in axes)}")
    exchanged = indexing == "xy" and len(axes) > 1
    axes = [axes[1], axes[0], *axes[2:]] if exchanged else axes
    shape = [t.numel() for t in axes]
    grid = [t.reshape([-1 if i == j else 1 for j in range(len(axes))]).expand(*shape) for i, t in enumerate(axes)]
    if exchanged:
        grid[0], grid[1] = grid[1], grid[0]
    return tuple(grid)


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Class numbers as vectors, int64: of shape (*) to (*, num_classes), 1 at the class and 0 elsewhere.

    Raises:
        TypeError: not whole numbers.
        TrainerIndexError: a class below 0, or not below `num_classes`.
    """
    data = tensor.data
    if data.dtype.kind not in "iu":
        raise TypeError(f"one_hot needs whole numbers, not {data.dtype.name}")
    if num_classes == -1:
        if not data.size:
            raise ShapeError("one_hot of no elements needs num_classes: they do not say how many there are")
        num_classes = int(data.max()) + 1
    if data.size and not (int(data.min()) >= 0 and int(data.max()) < num_classes):
        raise TrainerIndexError(f"one_hot: classes from {data.min()} to {data.max()}, but num_classes is {num_classes}")
    xp = array_module(data)
    return wrap((data[..., None] == xp.arange(num_classes)).astype(np.int64))
