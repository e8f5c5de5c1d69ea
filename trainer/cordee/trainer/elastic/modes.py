"""What modules and parameters are set to: training or evaluation, frozen or not.

A script changes it on its way: it unfreezes a part after the first epoch, or has the discriminator frozen while the
generator learns. A worker that joins makes its model anew, and has to be told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cordee.trainer.nn import Module

__all__ = ["Modes"]


class Modes:
    """Of one model. Its modules are looked up once, because this is asked at every step."""

    def __init__(self, model: Module) -> None:
        self._modules = list(model.named_modules())
        self._parameters = list(model.named_parameters())

    def scalars(self) -> dict[str, Any]:
        """Who is not as usual: the modules that evaluate, and the parameters that are frozen."""
        return {
            "evaluating": [path for path, module in self._modules if not module.training],
            "frozen": [name for name, parameter in self._parameters if parameter._node is None],
        }

    def load(self, scalars: Mapping[str, Any]) -> None:
        """Takes over what `scalars` gave; what it does not know stays as it is."""
        evaluating, frozen = set(scalars["evaluating"]), set(scalars["frozen"])
        for path, module in self._modules:
            if module.training != (path not in evaluating):
                module.training = path not in evaluating
        for name, parameter in self._parameters:
            if parameter.requires_grad != (name not in frozen):
                parameter.requires_grad = name not in frozen
