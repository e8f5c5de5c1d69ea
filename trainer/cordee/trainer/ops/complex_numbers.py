"""Complex numbers: made of real ones, taken apart, conjugated.

Gradients follow PyTorch's convention: of a real loss L, the gradient of z = x + iy is ∂L/∂x + i·∂L/∂y, so that a step
against it goes downhill. Ops of analytic functions (`mul`, `exp`, `matmul` …) need nothing for that, see
`Op.holomorphic`; those here say themselves what is right. (W. Wirtinger, 'Zur formalen Theorie der Funktionen von mehr
komplexen Veränderlichen', 1927.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.autograd.record import NO_ERRORS, Sampler, op
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.elementwise import cos, sin
from cordee.trainer.tensors import Tensor

__all__ = [
    "angle", "complex", "conj", "conj_physical", "imag", "is_complex", "isreal", "polar", "real", "resolve_conj", "sgn",
    "view_as_complex", "view_as_real",
]  # fmt: skip

METHODS = "angle conj conj_physical isreal resolve_conj sgn"
INPLACE = "conj_physical sgn"


def real_dtype(dtype: Any, **_: Any) -> Any:
    """The dtype of a complex number's parts; of any other, itself."""
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def complex_dtype(*dtypes: Any, **_: Any) -> Any:
    """The dtype of complex numbers whose parts have this dtype."""
    return np.result_type(*dtypes, np.complex64)


def _complex_values(s: Sampler, *shape: int) -> Any:
    return s.distinct(*shape) + 1j * s.normal(*shape)


def _either(s: Sampler) -> list[Any]:
    return [s.case(_complex_values(s, 2, 3)), s.case(_complex_values(s)), s.case(s.distinct(3))]


def _only_complex(s: Sampler) -> list[Any]:
    return [s.case(_complex_values(s, 2, 3)), s.case(_complex_values(s)), s.case(_complex_values(s, 0, 2))]


# -- conjugation and parts ---------------------------------------------------------------------------------------------

CONJ = op(
    "conj", "the complex conjugate; real numbers as they are",
    forward=lambda xp, a: a.conj(), vjps=(lambda F, g, out, a: F.conj(g),), saves=("",), elementwise=True,
    expr="conj(a)", holomorphic=False, reference=np.conj, samples=_either, errors=NO_ERRORS,
)  # fmt: skip

REAL = op(
    "real", "the real part",
    forward=lambda xp, a: a.real,
    vjps=(lambda F, g, out, a: F.cast(g, dtype=complex_dtype(g.dtype), source=g.dtype),), saves=("",), view=True,
    elementwise=True, expr="real(a)", dtype=real_dtype, holomorphic=False, reference=np.real, samples=_only_complex,
    errors=NO_ERRORS,
)  # fmt: skip

IMAG = op(
    "imag", "the imaginary part",
    forward=lambda xp, a: a.imag, vjps=(lambda F, g, out, a: g * 1j,), saves=("",), view=True,
    elementwise=True, expr="imag(a)", dtype=real_dtype, holomorphic=False, reference=np.imag, samples=_only_complex,
    errors=NO_ERRORS,
)  # fmt: skip


def conj(input: Tensor) -> Tensor:
    """The complex conjugate of every element; a real tensor is returned as it is."""
    return CONJ.run(input) if input.data.dtype.kind == "c" else input


def resolve_conj(input: Tensor) -> Tensor:
    """The tensor itself: conjugation is never put off here."""
    return input


conj_physical = conj


def real(input: Tensor) -> Tensor:
    """The real parts, sharing memory; a real tensor is returned as it is."""
    return REAL.run(input) if input.data.dtype.kind == "c" else input


def imag(input: Tensor) -> Tensor:
    """The imaginary parts, sharing memory."""
    if input.data.dtype.kind != "c":
        raise TypeError(f"imag: a tensor of {input.dtype.name} has no imaginary part")
    return IMAG.run(input)


def is_complex(input: Tensor) -> bool:
    """Whether the tensor's dtype is complex."""
    return input.data.dtype.kind == "c"


def isreal(input: Tensor) -> Tensor:
    """Where the imaginary part is zero."""
    if input.data.dtype.kind == "c":
        return imag(input.detach()) == 0
    return input.detach() == input.detach() if input.data.dtype.kind in "iub" else _all_true(input)


def _all_true(input: Tensor) -> Tensor:
    from cordee.trainer.tensors import wrap

    return wrap(array_module(input.data).ones(input.shape, bool))


# -- magnitude and direction -------------------------------------------------------------------------------------------


def _sgn(xp: Any, a: Any) -> Any:
    if a.dtype.kind != "c":
        return a.copy() if a.dtype.kind == "b" else xp.sign(a)
    size = xp.abs(a)
    return a / xp.where(size == 0, xp.ones_like(size), size)


def _sgn_vjp(F: Any, g: Any, out: Any, a: Any) -> Any:
    """What of g turns a, divided by a's size; 0 at 0."""
    if a.dtype.kind != "c":
        return g * 0.0
    size = F.abs(a)
    g = F.where(size == 0, 0.0, g) / F.where(size == 0, 1.0, size)
    return g - F.real(g * F.conj(out)) * out


SGN = op(
    "sgn", "a / |a|, 0 at 0: the direction of complex numbers, the sign of real ones",
    forward=_sgn, vjps=(_sgn_vjp,), saves=("a out",), elementwise=True, expr="sgn(a)", holomorphic=False,
    reference=lambda a: a / np.abs(a), samples=_either, errors=NO_ERRORS,
)  # fmt: skip


def sgn(input: Tensor) -> Tensor:
    """The direction `z / |z|` of complex numbers (0 at 0), the sign of real ones."""
    return SGN.run(input)


def _angle(xp: Any, a: Any) -> Any:
    if a.dtype.kind == "c":
        return xp.arctan2(a.imag, a.real)
    return xp.where(a < 0, xp.asarray(math.pi, a.dtype), xp.where(a != a, a, xp.zeros_like(a)))  # noqa: PLR0124 (NaN)


def _angle_vjp(F: Any, g: Any, out: Any, a: Any) -> Any:
    if a.dtype.kind != "c":
        return g * 0.0
    size = F.abs(a)
    return a * (g / F.where(size == 0, 1.0, size * size)) * 1j


ANGLE = op(
    "angle", "the angle of complex numbers in the plane, from -π to π; of real ones 0 or π",
    forward=_angle, vjps=(_angle_vjp,), saves=("a",), elementwise=True, expr="angle(a)", dtype=real_dtype,
    holomorphic=False, reference=np.angle, samples=_either, errors=NO_ERRORS,
)  # fmt: skip


def angle(input: Tensor) -> Tensor:
    """The angle of each number in the complex plane, in radians; of integers in the default dtype."""
    if input.data.dtype.kind in "iub":
        from cordee.trainer.array import default_dtype

        input = input.to(default_dtype())
    return ANGLE.run(input)


# -- from real numbers and back ----------------------------------------------------------------------------------------


def _complex(xp: Any, real: Any, imag: Any) -> Any:
    shape = np.broadcast_shapes(real.shape, imag.shape)
    out = xp.empty(shape, complex_dtype(real.dtype, imag.dtype))
    out.real, out.imag = real, imag
    return out


COMPLEX = op(
    "complex", "a complex number of its real and imaginary parts",
    forward=_complex, vjps=(lambda F, g, out, real, imag: F.real(g), lambda F, g, out, real, imag: F.imag(g)),
    saves=("", ""), elementwise=True, expr="complex(real, imag)", dtype=complex_dtype, holomorphic=False,
    reference=lambda real, imag: real + 1j * imag,
    samples=lambda s: [s.case(s.normal(2, 3), s.normal(2, 3)), s.case(s.normal(), s.normal(2))],
    errors=lambda s: [s.case(s.normal(2, 3), s.normal(2, 4))],
)  # fmt: skip


def _same_floating(name: str, first: Any, second: Any) -> None:
    dtypes = [getattr(x, "dtype", type(x)) for x in (first, second)]
    if not isinstance(dtypes[0], np.dtype) or dtypes[0] != dtypes[1] or dtypes[0].kind != "f":
        names = " and ".join(str(getattr(dtype, "name", dtype)) for dtype in dtypes)
        raise TypeError(f"{name}: both parts must be tensors of the same floating dtype, not {names}")


def complex(real: Tensor, imag: Tensor) -> Tensor:
    """Complex numbers of their real and imaginary parts, which have the same floating dtype."""
    _same_floating("complex", real, imag)
    return COMPLEX.run(real, imag)


@autocasts("single on cpu")
def polar(abs: Tensor, angle: Tensor) -> Tensor:
    """Complex numbers of their magnitudes and angles (in radians)."""
    _same_floating("polar", abs, angle)
    return complex(abs * cos(angle), abs * sin(angle))


def _view_as_real(xp: Any, a: Any) -> Any:
    part = real_dtype(a.dtype)
    if a.flags.c_contiguous:
        return a.reshape(-1).view(part).reshape(*a.shape, 2)
    return xp.stack((a.real, a.imag), axis=-1)


def _view_as_complex(xp: Any, a: Any) -> Any:
    if a.shape[-1] != 2:
        raise ValueError("not pairs")
    if a.dtype.itemsize == 2:
        raise TypeError(f"complex numbers have no half precision ({a.dtype.name})")
    return xp.ascontiguousarray(a).view(complex_dtype(a.dtype))[..., 0]


def _pairs_shape(a: Any) -> Any:
    if not a or a[-1] != 2:
        raise ShapeError("the last dimension must have size 2: real and imaginary part")
    return a[:-1]


VIEW_AS_REAL = op(
    "view_as_real", "real and imaginary part in a new last dimension",
    forward=_view_as_real, vjps=(lambda F, g, out, a: F.view_as_complex(g),), saves=("",), view=True,
    shape=lambda a: (*a, 2), dtype=real_dtype, holomorphic=False, samples=_only_complex, errors=NO_ERRORS,
    reference=lambda a: np.stack((a.real, a.imag), -1),
)  # fmt: skip

VIEW_AS_COMPLEX = op(
    "view_as_complex", "pairs of numbers in the last dimension as complex numbers",
    autocast="single on cpu",
    forward=_view_as_complex, vjps=(lambda F, g, out, a: F.view_as_real(g),), saves=("",), view=True,
    shape=_pairs_shape, dtype=complex_dtype, holomorphic=False,
    samples=lambda s: [s.case(s.normal(2, 3, 2)), s.case(s.normal(2)), s.case(s.normal(0, 2))],
    errors=lambda s: [s.case(s.normal(2, 3))], reference=lambda a: a[..., 0] + 1j * a[..., 1],
)  # fmt: skip


def view_as_real(input: Tensor) -> Tensor:
    """`(…)` complex as `(…, 2)` real: real and imaginary part last; shares memory when the input is contiguous."""
    if input.data.dtype.kind != "c":
        raise TypeError(f"view_as_real: needs a complex tensor, not {input.dtype.name}")
    return VIEW_AS_REAL.run(input)


def view_as_complex(input: Tensor) -> Tensor:
    """`(…, 2)` real as `(…)` complex; shares memory when the input is contiguous."""
    if input.data.dtype.kind != "f" or input.data.dtype.itemsize < 4:
        raise TypeError(f"view_as_complex: needs a tensor of float32 or float64, not {input.dtype.name}")
    return VIEW_AS_COMPLEX.run(input)
