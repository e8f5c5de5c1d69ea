"""The functions that are written out for each op: they are what the record says, and can be read where they fail."""

from __future__ import annotations

import ast
import inspect
import linecache
import pickle
import traceback
from typing import Any, get_type_hints

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer.autograd.record import REGISTRY
from cordee.trainer.autograd.specialised import written


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_what_is_written_uses_only_names_that_it_has(name: str) -> None:
    """A local name that is never assigned, or a misspelt one, would be found by the first user of the op."""
    record = REGISTRY[name]
    functions = [record.run, *([record.back] if record.back is not None else [])]
    for function in functions:
        later = vars(inspect.getmodule(written))["_write"]
        text_of = function.__globals__["WRITE"].args[2]
        later(function, record, text_of)
        known = {*function.__globals__, *dir(__builtins__), *dir(__import__("builtins"))}
        (tree,) = ast.parse(text_of(record, function.__name__)).body
        assert isinstance(tree, ast.FunctionDef)
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        assigned = {
            node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        assigned |= {argument.arg for argument in ast.walk(tree) if isinstance(argument, ast.arg)}
        assigned |= {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}
        assert used <= known | assigned, f"{name} uses {used - known - assigned}"


def test_it_can_be_read_where_it_fails() -> None:
    x = ct.ones(2, 3, requires_grad=True)
    with pytest.raises(ct.ShapeError) as caught:
        x * ct.ones(4, 5)
    text = "".join(traceback.format_exception(caught.value))
    assert "<cordee mul>" in text
    assert "out = x0 * x1" in text
    assert linecache.getline("<cordee mul>", 1).startswith("def mul(input, other")


def test_an_operation_is_recorded_where_the_user_wrote_it() -> None:
    x = ct.ones(3, requires_grad=True)
    y = ct.nn.Linear(3, 2)(x * 2)  # the product in this file, the layer's from here too
    for node in (y.grad_fn, (y.exp().reshape(1, 2)).grad_fn):
        assert node is not None
        assert node.where.filename == __file__


def _program(x: ct.Tensor, w: ct.Tensor) -> ct.Tensor:
    h = (x @ w).tanh() + x * 0.5  # two ways to x, and to h
    h = h * h + (1.0 - h).reshape(4, 4).transpose(0, 1)[0:4]
    h = ct.nn.functional.linear(h, w, w[0])
    return (h / (h.abs() + 1.0)).sum()


def _gradients(hook: bool, watched: bool) -> list[Any]:
    rng = np.random.default_rng(1)
    x, w = (ct.tensor(rng.standard_normal((4, 4), dtype=np.float32)).requires_grad_() for _ in range(2))
    handles = [w.register_hook(lambda g: None)] if hook else []
    kept = ct.ones(2, requires_grad=True) * 1.0
    if watched:
        kept.add_(1.0)  # while this tensor lives, all that backward reads is looked up
    _program(x, w).backward()
    for handle in handles:
        handle.remove()
    assert x.grad is not None
    assert w.grad is not None
    return [x.grad.numpy(), w.grad.numpy()]


@pytest.mark.parametrize(("hook", "watched"), [(True, False), (False, True)], ids=["hooked", "watched"])
def test_the_careful_walk_adds_up_in_the_same_order(hook: bool, watched: bool) -> None:
    for plain, careful in zip(_gradients(False, False), _gradients(hook, watched), strict=True):
        np.testing.assert_array_equal(plain, careful)


def test_one_tensor_in_several_places_of_an_operation() -> None:
    x = ct.tensor([2.0, 3.0], requires_grad=True)
    y = x * 1.0
    (y * y + ct.lerp(y, y, y)).sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), 2 * np.array([2.0, 3.0]) + 1.0)


@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize("name", ["clamp", "hardsigmoid", "hardswish", "relu6"])
def test_the_gradient_of_a_gradient_passes_an_operation_without_a_rule(name: str, careful: bool) -> None:
    x = ct.tensor([-1.0, 0.25, 0.5, 3.0, 8.0], requires_grad=True)
    handles = [x.register_hook(lambda g: None)] if careful else []
    y = x.clamp(0.0, 1.0) if name == "clamp" else getattr(ct.nn.functional, name)(x)
    (slope,) = ct.autograd.grad((y * y).sum(), x, create_graph=True)
    (expected,) = ct.autograd.grad((slope * slope).sum(), x, retain_graph=True)
    (slope * slope).sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), expected.numpy())
    for handle in handles:
        handle.remove()


def test_no_gradient_is_added_to_none_that_is_there() -> None:
    """`between` has no gradient, and is recorded where its input requires one."""
    x = ct.tensor([0.5, 2.0], requires_grad=True)
    y = x * 1.0
    (REGISTRY["between"].run(y, min=0.0, max=1.0) * 3.0 + y * 2.0).sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [2.0, 2.0])


def test_what_numpy_refuses_is_told_in_its_words() -> None:
    """It imports its sentences when it needs them, by the names of the function that called it."""
    x = ct.tensor([1, 2], dtype=ct.uint8)
    with pytest.raises(OverflowError, match="300 out of bounds for uint8"):
        x + 300


@pytest.mark.parametrize("function", [ct.exp, ct.tanh, ct.mul, ct.maximum])
def test_a_function_can_be_pickled_and_its_annotations_read(function: Any) -> None:
    """A layer may hold one: by the name that it has where it was made."""
    assert pickle.loads(pickle.dumps(function)) is function
    assert get_type_hints(function)["return"] is ct.Tensor
