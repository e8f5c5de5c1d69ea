"""Initial values, written into a tensor in place: PyTorch's distributions, drawn from our own generator."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from cordee.trainer import random
from cordee.trainer.array import as_array
from cordee.trainer.autograd.mode import no_grad
from cordee.trainer.tensors import Tensor

__all__ = [
    "calculate_gain",
    "constant_",
    "dirac_",
    "eye_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "sparse_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

_GAINS = {
    **dict.fromkeys(("linear", *(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)), "sigmoid"), 1.0),
    "tanh": 5.0 / 3.0,
    "relu": math.sqrt(2.0),
    "selu": 3.0 / 4.0,
}


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Uniform from `a` to `b`."""
    draws = random.generator().random(tensor.shape, dtype=_draw_dtype(tensor))
    draws *= b - a
    draws += a
    return _assign(tensor, draws)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Normal with this mean and standard deviation."""
    draws = random.generator().standard_normal(tensor.shape, dtype=_draw_dtype(tensor))
    draws *= std
    draws += mean
    return _assign(tensor, draws)


def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Tensor:
    """Normal, but only what lies between `a` and `b` (which are values, not multiples of `std`)."""
    if not a < b or std <= 0:
        raise ValueError(f"trunc_normal_ needs a < b and a positive std, got a={a}, b={b}, std={std}")
    rng, low, high = random.generator(), (a - mean) / std, (b - mean) / std
    inside = 0.5 * (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)))
    nearest = min(max(low, 0.0), high)  # where the density is highest
    draws = np.empty(math.prod(tensor.shape))
    missing = np.arange(draws.size)
    while missing.size:  # draw what has been refused once more
        if inside > 0.1:
            tried = rng.standard_normal(missing.size)
            kept = (tried >= low) & (tried <= high)
        else:
            tried = rng.uniform(low, high, missing.size)
            kept = rng.random(missing.size) < np.exp((nearest**2 - tried**2) / 2)
        draws[missing[kept]] = tried[kept]
        missing = missing[~kept]
    return _assign(tensor, (draws * std + mean).clip(a, b).reshape(tensor.shape).astype(_draw_dtype(tensor)))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Everywhere this value."""
    with no_grad():
        return tensor.fill_(val)


def zeros_(tensor: Tensor) -> Tensor:
    """Zeros."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Ones."""
    return constant_(tensor, 1.0)


def eye_(tensor: Tensor) -> Tensor:
    """The identity: ones on the diagonal of a matrix, zeros elsewhere."""
    if len(tensor.shape) != 2:
        raise ValueError(f"eye_ needs a matrix, got shape {tensor.shape}")
    return _assign(tensor, np.eye(*tensor.shape, dtype=_draw_dtype(tensor)))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """The identity of a convolution `(out, in / groups, *kernel)`: channels pass as far as there are some."""
    if len(tensor.shape) not in (3, 4, 5):
        raise ValueError(f"dirac_ needs the weight of a convolution, of 3 to 5 dimensions, got shape {tensor.shape}")
    if groups < 1 or tensor.shape[0] % groups:
        raise ValueError(f"the output channels ({tensor.shape[0]}) must be divisible by groups ({groups})")
    values = np.zeros(tensor.shape, _draw_dtype(tensor))
    per_group = tensor.shape[0] // groups
    centre = tuple(size // 2 for size in tensor.shape[2:])
    for group in range(groups):
        for channel in range(min(per_group, tensor.shape[1])):
            values[(group * per_group + channel, channel, *centre)] = 1
    return _assign(tensor, values)


def orthogonal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """A random matrix with orthonormal rows or columns, whichever are fewer, times `gain` (arXiv:1312.6120).

    More than two dimensions count as a matrix of the first by all the others.
    """
    if len(tensor.shape) < 2:
        raise ValueError(f"orthogonal_ needs at least two dimensions, got shape {tensor.shape}")
    if 0 in tensor.shape:
        return tensor
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    drawn = random.generator().standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(drawn)
    q *= np.sign(np.diagonal(r))  # which makes it uniform over all such matrices
    q = q.T if rows < columns else q
    return _assign(tensor, (q * gain).reshape(tensor.shape).astype(_draw_dtype(tensor)))


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01) -> Tensor:
    """Normal, with a share of `sparsity` of every column set to zero (Martens, 2010)."""
    if len(tensor.shape) != 2:
        raise ValueError(f"sparse_ needs a matrix, got shape {tensor.shape}")
    rng, num_zeros = random.generator(), math.ceil(sparsity * tensor.shape[0])
    values = rng.standard_normal(tensor.shape, dtype=_draw_dtype(tensor))
    values *= std
    order = rng.random(tensor.shape).argsort(axis=0)
    np.put_along_axis(values, order[:num_zeros], 0, axis=0)
    return _assign(tensor, values)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor on the standard deviation that keeps a signal's size through this nonlinearity."""
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1.0 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in _GAINS:
        raise ValueError(f"nonlinearity must be one of leaky_relu, {', '.join(_GAINS)}, got {nonlinearity!r}")
    return _GAINS[nonlinearity]


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: Literal["fan_in", "fan_out"] = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Uniform, of variance `gain² / fan`: keeps the size of signals (fan_in) or gradients (fan_out) through ReLUs."""
    bound = math.sqrt(3.0) * calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode))
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: Tensor, a: float = 0.0, mode: Literal["fan_in", "fan_out"] = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Normal, of variance `gain² / fan`."""
    return normal_(tensor, 0.0, calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode)))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform, of variance `2 gain² / (fan_in + fan_out)`."""
    bound = math.sqrt(3.0) * gain * math.sqrt(2.0 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Normal, of variance `2 gain² / (fan_in + fan_out)`."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_fans(tensor))))


def _fans(tensor: Tensor) -> tuple[int, int]:
    """How many inputs an output has, and how many outputs an input reaches, for a weight `(out, in, *kernel)`."""
    if len(tensor.shape) < 2:
        raise ValueError(
            f"fan_in and fan_out need a weight of at least two dimensions, got shape {tuple(tensor.shape)}"
        )
    receptive = math.prod(tensor.shape[2:])
    return tensor.shape[1] * receptive, tensor.shape[0] * receptive


def _fan(tensor: Tensor, mode: str) -> int:
    if mode not in {"fan_in", "fan_out"}:
        raise ValueError(f"mode must be fan_in or fan_out, got {mode!r}")
    return _fans(tensor)[mode == "fan_out"]


def _draw_dtype(tensor: Tensor) -> type[np.float32] | type[np.float64]:
    return np.float64 if tensor.data.dtype == np.float64 else np.float32


def _assign(tensor: Tensor, draws: object) -> Tensor:
    with no_grad():
        return tensor.copy_(as_array(draws))
