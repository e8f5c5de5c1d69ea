"""The vocabulary `F` in which gradient rules are written: every op of the registry, by name, in two readings.

`F.exp(x)` on arrays is the op's forward and nothing else: the fast path of `backward()`. On tensors it is the op
itself, recorded like any other: so the gradient has a gradient. One rule serves both; operators (`+ - * / @`) work on
both as they are.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from cordee.trainer.autograd.fusing import LEAST
from cordee.trainer.autograd.record import REGISTRY, Op

__all__ = ["ArrayVocabulary", "array_vocabulary"]


class ArrayVocabulary:
    """The ops' forwards on arrays of one module."""

    raw = True

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.least = LEAST if xp is np else 0
        """Elements from which on fused loops pay; on a device always."""

    def __getattr__(self, name: str) -> Any:
        record = REGISTRY[name]
        function = functools.partial(
            _first if record.aux else record.forward, *([record] if record.aux else []), self.xp
        )
        setattr(self, name, function)  # found directly from now on
        return function


def _first(record: Op, xp: Any, *inputs: Any, **params: Any) -> Any:
    return record.forward(xp, *inputs, **params)[0]


@functools.cache
def array_vocabulary(xp: Any) -> ArrayVocabulary:
    """The vocabulary for arrays of this module."""
    return ArrayVocabulary(xp)
