"""Laws of modules: what they hold is found, state goes in and out in place, and a failure says where."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from cordee.trainer.array import to_numpy
from cordee.trainer.nn import Module, ModuleDict, ModuleList, Parameter, Sequential
from cordee.trainer.tensors import Tensor


class Scale(Module):
    """Multiplies by a factor; counts nothing."""

    def __init__(self, factor: float = 1.0, size: int = 2) -> None:
        self.factor = Parameter(np.full(size, factor, np.float32))
        self.register_buffer("offset", Tensor(np.zeros(size, np.float32)))
        self.register_buffer("scratch", Tensor(np.ones(1, np.float32)), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return input * self.factor + self.offset

    def extra_repr(self) -> str:
        return f"size={self.factor.shape[0]}"


class Tree(Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Scale(2.0)
        self.bias = Parameter(np.zeros(2, np.float32))
        self.rest = ModuleList([Scale(3.0), Scale(4.0)])

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.first(input) + self.bias
        for module in self.rest:
            output = module(output)
        return output


def test_what_a_module_holds_is_found_in_order_own_parameters_first() -> None:
    tree = Tree()
    assert [name for name, _ in tree.named_parameters()] == ["bias", "first.factor", "rest.0.factor", "rest.1.factor"]
    assert [name for name, _ in tree.named_buffers()][:2] == ["first.offset", "first.scratch"]
    assert [name for name, _ in tree.named_modules()] == ["", "first", "rest", "rest.0", "rest.1"]
    assert [name for name, _ in tree.named_children()] == ["first", "rest"]
    assert [name for name, _ in tree.named_parameters(recurse=False)] == ["bias"]
    assert list(tree.parameters()) == [parameter for _, parameter in tree.named_parameters()]
    assert tree.get_submodule("rest.1") is tree.rest[1]
    with pytest.raises(AttributeError, match=r"ModuleList has no module '7' \(of 'rest.7'\)"):
        tree.get_submodule("rest.7")


def test_tied_parameters_and_modules_appear_once() -> None:
    tree = Tree()
    tree.rest[1].factor = tree.first.factor
    tree.again = tree.rest[0]
    assert [name for name, _ in tree.named_parameters()] == ["bias", "first.factor", "rest.0.factor"]
    assert [name for name, _ in tree.named_modules()] == ["", "first", "rest", "rest.0", "rest.1"]
    # The state has every name, as in PyTorch, so that it can be read without knowing what is tied.
    state = tree.state_dict()
    assert {"rest.0.factor", "rest.1.factor", "again.factor"} <= set(state)
    # For loading one of the names is enough.
    del state["first.factor"], state["again.factor"]
    tree.load_state_dict({name: Tensor(tensor.data + 1) for name, tensor in state.items()})
    assert (tree.first.factor.data == 3).all()
    del state["rest.1.factor"]
    with pytest.raises(ValueError, match=r"missing: first.factor\n  missing: rest.1.factor$"):
        tree.load_state_dict(state)


def test_attributes_are_all_there_is() -> None:
    tree = Tree()
    del tree.bias
    tree.first = Scale(1.0)
    tree.rest = None
    assert [name for name, _ in tree.named_parameters()] == ["first.factor"]
    tree.register_parameter("late", Parameter(np.ones(1, np.float32)))
    tree.add_module("child", Scale())
    assert [name for name, _ in tree.named_parameters()] == ["late", "first.factor", "child.factor"]
    with pytest.raises(ValueError, match="has an attribute 'forward' already"):
        tree.register_buffer("forward", None)
    with pytest.raises(ValueError, match=r"has no dot, got 'a\.b'"):
        tree.add_module("a.b", Scale())


def test_modes_reach_every_module() -> None:
    tree = Tree()
    assert tree.training
    assert tree.eval() is tree
    assert not any(module.training for module in tree.modules())
    assert all(module.training for module in tree.train().modules())


def test_state_leaves_and_returns_in_place() -> None:
    source, target = Tree(), Tree()
    for parameter in source.parameters():
        parameter.data += 1
    source.first.offset.data += 5
    state = source.state_dict()
    assert sorted(state) == sorted(
        ["bias", "first.factor", "first.offset", "rest.0.factor", "rest.0.offset", "rest.1.factor", "rest.1.offset"]
    )
    assert not any(tensor.requires_grad for tensor in state.values())
    held = [tensor.data for tensor in (*target.parameters(), *target.buffers())]
    report = target.load_state_dict({name: tensor.numpy() for name, tensor in state.items()})
    assert report.missing_keys == report.unexpected_keys == []
    assert all(t.data is h for t, h in zip((*target.parameters(), *target.buffers()), held, strict=True))
    for name, tensor in target.state_dict().items():
        assert np.array_equal(to_numpy(tensor.data), to_numpy(state[name].data))


def test_a_state_that_does_not_fit_is_reported_whole_and_changes_nothing() -> None:
    tree = Tree()
    state: dict[str, Any] = {name: tensor.numpy() + 1 for name, tensor in tree.state_dict().items()}
    before = {name: tensor.numpy().copy() for name, tensor in tree.state_dict().items()}
    del state["bias"]
    state["stranger"] = np.ones(2)
    state["first.factor"] = np.ones((2, 1))
    with pytest.raises(ValueError) as caught:
        tree.load_state_dict(state)
    assert str(caught.value).splitlines() == [
        "the state does not fit this Tree:",
        "  missing: bias",
        "  unexpected: stranger",
        "  first.factor: shape (2, 1) instead of (2,)",
    ]
    assert all(np.array_equal(to_numpy(tensor.data), before[name]) for name, tensor in tree.state_dict().items())
    del state["first.factor"]
    report = tree.load_state_dict(state, strict=False)
    assert (report.missing_keys, report.unexpected_keys) == (["bias", "first.factor"], ["stranger"])
    assert (tree.rest[0].factor.data == 4).all()


def test_a_copy_is_apart_and_found() -> None:
    tree = Tree()
    twin = copy.deepcopy(tree)
    twin.first.factor.data += 1
    assert (tree.first.factor.data == 2).all()
    assert isinstance(twin.first.factor, Parameter)
    assert [name for name, _ in twin.named_parameters()] == [name for name, _ in tree.named_parameters()]


def test_conversion_reaches_parameters_and_buffers() -> None:
    tree = Tree().double()
    assert {tensor.dtype for tensor in (*tree.parameters(), *tree.buffers())} == {np.dtype(np.float64)}
    assert {tensor.dtype for tensor in tree.float().parameters()} == {np.dtype(np.float32)}


def test_freezing_and_zero_grad_reach_every_parameter() -> None:
    tree = Tree()
    assert not any(parameter.requires_grad for parameter in tree.requires_grad_(False).parameters())
    for parameter in tree.requires_grad_().parameters():
        parameter.grad = Tensor(np.ones(2, np.float32))
    tree.zero_grad(set_to_none=False)
    assert all(parameter.grad is not None and not parameter.grad.data.any() for parameter in tree.parameters())
    tree.zero_grad()
    assert all(parameter.grad is None for parameter in tree.parameters())


def test_apply_visits_every_module_the_lowest_first() -> None:
    seen: list[str] = []
    Tree().apply(lambda module: seen.append(type(module).__name__))
    assert seen == ["Scale", "Scale", "Scale", "ModuleList", "Tree"]


def test_a_failure_says_in_which_module() -> None:
    tree = Tree()
    tree.rest[1].factor = Parameter(np.ones(3, np.float32))
    with pytest.raises(ValueError) as caught:
        tree(Tensor(np.ones((4, 2), np.float32)))
    assert caught.value.__notes__[-1] == "in Tree.rest.1: Scale(size=3)"
    assert sum("Scale" in note for note in caught.value.__notes__) == 1


def test_containers_count_index_and_call() -> None:
    scales = [Scale(2.0), Scale(3.0), Scale(5.0)]
    chain = Sequential(*scales)
    assert len(chain) == 3
    assert list(chain) == scales
    assert chain[-1] is scales[2]
    assert list(chain[1:]) == scales[1:]
    assert chain(Tensor(np.ones(2, np.float32))).detach().numpy().tolist() == [30.0, 30.0]
    chain[0] = Scale(1.0)
    chain.append(Scale(2.0))
    assert chain(Tensor(np.ones(2, np.float32))).detach().numpy().tolist() == [30.0, 30.0]
    named = Sequential({"twice": Scale(2.0), "thrice": Scale(3.0)})
    assert [name for name, _ in named.named_parameters()] == ["twice.factor", "thrice.factor"]
    table = ModuleDict({"a": Scale()})
    table["b"] = Scale()
    assert (len(table), list(table), "b" in table, "c" in table) == (2, ["a", "b"], True, False)
    assert [name for name, _ in table.named_parameters()] == ["a.factor", "b.factor"]
    with pytest.raises(IndexError, match="index 9 is out of range for 4 modules"):
        _ = chain[9]
    with pytest.raises(TypeError, match="expected a module, got int"):
        ModuleList([1])
    with pytest.raises(KeyError):
        _ = table["c"]


def test_the_text_shows_the_tree() -> None:
    assert repr(Tree()).splitlines() == [
        "Tree(",
        "  (first): Scale(size=2)",
        "  (rest): ModuleList(",
        "    (0): Scale(size=2)",
        "    (1): Scale(size=2)",
        "  )",
        ")",
    ]
