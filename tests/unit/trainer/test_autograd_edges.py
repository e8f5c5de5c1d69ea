"""Where engines give wrong gradients in silence: aliases, stale views, overwritten indices, mixed dtypes, threads.

Each of these gave a wrong number, a leak or an error without need once.
"""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import autograd, func, nn
from cordee.trainer.array import default_module
from cordee.trainer.autograd import Function, graph
from cordee.trainer.autograd.arrive import add_array
from cordee.trainer.autograd.record import REGISTRY, Sampler
from cordee.trainer.tensors import Leaf


def _leaf(*values: float, dtype: str = "float32") -> ct.Tensor:
    return ct.tensor(list(values), dtype=dtype, requires_grad=True)  # type: ignore[no-any-return]


def _grad(of: ct.Tensor, by: ct.Tensor) -> Any:
    (found,) = autograd.grad(of, by, retain_graph=True)
    assert found is not None
    return found.tolist()


# -- gradients that several places hold --------------------------------------------------------------------------------


def test_gradients_with_a_graph_are_not_shared_between_leaves() -> None:
    a, b = _leaf(1, 2), _leaf(1, 2)
    (a + b).sum().backward(create_graph=True)
    (a + b).sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    assert a.grad.tolist() == b.grad.tolist() == [2, 2]


def test_a_hook_may_write_into_a_gradient_without_dimensions() -> None:
    x = ct.tensor(1.0, requires_grad=True)
    y = x * 1.0
    y.register_hook(lambda g: g.mul_(2.0))
    y.retain_grad()
    (y * 2 + y * 3).backward()
    assert x.grad is not None
    assert y.grad is not None
    assert x.grad.item() == y.grad.item() == 10
    y.grad.zero_()
    assert x.grad.item() == 10


# -- dtypes of gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_gradient_has_the_dtype_of_its_tensor(create_graph: bool) -> None:
    x, y = _leaf(1, 2), _leaf(3, 4, dtype="float64")
    found = autograd.grad((x * y).sum(), [x, y], create_graph=create_graph)
    assert [g.dtype.name for g in found if g is not None] == ["float32", "float64"]
    (x * y).sum().backward(create_graph=create_graph)
    assert x.grad is not None
    assert x.grad.dtype == np.float32
    (weighed,) = autograd.grad(x * 2, x, ct.ones(2, dtype=ct.float64), create_graph=create_graph)
    assert weighed is not None
    assert weighed.dtype == np.float32
    with pytest.raises(ct.GraphError, match="is real, not complex64"):
        autograd.grad(x * 2, x, ct.ones(2, dtype=ct.complex64))


def test_only_a_tensor_of_the_same_dtype_can_be_set_as_gradient() -> None:
    x = _leaf(1, 2)
    with pytest.raises(TypeError, match="a tensor or None, not ndarray"):
        x.grad = np.ones(2, np.float32)  # type: ignore[assignment]
    with pytest.raises(TypeError, match="float32 tensor is not float64"):
        x.grad = ct.ones(2, dtype=ct.float64)


# -- backward of several, into some ------------------------------------------------------------------------------------


def test_backward_takes_several_tensors_and_some_leaves() -> None:
    x, y = _leaf(1, 2), _leaf(3, 4)
    autograd.backward([(x * y).sum(), x * 1.0], [None, ct.tensor([10.0, 20.0])], retain_graph=True)
    assert x.grad is not None
    assert y.grad is not None
    assert x.grad.tolist() == [13, 24]
    assert y.grad.tolist() == [1, 2]
    ran: list[ct.Tensor] = []
    x.register_post_accumulate_grad_hook(ran.append)
    (x * y).sum().backward(inputs=[x])
    assert x.grad.tolist() == [16, 28]
    assert y.grad.tolist() == [1, 2]
    assert ran == [x]


def test_backward_refuses_what_does_not_go_together() -> None:
    x = _leaf(1, 2)
    with pytest.raises(ValueError, match="3 gradients for 1 outputs"):
        autograd.grad([x * 2], [x], [x, x, x])
    with pytest.raises(ct.GraphError, match="inputs must be leaves"):
        (x * 2).sum().backward(inputs=[x * 1.0])
    with pytest.raises(ct.ShapeError, match=r"shape \(1,\)"):
        (x * 2).backward(np.ones(1, np.float32))  # type: ignore[arg-type]


# -- writes ------------------------------------------------------------------------------------------------------------


def test_an_assignment_may_read_what_it_writes_to() -> None:
    w = ct.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    x = w * 1.0
    x[0] = x[1]
    assert _grad((x * x).sum(), w) == [[0, 0], [12, 16]]


def test_augmented_assignment_to_an_index() -> None:
    w = ct.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    x = w * 1.0
    x[0] += 1.0
    x[0] *= w[1]
    x[1, 1] -= 1.0
    assert x.tolist() == [[6, 12], [3, 3]]
    assert _grad((x * x).sum(), w) == [[36, 96], [30, 78]]


def test_a_view_older_than_a_write_is_no_result_to_start_from() -> None:
    x = _leaf(1, 2)
    y = x * 1.0
    view = y[0]
    y.mul_(3.0)
    with pytest.raises(ct.GraphError, match="take the view anew"):
        view.backward()
    with pytest.raises(ct.GraphError, match="take the view anew"):
        autograd.grad(view, x)
    assert _grad(y[0], x) == [3, 0]


def test_views_of_memory_without_history_follow_when_it_gets_one() -> None:
    w = _leaf(1, 2)
    x = ct.zeros(2, 2)
    row, corner, other = x[0], x[0][:1], x[1]
    x[0] = w * 3.0
    assert _grad(row.sum(), w) == [3, 3]
    assert _grad(corner.sum(), w) == [3, 0]
    assert _grad(other.sum() + w.sum(), w) == [1, 1]
    y = ct.zeros(2, 2)
    first, both = y[0], y.view(-1)
    first.add_(w)
    assert _grad((both * ct.tensor([1.0, 2.0, 3.0, 4.0])).sum(), w) == [1, 2]


@pytest.mark.parametrize(
    "view", [lambda a: a.T[0], lambda a: a.T.unsqueeze(0)[:, 1:], lambda a: a.T.diagonal(), lambda a: a.T[::-1, 1]]
)
def test_a_view_of_a_tensor_in_another_order_can_be_written_to(view: Any) -> None:
    w = ct.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    weights = ct.tensor(np.arange(1.0, 7.0).reshape(3, 2))
    flat = np.asfortranarray(np.arange(6.0).reshape(3, 2))
    y = ct.Tensor(flat)
    y += w.T
    assert not y.is_contiguous()
    view(y.T).mul_(5.0)
    factor = ct.ones(3, 2, dtype=ct.float64)
    view(factor.T).mul_(5.0)
    np.testing.assert_allclose(_grad((y * weights).sum(), w), (weights * factor).T.numpy())


@pytest.mark.parametrize(
    ("tensor", "value"),
    [(lambda: ct.ones(2), 1j), (lambda: ct.ones(2) > 0, 1), (lambda: ct.ones(2) > 0, 1.5), (lambda: ct.arange(2), 0.5)],
)
def test_a_lower_kind_of_number_holds_no_higher_one(tensor: Any, value: Any) -> None:
    with pytest.raises(TypeError, match="do not fit in place"):
        tensor().add_(ct.tensor([value, value]))


def test_what_is_refused_has_not_been_written() -> None:
    base = ct.ones(2, 2)
    shared = ct.Tensor(base.data[0])
    with pytest.raises(ct.GraphError, match="clone"):
        shared.mul_(_leaf(3, 4))
    assert base.tolist() == [[1, 1], [1, 1]]


INDEXED: dict[str, Any] = {
    "getitem": lambda x, i: x[i],
    "index_select": lambda x, i: x.index_select(0, i),
    "take": lambda x, i: x.take(i),
    "index_fill": lambda x, i: x.index_fill(0, i, 3.0),
    "index_copy": lambda x, i: x.index_copy(0, i, x[:2] * 2.0),
    "index_put": lambda x, i: x.index_put((i,), x[:2] * 2.0),
    "index_add": lambda x, i: x.index_add(0, i, x[:2] * x[:2]),
    "gather": lambda x, i: x.gather(0, i[:, None]),
}


@pytest.mark.parametrize("name", sorted(INDEXED))
def test_an_overwritten_index_gives_no_wrong_gradient(name: str) -> None:
    x = ct.tensor(np.arange(12.0).reshape(4, 3), requires_grad=True)
    index = ct.tensor([0, 1])
    y = (INDEXED[name](x, index) * 2.0).sum()
    expected = _grad(y, x)
    index.add_(1)
    try:
        found = _grad(y, x)
    except ct.GraphError:
        return
    assert found == expected


def test_an_overwritten_mask_gives_no_wrong_gradient() -> None:
    x, mask = _leaf(1, 2, 3), ct.tensor([True, False, True])
    y = x[mask].sum()
    mask[:] = ct.tensor([True, True, False])
    with pytest.raises(ct.GraphError, match="an assignment to an index at"):
        y.backward()


def test_writes_before_the_graph_was_recorded_do_not_matter() -> None:
    x = _leaf(1, 2)
    with ct.no_grad():
        x.mul_(3.0)
    index = ct.tensor([0, 0])
    index.add_(1)
    assert _grad(x[index].exp().log().sum(), x) == pytest.approx([0, 2])


MEMORY_SHARED_AS_IN_PYTORCH = {"conj"}


def test_only_views_share_memory_with_their_input() -> None:
    for name, record in REGISTRY.items():
        for sample in record.samples(Sampler(0)) if not record.view else ():
            out = record.forward(np, *sample.inputs, **sample.params)
            out = out[0] if record.aux else out
            for part in out if record.many else (out,):
                shared = [x for x in sample.inputs if isinstance(x, np.ndarray) and np.may_share_memory(part, x)]
                assert not shared or name in MEMORY_SHARED_AS_IN_PYTORCH, name


def test_repeating_once_is_a_copy_too() -> None:
    x = ct.ones(1, 3)
    for copy in (x.repeat(1, 1), x.repeat(2, 1), x.tile((1,)), x.flip(0)):
        copy.mul_(2.0)
        assert x.tolist() == [[1, 1, 1]]
        assert copy.sum().item() == 2.0 * copy.numel()


def test_a_parameter_that_takes_another_shape_is_still_trained() -> None:
    p = nn.Parameter(ct.ones(2, 3))
    with ct.no_grad():
        p.t_()
    assert p.requires_grad
    (p * ct.ones(3, 2)).sum().backward()
    assert p.grad is not None
    assert p.grad.shape == (3, 2)


def test_the_text_of_a_deep_graph_has_lines_of_bounded_length() -> None:
    x = y = _leaf(1.0)
    for _ in range(500):
        y = y + 1.0
    assert max(map(len, autograd.graph_text(y).splitlines())) < 300
    assert x.requires_grad


# -- custom functions --------------------------------------------------------------------------------------------------


class Square(Function):
    """x², from what was kept of x."""

    @staticmethod
    def forward(ctx: Any, x: ct.Tensor) -> ct.Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: ct.Tensor) -> ct.Tensor:
        (x,) = ctx.saved_tensors
        return g * x * 2.0  # type: ignore[no-any-return]


def test_a_function_does_not_read_what_was_overwritten() -> None:
    w = _leaf(1, 2)
    x = w * 1.0
    y = Square.apply(x).sum()
    x.mul_(5.0)
    with pytest.raises(ct.GraphError, match=r"kept by save_for_backward.*mul_ at"):
        y.backward()
    z = Square.apply(w).sum()
    with ct.no_grad():
        w.mul_(5.0)
    with pytest.raises(ct.GraphError, match="kept by save_for_backward"):
        z.backward()


def test_a_function_keeps_a_tensor_in_the_place_it_had() -> None:
    w = _leaf(1, 2)
    x = w * 3.0
    y = Square.apply(x)
    held = x.data.copy()
    x.add_(1.0)
    x.data[...] = held  # the values are as before, but x stands for x + 1 now
    with pytest.raises(ct.GraphError, match="kept by save_for_backward"):
        autograd.grad(y.sum(), w, create_graph=True)
    again = w * 3.0
    (first,) = autograd.grad(Square.apply(again).sum(), w, create_graph=True)
    assert first is not None
    assert _grad(first.sum(), w) == [18, 18]


class Doubled(Function):
    """Writes 2x over x."""

    @staticmethod
    def forward(ctx: Any, x: ct.Tensor) -> ct.Tensor:
        x.mul_(2.0)
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, g: ct.Tensor) -> ct.Tensor:
        return g * 2.0


def test_a_function_may_write_to_its_input() -> None:
    w = _leaf(1, 2)
    x = w * 1.0
    y = Doubled.apply(x)
    assert y is x
    assert _grad((x * 3.0).sum(), w) == [6, 6]
    rows = w * 1.0
    Doubled.apply(rows[:1])
    assert rows.tolist() == [2, 2]
    assert _grad((rows * 3.0).sum(), w) == [6, 3]
    with pytest.raises(ct.GraphError, match="Doubled writes to a leaf"):
        Doubled.apply(w)


class Same(Function):
    """Its argument as it is, with twice the gradient."""

    @staticmethod
    def forward(ctx: Any, x: ct.Tensor) -> ct.Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, g: ct.Tensor) -> ct.Tensor:
        return g * 2.0


def test_the_output_of_a_function_that_is_its_input_is_a_view_of_it() -> None:
    w = _leaf(1.0)
    x = w * 1.0
    y = Same.apply(x)
    y.mul_(5.0)
    assert x.tolist() == [5]
    assert _grad(x.sum(), w) == [10]
    z = Same.apply(x)
    x.mul_(2.0)
    with pytest.raises(ct.GraphError, match="take the view anew"):
        z.sum().backward()


class Returning(Function):
    """Gives back what it is told to."""

    @staticmethod
    def forward(ctx: Any, x: ct.Tensor, result: Any) -> Any:
        ctx.result = result
        return x.argmax() if result is None else x * 1.0

    @staticmethod
    def backward(ctx: Any, g: ct.Tensor) -> Any:
        return ctx.result, None


def test_a_function_returns_tensors_and_integers_have_no_gradient() -> None:
    x = _leaf(1, 2)
    assert not Returning.apply(x, None).requires_grad
    for wrong in (2.0, np.ones(2, np.float32)):
        with pytest.raises(ct.GraphError, match=f"gradient 0 is {type(wrong).__name__}; it must be a tensor"):
            Returning.apply(x, wrong).sum().backward()


# -- leaks -------------------------------------------------------------------------------------------------------------


def test_a_hook_that_refers_to_its_own_tensor_does_not_keep_the_graph() -> None:
    def step() -> list[weakref.ref[Any]]:
        x = _leaf(1, 2)
        y = x * 2.0
        y.register_hook(lambda g: g * float(y.shape[0]))
        x.register_hook(lambda g: g * float(x.shape[0]))
        x.register_post_accumulate_grad_hook(lambda leaf: x.shape)
        y.sum().backward()
        return [weakref.ref(x), weakref.ref(y), weakref.ref(y.grad_fn)]

    gone = step()
    gc.collect()
    assert [ref() for ref in gone] == [None, None, None]


# -- checkpoints and hooks on what is saved ----------------------------------------------------------------------------


def _writing(x: ct.Tensor) -> ct.Tensor:
    y = x * 2.0
    y.exp_()
    y.mul_(x)
    y[0] *= y[1] * 1.0
    return (y * 1.0).sum()


def test_a_checkpointed_function_may_write_in_place() -> None:
    x = _leaf(0.1, 0.2)
    expected = _grad(_writing(x), x)
    assert _grad(autograd.checkpoint(_writing, x), x) == expected
    kept: list[ct.Tensor] = []

    def keep(tensor: ct.Tensor) -> ct.Tensor:
        kept.append(tensor)
        return tensor

    with autograd.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = _writing(x)
    assert _grad(y, x) == expected
    assert kept


def test_a_checkpoint_still_refuses_what_its_function_overwrites() -> None:
    def wrong(x: ct.Tensor) -> ct.Tensor:
        y = x.exp()
        z = y * y
        y.mul_(2.0)
        return (z + y).sum()

    with pytest.raises(ct.GraphError, match="overwritten"):
        autograd.checkpoint(wrong, _leaf(0.1, 0.2)).backward()


def test_a_checkpoint_with_second_derivatives_is_computed_again_once_per_backward() -> None:
    runs = []

    def function(x: ct.Tensor) -> ct.Tensor:
        runs.append(1)
        for _ in range(5):
            x = x.exp() * 0.1
        return x.sum()

    x = _leaf(0.1, 0.2)
    autograd.grad(autograd.checkpoint(function, x), x, create_graph=True)
    assert len(runs) == 2


def test_hooks_on_saved_values_are_each_threads_own() -> None:
    entered, leave = threading.Event(), threading.Event()
    seen: list[Any] = []
    kind = graph.Node

    def keep(tensor: ct.Tensor) -> ct.Tensor:
        seen.append(threading.current_thread())
        return tensor

    def first() -> None:
        with autograd.saved_tensors_hooks(keep, lambda tensor: tensor):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    mine: list[ct.Tensor] = []

    def keep_mine(tensor: ct.Tensor) -> ct.Tensor:
        mine.append(tensor)
        return tensor

    with autograd.saved_tensors_hooks(keep_mine, lambda tensor: tensor):
        leave.set()
        thread.join()
        y = _leaf(1, 2).exp()
    assert graph.Node is kind
    assert not seen
    assert len(mine) == 1
    y.sum().backward()


def test_checkpoints_in_several_threads_do_not_meet() -> None:
    wrong: list[Any] = []

    def function(x: ct.Tensor) -> ct.Tensor:
        for _ in range(10):
            x = (x * 1.01).tanh()
        return x.sum()

    def work(salt: int) -> None:
        try:
            x = _leaf(0.1 * salt, 0.2)
            expected = _grad(function(x), x)
            found = [_grad(autograd.checkpoint(function, x), x) for _ in range(30)]
            wrong.extend(each for each in found if each != expected)
        except Exception as error:  # a thread's own would be lost
            wrong.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


# -- functions of functions --------------------------------------------------------------------------------------------


def test_the_gradient_of_what_is_not_used_is_zero_also_where_it_is_infinite() -> None:
    one, infinite = ct.tensor([1.0]), ct.tensor([float("inf")])
    assert func.grad(lambda x, y: x.sum(), argnums=(0, 1))(one, infinite)[1].tolist() == [0]
    _, pull = func.vjp(lambda x, y: x.sum(), one, infinite)
    assert pull(ct.tensor(1.0))[1].tolist() == [0]


def test_the_jacobian_by_no_elements_has_none() -> None:
    assert func.jacfwd(lambda x: ct.ones(3) * x.sum())(ct.zeros(0)).shape == (3, 0)


def test_vmap_names_what_it_cannot_map_over() -> None:
    with pytest.raises(TypeError, match="in_dims is 0 for a float"):
        func.vmap(lambda x, y: x * y)(ct.ones(2), 3.0)
    with pytest.raises(ct.TrainerIndexError, match="vmap: there is no dimension 2"):
        func.vmap(lambda x: x, in_dims=2)(ct.ones(2))


def test_a_module_with_a_backward_hook_may_be_followed_by_a_write() -> None:
    layer = nn.Linear(2, 2)
    layer.register_full_backward_hook(lambda module, into, out: None)
    x = ct.tensor([[1.0, 2.0]], requires_grad=True)
    y = layer(x)
    y += x
    y[0, 0] = 0.0
    expected = layer.weight.detach().numpy()[1] + np.array([0.0, 1.0])
    np.testing.assert_allclose(_grad(y.sum(), x)[0], expected, rtol=1e-6)


# -- found by random programs ------------------------------------------------------------------------------------------


def test_an_old_view_is_refused_also_when_the_memory_is_gone() -> None:
    def program(x: ct.Tensor) -> ct.Tensor:
        y = x * 1.0
        view = y.diagonal()
        y.add_(y)
        return view.sum() + y.sum()

    with pytest.raises(ct.GraphError, match="take the view anew"):
        program(ct.ones(2, 2).requires_grad_()).backward()


def test_a_checkpoint_is_not_computed_again_on_an_overwritten_input() -> None:
    x = _leaf(1, 2)
    writes: list[Any] = [lambda t: t.mul_(2.0), lambda t: t.detach().zero_()]
    for overwrite in writes:
        y = x * 1.0
        z = autograd.checkpoint(lambda t: t.exp() * t, y)
        overwrite(y)
        with pytest.raises(ct.GraphError, match="cannot be computed again on an input"):
            z.sum().backward()


def test_an_assignment_to_a_tensor_without_dimensions_has_a_gradient() -> None:
    x = ct.tensor(2.0, requires_grad=True)
    y = x * 1.0
    y[...] = y + y
    assert _grad(y + y * 3.0, x) == 8


def test_a_value_with_more_leading_dimensions_than_its_place_has_a_gradient() -> None:
    x = ct.ones(2, 3).requires_grad_()
    y = ct.zeros(2, 3)
    y[...] = x.unsqueeze(0) * 3.0
    assert _grad(y.sum(), x) == [[3, 3, 3], [3, 3, 3]]


# -- anomaly mode and gradients that somebody holds --------------------------------------------------------------------


def test_anomaly_mode_is_a_statement_and_a_block_and_ends_as_it_was() -> None:
    bad = ct.tensor([-1.0])
    with autograd.detect_anomaly(check_nan=False):
        bad.log()
        with autograd.detect_anomaly(), pytest.raises(autograd.AnomalyError):
            bad.log()
        bad.log()
    try:
        autograd.set_detect_anomaly(True)
        autograd.set_detect_anomaly(True)
        with autograd.set_detect_anomaly(False):
            bad.log()
        with pytest.raises(autograd.AnomalyError):
            bad.log()
    finally:
        autograd.set_detect_anomaly(False)
    assert not autograd.is_anomaly_enabled()
    with autograd.detect_anomaly(check_nan=False):  # gradients are not looked at either
        (_leaf(0.0) * 0.0).sqrt().sum().backward()


def test_anomaly_mode_looks_at_custom_functions_too() -> None:
    class Bad(Function):
        @staticmethod
        def forward(ctx: Any, x: ct.Tensor) -> ct.Tensor:
            return ct.Tensor(x.data * np.float32("nan"))

    with autograd.detect_anomaly(), pytest.raises(autograd.AnomalyError, match="function made NaN"):
        Bad.apply(_leaf(1.0))


@pytest.mark.parametrize("forget", ["optimizer", "module", "None"])
def test_a_gradient_that_somebody_holds_is_not_overwritten_by_the_next(forget: str) -> None:
    layer = nn.Linear(2, 1, bias=False)
    optimizer = ct.optim.SGD(layer.parameters(), lr=0.1)
    layer(ct.ones(1, 2)).sum().backward()
    held = layer.weight.grad
    if forget == "None":
        layer.weight.grad = None
    else:
        owners: dict[str, Any] = {"optimizer": optimizer, "module": layer}
        owners[forget].zero_grad()
    layer(ct.ones(1, 2) * 5.0).sum().backward()
    assert held is not None
    assert held.tolist() == [[1, 1]]
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[5, 5]]
    assert np.shares_memory(layer.weight.grad.data, layer.weight._sink)


@pytest.mark.parametrize("held", ["", "the array", "whose memory it is"])
@pytest.mark.parametrize("view", [False, True])
def test_a_gradient_is_copied_where_somebody_else_refers_to_it(held: str, view: bool) -> None:
    if default_module() is not np:
        pytest.skip("on a device all are copied")
    x = ct.zeros(3, requires_grad=True)
    gradient = np.ones((3, 1), np.float32).reshape(3) if view else np.ones(3, np.float32)
    place = gradient.ctypes.data
    others = [gradient] if held == "the array" else [gradient.base] if held else []
    assert isinstance(x._node, Leaf)
    add_array(x._node, gradient, 0)
    assert x.grad is not None
    copied = held == "the array" or (held != "" and view)
    assert (x.grad.data.ctypes.data != place) == copied
    assert len(others) == bool(held)
