"""PyTorch's switches of how a library computes, as far as there is something to switch.

    backends.cuda.matmul.allow_tf32 = True           # or set_float32_matmul_precision("high")

TF32 multiplies float32 in the GPU's tensor cores, with 10 bits of the factors' 23 behind the point, and adds up in
float32: several times as fast. It is off unless asked for (or `CUPY_TF32=1` is set), and part of what a worker computes
with: those of a job agree on it. On the CPU it has no effect. (It has not yet run on a device.)
"""

from __future__ import annotations

from cordee.trainer.array import get_tf32, set_tf32

__all__ = ["cuda", "get_float32_matmul_precision", "set_float32_matmul_precision"]


class _Matmul:
    """Of matrix products on CUDA."""

    __slots__ = ()

    @property
    def allow_tf32(self) -> bool:
        """Whether products of float32 may be computed in TF32."""
        return get_tf32()

    @allow_tf32.setter
    def allow_tf32(self, allowed: bool) -> None:
        set_tf32(bool(allowed))


class _Cuda:
    __slots__ = ("matmul",)

    def __init__(self) -> None:
        self.matmul = _Matmul()


cuda = _Cuda()

_PRECISIONS = ("highest", "high", "medium")


def set_float32_matmul_precision(precision: str) -> None:
    """How exact products of float32 are: "highest" in float32; "high" and "medium" in TF32 on CUDA."""
    if precision not in _PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(_PRECISIONS)}, not {precision!r}")
    set_tf32(precision != "highest")


def get_float32_matmul_precision() -> str:
    """How exact products of float32 are: "highest" or "high"."""
    return "high" if get_tf32() else "highest"
