"""What all optimisers share: groups in flat storage, `zero_grad`, and state keyed by parameter names.

An optimiser is a table of options, the names of its state buffers, and one `_update` on blocks of flat buffers. The
blocks are small enough to stay in the processor's caches while the dozen operations of an update pass over them, and
large enough that calling NumPy costs nothing beside; on a GPU a block is the whole buffer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.optim.flat import FlatGroup
from cordee.trainer.tensors import Tensor

if TYPE_CHECKING:
    from cordee.trainer.nn.parameter import Parameter

__all__ = ["Optimizer"]

_BLOCK_ELEMENTS = 131072


class Optimizer(ABC):
    """The base of all optimisers.

    Building one moves the parameters into flat storage (`cordee.trainer.optim.flat`): their values stay, their `.data`
    are views from then on. So convert a model's dtype before building its optimiser.

    Args:
        params: `model.parameters()`, `model.named_parameters()`, or a list of groups: dictionaries with "params" and
            options of their own. Parameters that come without names are numbered.
        defaults: the options of groups that do not give their own.
    """

    _state_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        """One dictionary per group: "params", "names" and the options. A change of an option takes effect at once."""
        self.groups: list[FlatGroup] = []
        """The flat storage: one per parameter group and dtype, in the order of the groups."""
        self.held_by: str | None = None
        """Who updates the parameters instead of the script's `step()`, as a sentence; None: nobody does."""
        self._scratch: dict[Any, Any] = {}
        if isinstance(params, (Tensor, Mapping)):
            raise TypeError(
                "params must be an iterable of parameters, of (name, parameter) pairs, or of group dictionaries"
            )
        entries = _Named(params).entries if not isinstance(params, (list, tuple)) else list(params)
        if not entries:
            raise ValueError("params is empty: there is nothing to optimise")
        groups = entries if isinstance(entries[0], dict) else [{"params": entries}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters with options of their own: a dictionary with "params" and any of the optimiser's options."""
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise TypeError(f'a parameter group is a dictionary with "params" and options, got {param_group!r}')
        unknown = sorted(set(param_group) - set(self.defaults) - {"params", "names"})
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no option {', '.join(unknown)}; it has {', '.join(self.defaults)}"
            )
        named = _Named(param_group["params"], offset=sum(len(group["params"]) for group in self.param_groups)).pairs()
        if not named:
            raise ValueError("a parameter group is empty: there is nothing to optimise")
        options = {
            **self.defaults,
            **{key: value for key, value in param_group.items() if key not in {"params", "names"}},
        }
        self._check_options(options)
        taken_names = {name for group in self.param_groups for name in group["names"]}
        taken = {id(parameter) for group in self.param_groups for parameter in group["params"]}
        for name, parameter in named:
            if id(parameter) in taken:
                raise ValueError(f"parameter {name!r} is given twice; every parameter belongs to one group")
            taken.add(id(parameter))
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
            self.groups.append(group)
            self._allocate(group, group.options)

    def step(self) -> None:
        """Updates every parameter that has a gradient.

        Raises:
            RuntimeError: something else updates the parameters, and says so in `held_by`.
        """
        if self.held_by is not None:
            raise RuntimeError(f"optimizer.step() is not called here: {self.held_by}")
        for group in self.groups:
            group.adopt()
            group.mark_written()
            self._allocate(group, group.options)
            segments = group.segments()
            for where, past_updates in segments:
                self._update_segment(group, where, past_updates)
            if len(segments) == 1 and segments[0][0].stop - segments[0][0].start == group.size:
                group.steps += 1
            elif segments:
                group.steps += group.touched()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets all gradients. Nothing is overwritten: the next backward replaces them."""
        for group in self.groups:
            for parameter in group.parameters:
                parameter._grad = None
            if not set_to_none:
                group.adopt()
                group.fill_untouched()
                group.mark_touched([True] * len(group.parameters))

    def state_dict(self) -> dict[str, Any]:
        """The state by parameter name, and the groups with their options. Arrays are tensors that share the storage."""
        state: dict[str, dict[str, Any]] = {}
        for group in self.groups:
            for index, name in enumerate(group.names):
                entry: dict[str, Any] = {"step": int(group.steps[index])}
                for state_name, buffer in group.state.items():
                    entry[state_name] = Tensor(group.view(buffer, index))
                state[name] = entry
        groups = [{**_plain(options), "params": list(options["names"])} for options in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave, in place. All that does not fit is reported in one error."""
        problems: list[str] = []
        state: Mapping[str, Mapping[str, Any]] = state_dict["state"]
        saved_groups: Sequence[Mapping[str, Any]] = state_dict["param_groups"]
        ours = {name: (group, index) for group in self.groups for index, name in enumerate(group.names)}
        problems += [f"missing: {name}" for name in ours if name not in state]
        problems += [f"unexpected: {name}" for name in state if name not in ours]
        needed = [self._needed_state(options) for options in self.param_groups]
        if len(saved_groups) != len(self.param_groups):
            problems.append(f"{len(saved_groups)} parameter groups instead of {len(self.param_groups)}")
        else:  # the options that the state was saved with say which buffers there are
            needed = [
                self._needed_state({**options, **saved})
                for options, saved in zip(self.param_groups, saved_groups, strict=True)
            ]
        needed_of = {id(options): names for options, names in zip(self.param_groups, needed, strict=True)}
        copies: list[tuple[FlatGroup, int, str, Any]] = []
        for name, (group, index) in ours.items():
            shape = group.parameters[index].shape
            for state_name in needed_of[id(group.options)] if name in state else ():
                value = state[name].get(state_name)
                if value is None:
                    problems.append(f"missing: {name}.{state_name}")
                elif tuple(value.shape) != shape:
                    problems.append(f"{name}.{state_name}: shape {tuple(value.shape)} instead of {shape}")
                else:
                    copies.append((group, index, state_name, value))
        if problems:
            raise ValueError(f"the state does not fit this {type(self).__name__}:\n  " + "\n  ".join(problems))
        for options, saved in zip(self.param_groups, saved_groups, strict=True):
            _restore(options, saved)
        for group in self.groups:
            self._allocate(group, group.options)
        for group, index, state_name, value in copies:
            Tensor(group.view(group.state[state_name], index)).copy_(value)
        for name, (group, index) in ours.items():
            group.steps[index] = state[name].get("step", 0)

    def scalars(self) -> dict[str, Any]:
        """What the state holds beside arrays, in JSON's types: options by parameter group, steps by flat group."""
        return {
            "options": [_plain(options) for options in self.param_groups],
            "steps": [group.steps.tolist() for group in self.groups],
        }

    def make_room(self, scalars: Mapping[str, Any]) -> None:
        """Makes the buffers that the options in `scalars` need: a script may have changed them since the beginning."""
        for options, saved in zip(self.param_groups, scalars["options"], strict=False):
            for group in self.groups:
                if group.options is options:
                    self._allocate(group, {**options, **saved})

    def load_scalars(self, scalars: Mapping[str, Any]) -> None:
        """Takes over what `scalars` gave."""
        steps = scalars["steps"]
        if [len(counts) for counts in steps] != [len(group.parameters) for group in self.groups]:
            raise ValueError("the counts of updates are those of an optimiser over other parameters")
        if len(scalars["options"]) != len(self.param_groups):
            raise ValueError(f"{len(scalars['options'])} parameter groups instead of {len(self.param_groups)}")
        for group, counts in zip(self.groups, steps, strict=True):
            group.steps[:] = counts
        for options, saved in zip(self.param_groups, scalars["options"], strict=True):
            _restore(options, saved)

    def __repr__(self) -> str:
        groups = "; ".join(
            f"{len(options['params'])} parameters, "
            + ", ".join(f"{key}={value}" for key, value in _plain(options).items())
            for options in self.param_groups
        )
        return f"{type(self).__name__}({groups})"

    def _allocate(self, group: FlatGroup, options: Mapping[str, Any]) -> None:
        """Sees to it that the group has the buffers that these options need."""
        for name in self._needed_state(options):
            if name not in group.state:
                group.state[name] = group.new_twin()

    def _needed_state(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of the buffers that these options need."""
        del options
        return self._state_names

    @abstractmethod
    def _check_options(self, options: Mapping[str, Any]) -> None:
        """Raises ValueError when an option is impossible."""

    @abstractmethod
    def _update(
        self,
        options: Mapping[str, Any],
        xp: Any,
        data: Any,
        grad: Any,
        state: Sequence[Any],
        scratch: Any,
        past_updates: int,
    ) -> None:
        """Updates one block in place. `scratch` is as long; `state` holds the blocks of `_needed_state`."""

    def _update_segment(self, group: FlatGroup, where: slice, past_updates: int) -> None:
        xp = array_module(group.data)
        block = _BLOCK_ELEMENTS if xp is np else group.size
        scratch = self._scratch_for(group, min(block, group.size))
        options = group.options
        state = [group.state[name] for name in self._needed_state(options)]
        if where.stop - where.start == group.size <= block:  # nothing to cut
            self._update(options, xp, group.data, group.grad, state, scratch[: group.size], past_updates)
            return
        for start in range(where.start, where.stop, block):
            part = slice(start, min(start + block, where.stop))
            data = group.data[part]
            blocks = [buffer[part] for buffer in state]
            self._update(options, xp, data, group.grad[part], blocks, scratch[: data.size], past_updates)

    def _scratch_for(self, group: FlatGroup, size: int) -> Any:
        """Memory for one block, shared by the groups of a dtype."""
        held = self._scratch.get(group.dtype)
        if held is None or held.size < size:
            self._scratch[group.dtype] = held = group.data[:size].copy()
        return held


class _Named:
    """Parameters with their names, of whatever was given as `params`."""

    def __init__(self, params: Any, offset: int = 0) -> None:
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
            if parameter.data.dtype.kind != "f":
                raise ValueError(f"parameter {name!r} is {parameter.data.dtype}: only floating point can be optimised")
            pairs.append((name, parameter))  # type: ignore[arg-type]
        return pairs


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options alone, in types that JSON knows."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in options.items()
        if key not in {"params", "names"}
    }


def _restore(options: dict[str, Any], saved: Mapping[str, Any]) -> None:
    for key, value in saved.items():
        if key not in {"params", "names"}:
            options[key] = tuple(value) if isinstance(value, (list, tuple)) else value
