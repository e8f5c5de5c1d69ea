"""Hooks, anomaly mode, saved values elsewhere and computed again, Functions of several outputs, drawings of graphs."""

from __future__ import annotations

import gc
import re
import tracemalloc
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import autograd, nn, optim, random


def _leaf(*shape: int, salt: int = 0) -> ct.Tensor:
    return ct.Tensor(np.random.Generator(np.random.Philox(key=salt)).standard_normal(shape), requires_grad=True)


# -- hooks -------------------------------------------------------------------------------------------------------------


def test_a_hook_sees_the_whole_gradient_once_and_may_replace_it() -> None:
    x, seen = _leaf(3), []

    def double(g: ct.Tensor) -> ct.Tensor:
        seen.append(g.tolist())
        return g * 2.0

    handle = x.register_hook(double)
    (x * 2.0 + x * 3.0).sum().backward()
    assert seen == [[5.0, 5.0, 5.0]]
    assert x.grad is not None
    assert x.grad.tolist() == [10.0, 10.0, 10.0]
    handle.remove()
    x.grad = None
    (x * 2.0).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 2.0, 2.0]


def test_hooks_on_computed_tensors_run_also_for_grad_and_second_derivatives() -> None:
    x = _leaf(3)
    y = x * x
    y.register_hook(lambda g: g * g)
    (first,) = autograd.grad((y * 3.0).sum(), x, create_graph=True)
    assert first is not None
    np.testing.assert_allclose(first.detach().numpy(), 9 * 2 * x.detach().numpy())
    (second,) = autograd.grad(first.sum(), x)
    assert second is not None
    np.testing.assert_allclose(second.numpy(), np.full(3, 18.0))


def test_a_hook_of_the_wrong_shape_is_refused_by_name() -> None:
    x = _leaf(3)

    def broken(g: ct.Tensor) -> ct.Tensor:
        return g.sum()

    x.register_hook(broken)
    with pytest.raises(ct.ShapeError, match=r"the hook broken made shape \(\) of a gradient of shape \(3,\)"):
        (x * 2.0).sum().backward()


def test_retain_grad_keeps_what_reached_a_computed_tensor() -> None:
    x = _leaf(3)
    y = x * 2.0
    y.retain_grad()
    y.retain_grad()
    (y * 3.0).sum().backward()
    assert y.grad is not None
    assert y.grad.tolist() == [3.0, 3.0, 3.0]


def test_a_post_accumulate_hook_finds_the_gradient_in_place() -> None:
    x, seen = _leaf(2), []
    x.register_post_accumulate_grad_hook(lambda t: seen.append(None if t.grad is None else t.grad.tolist()))
    (x * 2.0 + x).sum().backward()
    assert seen == [[3.0, 3.0]]
    with pytest.raises(ct.GraphError, match="made by the user"):
        (x * 2.0).register_post_accumulate_grad_hook(print)


def test_hooks_do_not_keep_graphs_alive() -> None:
    from cordee.trainer.autograd.hooks import HOOKS

    gc.collect()
    x = _leaf(3)
    y = x * 2.0
    y.register_hook(lambda g: g)
    assert y._node in HOOKS
    del y
    assert not HOOKS


# -- functions of several outputs --------------------------------------------------------------------------------------


class SumAndProduct(autograd.Function):
    """Saves an output, and leaves another unused at times."""

    @staticmethod
    def forward(ctx: autograd.Context, a: ct.Tensor, b: ct.Tensor) -> tuple[ct.Tensor, ct.Tensor]:
        product = a * b
        ctx.save_for_backward(a, b, product)
        return a + b, product

    @staticmethod
    def backward(ctx: autograd.Context, ds: ct.Tensor, dp: ct.Tensor) -> tuple[ct.Tensor, ct.Tensor]:
        a, b, product = ctx.saved_tensors
        assert a is not None
        assert b is not None
        assert product is not None
        assert (product == a * b).all()
        return ds + dp * b, ds + dp * a


def test_functions_of_several_outputs_have_first_and_second_derivatives() -> None:
    a, b = _leaf(3), _leaf(3, salt=1)

    def both(a: ct.Tensor, b: ct.Tensor) -> ct.Tensor:
        total, product = SumAndProduct.apply(a, b)
        return total * product  # type: ignore[no-any-return]

    assert autograd.gradcheck(both, (a, b))
    assert autograd.gradgradcheck(both, (a, b))
    s, _ = SumAndProduct.apply(a, b)
    s.sum().backward()
    assert a.grad is not None
    assert a.grad.tolist() == [1.0, 1.0, 1.0]


def test_once_differentiable_refuses_a_second_derivative() -> None:
    class Square(autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: ct.Tensor) -> ct.Tensor:
            ctx.save_for_backward(a)
            return a * a

        @staticmethod
        @autograd.once_differentiable
        def backward(ctx: Any, g: ct.Tensor) -> ct.Tensor:
            (a,) = ctx.saved_tensors
            return g * a * 2.0

    x = _leaf(3)
    Square.apply(x).sum().backward()
    with pytest.raises(ct.GraphError, match="once_differentiable"):
        Square.apply(x).sum().backward(create_graph=True)


# -- anomaly mode ------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, last: Any) -> None:
        self.body = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
        self.last = last

    def forward(self, x: ct.Tensor) -> ct.Tensor:
        out: ct.Tensor = self.last(self.body(x))
        return out


class Root(nn.Module):
    def forward(self, x: ct.Tensor) -> ct.Tensor:
        return (x - 1000.0).log()


def test_a_forward_nan_is_refused_with_op_module_line_place_and_inputs() -> None:
    net, x = Net(nn.Sequential(Root())), ct.ones(2, 3)
    assert np.isnan(net(x).detach().numpy()).all()
    with autograd.detect_anomaly(), pytest.raises(autograd.AnomalyError) as caught:
        net(x)
    text = str(caught.value)
    assert "log made NaN in Net.last.0, first at index (0, 0) of shape (2, 3)" in text
    assert "return (x - 1000.0).log()" in text
    assert re.search(r"its inputs: a of shape \(2, 3\) from -\d", text)
    assert not autograd.is_anomaly_enabled()
    assert np.isnan(net(x).detach().numpy()).all()


class BadSlope(nn.Module):
    def forward(self, x: ct.Tensor) -> ct.Tensor:
        return (x * 0.0).sqrt()


def test_a_backward_nan_is_refused_with_the_line_of_its_forward() -> None:
    with autograd.detect_anomaly():
        loss = Net(BadSlope())(ct.ones(2, 3)).sum()
        with pytest.raises(autograd.AnomalyError) as caught:
            loss.backward()
    text = str(caught.value)
    assert "the gradient of mul in Net.last for a is NaN" in text
    assert "return (x * 0.0).sqrt()" in text
    assert "infinite" in text


def test_an_error_in_backward_names_the_line_of_the_forward() -> None:
    class Broken(autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: ct.Tensor) -> ct.Tensor:
            return a * 1.0

        @staticmethod
        def backward(ctx: Any, g: ct.Tensor) -> ct.Tensor:
            raise ZeroDivisionError("on purpose")

    y = Broken.apply(_leaf(2))
    with pytest.raises(ZeroDivisionError) as caught:
        y.sum().backward()
    assert "y = Broken.apply(_leaf(2))" in caught.value.__notes__[0]


def test_backward_through_freed_values_says_which_and_nothing_saved_nothing_freed() -> None:
    x = _leaf(3)
    y = x.exp()
    y.sum().backward()
    with pytest.raises(
        ct.GraphError, match=r"what exp, recorded at .*\(y = x.exp\(\)\), had saved .*retain_graph=True"
    ):
        y.sum().backward()
    z = x + x
    z.sum().backward()
    z.sum().backward()  # an addition has nothing to free


# -- saved values elsewhere, and again ---------------------------------------------------------------------------------


def _model(x: ct.Tensor, weight: ct.Tensor) -> ct.Tensor:
    hidden = ct.dropout((x @ weight).tanh(), 0.5)
    return (hidden * hidden.exp()).sum()


def _gradients(run: Any) -> list[Any]:
    x, weight = _leaf(4, 3), _leaf(3, 5, salt=1)
    random.seed(5)
    loss = run(x, weight)
    after = ct.rand(2).tolist()
    loss.backward()
    assert x.grad is not None
    assert weight.grad is not None
    return [loss.item(), x.grad.numpy(), weight.grad.numpy(), after]


def test_hooks_see_what_is_saved_and_may_keep_it_elsewhere(tmp_path: Path) -> None:
    packed: list[tuple[int, ...]] = []

    def pack(tensor: ct.Tensor) -> Any:
        packed.append(tensor.shape)
        return tensor.numpy().tolist(), tensor.dtype

    def unpack(kept: Any) -> ct.Tensor:
        return ct.tensor(kept[0], dtype=kept[1])

    def run(x: ct.Tensor, weight: ct.Tensor) -> ct.Tensor:
        with autograd.saved_tensors_hooks(pack, unpack):
            return _model(x, weight)

    def on_disk(x: ct.Tensor, weight: ct.Tensor) -> ct.Tensor:
        with autograd.save_on_disk(tmp_path, smaller_than=0):
            out = _model(x, weight)
        assert list(tmp_path.glob("*/*.npy"))
        return out

    plain = _gradients(_model)
    for other in (run, on_disk):
        for a, b in zip(plain, _gradients(other), strict=True):
            np.testing.assert_array_equal(a, b)
    assert (4, 3) in packed
    gc.collect()
    assert not list(tmp_path.glob("*"))


def test_a_checkpoint_changes_neither_values_nor_gradients_nor_the_draws_after_it() -> None:
    plain = _gradients(_model)
    for a, b in zip(plain, _gradients(lambda x, w: autograd.checkpoint(_model, x, w)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_keeps_no_arrays_and_has_second_derivatives() -> None:
    x = _leaf(3)

    def function(x: ct.Tensor) -> ct.Tensor:
        return (x.exp() * x.sin()).tanh()

    assert autograd.gradgradcheck(lambda x: autograd.checkpoint(function, x), (x,))
    out = autograd.checkpoint(function, x)
    pending, seen = [out._node], []
    while pending:
        node: Any = pending.pop()
        if hasattr(node, "_saved"):
            seen.append(node)
            assert not any(hasattr(value, "dtype") for value in (*node._saved, node._out))
        pending.extend(edge for edge in node.edges if edge is not None)
    assert len(seen) >= 4


def test_backward_through_checkpoints_holds_one_of_them_at_a_time_without_help_of_the_garbage_collector() -> None:
    weight = ct.ones(256, 256, requires_grad=True)

    def peak(step: Any) -> int:
        value = ct.ones(256, 256)
        for _ in range(8):
            value = step(value)
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            value.backward(1.0)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            gc.enable()

    def block(x: ct.Tensor) -> ct.Tensor:
        for _ in range(4):
            x = (x * weight).tanh()
        return x

    bytes_of_a_block = 8 * 256 * 256 * 4
    peak(lambda x: autograd.checkpoint(block, x))  # what is generated at first use is not the graph's
    assert peak(lambda x: autograd.checkpoint(block, x)) < 2.5 * bytes_of_a_block


def test_a_checkpoint_is_computed_again_once_whatever_else_was_written_to() -> None:
    written = ct.ones(3)  # from here on backward looks for writes into what it reads
    written += 1
    calls = []

    def block(x: ct.Tensor) -> ct.Tensor:
        calls.append(1)
        return (x.sigmoid() / x.exp()).tanh()

    x = ct.ones(2, 3, requires_grad=True)
    autograd.checkpoint(block, x).sum().backward()
    assert len(calls) == 2
    autograd.grad(autograd.checkpoint(block, x).sum(), x, create_graph=True)
    assert len(calls) == 4


def test_a_checkpoint_whose_gradients_are_written_in_place_is_computed_again_once() -> None:
    layer = nn.Linear(3, 3)
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    calls = []

    def block(x: ct.Tensor) -> ct.Tensor:
        calls.append(1)
        return layer(layer(x).tanh())

    for times in (2, 4):
        optimizer.zero_grad()
        autograd.checkpoint(block, ct.ones(2, 3)).sum().backward()
        optimizer.step()
        assert len(calls) == times


def test_a_checkpoint_whose_function_does_something_else_the_second_time_is_refused() -> None:
    calls = []

    def moody(x: ct.Tensor) -> ct.Tensor:
        calls.append(1)
        return x.exp().sin() if len(calls) > 1 else x.exp()

    with pytest.raises(ct.GraphError, match="it must do the same both times"):
        autograd.checkpoint(moody, _leaf(2)).sum().backward()


def test_a_sequential_can_be_checkpointed_in_parts() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Tanh())
    x = ct.ones(2, 3)
    model(x).sum().backward()
    first = [None if p.grad is None else p.grad.numpy().copy() for p in model.parameters()]
    model.zero_grad()
    autograd.checkpoint_sequential(model, 2, x).sum().backward()
    for a, p in zip(first, model.parameters(), strict=True):
        assert p.grad is not None
        np.testing.assert_array_equal(a, p.grad.numpy())


# -- drawings ----------------------------------------------------------------------------------------------------------


def test_the_graph_is_drawn_as_text_and_as_a_picture(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    loss = model(ct.ones(2, 3)).square().mean()
    text = autograd.graph_text(loss, model.named_parameters())
    for name in ("0.weight", "2.bias", "linear", "tanh", "mean"):
        assert name in text
    assert text.startswith("mean #")
    assert "test_autograd_tools.py:" in text
    path = autograd.draw_graph(loss, tmp_path / "loss.svg", model.named_parameters())
    root = ET.fromstring(path.read_text())
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"0.weight", "linear", "tanh"} <= set(words)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}rect"))) == 1 + text.count("#")


def test_a_deep_graph_is_drawn_without_recursion() -> None:
    x = _leaf(1)
    y = x
    for _ in range(3000):
        y = y + 1.0
    assert autograd.graph_text(y.sum()).count("add") == 3000
