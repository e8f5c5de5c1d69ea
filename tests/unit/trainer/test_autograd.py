"""The tape and the walk: what is recorded, what backward adds where, what is kept and freed, what is refused."""

from __future__ import annotations

import gc
import itertools
import threading
import tracemalloc
import weakref
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import nn, optim
from cordee.trainer.array import as_array, default_module, to_numpy
from cordee.trainer.autograd import Function, GradcheckError, grad, gradcheck, gradgradcheck


def _leaf(*values: float) -> ct.Tensor:
    return ct.tensor(list(values), dtype=ct.float64, requires_grad=True)


def _listed(tensor: ct.Tensor | None) -> Any:
    assert tensor is not None
    return tensor.tolist()


def test_gradients_of_several_uses_add_up() -> None:
    x = _leaf(2.0, 3.0)
    (x * x + x).sum().backward()
    assert _listed(x.grad) == [5.0, 7.0]
    (x * 10).sum().backward()
    assert _listed(x.grad) == [15.0, 17.0]


def test_a_diamond_is_walked_once_per_node() -> None:
    x = _leaf(1.5)
    y = x
    for _ in range(40):  # 2 to the power of 40 paths
        y = y + y
    y.sum().backward()
    assert _listed(x.grad) == [2.0**40]


def test_a_long_chain_needs_no_recursion() -> None:
    x = _leaf(1.0)
    y = x
    for _ in range(50_000):
        y = y + 1.0
    y.sum().backward()
    assert _listed(x.grad) == [1.0]
    del y  # taking the chain apart must not overflow the stack either


def test_a_number_as_gradient_weighs_the_result() -> None:
    x = _leaf(1.0, 2.0)
    (x * x).sum().backward(0.25)
    assert _listed(x.grad) == [0.5, 1.0]


def test_a_gradient_tensor_weighs_each_element() -> None:
    x = _leaf(1.0, 2.0)
    (x * x).backward(ct.tensor([1.0, 10.0], dtype=ct.float64))
    assert _listed(x.grad) == [2.0, 40.0]


def test_nothing_is_recorded_under_no_grad() -> None:
    x = _leaf(1.0)
    with ct.no_grad():
        y = x * 2
        with ct.enable_grad():
            z = x * 2
    assert not y.requires_grad
    assert z.requires_grad
    assert (x * 2).requires_grad

    @ct.no_grad()
    def evaluate() -> ct.Tensor:
        return x * 2

    assert not evaluate().requires_grad


def test_no_grad_holds_for_its_own_thread_only() -> None:
    x, seen = _leaf(1.0), []
    with ct.no_grad():
        thread = threading.Thread(target=lambda: seen.append((x * 2).requires_grad))
        thread.start()
        thread.join()
    assert seen == [True]


def test_detach_cuts_the_graph() -> None:
    x = _leaf(3.0)
    (x.detach() * x).sum().backward()
    assert _listed(x.grad) == [3.0]


def test_a_graph_can_be_walked_once_unless_retained() -> None:
    x = _leaf(2.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert _listed(x.grad) == [8.0]
    with pytest.raises(ct.GraphError, match="retain_graph=True"):
        y.backward()


def test_saved_arrays_are_dropped_as_the_walk_passes() -> None:
    x = _leaf(1.0, 2.0)
    hidden = x * 2
    kept = weakref.ref(hidden.data)
    y = hidden.exp().log().sum()
    del hidden
    gc.disable()
    try:
        y.backward()
        assert kept() is None, "backward kept an array that no one can reach"
    finally:
        gc.enable()


def test_the_gradient_of_what_was_broadcast_has_its_shape_beside_an_operand_without_gradient() -> None:
    for other in (ct.ones(4, 3), np.ones((4, 3), np.float32)):
        for function in (lambda a, b: a + b, lambda a, b: b + a, lambda a, b: a * b, lambda a, b: b / a, ct.maximum):
            leaf = ct.full((3,), 2.0, requires_grad=True)
            function(leaf, ct.tensor(other)).sum().backward()
            assert leaf.grad is not None
            assert leaf.grad.shape == (3,)
    x, w = ct.randn(2, 3, 4), ct.randn(4, 5, requires_grad=True)
    (x @ w).sum().backward()
    np.testing.assert_allclose(w.grad, np.einsum("abc,abd->cd", x, np.ones((2, 3, 5))), rtol=1e-5)


def test_memory_falls_as_backward_goes() -> None:
    seen: list[int] = []
    x = ct.randn(256, 256, requires_grad=True)

    def step() -> None:
        y = x
        for i in range(16):
            y = y.tanh()
            if i % 4 == 3:
                y.register_hook(lambda g: seen.append(tracemalloc.get_traced_memory()[0]))
        loss = y.sum()
        del y
        loss.backward()

    step()  # at first use loops are compiled
    seen.clear()
    tracemalloc.start()
    try:
        step()
    finally:
        tracemalloc.stop()
    assert len(seen) == 4
    assert all(later < earlier - 3 * x.nbytes for earlier, later in itertools.pairwise(seen)), seen


def test_only_what_the_gradients_read_is_kept() -> None:
    x, w = ct.randn(3, 3), ct.randn(3, 3, requires_grad=True)
    hidden = x + 1.0
    kept = weakref.ref(hidden.data)
    y = hidden + w  # the gradient of a sum reads nothing
    del hidden
    assert kept() is None
    product = (x * 1.0) * w
    node = product.grad_fn
    assert node is not None
    assert node.saved is not None
    assert not hasattr(node.saved[1], "dtype"), "x requires no gradient, so w is not read"
    del y


@pytest.mark.parametrize("create_graph", [False, True])
def test_graphs_hold_no_reference_cycles(create_graph: bool) -> None:
    def use_and_drop() -> None:
        x = ct.randn(4, 3, requires_grad=True)
        w = ct.randn(2, 3, requires_grad=True)
        out = ct.cross_entropy(ct.linear(x, w).tanh().exp(), ct.tensor([0, 1, 1, 0]))
        dead = [weakref.ref(out), weakref.ref(x), weakref.ref(w)]
        found = grad(out, [x, w], create_graph=create_graph)
        if create_graph:
            assert found[0] is not None
            found[0].sum().backward()
        x.grad = w.grad = None
        del out, x, w, found
        assert [ref() for ref in dead] == [None, None, None]

    use_and_drop()  # at first use loops are compiled, which is none of the graph's
    gc.collect()
    gc.disable()
    try:
        use_and_drop()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_grad_returns_gradients_and_leaves_grad_alone() -> None:
    x, y = _leaf(2.0), _leaf(3.0)
    found = grad((x * y).sum(), [x, y])
    assert [_listed(g) for g in found] == [[3.0], [2.0]]
    assert x.grad is None


def test_grad_reaches_intermediate_tensors_and_those_behind_them() -> None:
    x = _leaf(2.0)
    hidden = x * x
    found = grad((hidden * hidden).sum(), [hidden, x])
    assert [_listed(g) for g in found] == [[8.0], [32.0]]


def test_grad_of_what_is_not_used_is_refused_or_none() -> None:
    x, y = _leaf(2.0), _leaf(3.0)
    with pytest.raises(ct.GraphError, match="do not depend on input 1"):
        grad((x * 2).sum(), [x, y])
    assert grad((x * 2).sum(), [x, y], allow_unused=True)[1] is None


def test_second_and_third_derivatives() -> None:
    x = _leaf(2.0)
    (first,) = grad((x**4).sum(), x, create_graph=True)
    assert first is not None
    (second,) = grad(first.sum(), x, create_graph=True)
    assert second is not None
    (third,) = grad(second.sum(), x)
    assert [_listed(first), _listed(second), _listed(third)] == [[32.0], [48.0], [48.0]]


def test_backward_with_create_graph_leaves_differentiable_gradients() -> None:
    x = _leaf(3.0)
    (x**3).sum().backward(create_graph=True)
    assert x.grad is not None
    assert x.grad.requires_grad
    (second,) = grad(x.grad.sum(), x)
    assert _listed(second) == [18.0]


def test_a_gradient_is_written_to_the_sink_and_later_ones_are_added_to_it() -> None:
    xp = default_module()
    buffer = xp.full(6, 7.0, np.float32)
    w = ct.randn(2, 3, requires_grad=True)
    w._sink = buffer.reshape(2, 3)
    x = ct.ones(5, 3)
    ct.linear(x, w).sum().backward()
    assert w.grad is not None
    assert w.grad.data is w._sink
    assert to_numpy(buffer).tolist() == [5.0] * 6
    (w * 2).sum().backward()
    assert to_numpy(buffer).tolist() == [7.0] * 6
    w.grad = None
    (w * 3).sum().backward()
    assert to_numpy(buffer).tolist() == [3.0] * 6


def test_slices_of_one_tensor_add_up_whatever_lies_between() -> None:
    x = _leaf(1.0, 2.0, 3.0)
    y = x * 2  # not a leaf: its gradient is gathered by the walk
    parts = [y[0:2], y[ct.tensor([1, 1])], y.sum(), y[2], y * 1.0]
    gathered = [(part * weight).sum() for part, weight in zip(parts, (1.0, 10.0, 100.0, 1000.0, 5.0), strict=True)]
    (gathered[0] + gathered[1] + gathered[2] + gathered[3] + gathered[4]).backward(retain_graph=True)
    assert _listed(x.grad) == [212.0, 252.0, 2210.0]
    x.grad = None
    gathered[0].backward(retain_graph=True)
    assert _listed(x.grad) == [2.0, 2.0, 0.0]


def test_an_embeddings_gradient_goes_right_into_the_sink() -> None:
    table = ct.randn(5, 2, requires_grad=True)
    table._sink = default_module().full((5, 2), 9.0, np.float32)
    rows = ct.tensor([1, 3, 1, 1, 4, 4, 1, 3, 1, 1])
    ct.embedding(rows, table).sum().backward()
    assert table.grad is not None
    assert table.grad.data is table._sink
    assert table.grad[:, 0].tolist() == [0.0, 6.0, 0.0, 2.0, 2.0]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_row_numbers_may_be_of_a_type_that_cannot_hold_the_number_of_rows(dtype: str) -> None:
    table = ct.ones(300, 2, requires_grad=True)
    rows = np.array([1, 3, 1, 1, 4, 4, 1, 3, 1, 120], dtype)
    ct.embedding(ct.tensor(rows), table).sum().backward()
    assert table.grad is not None
    assert table.grad[:, 0].tolist() == np.bincount(rows, minlength=300).tolist()


def test_a_graph_whose_leaves_were_written_to_is_refused() -> None:
    weight = nn.Parameter(np.ones((2, 3), np.float32))
    optimizer = optim.SGD([weight], lr=0.1)

    def loss() -> ct.Tensor:
        return ct.linear(ct.linear(ct.ones(1, 3), weight) @ weight.detach(), weight).sum()

    first, second = loss(), loss()
    first.backward()
    optimizer.step()
    with pytest.raises(ct.GraphError, match=r"shape \(2, 3\) that linear, recorded at .*, has to read again"):
        second.backward()
    third = loss()
    third.backward(retain_graph=True)
    with ct.no_grad():
        weight *= 2
    with pytest.raises(ct.GraphError, match=r"`mul=` at .* has overwritten it"):
        third.backward()
    unread = (weight + 1).sum()  # whose gradient reads nothing
    optimizer.step()
    unread.backward()


def test_leaves_do_not_share_gradient_memory() -> None:
    x, y = _leaf(1.0), _leaf(2.0)
    (x + y).sum().backward()
    assert x.grad is not None
    x.grad.data += 5
    assert _listed(y.grad) == [1.0]


def test_the_gradient_of_a_dead_leaf_goes_nowhere() -> None:
    y = _leaf(1.0) * _leaf(2.0)
    y.sum().backward()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: x.backward(), "one element"),
        (lambda x: x.detach().sum().backward(), "does not require a gradient"),
        (lambda x: (x * 2).numpy(), "detach"),
        (lambda x: x.__iadd__(1.0), "no_grad"),
        (lambda x: x.__setitem__(0, 1.0), "no_grad"),
        (lambda x: setattr(x * 2, "requires_grad", False), "detach"),
        (lambda x: grad(x.sum(), ct.ones(2)), "input 0 does not require"),
    ],
)  # fmt: skip
def test_what_the_graph_cannot_give_is_refused_in_a_sentence(call: Any, words: str) -> None:
    with pytest.raises(ct.GraphError, match=words):
        call(_leaf(1.0, 2.0))


def test_a_gradient_of_the_wrong_shape_is_refused() -> None:
    x = _leaf(1.0, 2.0)
    with pytest.raises(ct.ShapeError, match=r"\(3,\)"):
        (x * 2).backward(ct.ones(3))
    with pytest.raises(ct.ShapeError, match=r"\(3,\)"):
        x.grad = ct.ones(3)


# -- a user's own operation --------------------------------------------------------------------------------------------


class Cube(Function):
    @staticmethod
    def forward(ctx: Any, x: ct.Tensor, factor: float) -> ct.Tensor:
        ctx.save_for_backward(x)
        ctx.factor = factor
        return x * x * x * factor

    @staticmethod
    def backward(ctx: Any, grad_output: ct.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return grad_output * x * x * (3 * ctx.factor), None


class Exponential(Function):
    @staticmethod
    def forward(ctx: Any, x: ct.Tensor) -> ct.Tensor:
        out = x.exp()
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad_output: ct.Tensor) -> Any:
        (out,) = ctx.saved_tensors
        return grad_output * out


def test_a_custom_function_has_first_and_second_gradients() -> None:
    x = _leaf(1.5, -0.5)
    assert gradcheck(lambda t: Cube.apply(t, 2.0), [x])
    assert gradgradcheck(lambda t: Cube.apply(t, 2.0), [x])
    assert gradcheck(Exponential.apply, [x])
    assert gradgradcheck(Exponential.apply, [x])


def test_a_custom_function_that_saves_its_output_makes_no_cycle() -> None:
    gc.collect()
    gc.disable()
    try:
        x = _leaf(1.0)
        out = Exponential.apply(x)
        dead = weakref.ref(out)
        out.sum().backward(retain_graph=True)
        del out
        assert dead() is None
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_custom_function_with_wrong_gradients_is_caught() -> None:
    class Wrong(Function):
        @staticmethod
        def forward(ctx: Any, x: ct.Tensor) -> ct.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad_output: ct.Tensor) -> Any:
            return grad_output * 3

    class Misshapen(Wrong):
        @staticmethod
        def backward(ctx: Any, grad_output: ct.Tensor) -> Any:
            return grad_output.sum()

    with pytest.raises(GradcheckError, match="finite difference"):
        gradcheck(Wrong.apply, [_leaf(1.0)])
    with pytest.raises(ct.GraphError, match="Misshapen"):
        Misshapen.apply(_leaf(1.0, 2.0)).sum().backward()


def test_gradcheck_wants_double_precision() -> None:
    with pytest.raises(TypeError, match="float64"):
        gradcheck(ct.exp, [ct.ones(2, requires_grad=True)])


def test_an_error_in_a_gradient_names_the_operation() -> None:
    class Broken(Function):
        @staticmethod
        def forward(ctx: Any, x: ct.Tensor) -> ct.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad_output: ct.Tensor) -> Any:
            raise KeyError("inner")

    with pytest.raises(KeyError) as caught:
        Broken.apply(_leaf(1.0)).sum().backward()
    assert any("gradient of function" in note for note in caught.value.__notes__)


def test_the_same_graph_gives_the_same_bits() -> None:
    def run() -> Any:
        ct.manual_seed(5)
        x = ct.randn(8, 16)
        w = ct.randn(4, 16, requires_grad=True)
        b = ct.zeros(4, requires_grad=True)
        h = ct.linear(x, w, b)
        ct.cross_entropy(ct.relu(h) + h.tanh() * h, ct.tensor([0, 1, 2, 3] * 2)).backward()
        assert w.grad is not None
        return to_numpy(w.grad.data).tobytes()

    assert run() == run()


def test_values_on_the_default_device() -> None:
    assert isinstance(ct.ones(2).data, type(as_array(np.ones(2))))
