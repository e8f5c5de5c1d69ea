"""What the linear-algebra ops share: transposes in rules, shape checks, and how a singular matrix is reported.

Rules of ops that are analytic (inv, solve, det …) are written with plain transposes, as for real numbers; the walk
makes them right for complex ones (`Op.holomorphic`). Where an op itself conjugates (cholesky, qr, svd, eigh), its rules
do so too, through `adjoint`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.record import Sampler
from cordee.trainer.errors import LinAlgError, ShapeError
from cordee.trainer.tensors import Tensor

__all__ = [
    "adjoint",
    "conj",
    "definite",
    "diagonal_of",
    "diagonal_part",
    "eye_like",
    "guarded",
    "hermitian",
    "matrices",
    "raw",
    "real_dtype",
    "real_part",
    "refuse_half",
    "regular",
    "square",
    "symmetric",
    "transposed",
]  # fmt: skip


# -- in rules ----------------------------------------------------------------------------------------------------------


def transposed(a: Any) -> Any:
    """Matrices transposed, without a copy: of arrays and of tensors."""
    return a.swapaxes(-1, -2)


def conj(F: Any, a: Any) -> Any:
    """Complex numbers conjugated; real ones as they are."""
    return F.conj(a) if a.dtype.kind == "c" else a


def adjoint(F: Any, a: Any) -> Any:
    """Matrices transposed and conjugated."""
    a = a.swapaxes(-1, -2)
    return F.conj(a) if a.dtype.kind == "c" else a


def hermitian(F: Any, a: Any) -> Any:
    """The Hermitian (symmetric) part of matrices."""
    return (a + adjoint(F, a)) * 0.5


def real_part(F: Any, a: Any) -> Any:
    """The real part of complex numbers; real ones as they are."""
    return F.real(a) if a.dtype.kind == "c" else a


def raw(a: Any) -> Any:
    """The array of a tensor, or the array itself."""
    return a.data if isinstance(a, Tensor) else a


def eye_like(a: Any) -> Any:
    """The identity that fits a's matrices, as an array of real numbers of a's precision."""
    array = raw(a)
    return array_module(array).eye(array.shape[-2], array.shape[-1], dtype=real_dtype(array.dtype))


def diagonal_of(a: Any) -> Any:
    """The diagonals of square matrices, as vectors."""
    return (a * eye_like(a)).sum(-1)


def diagonal_part(a: Any, values: Any) -> Any:
    """Diagonal matrices with these values, of the size of a's."""
    return values[..., None] * eye_like(a)


# -- dtypes and shapes -------------------------------------------------------------------------------------------------


def real_dtype(dtype: Any, **_: Any) -> Any:
    """The dtype of a complex number's parts; of any other, itself."""
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def matrices(a: Any, name: str = "a") -> tuple[Any, ...]:
    """Checks that there are at least two dimensions; returns the leading ones."""
    if a is None or len(a) < 2:
        raise ShapeError(f"{name} must be a matrix or a batch of matrices, with at least two dimensions")
    return tuple(a[:-2])


def square(a: Any, name: str = "a") -> tuple[Any, ...]:
    """Checks that the last two dimensions are equal; returns the leading ones."""
    batch = matrices(a, name)
    if a[-1] != a[-2]:
        raise ShapeError(f"{name} must hold square matrices, but its last two dimensions are {a[-2]} and {a[-1]}")
    return batch


# -- failures ----------------------------------------------------------------------------------------------------------


def guarded(xp: Any, name: str, what: str, call: Callable[..., Any], a: Any, *more: Any, **options: Any) -> Any:
    """Run one of NumPy's (CuPy's) linear-algebra functions; a numerical failure becomes a sentence.

    Raises:
        LinAlgError: says which matrix of the batch it was.
        TypeError: the numbers have half precision.
    """
    refuse_half(a)
    try:
        if xp is np:
            return call(a, *more, **options)
        with _failing(xp):
            return call(a, *more, **options)
    except np.linalg.LinAlgError as error:
        if a.ndim < 2 or (a.shape[-1] != a.shape[-2] and "square" in str(error)):
            raise  # a matter of shapes, which the record explains
        raise LinAlgError(f"{name}: {what}{_culprit(call, a, more, options)}") from error


def _failing(xp: Any) -> contextlib.AbstractContextManager[None]:
    """Where CuPy tells of matrices that are singular or not definite, as NumPy always does."""
    if xp is np:
        return contextlib.nullcontext()
    import cupyx  # pyright: ignore[reportMissingImports]

    return cupyx.errstate(linalg="raise")  # type: ignore[no-any-return]


def refuse_half(a: Any) -> None:
    """As PyTorch does: NumPy itself knows float16 as one to refuse, but takes bfloat16 for no number."""
    if a.dtype.itemsize == 2 and a.dtype.kind in "fV":
        raise TypeError(f"linear algebra has no half precision ({a.dtype.name}): convert by .float()")


def solved(xp: Any, a: Any, b: Any) -> Any:
    """`xp.linalg.solve` of matrices whose leading dimensions broadcast, which CuPy's does not do itself."""
    if xp is not np and a.shape[:-2] != b.shape[:-2]:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a, b = xp.broadcast_to(a, (*batch, *a.shape[-2:])), xp.broadcast_to(b, (*batch, *b.shape[-2:]))
    return xp.linalg.solve(a, b)


def _culprit(call: Callable[..., Any], a: Any, more: tuple[Any, ...], options: dict[str, Any]) -> str:
    """Which matrix of a batch fails: found by trying each alone."""
    if a.ndim == 2:
        return f" (of shape {a.shape})"
    xp = array_module(a)
    for index in np.ndindex(a.shape[:-2]):
        try:
            with _failing(xp):
                call(a[index], *[xp.eye(a.shape[-1]) for _ in more], **options)
        except np.linalg.LinAlgError:
            place = index[0] if len(index) == 1 else index
            return f" (batch element {place} of shape {a.shape})"
    return f" (in a batch of shape {a.shape})"


# -- samples -----------------------------------------------------------------------------------------------------------


def regular(s: Sampler, *shape: int) -> Any:
    """Square matrices that are well invertible."""
    return s.normal(*shape) * 0.5 + 2.0 * np.eye(shape[-1])


def symmetric(s: Sampler, *shape: int) -> Any:
    """Symmetric matrices with well separated eigenvalues."""
    a = s.normal(*shape) * 0.3
    return a + a.swapaxes(-1, -2) + np.diag(2.0 * np.arange(shape[-1]))


def definite(s: Sampler, *shape: int) -> Any:
    """Symmetric positive definite matrices."""
    a = s.normal(*shape)
    return a @ a.swapaxes(-1, -2) * 0.3 + np.eye(shape[-1])
