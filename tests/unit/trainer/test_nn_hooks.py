"""Laws of hooks: what they see, what they may change, in which order, and that they are gone when removed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import nn
from cordee.trainer.nn import Module
from cordee.trainer.tensors import Tensor


class Affine(Module):
    """`x * factor + shift`."""

    def __init__(self, factor: float = 3.0) -> None:
        self.factor = factor

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        return x * self.factor + shift


class Pair(Module):
    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a * 2.0, a * b


def test_a_module_without_hooks_has_no_table_of_them() -> None:
    layer = Affine()
    assert "_hooks" not in vars(layer)
    handle = layer.register_forward_hook(lambda *_: None)
    assert "_hooks" in vars(layer)
    handle.remove()
    handle.remove()
    assert "_hooks" not in vars(layer)


def test_forward_hooks_see_and_change_arguments_and_results_in_order() -> None:
    layer = Affine()
    seen: list[Any] = []

    def note(what: Any, value: Any = None) -> Any:
        seen.append(what)
        return value

    layer.register_forward_pre_hook(lambda m, args: note("pre", (args[0] + 1.0,)))
    layer.register_forward_pre_hook(lambda m, args: seen.append("first"), prepend=True)
    layer.register_forward_hook(lambda m, args, out: note("post", out * 10.0))
    layer.register_forward_hook(lambda m, args, out: seen.append(out.item()))
    assert layer(ct.tensor(1.0)).item() == 60.0  # ((1 + 1) * 3) * 10
    assert seen == ["first", "pre", "post", 60.0]


def test_hooks_with_kwargs_see_and_change_them() -> None:
    layer, seen = Affine(), []
    layer.register_forward_pre_hook(lambda m, args, kwargs: (args, {"shift": kwargs["shift"] + 1.0}), with_kwargs=True)
    layer.register_forward_hook(lambda m, args, kwargs, out: seen.append(kwargs), with_kwargs=True)
    assert layer(ct.tensor(1.0), shift=2.0).item() == 6.0
    assert seen == [{"shift": 3.0}]
    layer.register_forward_pre_hook(lambda m, args, kwargs: 3, with_kwargs=True)
    with pytest.raises(TypeError, match=r"returns None or \(args, kwargs\), not 3"):
        layer(ct.tensor(1.0), shift=2.0)


def test_a_hook_that_is_always_called_is_called_after_a_failure_too() -> None:
    layer, seen = Affine(), []
    layer.register_forward_hook(lambda m, args, out: seen.append(("always", out)), always_call=True)
    layer.register_forward_hook(lambda m, args, out: seen.append(("usual", out)))
    with pytest.raises(TypeError):
        layer("text", shift=ct.tensor(1.0), other=1)
    assert seen == [("always", None)]


def test_a_handle_is_a_context_manager() -> None:
    layer, seen = Affine(), []
    with layer.register_forward_hook(lambda *_: seen.append(1)):
        layer(ct.tensor(1.0))
    layer(ct.tensor(1.0))
    assert seen == [1]


def test_backward_hooks_see_the_gradients_of_inputs_and_outputs() -> None:
    layer, seen = Affine(), []
    layer.register_full_backward_hook(lambda m, gi, go: seen.append((gi[0].numpy().tolist(), go[0].numpy().tolist())))
    x = ct.tensor([1.0, 2.0], requires_grad=True)
    (layer(x) * ct.tensor([5.0, 7.0])).sum().backward()
    assert seen == [([15.0, 21.0], [5.0, 7.0])]
    assert x.grad is not None
    assert x.grad.numpy().tolist() == [15.0, 21.0]


def test_backward_hooks_may_replace_gradients() -> None:
    layer = Affine()
    layer.register_full_backward_pre_hook(lambda m, go: (go[0] * 2.0,))
    layer.register_full_backward_hook(lambda m, gi, go: (gi[0] + 1.0,))
    x = ct.tensor([1.0, 2.0], requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.numpy().tolist() == [7.0, 7.0]  # 2 * 3 + 1
    layer.register_full_backward_hook(lambda m, gi, go: (gi[0], gi[0]))
    with pytest.raises(ValueError, match="returned 2 gradients in place of 1"):
        layer(x).sum().backward()


def test_backward_hooks_of_several_inputs_and_outputs_run_once_with_all() -> None:
    layer, seen = Pair(), []
    layer.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go)))
    a, b = ct.tensor(2.0, requires_grad=True), ct.tensor(5.0)
    first, second = layer(a, b)
    (first + second * 3.0).backward()
    assert len(seen) == 1
    (grad_a, grad_b), (grad_first, grad_second) = seen[0]
    assert (grad_a.item(), grad_b, grad_first.item(), grad_second.item()) == (17.0, None, 1.0, 3.0)


def test_a_backward_hook_runs_also_where_no_input_needs_a_gradient() -> None:
    layer, seen = nn.Linear(2, 1), []
    layer.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go[0].numpy().tolist())))
    layer(ct.ones(3, 2)).sum().backward()
    assert seen == [((None,), [[1.0]] * 3)]
    with ct.no_grad():
        layer(ct.ones(3, 2))
    assert layer.weight.grad is not None
    assert layer.weight.grad.numpy().tolist() == [[3.0, 3.0]]


def test_state_hooks_change_what_leaves_and_what_comes_in() -> None:
    layer, seen = nn.Linear(2, 1), []
    layer.register_state_dict_pre_hook(lambda m, prefix, keep: seen.append(prefix))
    layer.register_state_dict_post_hook(lambda m, state, prefix, _: state.update({f"{prefix}extra": 1}))
    model = nn.Sequential(layer)
    state = model.state_dict()
    assert set(state) == {"0.weight", "0.bias", "0.extra"}
    assert seen == ["0."]

    def older(module: Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        state[f"{prefix}bias"] = state.pop(f"{prefix}offset")
        state.pop(f"{prefix}extra")

    layer.register_load_state_dict_pre_hook(older)
    layer.register_load_state_dict_post_hook(lambda m, report: seen.append(report.missing_keys))
    given = {"0.weight": np.ones((1, 2)), "0.offset": np.full(1, 4.0), "0.extra": 1}
    model.load_state_dict(given)
    assert layer.bias is not None
    assert layer.bias.item() == 4.0
    assert "0.offset" in given, "the user's dictionary is not touched"
    assert seen[-1] == []


def test_hooks_go_along_with_a_copy() -> None:
    layer = Affine()
    layer.register_forward_hook(lambda m, args, out: out + 1.0)
    twin = copy.deepcopy(layer)
    assert twin(ct.tensor(1.0)).item() == 4.0


def test_a_hook_is_a_function() -> None:
    with pytest.raises(TypeError, match="a hook is a function, not int"):
        Affine().register_forward_hook(3)  # type: ignore[arg-type]
