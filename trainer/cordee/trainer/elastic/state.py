"""A run's training state as named arrays and a few scalars: what a joiner is handed and a checkpoint holds.

Names are `model.<parameter or buffer>`, `optimizer.<key>.<parameter>`, and `attached.<owner>.<class>/<array>` for
averages of the weights, so that a state can be read, compared and moved without the code that made it. Arrays are views
into the live model and optimiser: capturing copies nothing, restoring writes in place, because parameters are views
into flat storage that must stay where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cordee.trainer import random
from cordee.trainer.array import Array, as_array, to_numpy
from cordee.trainer.optim.attached import Travelling

if TYPE_CHECKING:
    from cordee.trainer.data import DataLoader
    from cordee.trainer.elastic.step import Step
    from cordee.trainer.nn import Module
    from cordee.trainer.optim import Optimizer

__all__ = ["StateError", "TrainingState", "model_arrays"]

ORDER_KIND = 2
"""How a seed makes an order of samples; release 0.1.0 had the first kind. A state is not resumed in another kind."""


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
        # Sizes, shards, order: workers that differ in them would train on other samples.
        self._data = f"{loader!r} (orders of kind {ORDER_KIND})"
        self._attached = Travelling(model, optimizer)
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
            for index, parameter in enumerate(group.parameters):
                name = self._parameter_names[id(parameter)]
                arrays.update((f"optimizer.{key}.{name}", array) for key, array in group.arrays(index).items())
        arrays.update(self._attached.arrays())
        return arrays

    def at_step(self, step: Step | None) -> None:
        """Tells what is attached to the model which step is at hand; None: none is."""
        self._attached.watch.step = step

    def host_copies(self) -> dict[str, np.ndarray[Any, Any]]:
        """Every array of the state, by name, copied to host memory: a snapshot that training does not change."""
        return {name: np.array(to_numpy(view), order="C", copy=True) for name, view in self.views().items()}

    def scalars(self) -> dict[str, Any]:
        """What is no array, as JSON would have it."""
        return {
            "optimizer": self._optimizer.scalars(),
            "attached": self._attached.scalars(),
            "random": random.get_state(),
            "data": self._data,
        }

    def restore(self, arrays: Mapping[str, Any], scalars: Mapping[str, Any]) -> None:
        """Takes over `arrays` and `scalars`, in place. Raises `StateError`, changing nothing, when they do not fit."""
        self._optimizer.make_room(scalars["optimizer"])
        attached_scalars = scalars.get("attached", {})
        attached = {name: array for name, array in arrays.items() if name.startswith("attached.")}
        arrays = {name: array for name, array in arrays.items() if name not in attached}
        views = {name: view for name, view in self.views().items() if not name.startswith("attached.")}
        problems = [f"{name} is missing" for name in sorted(views.keys() - arrays.keys())]
        problems += [f"{name} is unknown here" for name in sorted(arrays.keys() - views.keys())]
        for name in sorted(views.keys() & arrays.keys()):
            view, array = views[name], arrays[name]
            if tuple(view.shape) != tuple(array.shape) or view.dtype != array.dtype:
                problems.append(
                    f"{name} is {tuple(array.shape)} {array.dtype} there, {tuple(view.shape)} {view.dtype} here"
                )
        problems += self._attached.problems(attached_scalars, attached)
        if scalars["data"] != self._data:
            problems.append(f"the data is {scalars['data']} there, {self._data} here")
        if problems:
            raise StateError(
                "the training state does not fit this script's model, optimizer and data (the script is to make the "
                "same ones on every worker, every time): " + "; ".join(problems)
            )
        for name, view in views.items():
            view[...] = as_array(arrays[name])
        self._optimizer.load_scalars(scalars["optimizer"])
        random.set_state(scalars["random"])
        self._attached.load(attached_scalars, attached)

    def restore_scalars(self, scalars: Mapping[str, Any]) -> None:
        """Takes back what `scalars` gave a moment ago."""
        self._optimizer.load_scalars(scalars["optimizer"])
        self._attached.load_scalars(scalars["attached"])
        random.set_state(scalars["random"])
