"""Derivatives of functions: against closed forms, each other, and (where it is installed) PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import func, nn
from cordee.trainer.autograd import functional


def _tensor(*shape: int, salt: int = 0) -> ct.Tensor:
    return ct.Tensor(np.random.Generator(np.random.Philox(key=salt)).standard_normal(shape))


def cubes(x: ct.Tensor) -> ct.Tensor:
    return x * x * x


def two(x: ct.Tensor, y: ct.Tensor) -> tuple[ct.Tensor, ct.Tensor]:
    return (x @ y).tanh(), (x * x).sum()


def energy(x: ct.Tensor, y: ct.Tensor) -> ct.Tensor:
    return (x.exp() * y.sin()).sum() + (x * x * y).sum()


def test_products_with_the_jacobian_are_those_with_the_whole_of_it() -> None:
    x, y = _tensor(2, 3), _tensor(3, 2, salt=1)
    whole = functional.jacobian(two, (x, y))
    v = (_tensor(2, 2, salt=2), _tensor(salt=3))
    out, rows = functional.vjp(two, (x, y), v)
    for i, row in enumerate(rows):
        expected = sum(np.tensordot(v[k].numpy(), whole[k][i].numpy(), v[k].ndim) for k in range(2))
        np.testing.assert_allclose(row.numpy(), expected, rtol=1e-12)
    t = (_tensor(2, 3, salt=4), _tensor(3, 2, salt=5))
    again, columns = functional.jvp(two, (x, y), t)
    for k, column in enumerate(columns):
        expected = sum(np.tensordot(whole[k][i].numpy(), t[i].numpy(), t[i].ndim) for i in range(2))
        np.testing.assert_allclose(column.numpy(), expected, rtol=1e-12)
        np.testing.assert_array_equal(out[k].numpy(), again[k].numpy())
        assert not column.requires_grad


def test_both_ways_to_the_jacobian_agree() -> None:
    x, y = _tensor(2, 3), _tensor(3, 2, salt=1)
    reverse = functional.jacobian(two, (x, y))
    forward = functional.jacobian(two, (x, y), strategy="forward-mode")
    for k in range(2):
        for i in range(2):
            assert reverse[k][i].shape == (*two(x, y)[k].shape, *(x, y)[i].shape)
            np.testing.assert_allclose(reverse[k][i].numpy(), forward[k][i].numpy(), rtol=1e-12)


def test_the_hessian_of_cubes_is_known_and_can_be_differentiated() -> None:
    x = _tensor(3)
    found = functional.hessian(lambda x: cubes(x).sum(), x)
    np.testing.assert_allclose(found.numpy(), np.diag(6 * x.numpy()), rtol=1e-12)
    leaf = _tensor(3).requires_grad_()
    functional.hessian(lambda x: cubes(x).sum(), leaf, create_graph=True).sum().backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad.numpy(), np.full(3, 6.0))


def test_products_with_the_hessian() -> None:
    x, y = _tensor(3), _tensor(3, salt=1)
    blocks = functional.hessian(energy, (x, y))
    v = (_tensor(3, salt=2), _tensor(3, salt=3))
    for product in (functional.hvp, functional.vhp):
        value, found = product(energy, (x, y), v)
        assert value.item() == pytest.approx(energy(x, y).item())
        for i in range(2):
            expected = sum(blocks[i][j].numpy() @ v[j].numpy() for j in range(2))
            np.testing.assert_allclose(found[i].numpy(), expected, rtol=1e-12)


def test_an_unused_input_is_zero_or_an_error() -> None:
    x, y = _tensor(2), _tensor(2, salt=1)
    _, found = functional.vjp(lambda x, _: x.sum(), (x, y))
    assert found[1].tolist() == [0.0, 0.0]
    with pytest.raises(ct.GraphError, match="do not depend on input 1"):
        functional.vjp(lambda x, _: x.sum(), (x, y), strict=True)


def test_grad_nests_and_sees_what_its_function_closes_over() -> None:
    x, z = _tensor(), _tensor(salt=1)
    third = func.grad(func.grad(func.grad(lambda x: x.sin())))
    np.testing.assert_allclose(third(x).item(), -np.cos(x.item()), rtol=1e-12)
    mixed = func.grad(lambda x: func.grad(lambda z: x * x * z * z)(z))
    np.testing.assert_allclose(mixed(x).item(), 4 * x.item() * z.item(), rtol=1e-12)
    assert not mixed(x).requires_grad
    w = _tensor(salt=2).requires_grad_()
    func.grad(lambda x: x * x * w)(x).backward()
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.item(), 2 * x.item())


def test_grad_of_trees_with_extra_results() -> None:
    weights = {"w": _tensor(3), "b": [_tensor(salt=1)]}

    def loss(weights: Any, x: ct.Tensor) -> Any:
        out = (weights["w"] * x).sum() + weights["b"][0] ** 2
        return out, out * 2.0

    found, extra = func.grad(loss, has_aux=True)(weights, ct.ones(3, dtype=ct.float64))
    np.testing.assert_allclose(found["w"].numpy(), np.ones(3))
    np.testing.assert_allclose(found["b"][0].item(), 2 * weights["b"][0].item())
    assert extra.ndim == 0
    gradient, (value, _) = func.grad_and_value(loss, has_aux=True)(weights, ct.ones(3, dtype=ct.float64))
    assert set(gradient) == {"w", "b"}
    assert value.item() * 2 == pytest.approx(extra.item())
    with pytest.raises(ct.ShapeError, match="one element"):
        func.grad(lambda x: x)(_tensor(3))


def test_vjp_and_jvp_are_transposes() -> None:
    x, t, v = _tensor(3), _tensor(3, salt=1), _tensor(3, salt=2)
    out, pull = func.vjp(cubes, x)
    same, push = func.jvp(cubes, (x,), (t,))
    np.testing.assert_array_equal(out.detach().numpy(), same.detach().numpy())
    (pulled,) = pull(v)
    np.testing.assert_allclose(
        (pulled.detach().numpy() * t.numpy()).sum(), (push.detach().numpy() * v.numpy()).sum(), rtol=1e-12
    )
    for jacobian in (func.jacrev, func.jacfwd):
        np.testing.assert_allclose(jacobian(cubes)(x).numpy(), np.diag(3 * x.numpy() ** 2), rtol=1e-12)
    np.testing.assert_allclose(func.hessian(lambda x: cubes(x).sum())(x).numpy(), np.diag(6 * x.numpy()), rtol=1e-12)


def test_vmap_of_grad_gives_per_sample_gradients() -> None:
    model = nn.Linear(3, 1)
    weights = dict(model.named_parameters())
    x, y = ct.randn(5, 3), ct.randn(5, 1)

    def loss(weights: Any, x: ct.Tensor, y: ct.Tensor) -> ct.Tensor:
        return ((func.functional_call(model, weights, x) - y) ** 2).sum()

    found = func.vmap(func.grad(loss), in_dims=(None, 0, 0))(weights, x, y)
    assert found["weight"].shape == (5, 1, 3)
    for i in range(5):
        model.zero_grad()
        ((model(x[i]) - y[i]) ** 2).sum().backward()
        assert model.weight.grad is not None
        np.testing.assert_allclose(found["weight"][i].detach().numpy(), model.weight.grad.numpy(), rtol=1e-6)


@pytest.mark.parametrize(("in_dims", "out_dims"), [((0, None), 0), ((1, None), 1), ((-1, None), -1)])
def test_vmap_maps_over_the_dimension_it_is_told(in_dims: Any, out_dims: int) -> None:
    x, y = _tensor(4, 4), _tensor(4, salt=1)
    out = func.vmap(lambda x, y: x * y + x.sum(), in_dims, out_dims)(x, y)
    rows = np.moveaxis(x.numpy(), in_dims[0], 0)
    np.testing.assert_allclose(np.moveaxis(out.numpy(), out_dims, 0), rows * y.numpy() + rows.sum(1, keepdims=True))


def test_vmap_refuses_batches_that_differ() -> None:
    with pytest.raises(ct.ShapeError, match=r"sizes \[2, 3\]"):
        func.vmap(lambda a, b: a + b)(_tensor(2), _tensor(3))
    with pytest.raises(ct.ShapeError, match="None for all"):
        func.vmap(lambda a: a, in_dims=None)(_tensor(2))


def test_a_functional_call_leaves_the_module_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    before = model[0].weight
    out = func.functional_call(model, {"0.weight": ct.zeros(2, 2), "0.bias": ct.ones(2)}, ct.ones(1, 2))
    assert out.tolist() == [[1.0, 1.0]]
    assert model[0].weight is before
    with pytest.raises(KeyError, match=r"no parameter or buffer '0\.wait'"):
        func.functional_call(model, {"0.wait": ct.zeros(2)}, ct.ones(1, 2))
    assert model[0].weight is before


@pytest.mark.torch
def test_the_same_as_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    a, b = _tensor(3).numpy(), _tensor(3, salt=1).numpy()
    ta, tb = torch.tensor(a), torch.tensor(b)

    def theirs(x: Any, y: Any) -> Any:
        return (x.exp() * y.sin()).sum() + (x * x * y).sum()

    ours = functional.hessian(energy, (ct.Tensor(a), ct.Tensor(b)))
    expected = torch.autograd.functional.hessian(theirs, (ta, tb))
    for i in range(2):
        for j in range(2):
            np.testing.assert_allclose(ours[i][j].numpy(), expected[i][j].numpy(), rtol=1e-10, atol=1e-12)
    mapped = func.vmap(func.grad(energy), in_dims=(0, None))(ct.Tensor(np.stack([a, b])), ct.Tensor(b))
    known = torch.func.vmap(torch.func.grad(theirs), in_dims=(0, None))(torch.stack([ta, tb]), tb)
    np.testing.assert_allclose(mapped.numpy(), known.numpy(), rtol=1e-10)
