"""Writing into tensors: recorded like any operation, seen through views, refused where a gradient would be wrong."""

from __future__ import annotations

import gc
import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cordee.trainer as ct
from cordee.trainer import ops
from cordee.trainer.array import as_array, to_numpy
from cordee.trainer.autograd import grad
from cordee.trainer.autograd.record import REGISTRY, Sampler


def _leaf(*shape: int, salt: int = 0) -> ct.Tensor:
    values = np.random.Generator(np.random.Philox(key=salt)).uniform(0.5, 1.5, shape)
    return ct.Tensor(values, requires_grad=True)


def _gradient(of: ct.Tensor, by: ct.Tensor) -> Any:
    (found,) = grad((of * of).sum(), by, retain_graph=True)
    assert found is not None
    return found.numpy()


TWINS = sorted(name for family in ops.FAMILIES for name in getattr(family, "INPLACE", "").split())


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "pow", "exp", "sqrt", "sigmoid", "clamp", "masked_fill"])
def test_an_operation_in_place_has_the_values_and_gradient_of_its_twin(name: str) -> None:
    x = _leaf(3, 4)
    args: tuple[Any, ...] = {
        "clamp": (0.7, 1.2), "masked_fill": (ct.tensor(np.arange(12).reshape(3, 4) % 3 == 0), 2.0),
    }.get(name, (_leaf(3, 4, salt=1),) if name in ("add", "sub", "mul", "div", "pow") else ())  # fmt: skip
    plain = getattr(x * 1.0, name)(*args)
    written = x * 1.0
    memory = written.data
    assert getattr(written, name + "_")(*args) is written
    assert written.data is memory
    np.testing.assert_array_equal(written.detach().numpy(), plain.detach().numpy())
    np.testing.assert_allclose(_gradient(written, x), _gradient(plain, x), rtol=1e-12)
    if args and isinstance(args[0], ct.Tensor) and args[0].requires_grad:
        np.testing.assert_allclose(_gradient(written, args[0]), _gradient(plain, args[0]), rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in TWINS if name in REGISTRY])
def test_every_twin_of_a_record_has_its_values_and_gradients(name: str) -> None:
    tried = 0
    for sample in REGISTRY[name].samples(Sampler(5)):
        if sample.params or not all(isinstance(value, np.ndarray) for value in sample.inputs):
            continue
        first, *rest = [ct.Tensor(as_array(value), requires_grad=value.dtype.kind == "f") for value in sample.inputs]
        if not first.requires_grad:
            continue
        plain = getattr(first * 1.0, name)(*rest)
        if plain.shape != first.shape or not plain.is_floating_point():
            continue
        written = getattr(first * 1.0, f"{name}_")(*rest)
        np.testing.assert_array_equal(to_numpy(written.data), to_numpy(plain.data))
        if plain.requires_grad:
            expected, found = (grad((out * out).sum(), first, allow_unused=True)[0] for out in (plain, written))
            assert (expected is None) == (found is None)
            if expected is not None and found is not None:
                np.testing.assert_allclose(to_numpy(found.data), to_numpy(expected.data), rtol=1e-12, atol=1e-14)
        tried += 1
    if not tried:
        pytest.skip("its samples have params: see the twins by hand above")


@pytest.mark.parametrize("sign", ["+", "-", "*", "/"])
def test_augmented_assignment_writes_into_the_tensor(sign: str) -> None:
    x = _leaf(3)
    y = x * 2.0
    alias = y
    names = {"y": y, "z": 3.0}
    exec(f"y {sign}= z", names)
    assert names["y"] is alias
    expected = eval(f"a {sign} 3.0", {"a": x.detach().numpy() * 2.0})
    np.testing.assert_array_equal(alias.detach().numpy(), expected)


def test_an_assignment_to_an_index_is_recorded() -> None:
    x, z = _leaf(3, 4), _leaf(4, salt=1)
    y = x * 2.0
    y[1] = z * 3.0
    y[0, 1] = 7.0
    y.sum().backward()
    assert x.grad is not None
    assert z.grad is not None
    expected = np.full((3, 4), 2.0)
    expected[1] = 0
    expected[0, 1] = 0
    np.testing.assert_array_equal(x.grad.numpy(), expected)
    np.testing.assert_array_equal(z.grad.numpy(), np.full(4, 3.0))


def test_a_buffer_can_be_filled_row_by_row() -> None:
    x = _leaf(3, 2)
    rows = ct.zeros(3, 2, dtype=ct.float64)
    for i in range(3):
        rows[i] = x[i] * (i + 1.0)
    assert rows.requires_grad
    np.testing.assert_allclose(_gradient(rows, x), 2 * x.detach().numpy() * np.array([[1.0], [4.0], [9.0]]))


VIEWS: dict[str, Any] = {
    "row": lambda y: y[1],
    "columns": lambda y: y[:, 1:3],
    "turned": lambda y: y.T,
    "every second": lambda y: y[::2, ::2],
    "reshaped": lambda y: y.reshape(2, 6),
    "narrowed": lambda y: y.narrow(1, 1, 2),
    "view of a view": lambda y: y[1:][0],
    "flat part": lambda y: y.view(-1)[3:9],
}


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_a_write_into_a_view_is_a_write_into_what_it_views(view: str) -> None:
    x, z = _leaf(3, 4), _leaf(1, salt=1)
    y = x * 2.0
    part = VIEWS[view](y)
    part *= z * 3.0
    expected = x.detach().numpy() * 2.0
    place = VIEWS[view](ct.Tensor(np.arange(12).reshape(3, 4))).numpy().ravel()
    factor = np.ones(12)
    factor[place] = 3.0 * z.detach().numpy()[0]
    np.testing.assert_allclose(y.detach().numpy(), expected * factor.reshape(3, 4))
    np.testing.assert_allclose(_gradient(y, x), 2 * x.detach().numpy() * 4 * factor.reshape(3, 4) ** 2, rtol=1e-12)
    total = ((x.detach().numpy() * 2.0).ravel()[place] ** 2 * 9 * 2 * z.detach().numpy()[0]).sum()
    np.testing.assert_allclose(_gradient(y, z), [total], rtol=1e-12)
    again = VIEWS[view](x * 2.0 * ct.Tensor(factor.reshape(3, 4)))
    np.testing.assert_allclose(_gradient(part, x), _gradient(again, x), rtol=1e-12)


def test_a_changed_saved_value_is_refused_and_both_lines_are_named() -> None:
    x = _leaf(3)
    y = x.exp()
    y.mul_(2.0)
    with pytest.raises(ct.GraphError) as caught:
        y.sum().backward()
    text = str(caught.value)
    assert "exp, recorded at" in text
    assert "(y = x.exp())" in text
    assert "mul_ at" in text
    assert "(y.mul_(2.0))" in text
    assert text.count("test_inplace.py:") == 2


def test_a_saved_value_may_be_written_where_it_is_not_read() -> None:
    x = _leaf(4)
    y = x * 1.0
    first = y[:2].exp()
    squares = first * first
    y[2:] = 0.0
    (squares.sum() + y.sum()).backward()
    assert x.grad is not None
    e = np.exp(x.detach().numpy()[:2])
    np.testing.assert_allclose(x.grad.numpy(), [*(2 * e * e + 1.0), 0.0, 0.0], rtol=1e-12)


def test_writing_through_numpy_shared_tensors_is_noticed() -> None:
    x = _leaf(3)
    y = x.exp()
    y.detach().zero_()
    with pytest.raises(ct.GraphError, match="zero_ at"):
        y.sum().backward()


def test_an_old_view_of_a_written_tensor_is_refused() -> None:
    x = _leaf(3, 4)
    y = x * 2.0
    view = y[1:]
    y.mul_(3.0)
    with pytest.raises(ct.GraphError, match="take the view anew"):
        view.sum().backward()


def test_leaves_that_require_a_gradient_are_not_written_while_recording() -> None:
    x = _leaf(3)
    for write in (lambda: x.add_(1.0), lambda: x.__setitem__(0, 1.0), lambda: x[:2].mul_(2.0), x.zero_):
        with pytest.raises(ct.GraphError, match="requires a gradient"):
            write()
    with ct.no_grad():
        x.add_(1.0)
        x[0] = 5.0
    assert x.detach().numpy()[0] == 5.0


def test_results_that_do_not_fit_in_place_are_refused() -> None:
    with pytest.raises(ct.ShapeError, match=r"add_: the result has shape \(2, 3\)"):
        ct.ones(3).add_(ct.ones(2, 3))
    with pytest.raises(TypeError, match="do not fit in place into int64"):
        ct.arange(3).add_(0.5)
    with pytest.raises(ct.ShapeError, match="repeated"):
        ct.ones(1).expand(3).add_(1.0)


def test_the_book_of_writes_forgets_memory_that_is_gone() -> None:
    from cordee.trainer.autograd.writes import BOOK

    gc.collect()  # what earlier tests left
    before = len(BOOK._writes)
    for _ in range(50):
        ct.ones(3).add_(1.0)
    assert len(BOOK._writes) <= before


STEPS = ("write", "view", "assign", "use", "scale")


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=10))
def test_programs_of_writes_have_the_right_gradient_or_are_refused(program: Any) -> None:
    """The same program twice: with writes, and on copies that are written out of place by `assign`."""
    x = _leaf(4, 3)

    def run(in_place: bool) -> ct.Tensor:
        y = x * 1.0
        total = y.sum() * 0.0
        view = y[0]
        for step, i, j in program:
            if step == "write":
                if in_place:
                    y.mul_(1.5)
                else:
                    y = y * 1.5
            elif step == "view":
                if in_place:
                    view = y[i]
                    view *= 2.0 + j
                else:
                    y = ct.assign(y, i, y[i] * (2.0 + j))
            elif step == "assign":
                if in_place:
                    y[i] = x[j] * 2.0
                else:
                    y = ct.assign(y, i, x[j] * 2.0)
            elif step == "use":
                total = total + (y[i] * y[j]).sum()
            else:
                total = total + y.sin().sum() * (1.0 + i)
        return total + (y * y).sum()

    expected = grad(run(False), x)[0]
    assert expected is not None
    try:
        found = grad(run(True), x)[0]
    except ct.GraphError as error:
        if "overwritten" not in str(error):
            raise
        return
    assert found is not None
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-10, atol=1e-10)


# -- out= --------------------------------------------------------------------------------------------------------------


def _taking_out() -> list[str]:
    found = []
    for name in ct.__all__:
        function = getattr(ct, name)
        if name in REGISTRY and callable(function) and "out" in inspect.signature(function).parameters:
            found.append(name)
    return found


@pytest.mark.parametrize("name", _taking_out())
def test_a_result_can_be_written_into_a_tensor_that_is_there(name: str) -> None:
    record = REGISTRY[name]
    for sample in record.samples(Sampler(3)):
        if sample.params or not all(isinstance(value, np.ndarray) for value in sample.inputs):
            continue
        tensors = [ct.Tensor(as_array(value)) for value in sample.inputs]
        expected = getattr(ct, name)(*tensors)
        there = ct.zeros_like(expected)
        memory = there.data
        assert getattr(ct, name)(*tensors, out=there) is there
        assert there.data is memory
        assert there.dtype == expected.dtype
        np.testing.assert_array_equal(to_numpy(there.data), to_numpy(expected.data))


def test_most_functions_of_one_or_two_operands_take_out() -> None:
    assert {"add", "mul", "exp", "matmul", "sqrt", "maximum"} <= set(_taking_out())


def test_out_is_outside_of_the_graph_and_of_the_results_shape_and_kind() -> None:
    x, there = _leaf(3), ct.zeros(3, dtype=ct.float64)
    with pytest.raises(ct.GraphError, match="outside of the graph"):
        ct.exp(x, out=there)
    with ct.no_grad():
        assert ct.exp(x, out=there) is there
    with pytest.raises(ct.ShapeError, match=r"out has shape \(2,\), the result \(3,\)"):
        ct.add(ct.ones(3), ct.ones(3), out=ct.zeros(2))
    with pytest.raises(TypeError, match="out is int64, which cannot hold a result of float32"):
        ct.sum(ct.ones(3), out=ct.tensor(0))
    for call in (
        lambda out: ct.cat([ct.ones(1), ct.ones(2)], out=out),
        lambda out: ct.cumsum(ct.ones(3), 0, out=out),
        lambda out: ct.mean(ct.ones(2, 3), 0, out=out),
    ):
        held = ct.zeros(3)
        assert call(held) is held
        assert held.sum().item() >= 3


def test_a_tensor_takes_another_shape_in_place() -> None:
    x = _leaf(2, 3)
    y = x * 2.0
    assert y.t_() is y
    assert y.unsqueeze_(0).transpose_(0, 2).shape == (2, 3, 1)
    assert y.squeeze_().shape == (2, 3)
    (y * ct.Tensor(np.arange(6.0).reshape(2, 3))).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == (2, 3)
    assert x.grad.numpy().sum() == 30.0
    with pytest.raises(ct.GraphError, match="requires a gradient"):
        x.t_()


def test_an_operation_on_numbers_alone_is_refused() -> None:
    with pytest.raises(TypeError, match="add: needs a tensor, not 2 and 3"):
        ct.add(2, 3)
