"""What all optimisers share: groups in flat storage, `step`, `zero_grad`, and state keyed by parameter names.

An optimiser is a table of options, the names of its state buffers, and one `_update` on blocks of flat buffers. The
blocks are small enough to stay in the processor's caches while the dozen operations of an update pass over them, and
large enough that calling NumPy costs nothing beside; on a GPU a block is the whole buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cordee.trainer.array import float32
from cordee.trainer.autograd import enable_grad
from cordee.trainer.optim.block import Block
from cordee.trainer.optim.cutting import Cutter
from cordee.trainer.optim.flat import FlatGroup, Segment
from cordee.trainer.optim.masters import MASTER, has_masters
from cordee.trainer.optim.naming import Named
from cordee.trainer.optim.own import OwnState, own_attributes, set_own_attributes, stepping
from cordee.trainer.optim.plain import from_json, number
from cordee.trainer.optim.saved import LoadReport, load_scalars, load_state, options_of, scalars_of, state_of
from cordee.trainer.tensors import Tensor, forget_gradient

if TYPE_CHECKING:
    from cordee.trainer.nn.parameter import Parameter

__all__ = ["HookHandle", "Optimizer"]

_SCHEDULED = frozenset(("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr"))
"""What schedules note down in a parameter group."""

_PYTHON_NUMBERS = (float, int)


class Optimizer:
    """The base of all optimisers.

    Building one moves the parameters into flat storage (`cordee.trainer.optim.flat`): their values stay, their `.data`
    are views from then on. So convert a model's dtype before building its optimiser.

    Parameters of 16 bits are updated in float32 and rounded once per step; their state has their own dtype, as in
    PyTorch. With the option `master_weights` (of `SGD`, `Adam` and `AdamW`) both are kept in float32: see
    `cordee.trainer.optim.masters`. Complex parameters are updated as pairs of real ones.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, or a list of groups: dictionaries with "params" and
            options of their own. Parameters that come without names are numbered.
        defaults: the options of groups that do not give their own.
    """

    _state_names: ClassVar[tuple[str, ...]] = ()
    _num_scratch: ClassVar[int] = 1
    _numbers: ClassVar[Mapping[str, float]] = {}
    """What every parameter has one number of, and the number it starts with."""
    _own: OwnState | None = None
    """The state of a class that defines `step` itself, as PyTorch's are written."""
    _steps_itself: ClassVar[bool] = False
    needs_closure: ClassVar[bool] = False
    """Whether `step` computes the loss again and again, and so cannot apply a gradient that is there already."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        updates = ("_step", "_update", "_update_group", "_update_segment")
        if "step" in vars(cls) and all(getattr(cls, name) is getattr(Optimizer, name) for name in updates):
            cls.step = stepping(cls.step)  # type: ignore[method-assign]
            cls._steps_itself = True

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self.defaults = {key: number(value) for key, value in defaults.items()}
        self.param_groups: list[dict[str, Any]] = []
        """One dictionary per group: "params", "names" and the options. A change of an option takes effect at once."""
        self.groups: list[FlatGroup] = []
        """The flat storage: one per parameter group and dtype, in the order of the groups."""
        self.extra: dict[str, Any] = {}
        """State that belongs to no parameter, in JSON's types."""
        self.held_by: str | None = None
        """Who updates the parameters instead of the script's `step()`, as a sentence; None: nobody does."""
        self.stepped = False
        """Whether there has been an update: schedules warn when they go first."""
        if self._steps_itself:
            self._own = OwnState(self)
        self._cutter = Cutter(type(self).__name__, self._num_scratch)
        self._pre_hooks: dict[int, Callable[..., Any]] = {}
        self._post_hooks: dict[int, Callable[..., Any]] = {}
        if isinstance(params, (Tensor, Mapping)):
            raise TypeError(
                "params must be an iterable of parameters, of (name, parameter) pairs, or of group dictionaries"
            )
        entries = Named(params).entries if not isinstance(params, (list, tuple)) else list(params)
        if not entries:
            raise ValueError("params is empty: there is nothing to optimise")
        groups = entries if isinstance(entries[0], dict) else [{"params": entries}]
        for group in groups:
            self.add_param_group(group)

    # Groups.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters with options of their own: a dictionary with "params" and any of the optimiser's options."""
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise TypeError(f'a parameter group is a dictionary with "params" and options, got {param_group!r}')
        unknown = sorted(set(param_group) - set(self.defaults) - {"params", "names"} - _SCHEDULED)
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no option {', '.join(unknown)}; it has {', '.join(self.defaults)}"
            )
        named = Named(param_group["params"], offset=sum(len(group["params"]) for group in self.param_groups)).pairs()
        if not named:
            raise ValueError("a parameter group is empty: there is nothing to optimise")
        options = dict(self.defaults)
        options.update((key, number(value)) for key, value in param_group.items() if key not in {"params", "names"})
        self._check_options(options)
        taken_names = {name for group in self.param_groups for name in group["names"]}
        taken = {id(parameter) for group in self.param_groups for parameter in group["params"]}
        for name, parameter in named:
            if id(parameter) in taken:
                raise ValueError(f"parameter {name!r} is given twice; every parameter belongs to one group")
            taken.add(id(parameter))
            self._check_parameter(name, parameter)
        if taken_names & {name for name, _ in named}:
            named = [(f"group{len(self.param_groups)}.{name}", parameter) for name, parameter in named]
        options["params"] = [parameter for _, parameter in named]
        options["names"] = [name for name, _ in named]
        if len(set(options["names"])) < len(named):
            raise ValueError("two parameters of a group have the same name")
        self.param_groups.append(options)
        by_dtype: dict[Any, list[tuple[str, Parameter]]] = {}
        for name, parameter in named:
            by_dtype.setdefault(parameter.data.dtype, []).append((name, parameter))
        for pairs in by_dtype.values():
            group = FlatGroup([name for name, _ in pairs], [parameter for _, parameter in pairs], options)
            for key, start in self._numbers.items():
                group.numbers[key] = np.full(len(pairs), start)
            self.groups.append(group)
            self.allocate(group, group.options, self.extra)

    # Updates.

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates every parameter that has a gradient.

        Args:
            closure: computes the gradients anew and returns the loss; called once, before the update.

        Returns:
            What `closure` returned; None without one.

        Raises:
            RuntimeError: something else updates the parameters, and says so in `held_by`.
        """
        if self.held_by is not None:
            raise RuntimeError(f"optimizer.step() is not called here: {self.held_by}")
        if self._pre_hooks:
            for hook in tuple(self._pre_hooks.values()):
                changed = hook(self, (closure,), {})
                if isinstance(changed, tuple) and len(changed) == 2:
                    (closure,), _ = changed
                elif changed is not None:
                    raise TypeError(
                        f"a step pre-hook returns None, or another (args, kwargs), not {type(changed).__name__}: "
                        "write it as a function without a return value"
                    )
        loss = self._step(closure)
        self.stepped = True
        if self._post_hooks:
            for hook in tuple(self._post_hooks.values()):
                hook(self, (closure,), {})
        return loss

    def _step(self, closure: Callable[[], Any] | None) -> Any:
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for group in self.groups:
            options = group.options
            if type(options["lr"]) not in _PYTHON_NUMBERS:  # NumPy's would change the dtype of results
                options.update((key, number(options[key])) for key in options.keys() - {"params", "names"})
            group.adopt()
            group.mark_written()
            self.allocate(group, options, self.extra)
            self._update_group(group)
        return loss

    def _update_group(self, group: FlatGroup) -> None:
        for segment in group.segments():
            self._update_segment(group, segment)
            if segment.numbers:
                numbers = self._next_numbers(group.options, segment.updates, segment.numbers)
                for key, value in numbers.items():
                    group.numbers[key][segment.parameters] = value
            group.steps[segment.parameters] += 1

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets all gradients. Nothing is overwritten: the next backward replaces them."""
        for group in self.groups:
            for parameter in group.parameters:
                forget_gradient(parameter)
            if not set_to_none:
                group.adopt()
                group.fill_untouched()
                group.mark_touched([True] * len(group.parameters))

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> HookHandle:
        """Calls `hook(optimizer, args, kwargs)` before every step; it may return another `(args, kwargs)`."""
        return HookHandle(self._pre_hooks, hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> HookHandle:
        """Calls `hook(optimizer, args, kwargs)` after every step."""
        return HookHandle(self._post_hooks, hook)

    # State.

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """The state by parameter: its number of updates under "step", numbers, and tensors that share the storage.

        A class that defines `step` itself keeps there what it likes, in a dictionary per parameter.
        """
        if self._own is not None:
            return self._own.entries()
        saved = state_of(self)["state"]
        return {
            parameter: saved[name]
            for group in self.groups
            for name, parameter in zip(group.names, group.parameters, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """The state by parameter name, and the groups with their options. Arrays are tensors that share the storage."""
        return state_of(self)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> LoadReport:
        """Takes over what `state_dict` gave, in place; nothing is rebound.

        With `strict`, parameters and arrays that are missing or unexpected are an error; without, what is there is
        taken. Wrong shapes always are an error. One error reports everything, and then nothing has been changed. A
        parameter that had no update yet needs no arrays.

        Raises:
            ValueError: the state does not fit, with a line for each reason.
        """
        return load_state(self, state_dict, strict)

    def scalars(self) -> dict[str, Any]:
        """What the state holds beside arrays, in JSON's types: options by parameter group, steps by flat group."""
        return scalars_of(self)

    def make_room(self, scalars: Mapping[str, Any]) -> None:
        """Makes the arrays that the options in `scalars` need: a script may have changed them since the beginning."""
        for options, saved in zip(self.param_groups, scalars["options"], strict=False):
            for group in self.groups:
                if group.options is options:
                    self.allocate(group, {**options, **from_json(saved)}, from_json(scalars.get("extra", {})))

    def load_scalars(self, scalars: Mapping[str, Any]) -> None:
        """Takes over what `scalars` gave."""
        load_scalars(self, scalars)

    def __repr__(self) -> str:
        groups = "; ".join(
            f"{len(options['params'])} parameters, "
            + ", ".join(f"{key}={value}" for key, value in options_of(options).items())
            for options in self.param_groups
        )
        return f"{type(self).__name__}({groups})"

    def own_attributes(self) -> dict[str, Any]:
        """What a class of the user's own keeps in attributes and is state: numbers, arrays, and what is made of them.

        Parameters in them are references, and functions, modules and the like are no state. Empty for our classes.
        """
        return own_attributes(self)

    def set_own_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Takes over what `own_attributes` gave."""
        set_own_attributes(self, attributes)

    def note_own_state(self) -> None:
        """Notes down what a class that defines `step` itself has put into `state`."""
        if self._own is not None:
            self._own.note()

    def forget_blocks(self) -> None:
        """The state's arrays may have become others."""
        self._cutter.forget()

    def allocate(self, group: FlatGroup, options: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        """Sees to it that the group has the arrays that these options and this `extra` need."""
        if self._own is not None:
            self._own.allocate(group, extra)
        for name in self._state_of(group, options, extra):
            if name not in group.state:
                buffer = group.new_twin(float32 if has_masters(group, options) else None)
                start = self.start(name, options)
                if start:
                    for where in group.slices:
                        buffer[where] = complex(start, start) if group.dtype.kind == "c" else start
                group.state[name] = buffer

    def array_shapes(
        self, options: Mapping[str, Any], extra: Mapping[str, Any], group: FlatGroup, index: int
    ) -> dict[str, tuple[int, ...]]:
        """The names and shapes of the state arrays that a parameter has under these options and this `extra`."""
        if self._own is not None:
            return self._own.shapes(extra, group.names[index])
        shape: tuple[int, ...] = group.parameters[index].data.shape
        return {name: shape for name in self._state_of(group, options, extra)}  # noqa: C420

    def _state_of(self, group: FlatGroup, options: Mapping[str, Any], extra: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of a group's buffers."""
        names = self._needed_state(options, extra)
        return (*names, MASTER) if has_masters(group, options) else names

    # What an optimiser defines.

    def _needed_state(self, options: Mapping[str, Any], extra: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of the buffers that these options need."""
        del options, extra
        return self._state_names

    def start(self, name: str, options: Mapping[str, Any]) -> float:
        """What a state buffer is filled with at first."""
        del name, options
        return 0.0

    def _check_options(self, options: Mapping[str, Any]) -> None:
        """Raises ValueError when an option is impossible."""

    def _check_parameter(self, name: str, parameter: Parameter) -> None:
        """Raises ValueError when this optimiser cannot train such a parameter."""

    def _next_numbers(
        self, options: Mapping[str, Any], count: int, numbers: Mapping[str, float]
    ) -> Mapping[str, float]:
        """The parameters' numbers after an update, from those before it."""
        del options, count
        return numbers

    def _update(self, block: Block) -> None:
        """Updates one block in place."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it updates: define step, or _update")

    # Blocks.

    def _update_segment(self, group: FlatGroup, segment: Segment) -> None:
        """Hands a part of the buffers to `_update`, block by block."""
        self._cutter.update(self._update, group, segment, self._needed_state(group.options, self.extra))


class HookHandle:
    """What registering a hook returns: `remove()` takes the hook away again."""

    _count = 0

    def __init__(self, hooks: dict[int, Callable[..., Any]], hook: Callable[..., Any]) -> None:
        HookHandle._count += 1
        self._hooks, self._number = hooks, HookHandle._count
        hooks[self._number] = hook

    def remove(self) -> None:
        self._hooks.pop(self._number, None)
