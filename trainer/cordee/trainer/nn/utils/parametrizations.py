"""Parametrisations that keep a weight's length, its largest singular value, or its orthogonality in hand."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from cordee.trainer import random
from cordee.trainer.array import array_module, to_numpy
from cordee.trainer.autograd.mode import no_grad
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.nn.distance import normalize
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.utils.parametrize import register_parametrization
from cordee.trainer.ops import cat, matmul
from cordee.trainer.ops.elementwise import sqrt
from cordee.trainer.ops.linalg.products import matrix_exp
from cordee.trainer.ops.linalg.solves import solve
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]

M = TypeVar("M", bound=Module)


def _weight(module: Module, name: str) -> Tensor:
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"{type(module).__name__} has no parameter or buffer {name!r}")
    return weight


# -- length and direction ----------------------------------------------------------------------------------------------


def _length(weight: Tensor, dim: int) -> Tensor:
    """The length of every slice along `dim`, as it broadcasts; of all of it where dim is -1."""
    squared = weight * weight
    if dim == -1:
        return sqrt(squared.sum())
    return sqrt(squared.sum([i for i in range(weight.ndim) if i != dim], keepdim=True))


class _WeightNorm(Module):
    def __init__(self, dim: int | None = 0) -> None:
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_v * (weight_g / _length(weight_v, self.dim))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return _length(weight, self.dim), weight

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Trains a weight's length (per slice along `dim`; None: one) and its direction apart (arXiv:1602.07868).

    The length is `parametrizations.<name>.original0`, the direction `original1`.
    """
    _weight(module, name)
    register_parametrization(module, name, _WeightNorm(dim), unsafe=True)

    def older_names(_: Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
        """States of the older `torch.nn.utils.weight_norm`."""
        for old, new in (("_g", "original0"), ("_v", "original1")):
            if f"{prefix}{name}{old}" in state:
                state[f"{prefix}parametrizations.{name}.{new}"] = state.pop(f"{prefix}{name}{old}")

    module.register_load_state_dict_pre_hook(older_names)
    return module


# -- largest singular value --------------------------------------------------------------------------------------------


class _SpectralNorm(Module):
    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12) -> None:
        if not -weight.ndim <= dim < weight.ndim:
            raise TrainerIndexError(f"there is no dimension {dim} in a weight of {weight.ndim} dimensions")
        if n_power_iterations < 1:
            raise ValueError(f"n_power_iterations must be positive, got {n_power_iterations}")
        self.dim = dim % weight.ndim
        self.eps = eps
        self.n_power_iterations = n_power_iterations
        if weight.ndim > 1:
            matrix = self._matrix(weight.detach())
            xp = array_module(matrix.data)
            for name, size in (("_u", matrix.shape[0]), ("_v", matrix.shape[1])):
                drawn = random.generator().standard_normal(size).astype(weight.dtype)
                self.register_buffer(name, wrap(xp.asarray(drawn / max(float(np.linalg.norm(drawn)), eps))))
            self._iterate(matrix, 15)

    def _matrix(self, weight: Tensor) -> Tensor:
        return (weight if self.dim == 0 else weight.movedim(self.dim, 0)).flatten(1)

    def _iterate(self, weight: Tensor, times: int) -> None:
        """Brings the two vectors nearer to the singular vectors of the largest singular value."""
        w, u, v = weight.data, self._u.data, self._v.data
        xp = array_module(w)
        for _ in range(times):
            for vector, matrix, other in ((u, w, v), (v, w.T, u)):
                found = matrix @ other
                vector[...] = found / xp.maximum(xp.sqrt(found.dot(found)), self.eps)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return normalize(weight, dim=0, eps=self.eps)
        matrix = self._matrix(weight)
        if self.training:
            self._iterate(matrix, self.n_power_iterations)
        u, v = wrap(self._u.data.copy()), wrap(self._v.data.copy())  # the next call changes them in place
        return weight / (u * (matrix @ v)).sum()

    def right_inverse(self, value: Tensor) -> Tensor:
        return value

    def extra_repr(self) -> str:
        return f"dim={self.dim}, n_power_iterations={self.n_power_iterations}"


def spectral_norm(
    module: M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> M:
    """Divides a weight by its largest singular value (arXiv:1802.05957), estimated by power iteration when read.

    `dim` is the one of the outputs: 0, but 1 for transposed convolutions.
    """
    weight = _weight(module, name)
    if dim is None:
        dim = 1 if any("ConvTranspose" in each.__name__ for each in type(module).__mro__) else 0
    return register_parametrization(module, name, _SpectralNorm(weight, n_power_iterations, dim, eps))


# -- orthogonal --------------------------------------------------------------------------------------------------------

_MAPS = ("matrix_exp", "cayley", "householder")


class _Orthogonal(Module):
    base: Tensor | None

    def __init__(self, weight: Tensor, orthogonal_map: str, use_trivialization: bool) -> None:
        self.shape = weight.shape
        self.orthogonal_map = orthogonal_map
        self.use_trivialization = use_trivialization
        self.register_buffer("base", None)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.shape[-2] < x.shape[-1]
        x = x.mT if wide else x
        rows, columns = x.shape[-2:]
        if self.orthogonal_map == "householder":
            q = _reflected(x)
        else:
            x = x.tril()
            if rows != columns:
                xp = array_module(x.data)
                x = cat([x, wrap(xp.zeros((*x.shape[:-1], rows - columns), x.dtype))], -1)
            skew = x - x.mT
            q = matrix_exp(skew) if self.orthogonal_map == "matrix_exp" else _cayley(skew)
            q = q[..., :columns]
        if self.base is not None:
            q = matmul(self.base, q)
        return q.mT if wide else q

    def right_inverse(self, value: Tensor) -> Tensor:
        if value.shape != self.shape:
            raise ShapeError(f"the orthogonal weight has shape {self.shape}; {value.shape} does not fit")
        wide = value.shape[-2] < value.shape[-1]
        q = to_numpy(value.data)
        q = np.swapaxes(q, -1, -2) if wide else q
        rows, columns = q.shape[-2:]
        if not self.use_trivialization:
            if self.orthogonal_map != "householder":
                raise ValueError(f"the map {self.orthogonal_map} has no inverse: use_trivialization=True makes one")
            x = _reflectors(q)
        else:
            if rows != columns:
                more = random.generator().standard_normal((*q.shape[:-1], rows - columns)).astype(q.dtype)
                q = _orthonormal(np.concatenate([q, more], axis=-1))
            elif not np.allclose(np.swapaxes(q, -1, -2) @ q, np.eye(columns), atol=1e-4):
                q = _orthonormal(q)
            base = array_module(value.data).asarray(np.ascontiguousarray(q))
            self.register_buffer("base", wrap(base))
            x = np.broadcast_to(-np.eye(rows, columns, dtype=q.dtype), (*q.shape[:-2], rows, columns))
        x = np.swapaxes(x, -1, -2) if wide else x
        return wrap(array_module(value.data).asarray(np.ascontiguousarray(x)))

    def extra_repr(self) -> str:
        return f"orthogonal_map={self.orthogonal_map!r}"


def _orthonormal(matrix: Any) -> Any:
    """The orthogonal factor of a QR decomposition that is made unique by a positive diagonal."""
    q, r = np.linalg.qr(matrix)
    return q * np.sign(np.where(np.diagonal(r, axis1=-2, axis2=-1) == 0, 1, np.diagonal(r, axis1=-2, axis2=-1)))[
        ..., None, :
    ].astype(q.dtype)


def _cayley(skew: Tensor) -> Tensor:
    """(I + A/2)(I - A/2)⁻¹, which is orthogonal for skew-symmetric A."""
    xp = array_module(skew.data)
    one = wrap(xp.eye(skew.shape[-1], dtype=skew.dtype))
    return solve(one - skew * 0.5, one + skew * 0.5)


def _reflected(x: Tensor) -> Tensor:
    """The first columns of a product of reflections, whose vectors are below the diagonal of `x`, times its signs.

    All at once: H₁ … H_k = I - V M⁻¹ Vᵀ, M being VᵀV above the diagonal and |v|² / 2 on it.
    """
    xp = array_module(x.data)
    rows, columns = x.shape[-2:]
    v = x.tril(-1) + wrap(xp.eye(rows, columns, dtype=x.dtype))
    gram = matmul(v.mT, v)
    inner = gram.triu(1) + gram * wrap(0.5 * xp.eye(columns, dtype=x.dtype))
    q = wrap(xp.eye(rows, columns, dtype=x.dtype)) - matmul(v, solve(inner, v[..., :columns, :].mT))
    signs = xp.diagonal(x.data, axis1=-2, axis2=-1).astype(np.int64).astype(x.dtype)
    return q * wrap(signs[..., None, :])


def _reflectors(q: Any) -> Any:
    """What `_reflected` makes `q` of."""
    flat = q.reshape(-1, *q.shape[-2:])
    found = np.empty_like(flat)
    for index, matrix in enumerate(flat):
        below, tau = np.linalg.qr(matrix, mode="raw")
        x = below.T.copy()
        places = np.arange(x.shape[1])
        signs = np.sign(x[places, places])
        signs[tau == 0] *= -1
        x[places, places] = signs
        found[index] = x
    return found.reshape(q.shape)


def orthogonal(
    module: M, name: str = "weight", orthogonal_map: str | None = None, *, use_trivialization: bool = True
) -> M:
    """Keeps a matrix (or a batch of them) orthogonal; rows or columns orthonormal, whichever are fewer.

    Args:
        orthogonal_map: "matrix_exp" (the default for square matrices), "cayley" (cheaper, without the matrices of
            which -1 is an eigenvalue), or "householder" (the default for others), of a matrix that is trained freely.
        use_trivialization: train the distance from where the weight is now (arXiv:1909.09501).

    Raises:
        ValueError: the weight has fewer than two dimensions, or the map is unknown.
    """
    weight = _weight(module, name)
    if weight.ndim < 2:
        raise ValueError(f"an orthogonal weight is a matrix or a batch of them; {name!r} has shape {weight.shape}")
    if orthogonal_map is None:
        orthogonal_map = "matrix_exp" if weight.shape[-2] == weight.shape[-1] else "householder"
    if orthogonal_map not in _MAPS:
        raise ValueError(f"orthogonal_map must be one of {', '.join(_MAPS)}, got {orthogonal_map!r}")
    with no_grad():
        made = _Orthogonal(weight, orthogonal_map, use_trivialization)
    return register_parametrization(module, name, made, unsafe=True)
