"""Laws that hold for all shapes: broadcasting, reductions and indexing do what NumPy does; gradients fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import cordee.trainer as ct
from cordee.trainer.array import as_array, to_numpy

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=4)
BINARY = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "maximum": np.maximum}


def _values(shape: tuple[int, ...], salt: int = 0) -> Any:
    return np.random.Generator(np.random.Philox(key=salt)).standard_normal(shape)


def _leaf(array: Any) -> ct.Tensor:
    return ct.Tensor(as_array(array), requires_grad=True)


@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4), st.sampled_from(sorted(BINARY)))
def test_operands_broadcast_as_in_numpy_and_gradients_are_summed_back(shapes: Any, name: str) -> None:
    (left, right), result = shapes
    a, b = _values(left, 1), _values(right, 2)
    x, y = _leaf(a), _leaf(b)
    out = getattr(x, name)(y)
    assert out.shape == result
    np.testing.assert_array_equal(to_numpy(out.data), BINARY[name](a, b))
    out.backward(1.0)
    assert x.grad is not None
    assert y.grad is not None
    assert x.grad.shape == left
    assert y.grad.shape == right
    if name == "add":  # every element of the result counts each operand once
        np.testing.assert_array_equal(to_numpy(x.grad.data), np.full(left, np.prod(result) / max(np.prod(left), 1)))
    if name == "mul":
        expected = np.broadcast_to(b, result)
        lead = len(result) - len(left)
        axes = (*range(lead), *(i + lead for i, n in enumerate(left) if n == 1))
        np.testing.assert_allclose(
            to_numpy(x.grad.data), expected.sum(axes, keepdims=True).reshape(left), rtol=1e-12, atol=1e-12
        )


@given(SHAPES, SHAPES)
def test_shapes_that_do_not_broadcast_are_refused(left: Any, right: Any) -> None:
    x, y = ct.Tensor(as_array(_values(left))), ct.Tensor(as_array(_values(right)))
    try:
        expected = np.broadcast_shapes(left, right)
    except ValueError:
        with pytest.raises(ct.ShapeError, match="differ in dimension"):
            x * y
    else:
        assert (x * y).shape == expected


@given(st.data(), hnp.array_shapes(min_dims=1, max_dims=4, max_side=4), st.booleans())
def test_reductions_have_numpys_shapes_and_values(data: st.DataObject, shape: Any, keep: bool) -> None:
    axes = data.draw(
        st.one_of(
            st.none(),
            st.integers(-len(shape), len(shape) - 1),
            st.sets(st.integers(0, len(shape) - 1), min_size=1).map(tuple),
        )
    )
    array = _values(shape)
    for ours, theirs in ((ct.sum, np.sum), (ct.mean, np.mean), (ct.amax, np.max), (ct.amin, np.min)):
        x = _leaf(array)
        out = ours(x, axes, keep)
        expected = theirs(array, axis=axes, keepdims=keep)
        assert out.shape == np.shape(expected)
        np.testing.assert_allclose(to_numpy(out.data), expected, rtol=1e-12)
        out.backward(1.0)
        assert x.grad is not None
        assert x.grad.shape == shape


@given(st.data(), hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
def test_basic_indexing_is_numpys_and_its_gradient_marks_what_was_taken(data: st.DataObject, shape: Any) -> None:
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    array = _values(shape)
    x = _leaf(array)
    out = x[index]
    np.testing.assert_array_equal(to_numpy(out.data), array[index])
    out.backward(1.0)
    taken = np.zeros(shape)
    taken[index] = 1.0
    assert x.grad is not None
    np.testing.assert_array_equal(to_numpy(x.grad.data), taken)


@given(st.data(), hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
def test_integer_indexing_counts_every_time_an_element_is_taken(data: st.DataObject, shape: Any) -> None:
    index = data.draw(hnp.integer_array_indices(shape))
    array = _values(shape)
    x = _leaf(array)
    out = x[index]
    np.testing.assert_array_equal(to_numpy(out.data), array[index])
    out.backward(1.0)
    counts = np.zeros(shape)
    np.add.at(counts, index, 1.0)
    assert x.grad is not None
    np.testing.assert_array_equal(to_numpy(x.grad.data), counts)


@given(st.data(), hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
def test_mask_indexing_takes_where_the_mask_holds(data: st.DataObject, shape: Any) -> None:
    mask = data.draw(hnp.arrays(bool, shape))
    array = _values(shape)
    x = _leaf(array)
    out = x[ct.tensor(mask)]
    np.testing.assert_array_equal(to_numpy(out.data), array[mask])
    out.backward(1.0)
    assert x.grad is not None
    np.testing.assert_array_equal(to_numpy(x.grad.data), mask.astype(float))


@given(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4), st.randoms(use_true_random=False))
def test_permuting_and_reshaping_lose_nothing(shape: Any, order: Any) -> None:
    axes = list(range(len(shape)))
    order.shuffle(axes)
    array = _values(shape)
    x = _leaf(array)
    back = x.permute(axes).reshape(-1)
    np.testing.assert_array_equal(to_numpy(back.data), array.transpose(axes).reshape(-1))
    (back * ct.arange(array.size, dtype=ct.float64)).sum().backward()
    weights = np.arange(array.size, dtype=float).reshape(array.transpose(axes).shape)
    assert x.grad is not None
    np.testing.assert_array_equal(to_numpy(x.grad.data), weights.transpose(np.argsort(axes)))


@given(hnp.mutually_broadcastable_shapes(signature="(m,k),(k,n)->(m,n)", max_dims=3, max_side=3))
def test_batched_products_broadcast_as_in_numpy(shapes: Any) -> None:
    (left, right), result = shapes
    x, y = _leaf(_values(left, 1)), _leaf(_values(right, 2))
    out = x @ y
    assert out.shape == result
    np.testing.assert_allclose(
        to_numpy(out.data), np.matmul(_values(left, 1), _values(right, 2)), rtol=1e-12, atol=1e-12
    )
    out.backward(1.0)
    assert x.grad is not None
    assert y.grad is not None
    assert x.grad.shape == left
    assert y.grad.shape == right


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(0, 1))
def test_split_undoes_cat(sizes: list[int], dim: int) -> None:
    parts = [ct.Tensor(as_array(_values((n, 2) if dim == 0 else (2, n), i))) for i, n in enumerate(sizes)]
    whole = ct.cat(parts, dim)
    for part, again in zip(parts, ct.split(whole, sizes, dim), strict=True):
        assert part.equal(again)


_STEPS: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: (a * b).sin(),  # which stays small, however often it is squared
    "scale": lambda a, _: a * 1.5,
    "turn": lambda a, _: a.permute(*reversed(range(a.ndim))),
    "flatten": lambda a, _: a.reshape(-1),
    "rows": lambda a, _: a[ct.tensor(np.arange(12) * 7 % a.shape[0])] if a.ndim else a[None],
    "part": lambda a, _: a[1:] if a.ndim and a.shape[0] > 2 else a.unsqueeze(0),
    "total": lambda a, _: a.sum(),
    "repeat": lambda a, _: a.expand(2, *a.shape) if a.ndim < 4 else a,
}


@example([("rows", 0, 0), ("turn", 0, 0), ("turn", 0, 0)])  # rows are added to a sum of transposed gradients
@example([("total", 0, 0), ("rows", 1, 1), ("scale", 1, 1)])  # and to a sum without dimensions
@given(st.lists(st.tuples(st.sampled_from(sorted(_STEPS)), st.integers(0, 99), st.integers(0, 99)), max_size=12))
def test_adding_gradients_in_place_gives_what_adding_them_into_new_tensors_gives(program: Any) -> None:
    x = _leaf(_values((5, 3, 4)))
    pool = [x * 1.0]  # not a leaf: its gradient is gathered by the walk
    for name, left, right in program:
        a, b = pool[left % len(pool)], pool[right % len(pool)]
        pool.append(_STEPS[name](a, b if b.shape == a.shape else a))
    weighted = [(tensor * (place + 1.0)).sum() for place, tensor in enumerate(pool[1:] or pool)]
    loss = sum(weighted[1:], weighted[0])
    (expected,) = ct.autograd.grad(loss, x, create_graph=True)
    loss.backward()
    assert x.grad is not None
    assert expected is not None
    np.testing.assert_allclose(to_numpy(x.grad.data), to_numpy(expected.data), rtol=1e-9, atol=1e-9)
