"""All parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable

from cordee.trainer.autograd.mode import no_grad
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops import cat
from cordee.trainer.tensors import Tensor

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """The parameters' numbers one after the other, `(total,)`, with their gradients' way back to them."""
    return cat([parameter.reshape(-1) for parameter in parameters], 0)


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Writes such a vector's numbers into the parameters.

    Raises:
        ShapeError: it has more or fewer numbers than they have; then nothing has been changed.
    """
    held = list(parameters)
    total = sum(parameter.numel() for parameter in held)
    if vec.shape != (total,):
        raise ShapeError(f"these parameters need a vector of shape ({total},), not {vec.shape}")
    start = 0
    with no_grad():
        for parameter in held:
            stop = start + parameter.numel()
            parameter.copy_(vec.detach()[start:stop].reshape(parameter.shape))
            start = stop
