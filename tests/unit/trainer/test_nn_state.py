"""Laws of a module's surface: finding, converting, loading with near misses, containers as collections."""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import nn
from cordee.trainer.array import device_name, to_numpy
from cordee.trainer.nn import Module, ModuleDict, ModuleList, Parameter, ParameterDict, ParameterList, Sequential


class Net(Module):
    def __init__(self) -> None:
        self.fc1 = nn.Linear(3, 4)
        self.fc2 = nn.Linear(4, 2)
        self.mean: Any
        self.register_buffer("mean", ct.zeros(3))

    def forward(self, x: Any) -> Any:
        return self.fc2(self.fc1(x - self.mean).relu())


def test_unexpected_names_come_with_a_guess_at_what_was_meant() -> None:
    state = Net().state_dict()
    state["fc.weight"] = state.pop("fc1.weight")
    with pytest.raises(ValueError) as caught:
        Net().load_state_dict(state)
    assert str(caught.value).splitlines()[1:] == [
        "  missing: fc1.weight",
        "  unexpected: fc.weight (did you mean fc1.weight?)",
    ]


def test_a_prefix_on_all_names_is_pointed_out() -> None:
    state = {f"module.{name}": value for name, value in Net().state_dict().items()}
    with pytest.raises(ValueError, match=r"all unexpected names begin with 'module\.': take that away"):
        Net().load_state_dict(state)


def test_a_value_that_is_no_tensor_is_in_the_report() -> None:
    state: dict[str, Any] = Net().state_dict()
    state["mean"] = "zeros"
    with pytest.raises(ValueError, match="mean: a tensor or an array is wanted, not str"):
        Net().load_state_dict(state)
    with pytest.raises(TypeError, match="a state is a dictionary of tensors by name, not list"):
        Net().load_state_dict([])  # type: ignore[arg-type]


def test_assigning_takes_the_given_arrays_themselves() -> None:
    net, given = Net(), {name: value.numpy().astype(np.float64) for name, value in Net().state_dict().items()}
    weight = net.fc1.weight
    net.load_state_dict(given, assign=True)
    assert net.fc1.weight is weight
    held = weight.data
    assert held is given["fc1.weight"] if device_name() == "cpu" else (to_numpy(held) == given["fc1.weight"]).all()
    assert net(ct.zeros(1, 3, dtype=ct.float64)).dtype == np.float64


def test_state_that_is_no_tensor_travels_along() -> None:
    class Counter(Module):
        count = 0

        def get_extra_state(self) -> int:
            return self.count

        def set_extra_state(self, state: int) -> None:
            self.count = state

    source: Any = Sequential(Counter())
    target: Any = Sequential(Counter())
    source[0].count = 5
    state = source.state_dict()
    assert state == {"0._extra_state": 5}
    target.load_state_dict(state)
    assert target[0].count == 5
    with pytest.raises(ValueError, match=r"missing: 0\._extra_state"):
        target.load_state_dict({})


def test_keeping_variables_gives_the_parameters_themselves() -> None:
    net = Net()
    assert net.state_dict(keep_vars=True)["fc1.weight"] is net.fc1.weight
    assert list(net.state_dict(prefix="net.")) == [f"net.{name}" for name in net.state_dict()]
    into: dict[str, Any] = {"other": 1}
    assert net.state_dict(into) is into
    assert "fc1.weight" in into


def test_loading_is_a_write_that_graphs_notice() -> None:
    net = Net()
    out = net(ct.ones(2, 3)).sum()
    net.load_state_dict(net.state_dict())
    with pytest.raises(ct.GraphError):
        out.backward()


def test_members_are_found_by_path() -> None:
    net = Net()
    assert net.get_parameter("fc1.weight") is net.fc1.weight
    assert net.get_buffer("mean") is net.mean
    with pytest.raises(AttributeError, match=r"Linear has no parameter 'wight' \(of 'fc1.wight'\)"):
        net.get_parameter("fc1.wight")
    with pytest.raises(AttributeError, match="Net has no buffer 'fc1'"):
        net.get_buffer("fc1")
    new = nn.Linear(4, 5)
    net.set_submodule("fc2", new)
    assert net.fc2 is new
    with pytest.raises(AttributeError):
        net.set_submodule("fc3", new)


def test_duplicates_are_listed_when_asked_for() -> None:
    net: Any = Net()
    net.again = net.fc1
    net.fc2.bias = net.fc1.bias
    names = [name for name, _ in net.named_parameters(remove_duplicate=False)]
    assert names == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "again.weight", "again.bias"]
    assert [name for name, _ in net.named_modules(prefix="net", remove_duplicate=False)] == [
        "net", "net.fc1", "net.fc2", "net.again",
    ]  # fmt: skip
    memo: set[Any] = {net.fc1}
    assert [name for name, _ in net.named_modules(memo)] == ["", "fc2"]
    net.twin = net.mean
    net.register_buffer("twin", net.mean)
    assert [name for name, _ in net.named_buffers()] == ["mean"]
    assert [name for name, _ in net.named_buffers(remove_duplicate=False)] == ["mean", "twin"]


def test_a_buffer_is_one_by_being_assigned() -> None:
    module: Any = Module()
    module.mean = nn.Buffer(ct.ones(2))
    module.scratch = nn.Buffer(ct.ones(3), persistent=False)
    assert [name for name, _ in module.named_buffers()] == ["mean", "scratch"]
    assert list(module.state_dict()) == ["mean"]
    twin = copy.deepcopy(module).double()
    assert twin.mean.dtype == np.float64
    assert list(twin.state_dict()) == ["mean"]
    twin.load_state_dict({"mean": np.full(2, 5.0)})
    assert (twin.mean.numpy() == 5.0).all()
    assert (module.mean.numpy() == 1.0).all()


def test_a_lazy_layer_becomes_a_usual_one_by_its_first_input() -> None:
    layer: Any = Sequential(nn.LazyLinear(4, bias=False), nn.ReLU())
    assert repr(layer[0]) == "LazyLinear(in_features=unknown, out_features=4, bias=False)"
    assert list(layer.parameters()) == []
    assert layer(ct.ones(2, 3)).shape == (2, 4)
    assert type(layer[0]) is nn.Linear
    assert [value.shape for value in layer.parameters()] == [(4, 3)]


def test_a_deleted_buffer_is_gone() -> None:
    net = Net()
    del net.mean
    assert list(net.buffers()) == []
    assert "mean" not in net.state_dict()


@pytest.mark.parametrize(
    ("convert", "dtype"),
    [
        (lambda net: net.half(), "float16"),
        (lambda net: net.bfloat16(), "bfloat16"),
        (lambda net: net.double(), "float64"),
        (lambda net: net.to(ct.float64), "float64"),
        (lambda net: net.to(dtype=np.float16), "float16"),
        (lambda net: net.to(ct.zeros(1, dtype=ct.float64)), "float64"),
        (lambda net: net.to(ct.device_name(), ct.float64), "float64"),
        (lambda net: net.type(np.float16), "float16"),
    ],
)
def test_conversions_reach_floating_parameters_and_buffers(convert: Any, dtype: str) -> None:
    net: Any = Net()
    net.register_buffer("steps", ct.tensor(3))
    assert convert(net) is net
    assert {tensor.dtype.name for tensor in (*net.parameters(), net.mean)} == {dtype}
    assert net.steps.dtype == (np.float16 if "type" in convert.__code__.co_names else np.int64)


def test_a_device_other_than_the_process_is_refused() -> None:
    other = "cpu" if ct.device_name() == "cuda" else "cuda"
    assert isinstance(Net().to(ct.device_name()), Net)
    with pytest.raises(ct.DeviceError, match="CORDEE_DEVICE chooses the device"):
        Net().to(other)
    with pytest.raises(ct.DeviceError, match="CORDEE_DEVICE chooses the device"):
        nn.Linear(2, 2, device=other)
    with pytest.raises(TypeError, match="converted to a floating dtype, not int64"):
        Net().to(ct.int64)


def test_a_missing_attribute_names_the_near_ones() -> None:
    with pytest.raises(AttributeError, match=r"Linear has no attribute 'wieght' \(did you mean weight\?\)"):
        _ = nn.Linear(2, 2).wieght  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"Net has no attribute 'fc3' \(did you mean fc2 or fc1\?\)"):
        _ = Net().fc3  # type: ignore[attr-defined]
    assert not hasattr(Net(), "nothing_like_it")


def test_a_module_without_forward_says_so() -> None:
    class Empty(Module):
        pass

    with pytest.raises(AttributeError, match=r"no attribute 'forward': a module says in forward\(self, …\)"):
        Empty()(1)


def test_a_failing_property_shows_its_own_error() -> None:
    class Odd(Module):
        @property
        def size(self) -> Any:
            return self.missing_inside  # type: ignore[attr-defined]

    with pytest.raises(AttributeError, match="Odd has no attribute 'missing_inside'"):
        _ = Odd().size


def test_wrong_kinds_are_refused_by_name() -> None:
    net, wrong = Net(), cast("Any", ct.zeros(1))
    with pytest.raises(TypeError, match="parameter 'p' must be a Parameter or None, not Tensor"):
        net.register_parameter("p", wrong)
    with pytest.raises(TypeError, match="buffer 'b' must be a tensor or None, not int"):
        net.register_buffer("b", 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'m' must be a module or None, not int"):
        net.add_module("m", 3)  # type: ignore[arg-type]


def test_the_error_of_a_module_names_path_and_class_and_keeps_the_traceback() -> None:
    net = Net()
    net.fc2 = nn.Linear(7, 2)
    with pytest.raises(ct.ShapeError) as caught:
        Sequential(Net(), net)(ct.ones(2, 3))
    text = "\n".join(caught.value.__notes__)
    assert "in Sequential.1: Net(…)" in text or "in Sequential.1.fc1" in text
    with pytest.raises(ct.ShapeError) as caught:
        Sequential(net)(ct.ones(2, 3))
    assert "in Sequential.0.fc2: Linear(in_features=7, out_features=2, bias=True)" in caught.value.__notes__
    assert any(entry.name == "forward" for entry in caught.traceback)
    with pytest.raises(IndexError) as index_error:
        Sequential(nn.Embedding(4, 2))(ct.tensor([1, 7]))
    assert "in Sequential.0: Embedding(4, 2)" in index_error.value.__notes__


def test_a_note_of_the_users_stays() -> None:
    class Noting(Module):
        def forward(self, x: Any) -> Any:
            error = ValueError("wrong")
            error.add_note("first of mine")
            raise error

    class Outer(Module):
        def __init__(self) -> None:
            self.inner = Noting()

        def forward(self, x: Any) -> Any:
            try:
                return self.inner(x)
            except ValueError as error:
                error.add_note("second of mine")
                raise

    with pytest.raises(ValueError) as caught:
        Outer()(1)
    assert caught.value.__notes__ == ["first of mine", "in Outer.inner: Noting()", "second of mine"]


# -- containers --------------------------------------------------------------------------------------------------------


def test_a_sequential_is_a_list() -> None:
    a, b, c = nn.ReLU(), nn.Tanh(), nn.Sigmoid()
    chain = Sequential(a, b)
    assert chain.insert(1, c) is chain
    assert list(chain) == [a, c, b]
    assert chain.pop(0) is a
    assert [name for name, _ in chain.named_children()] == ["0", "1"]
    del chain[0]
    assert list(chain) == [b]
    assert list(chain + Sequential(a)) == [b, a]
    assert list(chain * 2) == [b, b]
    chain += Sequential(c)
    assert list(chain.extend([a])) == [b, c, a]
    assert c in chain
    cut = chain[1:]
    assert [name for name, _ in cut.named_children()] == ["1", "2"]  # as in PyTorch: names stay
    assert list(cut.append(b)) == [c, a, b]
    with pytest.raises(ValueError, match="numbered, not named"):
        Sequential({"one": a}).insert(0, b)


def test_a_module_list_is_a_list() -> None:
    a, b = nn.ReLU(), nn.Tanh()
    modules = ModuleList([a])
    modules += [b]
    assert list(modules.insert(0, b)) == [b, a, b]
    assert list(modules[1:]) == [a, b]
    assert [name for name, _ in modules[1:].named_children()] == ["0", "1"]
    assert modules.pop() is b
    assert list(modules + ModuleList([a])) == [b, a, a]


def test_a_module_dict_is_a_dictionary() -> None:
    a, b = nn.ReLU(), nn.Tanh()
    table = ModuleDict([("a", a)])
    table.update({"b": b})
    assert list(table.keys()) == ["a", "b"]
    assert list(table.values()) == [a, b]
    assert dict(table.items()) == {"a": a, "b": b}
    assert table.pop("a") is a
    del table["b"]
    table.clear()
    assert len(table) == 0
    with pytest.raises(KeyError):
        del table["b"]
    with pytest.raises(ValueError, match="has an attribute 'items' already"):
        table["items"] = a


def test_a_parameter_list_holds_parameters() -> None:
    values = ParameterList([ct.ones(2), Parameter(ct.zeros(3))])
    assert all(isinstance(value, Parameter) for value in values)
    assert [name for name, _ in values.named_parameters()] == ["0", "1"]
    values[0] = ct.zeros(1)
    values += [ct.ones(4)]
    assert [value.shape for value in values] == [(1,), (3,), (4,)]
    assert [value.shape for value in values[1:]] == [(3,), (4,)]
    assert list(values.state_dict()) == ["0", "1", "2"]
    assert "(2): Parameter of shape (4,), float32" in repr(values)
    with pytest.raises(IndexError, match="index 3 is out of range for 3 parameters"):
        _ = values[3]


def test_a_parameter_dict_holds_parameters() -> None:
    values = ParameterDict({"a": ct.ones(2)})
    values["b"] = ct.zeros(3)
    assert [name for name, _ in values.named_parameters()] == ["a", "b"]
    assert list(reversed(values)) == ["b", "a"]
    assert values.get("c") is None
    assert values.setdefault("c", ct.ones(1)).shape == (1,)
    assert values.popitem()[0] == "c"
    assert list((values | {"d": ct.ones(1)}).keys()) == ["a", "b", "d"]
    assert values.pop("a").shape == (2,)
    assert (len(values), "a" in values, next(iter(values.items()))[0]) == (1, False, "b")
    values.clear()
    assert repr(values) == "ParameterDict()"
    with pytest.raises(KeyError):
        _ = values["a"]
