"""The base of optimisers that look at a parameter as a whole: at its norm, or at it as a matrix."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cordee.trainer.array import array_module, is_float
from cordee.trainer.optim.flat import FlatGroup
from cordee.trainer.optim.optimizer import Optimizer

if TYPE_CHECKING:
    from cordee.trainer.nn.parameter import Parameter

__all__ = ["PerParameter"]


class PerParameter(Optimizer):
    """Hands every parameter that has a gradient to `_update_parameter`; those of 16 bits as copies in float32."""

    def _check_parameter(self, name: str, parameter: Parameter) -> None:
        if not is_float(parameter.data.dtype):
            raise ValueError(f"{type(self).__name__} trains real parameters; {name!r} is {parameter.data.dtype}")

    def _update_group(self, group: FlatGroup) -> None:
        xp = array_module(group.data)
        narrow = group.dtype.itemsize == 2
        for index, parameter in enumerate(group.parameters):
            if parameter._grad is None:
                continue
            data, grad, state = parameter.data, group.view(group.grad, index), group.arrays(index)
            if data.size and narrow:
                wide_data, wide_state = data.astype(np.float32), {n: a.astype(np.float32) for n, a in state.items()}
                self._update_parameter(
                    xp, group.options, wide_data, grad.astype(np.float32), wide_state, int(group.steps[index])
                )
                data[...] = wide_data
                for name, array in state.items():
                    array[...] = wide_state[name]
            elif data.size:
                self._update_parameter(xp, group.options, data, grad, state, int(group.steps[index]))
            group.steps[index] += 1

    @abstractmethod
    def _update_parameter(
        self, xp: Any, options: Mapping[str, Any], data: Any, grad: Any, state: Mapping[str, Any], count: int
    ) -> None:
        """Updates one parameter in place, in its shape; `grad` is not to be written. `count`: updates before this."""

    def _temporary(self, xp: Any, like: Any, count: int = 1) -> list[Any]:
        """Arrays like another, kept for the next time: what is in them holds until the next call."""
        flat = self._cutter.scratch(xp, like.dtype, like.size, count)
        return [each[: like.size].reshape(like.shape) for each in flat]
