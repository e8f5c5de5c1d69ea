"""An optimiser's state, by parameter name: giving it, taking it over, and translating PyTorch's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cordee.trainer.array import array_module, as_array
from cordee.trainer.optim.holder import Holder
from cordee.trainer.optim.plain import from_json, number, to_json
from cordee.trainer.tensors import Tensor

__all__ = [
    "LoadReport", "from_torch_state", "load_scalars", "load_state", "options_of", "restore_options", "scalars_of",
    "state_of",
]  # fmt: skip

_NOT_OPTIONS = frozenset(("params", "names"))


class LoadReport(NamedTuple):
    """What `load_state_dict` met; both lists are empty when it was strict."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def options_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a parameter group alone, in types that JSON knows."""
    return {key: to_json(value) for key, value in group.items() if key not in _NOT_OPTIONS}


def restore_options(group: dict[str, Any], saved: Mapping[str, Any]) -> None:
    for key, value in saved.items():
        if key not in _NOT_OPTIONS:
            restored = from_json(value)
            group[key] = tuple(restored) if isinstance(restored, (list, tuple)) else restored


def state_of(optimizer: Holder) -> dict[str, Any]:
    """See `Optimizer.state_dict`."""
    state: dict[str, dict[str, Any]] = {}
    for group in optimizer.groups:
        for index, name in enumerate(group.names):
            entry: dict[str, Any] = {"step": int(group.steps[index])}
            entry.update((key, float(values[index])) for key, values in group.numbers.items())
            entry.update((key, Tensor(array)) for key, array in group.arrays(index).items())
            state[name] = entry
    groups = [{**options_of(options), "params": list(options["names"])} for options in optimizer.param_groups]
    saved: dict[str, Any] = {"state": state, "param_groups": groups}
    if optimizer.extra:
        saved["extra"] = to_json(optimizer.extra)
    return saved


def load_state(optimizer: Holder, saved: Mapping[str, Any], strict: bool) -> LoadReport:
    """See `Optimizer.load_state_dict`."""
    state: Mapping[str, Mapping[str, Any]] = saved["state"]
    saved_groups: Sequence[Mapping[str, Any]] = saved["param_groups"]
    extra = from_json(saved.get("extra", {}))
    ours = {name: (group, index) for group in optimizer.groups for index, name in enumerate(group.names)}
    missing = [name for name in ours if name not in state]
    unexpected = [name for name in state if name not in ours]
    wrong: list[str] = []
    same_groups = len(saved_groups) == len(optimizer.param_groups)
    if not same_groups and strict:
        wrong.append(f"{len(saved_groups)} parameter groups instead of {len(optimizer.param_groups)}")
    # The options that the state was saved with say which arrays there are.
    expected = list(optimizer.param_groups)
    if same_groups:
        expected = [{**ours, **saved} for ours, saved in zip(expected, saved_groups, strict=True)]
    expected_of = {id(options): then for options, then in zip(optimizer.param_groups, expected, strict=True)}
    copies: list[tuple[Any, int, str, Any]] = []
    missing_arrays: list[str] = []
    for name, (group, index) in ours.items():
        if name not in state:
            continue
        for key, shape in optimizer.array_shapes(expected_of[id(group.options)], extra, group, index).items():
            value = state[name].get(key)
            if value is None and not state[name].get("step"):  # no update yet
                start = optimizer.start(key, expected_of[id(group.options)])
                copies.append((group, index, key, complex(start, start) if group.dtype.kind == "c" else start))
            elif value is None:
                missing_arrays.append(f"{name}.{key}")
            elif tuple(value.shape) != shape:
                wrong.append(f"{name}.{key}: shape {tuple(value.shape)} instead of {shape}")
            else:
                copies.append((group, index, key, value))
    problems = [f"missing: {name}" for name in missing] + [f"unexpected: {name}" for name in unexpected]
    problems = (problems if strict else []) + wrong
    problems += [f"missing: {name}" for name in missing_arrays] if strict else []
    if problems:
        raise ValueError(f"the state does not fit this {type(optimizer).__name__}:\n  " + "\n  ".join(problems))
    if same_groups:
        for options, group_options in zip(optimizer.param_groups, saved_groups, strict=True):
            restore_options(options, group_options)
    if extra or strict:
        optimizer.extra = extra
    for group in optimizer.groups:
        optimizer.allocate(group, group.options, optimizer.extra)
    for group, index, key, value in copies:
        group.arrays(index)[key][...] = as_array(value.data if isinstance(value, Tensor) else value)
    for name, (group, index) in ours.items():
        entry = state.get(name)
        if entry is None:
            continue
        group.steps[index] = int(entry.get("step", 0))
        for key, values in group.numbers.items():
            values[index] = float(entry.get(key, values[index]))
    return LoadReport(missing + missing_arrays, unexpected)


def scalars_of(optimizer: Holder) -> dict[str, Any]:
    """See `Optimizer.scalars`."""
    scalars: dict[str, Any] = {
        "options": [options_of(options) for options in optimizer.param_groups],
        "steps": [group.steps.tolist() for group in optimizer.groups],
    }
    if any(group.numbers for group in optimizer.groups):
        scalars["numbers"] = [
            {key: to_json(values.tolist()) for key, values in group.numbers.items()} for group in optimizer.groups
        ]
    if optimizer.extra:
        scalars["extra"] = to_json(optimizer.extra)
    return scalars


def load_scalars(optimizer: Holder, scalars: Mapping[str, Any]) -> None:
    """See `Optimizer.load_scalars`.

    Raises:
        ValueError: they are another optimiser's.
    """
    steps = scalars["steps"]
    if [len(counts) for counts in steps] != [len(group.parameters) for group in optimizer.groups]:
        raise ValueError("the counts of updates are those of an optimiser over other parameters")
    if len(scalars["options"]) != len(optimizer.param_groups):
        raise ValueError(f"{len(scalars['options'])} parameter groups instead of {len(optimizer.param_groups)}")
    for group, counts in zip(optimizer.groups, steps, strict=True):
        group.steps[:] = counts
    for group, numbers in zip(optimizer.groups, scalars.get("numbers", []), strict=False):
        for key, values in numbers.items():
            group.numbers[key][:] = from_json(values)
    for options, saved in zip(optimizer.param_groups, scalars["options"], strict=True):
        restore_options(options, saved)
    optimizer.extra = from_json(scalars.get("extra", {}))


def from_torch_state(state_dict: Mapping[str, Any], names: Iterable[str] | None = None) -> dict[str, Any]:
    """PyTorch's `optimizer.state_dict()` as one that `load_state_dict` takes.

    Args:
        state_dict: PyTorch's, its tensors on any device.
        names: the parameters' names in the order in which PyTorch's optimiser was given them:
            `(name for name, _ in model.named_parameters())`. None: the names that PyTorch noted (it does when the
            optimiser was built from `named_parameters()`).

    Raises:
        ValueError: there are not as many names as parameters, or none at all; or it is the state of LBFGS, which has
            no state by parameter.
    """
    places = [place for group in state_dict["param_groups"] for place in group["params"]]
    if names is None:
        if any("param_names" not in group for group in state_dict["param_groups"]):
            raise ValueError(
                "from_torch_state: the state holds no names; give them: names=[name for name, _ in "
                "model.named_parameters()]"
            )
        names = [name for group in state_dict["param_groups"] for name in group["param_names"]]
    names = list(names)
    if len(names) != len(places):
        raise ValueError(f"from_torch_state: {len(names)} names for {len(places)} parameters")
    if any("line_search_fn" in group for group in state_dict["param_groups"]):
        raise ValueError("from_torch_state: an LBFGS's history is not by parameter and cannot be translated")
    name_of = dict(zip(places, names, strict=True))
    state: dict[str, dict[str, Any]] = {}
    for place, name in name_of.items():
        entry: dict[str, Any] = {}
        for key, value in state_dict["state"].get(place, {}).items():
            if value is not None:
                entry[key] = _from_torch(value)
        # A state without a count is that of an optimiser which only has to know whether there was a first update.
        entry.setdefault("step", 1 if entry else 0)
        state[name] = {key: number(value) if np.ndim(value) == 0 and key in _NUMBERS else value
                       for key, value in entry.items()}  # fmt: skip
    groups = []
    for group in state_dict["param_groups"]:
        options = {key: number(_from_torch(value)) for key, value in group.items() if key not in _TORCH_ONLY}
        groups.append({**options, "params": [name_of[place] for place in group["params"]]})
    return {"state": state, "param_groups": groups}


_NUMBERS = frozenset(("step", "mu_product", "eta", "mu"))
_TORCH_ONLY = frozenset(("params", "param_names", "foreach", "fused", "capturable", "differentiable"))


def _from_torch(value: Any) -> Any:
    if not hasattr(value, "detach"):
        return value
    value = value.detach().cpu()
    if str(value.dtype) == "torch.bfloat16":  # which NumPy does not know
        value = value.float()
    array = value.numpy()
    return array_module().asarray(array)
