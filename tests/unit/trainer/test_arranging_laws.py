"""Laws of indexing, scattering and products for all shapes: what NumPy or a plain loop gives; gradients that count."""

from __future__ import annotations

import types
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import cordee.trainer as ct
from cordee.trainer.array import as_array, to_numpy
from cordee.trainer.ops import along, contraction, writing

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)
INT_DTYPES = (np.int8, np.int16, np.int32, np.int64, np.uint8)


def _values(shape: tuple[int, ...], salt: int = 0) -> Any:
    return np.random.Generator(np.random.Philox(key=salt)).standard_normal(shape)


def _leaf(array: Any) -> ct.Tensor:
    return ct.Tensor(as_array(array), requires_grad=True)


def _grad(tensor: ct.Tensor) -> Any:
    assert tensor.grad is not None
    return to_numpy(tensor.grad.data)


# -- indexing ----------------------------------------------------------------------------------------------------------


@st.composite
def mixed_indices(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Slices, masks and arrays that broadcast against each other, `None` and `...`, for all or some dimensions."""
    length = draw(st.integers(0, 3))
    parts: list[Any] = []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        kind = draw(st.sampled_from(["slice", "array", "grid", "mask", "None"]))
        if kind == "None":
            parts.append(None)
        if kind == "array":
            dtype = draw(st.sampled_from(INT_DTYPES))
            low = 0 if dtype == np.uint8 else -size
            parts.append(draw(hnp.arrays(dtype, (length,), elements=st.integers(low, size - 1))))
        elif kind == "grid":
            parts.append(draw(hnp.arrays(np.int64, (2, 1), elements=st.integers(0, size - 1))))
        elif kind == "mask":
            mask = np.zeros(size, bool)
            mask[draw(st.permutations(range(size)))[:length]] = True
            parts.append(mask if mask.sum() == length else slice(None))
        else:
            parts.append(draw(st.slices(size)))
    if draw(st.booleans()):
        parts.append(Ellipsis)
    return tuple(parts)


@given(st.data(), SHAPES)
def test_mixed_indexing_is_numpys_and_its_gradient_counts(data: st.DataObject, shape: Any) -> None:
    index = data.draw(mixed_indices(shape))
    array = _values(shape)
    x = _leaf(array)
    out = x[tuple(ct.Tensor(as_array(part)) if isinstance(part, np.ndarray) else part for part in index)]
    np.testing.assert_array_equal(to_numpy(out.data), array[index])
    weights = _values(out.shape, 1)
    (out * ct.Tensor(as_array(weights))).sum().backward()
    expected = np.zeros(shape)
    np.add.at(expected, index, weights)
    np.testing.assert_allclose(_grad(x), expected, rtol=1e-12, atol=1e-12)


@given(st.data(), hnp.array_shapes(min_dims=3, max_dims=4, max_side=4))
def test_numbers_are_taken_out_before_arrays(data: st.DataObject, shape: Any) -> None:
    number = data.draw(st.integers(-shape[0], shape[0] - 1))
    rows = data.draw(hnp.arrays(np.int64, (3,), elements=st.integers(0, shape[2] - 1)))
    array = _values(shape)
    x = _leaf(array)
    out = x[number, :, ct.Tensor(as_array(rows))]
    np.testing.assert_array_equal(to_numpy(out.data), array[number][:, rows])  # PyTorch's order; NumPy's differs
    out.backward(1.0)
    expected = np.zeros(shape)
    for row in rows:
        expected[number, :, row] += 1.0
    np.testing.assert_array_equal(_grad(x), expected)


@given(st.data(), SHAPES)
def test_index_put_replaces_or_adds_as_in_numpy(data: st.DataObject, shape: Any) -> None:
    index = data.draw(hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=2, max_side=3)))
    array, indices = _values(shape), tuple(ct.Tensor(as_array(part)) for part in index)
    values = _values(array[index].shape, 1)
    for accumulate in (False, True):
        x, v = _leaf(array), _leaf(values)
        out = x.index_put(indices, v, accumulate)
        expected = array.copy()
        if accumulate:
            np.add.at(expected, index, values)
        else:
            expected[index] = values
        np.testing.assert_allclose(to_numpy(out.data), expected, rtol=1e-12)
        weights = _values(shape, 2)
        (out * ct.Tensor(as_array(weights))).sum().backward()
        # what a value does is what changes when it is moved: nothing, for one that a later value replaced
        moved = np.zeros_like(values)
        for place in np.ndindex(values.shape):
            other, again = values.copy(), array.copy()
            other[place] += 1.0
            if accumulate:
                np.add.at(again, index, other)
            else:
                again[index] = other
            moved[place] = ((again - expected) * weights).sum()
        np.testing.assert_allclose(_grad(v), moved, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", INT_DTYPES)
def test_indices_of_every_integer_dtype_are_the_same(dtype: Any) -> None:
    x = ct.tensor(_values((4, 3)))
    index = ct.tensor(np.array([3, 0, 3], dtype))
    for taken in (x[index], x.index_select(0, index), ct.embedding(index, x)):
        np.testing.assert_array_equal(to_numpy(taken.data), to_numpy(x.data)[[3, 0, 3]])
    column = ct.tensor(np.array([[2], [0], [1], [1]], dtype))
    assert x.gather(1, column).flatten().tolist() == [x[i, j].item() for i, j in enumerate((2, 0, 1, 1))]


def test_a_number_taken_out_is_a_view() -> None:
    x = ct.zeros(2, 3)
    x[1, 2].fill_(5.0)
    x.diagonal().fill_(1.0)
    x[:, 1:][0].fill_(2.0)
    assert x.tolist() == [[1.0, 2.0, 2.0], [0.0, 1.0, 5.0]]


SENTENCES: list[tuple[Any, str]] = [
    (lambda x: x[:, 7], "index 7 is outside dimension 1, which has size 4 (valid: -4 to 3)"),
    (lambda x: x[..., ct.tensor([0, -5])], "index -5 is outside dimension 1, which has size 4 (valid: -4 to 3)"),
    (lambda x: x.clone().__setitem__(ct.tensor([5]), 1.0), "index 5 is outside dimension 0, which has size 3"),
    (lambda x: x[0, 0, 0], "3 indices for a tensor of 2 dimensions"),
    (lambda x: x[ct.tensor([True, False])], "a mask of shape (2,) has size 2 where dimension 0 has size 3"),
    (lambda x: x[ct.tensor([0, 1]), ct.tensor([0, 1, 2])], "of shapes (2,) and (3,), do not broadcast"),
    (lambda x: x[ct.tensor([0.5])], "must hold integers or booleans, not float32"),
    (lambda x: x["a"], "not str"),
    (lambda x: x.gather(1, ct.tensor([[4]])), "index 4 is outside dimension 1, which has size 4 (valid: 0 to 3)"),
    (lambda x: x.gather(1, ct.tensor([[-1]])), "index -1 is outside dimension 1"),
    (lambda x: x.gather(0, ct.zeros(1, 5, dtype=ct.int64)), "index has size 5 in dimension 1, the tensor only 4"),
    (lambda x: x.scatter_add(0, ct.tensor([[0, 1]]), x[:, :1]), "src has size 1 in dimension 1, index 2"),
    (lambda x: x.narrow(0, 2, 2), "2 elements from 2 on are not within dimension 0, which has size 3"),
    (lambda x: x.reshape(5, -1), "12 elements cannot be divided over the other sizes of shape (5, -1), which take 5"),
    (lambda x: x.expand(3, 5), "size 4 in dimension 1 cannot be repeated up to 5"),
    (lambda x: ct.cat([x, x[:, 1:]]), "tensor 1 has size 3 in dimension 1, tensor 0 has 4: only dimension 0"),
    (lambda x: ct.pad(x, (4, 0), mode="reflect"), "narrower than the size, 4"),
    (lambda x: ct.linear(x, ct.ones(2, 3)), "input has 4 features in its last dimension, weight takes 3"),
    (lambda x: x @ x, "a has 4 columns (its last dimension), b has 3 rows"),
    (lambda x: x @ ct.ones(3), "has 4 elements in its last dimension"),
    (lambda x: ct.einsum("ij,jk", x, x), "operand 1 of shape (3, 4) has size 3 in dimension 0 (j), where an"),
    (lambda x: ct.einsum("ijk->i", x), "'ijk' does not name the 2 dimensions of operand 0"),
    (lambda x: ct.einsum("ij->k", x), "the output names k, which no operand has"),
    (lambda x: ct.tensordot(x, x, 1), "dimension 1 of a, of shape (3, 4), has size 4; dimension 0 of b"),
    (lambda x: ct.embedding(ct.tensor([3]), x), "index 3 is outside dimension 0, which has size 3 (valid: 0 to 2)"),
    (lambda x: ct.embedding_bag(ct.tensor([0, 1]), x, ct.tensor([1])), "offsets must go from 0"),
    (lambda x: x.as_strided((2, 3), (6, 3)), "reach element 12; the tensor has 12"),
    (lambda x: x.unfold(1, 5, 1), "a window of size 5 is larger than dimension 1, which has size 4"),
    (lambda x: x.index_add(0, ct.tensor([0, 1]), x), "it must have shape (2, 4)"),
    (lambda x: ct.addmm(ct.ones(3), x, x.mT), "no error"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "words"), SENTENCES)
def test_errors_say_value_size_and_dimension(call: Any, words: str) -> None:
    x = ct.tensor(_values((3, 4)), dtype=ct.float32)
    if words == "no error":
        assert call(x).shape == (3, 3)
        return
    with pytest.raises(ct.TrainerError) as caught:
        call(x)
    assert words in str(caught.value)


# -- gather and scatter ------------------------------------------------------------------------------------------------


@st.composite
def scatters(draw: st.DrawFn) -> tuple[Any, int, Any, Any]:
    """A tensor, a dimension, an index that may be smaller in the others, and a source at least as large."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
    dim = draw(st.integers(0, len(shape) - 1))
    sizes = tuple(draw(st.integers(0, 6 if d == dim else n)) for d, n in enumerate(shape))
    index = draw(hnp.arrays(np.int64, sizes, elements=st.integers(0, shape[dim] - 1)))
    source = _values(tuple(n + draw(st.integers(0, 1)) for n in sizes), 1)
    return _values(shape), dim, index, source


_LOOPS: dict[str, Any] = {
    "sum": lambda old, new: old + new,
    "prod": lambda old, new: old * new,
    "amax": max,
    "amin": min,
}


@given(scatters(), st.sampled_from([*_LOOPS, "mean"]), st.booleans())
def test_scatter_reduce_is_a_loop_over_the_index(case: Any, reduce: str, include_self: bool) -> None:
    array, dim, index, source = case
    groups: dict[tuple[int, ...], list[float]] = {}
    for place in np.ndindex(index.shape):
        target = (*place[:dim], int(index[place]), *place[dim + 1 :])
        groups.setdefault(target, [array[target]] if include_self else []).append(source[place])
    expected = array.copy()
    for target, values in groups.items():
        total = values[0]
        for value in values[1:]:
            total = _LOOPS["sum" if reduce == "mean" else reduce](total, value)
        expected[target] = total / len(values) if reduce == "mean" else total
    x, i, s = (ct.Tensor(as_array(a)) for a in (array, index, source))
    out = x.scatter_reduce(dim, i, s, reduce, include_self=include_self)
    np.testing.assert_allclose(to_numpy(out.data), expected, rtol=1e-12, atol=1e-12)


@given(scatters())
def test_gather_undoes_scatter_where_no_place_is_named_twice(case: Any) -> None:
    array, dim, index, source = case
    x, i, s = (ct.Tensor(as_array(a)) for a in (array, index, source))
    back = to_numpy(x.scatter(dim, i, s).gather(dim, i).data)
    for place in np.ndindex(index.shape):
        same = [p for p in np.ndindex(index.shape) if (*p[:dim], *p[dim + 1 :]) == (*place[:dim], *place[dim + 1 :])]
        last = [p for p in same if index[p] == index[place]][-1]
        assert back[place] == source[last]


# -- the paths of a GPU, without one -----------------------------------------------------------------------------------


def _no_atomics(*_: Any, **__: Any) -> Any:
    raise AssertionError("adds in no fixed order on a GPU")


class _Kernel:
    """What `cupy.ElementwiseKernel` would do with the run-sum kernel."""

    def __init__(self, *_: Any) -> None:
        pass

    def __call__(self, a: Any, rows: Any, order: Any, *given: Any, size: int) -> Any:
        count, width, height, zero, out = given
        for i in range(size):
            first, column = divmod(i, width)
            if not 0 <= rows[first] < height or (first and rows[first - 1] == rows[first]):
                continue
            total = zero[0]
            for k in range(first, count):
                if rows[k] != rows[first]:
                    break
                total = total + a.reshape(-1)[order[k] * width + column]
            out.reshape(-1)[rows[first] * width + column] += total
        return out


class _Device:
    """NumPy in CuPy's place, as far as these functions may use it on a device."""

    add = types.SimpleNamespace(at=_no_atomics)
    ElementwiseKernel = _Kernel

    @staticmethod
    def argsort(a: Any) -> Any:
        return a.argsort(kind="stable")

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


DEVICE: Any = _Device()


@given(st.data(), SHAPES)
def test_without_atomics_the_sums_are_the_same(data: st.DataObject, shape: Any) -> None:
    index = data.draw(mixed_indices(shape))
    values = _values(np.empty(shape)[index].shape, 1)
    expected, out, turned = np.zeros(shape), np.zeros(shape), np.zeros(shape[::-1]).transpose()
    np.add.at(expected, index, values)
    writing.add_at(DEVICE, out, index, values)
    writing.add_at(DEVICE, turned, index, values)
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(turned, expected, rtol=1e-12, atol=1e-12)
    zeros = np.zeros(shape, np.int64)
    np.testing.assert_allclose(
        along.SCATTER_ADD.forward(DEVICE, expected, zeros, _values(shape, 2), axis=0),
        along.SCATTER_ADD.forward(np, expected, zeros, _values(shape, 2), axis=0),
        rtol=1e-12,
        atol=1e-12,
    )


@given(scatters(), st.sampled_from(["prod", "amax", "amin"]))
def test_without_atomics_the_last_value_stays_and_reductions_are_the_same(case: Any, reduce: str) -> None:
    array, dim, index, source = case
    one = along.SCATTER.forward(DEVICE, array, index, source, axis=dim)
    np.testing.assert_array_equal(one, along.SCATTER.forward(np, array, index, source, axis=dim))
    two = along.SCATTER_REDUCE.forward(DEVICE, array, index, source, axis=dim, reduce=reduce)
    other = along.SCATTER_REDUCE.forward(np, array, index, source, axis=dim, reduce=reduce)
    np.testing.assert_allclose(two, other, rtol=1e-12)


# -- products ----------------------------------------------------------------------------------------------------------


@st.composite
def equations(draw: st.DrawFn) -> tuple[str, list[Any]]:
    """An einsum of one to four operands over at most five names, sometimes with `...`, sometimes implicit."""
    sizes = dict(zip("abcde", draw(st.lists(st.integers(1, 3), min_size=5, max_size=5)), strict=True))
    count = draw(st.integers(1, 4))
    spread = draw(st.booleans())
    terms, operands = [], []
    for i in range(count):
        names = draw(st.lists(st.sampled_from("abcde"), max_size=3))
        dots = (2,) if spread and draw(st.booleans()) else ()
        terms.append("".join(names[:1]) + ("..." if dots else "") + "".join(names[1:]))
        shape = tuple(sizes[n] for n in names[:1]) + dots + tuple(sizes[n] for n in names[1:])
        operands.append(_values(shape, i))
    equation = ",".join(terms)
    met = sorted(set(equation) - set(",."))
    if draw(st.booleans()):
        chosen = draw(st.permutations(met))[: draw(st.integers(0, len(met)))]
        equation += "->" + ("..." if "..." in equation else "") + "".join(chosen)
    return equation, operands


@given(equations())
def test_einsum_is_numpys_and_its_gradient_is_an_einsum(case: Any) -> None:
    equation, arrays = case
    tensors = [_leaf(array) for array in arrays]
    out = ct.einsum(equation, *tensors)
    expected = np.einsum(equation, *arrays)
    assert out.shape == np.shape(expected)
    np.testing.assert_allclose(to_numpy(out.data), expected, rtol=1e-10, atol=1e-10)
    out.backward(1.0)
    for k, (tensor, array) in enumerate(zip(tensors, arrays, strict=True)):
        moved = [np.array(a) for a in arrays]
        direction = _values(array.shape, 9)
        moved[k] = direction  # an einsum is linear in each operand
        slope = (_grad(tensor) * direction).sum()
        np.testing.assert_allclose(slope, np.sum(np.einsum(equation, *moved)), rtol=1e-9, atol=1e-9)


def test_a_chain_in_einsum_is_multiplied_in_the_cheap_order() -> None:
    terms: list[tuple[str, tuple[int, ...]]] = [("ij", (100, 2)), ("jk", (2, 100)), ("kl", (100, 1))]
    assert contraction._cheapest(terms, "il") == (1, 2)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_halves_are_added_up_in_single_precision(dtype: Any) -> None:
    ones = ct.Tensor(as_array(np.ones((1, 4096), dtype)), requires_grad=True)  # as halves: 2048 + 1 = 2048
    assert (ones @ ones.mT).item() == 4096
    assert ct.linear(ones, ones).item() == 4096
    assert (ones @ ones.mT).dtype == dtype
    table = ct.Tensor(as_array(np.zeros((2, 3), dtype)), requires_grad=True)
    ct.embedding(ct.zeros(4096, dtype=ct.int64), table).backward(1.0)
    assert table.grad is not None
    assert table.grad.dtype == dtype
    assert table.grad.tolist() == [[4096.0] * 3, [0.0] * 3]


def test_integer_products_are_exact_and_keep_their_dtype() -> None:
    small = ct.tensor(np.array([[100, 100]], np.int32))
    assert (small @ small.T).dtype == np.int32
    assert (small @ small.T).item() == 20000
    large = ct.tensor(np.array([[2**31, 3]], np.int64))
    assert (large @ large.T).item() == 2**62 + 9


def test_a_beta_of_zero_leaves_nan_behind() -> None:
    nan = ct.full((2,), float("nan"))
    out = ct.addmm(nan, ct.ones(3, 2), ct.ones(2, 2), beta=0)
    assert out.tolist() == [[2.0, 2.0]] * 3


# -- embeddings --------------------------------------------------------------------------------------------------------


def test_rows_that_are_too_long_are_shortened_in_the_table() -> None:
    table = ct.tensor([[3.0, 4.0], [0.3, 0.4], [6.0, 8.0]], requires_grad=True)
    out = ct.embedding(ct.tensor([0, 1]), table, max_norm=1.0)
    np.testing.assert_allclose(to_numpy(out.data), [[0.6, 0.8], [0.3, 0.4]], rtol=1e-5)
    np.testing.assert_allclose(to_numpy(table.data), [[0.6, 0.8], [0.3, 0.4], [6.0, 8.0]], rtol=1e-5)


def test_the_padding_row_gets_no_gradient_also_in_an_optimisers_buffer() -> None:
    tokens = ct.tensor([[1, 0, 2], [1, 1, 0]])
    table = ct.ones(3, 2, requires_grad=True)
    table._sink = as_array(np.full((3, 2), 7.0, np.float32))
    ct.embedding(tokens, table, padding_idx=-2, scale_grad_by_freq=True).backward(1.0)
    assert table.grad is not None
    assert table.grad.tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]


def test_bags_of_rows_and_bags_of_offsets_are_the_same() -> None:
    table = ct.tensor(_values((6, 2)))
    tokens = ct.tensor([[5, 1, 1], [0, 2, 5]])
    for mode in ("sum", "mean", "max"):
        rows = ct.embedding_bag(tokens, table, mode=mode)
        flat = ct.embedding_bag(tokens.flatten(), table, ct.tensor([0, 3]), mode=mode)
        with_end = ct.embedding_bag(tokens.flatten(), table, ct.tensor([0, 3, 6]), mode=mode, include_last_offset=True)
        assert rows.equal(flat)
        assert rows.equal(with_end)
