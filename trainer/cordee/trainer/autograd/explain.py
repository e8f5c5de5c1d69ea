"""Turns a failed forward into a sentence: the op, every input by name and shape, what is wrong and what would fit.

Nothing is checked before an op runs. When its forward fails, the op's own shape rule is asked what it would have
refused; what NumPy said is kept as the error's cause.
"""

from __future__ import annotations

from typing import Any, NoReturn

from cordee.trainer.autograd.record import Op, broadcast_shape
from cordee.trainer.errors import ShapeError, TrainerError, TrainerIndexError

__all__ = ["TENSOR_IN_DATA", "explain_broadcast", "refuse"]


TENSOR_IN_DATA = (
    "an input's .data was set to a tensor, and it is an array: write p.data = other.data, or p.copy_(other) under "
    "no_grad()"
)


def refuse(op: Op, arrays: list[Any], params: dict[str, Any], error: Exception) -> NoReturn:
    """Raise what the user is told instead of `error`.

    Raises:
        ShapeError: shapes or values that do not go together.
        TrainerIndexError: something outside its tensor.
        TypeError: what is no number or tensor, or of the wrong dtype.
    """
    if isinstance(error, TrainerError):
        raise error
    if any(hasattr(x, "grad_fn") for x in arrays):
        raise TypeError(f"{op.name}: {TENSOR_IN_DATA}") from error
    shapes = [_shape(x) for x in arrays]
    names = op.inputs or tuple(f"input {i}" for i in range(len(shapes)))
    listed = ", ".join(
        f"{name} {_text(array, shape)}" for name, array, shape in zip(names, arrays, shapes, strict=False)
    )
    kind: type[Exception] = TrainerIndexError if isinstance(error, IndexError) else ShapeError
    reason = None
    if op.shape is not None:
        try:
            op.shape(*shapes, **params)
        except TrainerError as refusal:
            reason, kind = str(refusal), type(refusal)
        except Exception:  # the rule met what it cannot even look at: the forward's own words have to do
            reason = None
    if reason is None and isinstance(error, TypeError):
        raise TypeError(f"{op.name}: {error} (inputs: {listed})") from error
    raise kind(f"{op.name}: {reason or error} (inputs: {listed})") from error


def _shape(value: Any) -> tuple[int, ...] | None:
    return None if value is None else tuple(getattr(value, "shape", ()))


def _text(value: Any, shape: tuple[int, ...] | None) -> str:
    return f"of shape {shape}" if hasattr(value, "shape") else repr(value)


def explain_broadcast(*shapes: tuple[int, ...]) -> str | None:
    """Which dimension keeps these shapes from broadcasting against each other; None if none does."""
    try:
        broadcast_shape(*shapes)
    except ShapeError as error:
        return str(error)
    return None
