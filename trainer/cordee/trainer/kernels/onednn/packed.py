"""Products of many matrices with the same one, as a recurrent layer has them: that one is packed once, for all.

Half of what a product of few rows costs is laying out the other matrix as the loops read it. Of bfloat16 the sums are
kept, and returned, in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.kernels import team
from cordee.trainer.kernels.onednn.library import FLOAT32, Pointer, calls, has_bfloat16
from cordee.trainer.kernels.onednn.primitives import (
    SHARED_PRODUCT,
    Description,
    Layout,
    Operand,
    Primitive,
    address,
    attributes,
    cached,
    fast,
    reordering,
    share,
)
from cordee.trainer.kernels.onednn.products import LEAST, TYPES, strides_in_elements
from cordee.trainer.kernels.registry import KERNELS

__all__ = ["multiplier"]

_SRC, _WEIGHTS, _DST = 1, 33, 17  # DNNL_ARG_…
_ALIGNMENT = 64

_float32 = np.dtype(np.float32)


def multiplier(b: Any) -> Any:
    if b.ndim != 2 or not b.size or b.dtype not in TYPES or strides_in_elements(b) is None:
        return NotImplemented
    if b.dtype is not _float32 and not has_bfloat16():
        return NotImplemented
    return _Multiplier(b)


class _Multiplier:
    """`times(a, out)`, by what is right for the number of rows."""

    def __init__(self, b: Any) -> None:
        self._b = b
        self._plain = KERNELS["multiplier"].reference(np, b)
        self._runs: dict[tuple[int, int], tuple[Primitive, int] | None] = {}  # by rows and threads; None: NumPy
        self._packed: list[tuple[Layout, Any, int]] = []  # how, where to keep it alive, and the address

    def __call__(self, a: Any, out: Any) -> None:
        rows = len(a)
        threads = 1 if rows * self._b.size < SHARED_PRODUCT else team.size()
        try:
            run = self._runs[rows, threads]
        except KeyError:
            run = self._runs[rows, threads] = self._prepared(rows, threads)
        if run is None or a.dtype is not self._b.dtype or not (a.flags.c_contiguous and out.flags.c_contiguous):
            self._plain(a, out)
            return
        primitive, packed = run
        primitive(address(a), packed, address(out))

    def _prepared(self, rows: int, threads: int) -> tuple[Primitive, int] | None:
        """What multiplies with so many rows, and where for it the matrix lies packed."""
        if rows == 1 or rows * self._b.size < LEAST[self._b.dtype]:
            return None
        share(rows * self._b.size, SHARED_PRODUCT)
        described = self._b.shape, TYPES[self._b.dtype], strides_in_elements(self._b)
        made = cached(("packed", rows, *described, threads), _make, rows, *described)
        if made is None:
            return None
        product, wanted, pack = made
        for layout, _, where in self._packed:
            if layout.same(wanted):
                return product, where
        memory = np.empty(wanted.num_bytes + _ALIGNMENT, np.uint8)
        where = -(-address(memory) // _ALIGNMENT) * _ALIGNMENT
        pack(address(self._b), where)
        self._packed.append((wanted, memory, where))
        return product, where


def _make(rows: int, shape: tuple[int, int], dtype: int, steps: tuple[int, int]) -> tuple[Primitive, Layout, Primitive]:
    """The product, how it wants the matrix to lie, and what packs it so.

    Raises:
        KernelError: there is only the slow way to compute it.
    """
    k, n = shape
    source, result = Layout.dense((rows, k), dtype), Layout.dense((rows, n), FLOAT32)
    given = Layout(shape, dtype, steps)
    description = fast(Description(
        "dnnl_matmul_primitive_desc_create", calls().engine, source, Layout(shape, dtype, None), Pointer(), result,
        attributes(),
    ))  # fmt: skip
    wanted = Layout.wanted(description, _WEIGHTS)
    product = Primitive(description, [Operand(_SRC, source), Operand(_WEIGHTS, wanted), Operand(_DST, result, True)])
    pack = Primitive(reordering(given, wanted), [Operand(_SRC, given), Operand(_DST, wanted, True)])
    return product, wanted, pack
