"""What of its buffers an exchange wants to be so, and how what lies on a device gets to the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cordee.trainer.elastic.protocols import Buffer
from cordee.trainer.elastic.tree import Span

__all__ = ["check_buffers", "on_host"]


def check_buffers(partials: Mapping[Span, Buffer], out: Buffer, cover: tuple[Span, ...]) -> None:
    """Refuses partial sums that are not those of `cover`, or not like `out`."""
    if partials.keys() != set(cover):
        raise ValueError(f"this worker holds the partial sums of {list(cover)}, got {sorted(partials)}")
    for name, buffer in (("out", out), *((str(span), buffer) for span, buffer in partials.items())):
        if buffer.shape != out.shape or buffer.dtype != out.dtype or out.ndim != 1 or not buffer.flags.c_contiguous:
            raise ValueError(
                f"every buffer must be one-dimensional, contiguous and like `out` ({out.shape}, {out.dtype}); "
                f"{name} is {buffer.shape}, {buffer.dtype}"
            )
    if out.dtype.kind not in "fiu":
        raise TypeError(f"cannot sum {out.dtype}")


def on_host(buffer: Buffer) -> np.ndarray[Any, Any]:
    """The buffer itself where it is on the host; a copy in pinned memory where it is on a device."""
    if isinstance(buffer, np.ndarray):
        return buffer
    import cupyx  # pyright: ignore[reportMissingImports]

    host: np.ndarray[Any, Any] = cupyx.empty_pinned(buffer.shape, buffer.dtype)
    buffer.get(out=host)
    return host
