"""A run's training state as named arrays and a few scalars: what a joiner is handed and a checkpoint holds.

Names are `model.<parameter or buffer>` and `optimizer.<key>.<parameter>`, so that a state can be read, compared and
moved without the code that made it. Arrays are views into the live model and optimiser: capturing copies nothing,
restoring writes in place, because parameters are views into flat storage that must stay where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cordee.trainer import random
from cordee.trainer.array import Array, as_array, to_numpy

if TYPE_CHECKING:
    from cordee.trainer.data import DataLoader
    from cordee.trainer.nn import Module
    from cordee.trainer.optim import Optimizer

__all__ = ["StateError", "TrainingState", "model_arrays"]


class StateError(Exception):
    """A training state does not fit the model, optimiser and loader that are to take it."""


def model_arrays(model: Module) -> dict[str, Array]:
    """The arrays of `model`'s parameters and buffers, by name."""
    arrays: dict[str, Array] = {name: parameter.data for name, parameter in model.named_parameters()}
    arrays.update((name, buffer.data) for name, buffer in model.named_buffers())
    return arrays


class TrainingState:
    """The state of one model and one optimiser, and which data they are trained on."""

    def __init__(self, model: Module, optimizer: Optimizer, loader: DataLoader) -> None:
        self._model = model
        self._optimizer = optimizer
        self._data = repr(loader)  # sizes, shards, order: workers that differ in them would train on other samples
        self._parameter_names = {id(parameter): name for name, parameter in model.named_parameters()}
        for group in optimizer.groups:
            for parameter in group.parameters:
                if id(parameter) not in self._parameter_names:
                    raise ValueError(
                        f"the optimizer trains a parameter of shape {tuple(parameter.shape)} that the model does not "
                        f"have; make the optimizer from the same model: optim.SGD(model.parameters(), …)"
                    )

    def views(self) -> dict[str, Array]:
        """Every array of the state, by name, as views into the live storage."""
        arrays = {f"model.{name}": array for name, array in model_arrays(self._model).items()}
        for group in self._optimizer.groups:
            for key, flat in group.state.items():
                for index, parameter in enumerate(group.parameters):
                    arrays[f"optimizer.{key}.{self._parameter_names[id(parameter)]}"] = group.view(flat, index)
        return arrays

    def host_copies(self) -> dict[str, np.ndarray[Any, Any]]:
        """Every array of the state, by name, copied to host memory: a snapshot that training does not change."""
        return {name: np.array(to_numpy(view), order="C", copy=True) for name, view in self.views().items()}

    def scalars(self) -> dict[str, Any]:
        """What is no array, as JSON would have it."""
        return {"optimizer": self._optimizer.scalars(), "random": random.get_state(), "data": self._data}

    def restore(self, arrays: Mapping[str, Any], scalars: Mapping[str, Any]) -> None:
        """Takes over `arrays` and `scalars`, in place. Raises `StateError`, changing nothing, when they do not fit."""
        self._optimizer.make_room(scalars["optimizer"])
        views = self.views()
        problems = [f"{name} is missing" for name in sorted(views.keys() - arrays.keys())]
        problems += [f"{name} is unknown here" for name in sorted(arrays.keys() - views.keys())]
        for name in sorted(views.keys() & arrays.keys()):
            view, array = views[name], arrays[name]
            if tuple(view.shape) != tuple(array.shape) or view.dtype != array.dtype:
                problems.append(
                    f"{name} is {tuple(array.shape)} {array.dtype} there, {tuple(view.shape)} {view.dtype} here"
                )
        if scalars["data"] != self._data:
            problems.append(f"the data is {scalars['data']} there, {self._data} here")
        if problems:
            raise StateError(
                "the training state does not fit this script's model, optimizer and data (the script is to make the "
                "same ones on every worker, every time): " + "; ".join(problems)
            )
        for name, view in views.items():
            view[...] = as_array(arrays[name])
        self.restore_scalars(scalars)

    def restore_scalars(self, scalars: Mapping[str, Any]) -> None:
        """Takes over what `scalars` gave."""
        self._optimizer.load_scalars(scalars["optimizer"])
        random.set_state(scalars["random"])
