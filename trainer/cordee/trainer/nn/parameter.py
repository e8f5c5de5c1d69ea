"""A tensor that a module owns and an optimiser may move."""

from __future__ import annotations

from typing import Any

from cordee.trainer.tensor import Tensor

__all__ = ["Parameter"]


class Parameter(Tensor):
    """A leaf tensor that is trained. As an attribute of a `Module` it is found by `parameters()`.

    Building an optimiser moves its values into flat storage: `parameter.data` is a view from then on.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data.data if isinstance(data, Tensor) else data, requires_grad)

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"
