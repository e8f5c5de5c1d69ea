"""Are gradients right? Compares them with central finite differences, in float64.

The function's output is weighted with fixed random numbers, so that every element of every output is checked in one
backward; every element of every input is moved in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cordee.trainer.array import as_array, to_numpy
from cordee.trainer.autograd.backward import grad
from cordee.trainer.autograd.mode import enable_grad, no_grad
from cordee.trainer.errors import TrainerError
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["GradcheckError", "gradcheck", "gradgradcheck"]


class GradcheckError(TrainerError, AssertionError):
    """A gradient differs from the finite difference."""


def gradcheck(
    function: Callable[..., Tensor],
    inputs: Sequence[Any],
    *,
    eps: float = 1e-6,
    atol: float = 1e-6,
    rtol: float = 1e-5,
) -> bool:
    """Check first derivatives with respect to every input that requires a gradient. Raises `GradcheckError`."""
    places = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    for i in places:
        if inputs[i].dtype != np.float64:
            raise TypeError(f"gradcheck needs float64 inputs; input {i} is {inputs[i].dtype.name}")
    out = function(*inputs)
    weights = _weights(out.shape)
    known = grad(out, [inputs[i] for i in places], wrap(as_array(weights)), allow_unused=True)
    for place, analytic in zip(places, known, strict=True):
        numeric = _numeric(function, inputs, place, weights, eps)
        found = np.zeros_like(numeric) if analytic is None else to_numpy(analytic.data)
        if found.shape != numeric.shape:
            raise GradcheckError(f"input {place} has shape {numeric.shape}, its gradient {found.shape}")
        error = np.abs(found - numeric) - (atol + rtol * np.abs(numeric))
        if not np.all(error <= 0):  # also catches NaN
            worst = np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), error.shape)
            raise GradcheckError(
                f"the gradient for input {place} at {tuple(map(int, worst))} is {found[worst]:.9g}, "
                f"the finite difference {numeric[worst]:.9g}"
            )
    return True


def gradgradcheck(function: Callable[..., Tensor], inputs: Sequence[Any], **tolerances: float) -> bool:
    """Check second derivatives: gradcheck of the gradient itself, also with respect to the output's gradient."""
    places = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    with no_grad():
        shape = function(*inputs).shape
    seed = Tensor(as_array(_weights(shape, 1)), requires_grad=True)

    def first(*values: Any) -> Tensor:
        *args, weights = values
        with enable_grad():
            found = grad(function(*args), [args[i] for i in places], weights, create_graph=True, allow_unused=True)
        total: Any = 0.0
        for k, value in enumerate(found):
            if value is not None:
                total = (value * wrap(as_array(_weights(value.shape, 2 + k)))).sum() + total
        return total if isinstance(total, Tensor) else wrap(as_array(np.zeros(())), None) + seed.sum() * 0.0

    return gradcheck(first, [*inputs, seed], **tolerances)


def _weights(shape: tuple[int, ...], salt: int = 0) -> Any:
    return np.random.Generator(np.random.Philox(key=salt)).uniform(0.5, 1.5, shape)


def _numeric(function: Callable[..., Tensor], inputs: Sequence[Any], place: int, weights: Any, eps: float) -> Any:
    base = to_numpy(inputs[place].data)
    numeric = np.zeros(base.shape)
    with no_grad():
        for index in np.ndindex(base.shape):
            sides = []
            for step in (eps, -eps):
                moved = base.copy()
                moved[index] += step
                args = list(inputs)
                args[place] = Tensor(as_array(moved), requires_grad=True)
                sides.append(float((to_numpy(function(*args).data) * weights).sum()))
            numeric[index] = (sides[0] - sides[1]) / (2 * eps)
    return numeric
