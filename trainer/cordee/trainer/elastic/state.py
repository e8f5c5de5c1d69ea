"""A run's training state as named arrays and a few scalars: what a joiner is handed and a checkpoint holds.

Names are `model.<parameter or buffer>`, `optimizer.<key>.<parameter>`, `attached.<owner>.<class>/<array>` for averages
of the weights, and `state.<name>/<place>` for what the user has registered, so that a state can be read, compared and
moved without the code that made it. (With several models and optimisers, their names come after the first dot.) Arrays
are views into the live model and optimiser: capturing copies nothing, restoring writes in place, because parameters are
views into flat storage that must stay where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cordee.trainer import random
from cordee.trainer.array import Array, array_module, to_numpy
from cordee.trainer.autograd.casting import forget_casts
from cordee.trainer.elastic.modes import Modes
from cordee.trainer.elastic.registered import PREFIX, Frozen, Registered, Thing, arrays_of, scalars_of
from cordee.trainer.elastic.several import Models, Optimizers, as_model, as_optimizers
from cordee.trainer.nested import References
from cordee.trainer.nn.state import has_extra_state
from cordee.trainer.optim.attached import Travelling
from cordee.trainer.optim.own import references
from cordee.trainer.optim.snapshot import Scalars

if TYPE_CHECKING:
    from cordee.trainer.data import DataLoader
    from cordee.trainer.elastic.protocols import NumberedStep
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


@dataclass(frozen=True)
class Moment:
    """What a step that is lost takes back, as it was before it: all that is no array of the model or its optimisers."""

    optimizers: list[Scalars]
    attached: Mapping[str, Any]
    random: dict[str, Any]
    modes: Mapping[str, Any]
    states: Frozen


class TrainingState:
    """The state of a model and its optimisers, and which data they are trained on."""

    def __init__(self, model: Models, optimizer: Optimizers, loader: DataLoader) -> None:
        self.model = as_model(model)
        self.optimizers = as_optimizers(optimizer)
        self.registered = Registered()
        self.loop = 0
        """Which of the script's loops over steps this process is in, or has left."""
        self.loop_of_state = 0
        """Which one the state is of: a later one, if that was taken over."""
        self.left: tuple[int, ...] = ()
        """By loop that the state has behind it: the last step before it was left, be it early."""
        self.given: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
        """A state that was taken over and is of a later loop: its arrays and scalars."""
        # Sizes, shards, order: workers that differ in them would train on other samples.
        self._data = f"{loader!r} (orders of kind {ORDER_KIND})"
        self._attached = Travelling(self.model, self.optimizers)
        self._modes = Modes(self.model)
        self._parameter_names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        self._names: frozenset[str] = frozenset()
        self._before_shards: Frozen = {}
        for name, each in self.optimizers.items():
            self._check_parameters(name, each)
            self._add_own_attributes(name, each)
        for path, module in self.model.named_modules():
            if has_extra_state(module):
                self._add_extra_state(path, module)

    def _check_parameters(self, name: str, optimizer: Optimizer) -> None:
        which = f"the optimizer {name!r}" if name else "the optimizer"
        for group in optimizer.groups:
            for parameter in group.parameters:
                if id(parameter) not in self._parameter_names:
                    raise ValueError(
                        f"{which} trains a parameter of shape {tuple(parameter.shape)} that the model does not "
                        f"have; make the optimizer from the same model: optim.SGD(model.parameters(), …)"
                    )

    def _add_own_attributes(self, name: str, optimizer: Optimizer) -> None:
        if type(optimizer).__module__.startswith("cordee."):
            return
        ways = Thing(optimizer.own_attributes, optimizer.set_own_attributes, references(optimizer), by_updates=True)
        self.registered.add(f"optimizer:{name}", ways)

    def _add_extra_state(self, path: str, module: Any) -> None:
        ways = Thing(module.get_extra_state, partial(_set_extra_state, module), References({}))
        self.registered.add(f"module:{path}", ways)

    def views(self) -> dict[str, Array]:
        """Every array of the state, by name, as views into the live storage; in the order of their names, which is the
        same on all workers."""
        arrays = {f"model.{name}": array for name, array in model_arrays(self.model).items()}
        for optimizer_name, optimizer in self.optimizers.items():
            prefix = f"optimizer.{optimizer_name}." if optimizer_name else "optimizer."
            for group in optimizer.groups:
                for index, parameter in enumerate(group.parameters):
                    name = self._parameter_names[id(parameter)]
                    arrays.update((f"{prefix}{key}.{name}", array) for key, array in group.arrays(index).items())
        arrays = {name: _as_pairs(array) for name, array in arrays.items()}
        arrays.update(self._attached.arrays())
        if self.registered:
            arrays.update(arrays_of(self.registered.flat()))
        return dict(sorted(arrays.items()))

    def settle(self) -> None:
        """Training begins: from now on the model has its parameters and buffers."""
        self._modes = Modes(self.model)
        self._names = frozenset(model_arrays(self.model))

    def check_names(self) -> None:
        """Raises `RuntimeError` when the model has got parameters or buffers that it did not have at first."""
        added = model_arrays(self.model).keys() - self._names
        if added:
            raise RuntimeError(
                f"the model has got {', '.join(sorted(added))} since elastic.Run was made: workers that join make the "
                "model anew and could not take its state. Make all modules and buffers before"
            )

    def at_step(self, step: NumberedStep | None) -> None:
        """Tells what is attached to the model which step is at hand; None: none is."""
        self._attached.watch.step = step

    def host_copies(self) -> dict[str, np.ndarray[Any, Any]]:
        """Every array of the state, by name, copied to host memory: a snapshot that training does not change."""
        return {name: np.array(to_numpy(view), order="C", copy=True) for name, view in self.views().items()}

    def scalars(self) -> dict[str, Any]:
        """What is no array, as JSON would have it."""
        by_name = {name: optimizer.scalars() for name, optimizer in self.optimizers.items()}
        return {
            **({"optimizer": by_name[""]} if "" in by_name else {"optimizers": by_name}),
            "attached": self._attached.scalars(),
            "random": random.get_state(),
            "modes": self._modes.scalars(),
            "state": scalars_of(self.registered.flat()) if self.registered else {},
            "loop": max(self.loop, self.loop_of_state),
            "left": self.left,
            "data": self._data,
        }

    def moment(self) -> Moment:
        """What a step takes back when it is lost, beside what it has applied itself."""
        return Moment(
            [Scalars(optimizer) for optimizer in self.optimizers.values()],
            self._attached.scalars(),
            random.get_state(),
            self._modes.scalars(),
            self.registered.moment() if self.registered else {},
        )

    def take_back(self, moment: Moment) -> None:
        """Makes everything what it was at a moment of this process."""
        for scalars in moment.optimizers:
            scalars.put_back()
        self._attached.load_scalars(moment.attached)
        random.set_state(moment.random)
        self._modes.load(moment.modes)
        if self.registered:
            self.registered.take_back(moment.states)

    def before_shards(self) -> None:
        """The shards are gone through from here on: what is registered must not follow this worker's share of them."""
        self._before_shards = self.registered.freeze() if self.registered else {}

    def unchanged_by_shards(self, step: int) -> None:
        """Raises `RuntimeError` when it did."""
        changed = self.registered.changed(self._before_shards) if self._before_shards else []
        if changed:
            raise RuntimeError(
                f"step {step}: {', '.join(map(repr, changed))} changed inside `for batch in step.shards`, where every "
                "worker sees its own shards only, so it would depend on their number. Change it after step.commit(), "
                "use step.measure for figures, buffers for what forward remembers, and cordee.trainer.random (or "
                "random.generator(), a NumPy one) for numbers drawn in shards"
            )

    def restore(self, arrays: Mapping[str, Any], scalars: Mapping[str, Any]) -> None:
        """Takes over `arrays` and `scalars`, in place. Raises `StateError`, changing nothing, when they do not fit."""
        whole, saved = arrays, _optimizer_scalars(scalars)
        if saved.keys() != self.optimizers.keys():
            raise StateError(
                f"the state has the optimizers {_listed(saved)}, this script {_listed(self.optimizers)}: the script is "
                "to make the same ones on every worker, every time"
            )
        for name, optimizer in self.optimizers.items():
            optimizer.make_room(saved[name])
        attached_scalars = scalars.get("attached", {})
        apart = {name: array for name, array in arrays.items() if name.startswith(("attached.", PREFIX))}
        arrays = {name: array for name, array in arrays.items() if name not in apart}
        views = {name: view for name, view in self.views().items() if not name.startswith(("attached.", PREFIX))}
        problems = [f"{name} is missing" for name in sorted(views.keys() - arrays.keys())]
        problems += [f"{name} is unknown here" for name in sorted(arrays.keys() - views.keys())]
        for name in sorted(views.keys() & arrays.keys()):
            view, array = views[name], arrays[name]
            if tuple(view.shape) != tuple(array.shape) or view.dtype != array.dtype:
                problems.append(
                    f"{name} is {tuple(array.shape)} {array.dtype} there, {tuple(view.shape)} {view.dtype} here"
                )
        problems += self._attached.problems(attached_scalars, apart)
        if scalars["data"] != self._data:
            problems.append(f"the data is {scalars['data']} there, {self._data} here")
        if problems:
            raise StateError(
                "the training state does not fit this script's model, optimizer and data (the script is to make the "
                "same ones on every worker, every time): " + "; ".join(problems)
            )
        before = self.moment()
        try:
            for name, optimizer in self.optimizers.items():
                optimizer.load_scalars(saved[name])
            self._attached.load_scalars(attached_scalars)
            random.set_state(scalars["random"])
            if "modes" in scalars:
                self._modes.load(scalars["modes"])
            self.registered.load(scalars.get("state", {}), apart)
            self.loop_of_state = int(scalars.get("loop", 0))
            self.left = tuple(map(int, scalars.get("left", ())))
        except Exception as error:
            self.take_back(before)
            raise StateError(f"the training state does not fit this script: {error!r}") from error
        for name, view in views.items():  # of the right shapes and dtypes: from here on nothing can fail
            view[...] = array_module(view).asarray(to_numpy(arrays[name]))
        forget_casts()
        self._attached.load(attached_scalars, apart)
        self.given = (whole, scalars) if self.loop_of_state > self.loop else None

    def load_weights(self, weights: Mapping[str, Any], where: str) -> None:
        """Takes over parameters and buffers by their names, in place. Raises `StateError`, changing nothing, when they
        are not exactly the model's."""
        views = model_arrays(self.model)
        problems = [f"{name} is missing" for name in sorted(views.keys() - weights.keys())]
        problems += [f"{name} is not in the model" for name in sorted(weights.keys() - views.keys())]
        for name in sorted(views.keys() & weights.keys()):
            view, array = views[name], weights[name]
            if tuple(view.shape) != tuple(array.shape):
                problems.append(f"{name} is of shape {tuple(array.shape)}, the model's is {tuple(view.shape)}")
            elif view.dtype != array.dtype and not (_is_float(view.dtype) and _is_float(array.dtype)):
                problems.append(f"{name} is {array.dtype}, the model's is {view.dtype}")
        if problems:
            raise StateError(f"the weights of {where} do not fit the script's model: " + "; ".join(problems))
        for name, view in views.items():
            view[...] = array_module(view).asarray(np.asarray(weights[name]).astype(view.dtype, copy=False))
        forget_casts()


def _as_pairs(array: Array) -> Array:
    """Complex numbers of twice 64 bits as pairs of reals, in the same memory: files of arrays do not know them."""
    if array.dtype != np.complex128 or not array.flags.c_contiguous:
        return array
    return array.reshape(-1).view(np.float64).reshape(*array.shape, 2)


def _optimizer_scalars(scalars: Mapping[str, Any]) -> dict[str, Any]:
    return {"": scalars["optimizer"]} if "optimizer" in scalars else dict(scalars["optimizers"])


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(repr(name) for name in sorted(names)) if names.keys() != {""} else "(one without a name)"


def _set_extra_state(module: Any, value: Any) -> None:
    module.set_extra_state(value)


def _is_float(dtype: Any) -> bool:
    """Weights may be of another precision than the model's; bfloat16 and the eight-bit kinds are NumPy's 'void'."""
    return np.dtype(dtype).kind in "fV"
