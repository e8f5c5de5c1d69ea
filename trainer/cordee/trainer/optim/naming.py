"""Parameters with their names, of whatever an optimiser was given as `params`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cordee.trainer.array import is_complex, is_float
from cordee.trainer.tensors import Tensor

if TYPE_CHECKING:
    from cordee.trainer.nn.parameter import Parameter

__all__ = ["Named"]


class Named:
    """`entries` as they came; `pairs()` checks them and gives each a name."""

    def __init__(self, params: Any, offset: int = 0) -> None:
        """`offset`: the number of the first parameter that comes without a name."""
        if isinstance(params, Tensor):
            params = [params]
        if hasattr(params, "named_parameters"):
            raise TypeError(f"params is a {type(params).__name__}: give its parameters, model.parameters()")
        named = getattr(params, "named", None)  # what `Module.parameters()` returns knows the names
        self.entries: list[Any] = list(params if named is None else named)
        self._offset = offset

    def pairs(self) -> list[tuple[str, Parameter]]:
        pairs: list[tuple[str, Parameter]] = []
        for index, entry in enumerate(self.entries):
            name, parameter = entry if isinstance(entry, tuple) else (str(self._offset + index), entry)
            if not isinstance(parameter, Tensor):
                raise TypeError(f"an optimiser takes parameters, got {type(parameter).__name__} as {name!r}")
            if not parameter.is_leaf:
                raise ValueError(
                    f"parameter {name!r} is the result of an operation: only leaf tensors can be optimised"
                )
            if not is_float(parameter.data.dtype) and not is_complex(parameter.data.dtype):
                raise ValueError(f"parameter {name!r} is {parameter.data.dtype}: only floating point can be optimised")
            pairs.append((name, parameter))  # type: ignore[arg-type]
        return pairs
