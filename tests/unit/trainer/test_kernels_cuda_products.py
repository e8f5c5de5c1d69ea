"""Products by cuBLASLt: on a GPU with `--device cuda`; else by what it does with what it is told, on the host."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from cordee.trainer.array import get_tf32, set_tf32, to_numpy
from cordee.trainer.kernels.cuda import memory, products

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "conformance"))
import cublaslt_stand_in
from cuda_support import cupy_of_tests

KINDS = [np.float32, np.float64, ml_dtypes.bfloat16, np.float16]
TOLERANCE: dict[Any, float] = {np.float32: 1e-5, np.float64: 1e-12, ml_dtypes.bfloat16: 2**-7, np.float16: 2**-10}


@pytest.fixture(autouse=True)
def xp(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    device = request.config.getoption("--device")
    if device != "cuda":
        monkeypatch.setattr(products, "_library", lambda: cublaslt_stand_in)
        monkeypatch.setattr(products, "_plans", type(products._plans)())
        monkeypatch.setattr(memory, "_workspaces", {})
    cublaslt_stand_in.products.clear()
    with cupy_of_tests(device, products._handle, memory._of_libraries) as module:
        yield module


def numbers(*shape: int, seed: int = 0, kind: Any = np.float32) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(kind)


def close(found: Any, expected: Any, kind: Any) -> None:
    values, scale = to_numpy(found).astype(np.float64), float(np.abs(expected).max())
    assert values.shape == expected.shape
    np.testing.assert_allclose(values, expected, rtol=TOLERANCE[kind], atol=TOLERANCE[kind] * scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 4), (4, 5)),
        ((1, 4), (4, 5)),
        ((3, 4), (4, 1)),
        ((1, 1), (1, 1)),
        ((3, 1), (1, 5)),
        ((2, 3, 4), (4, 5)),
        ((2, 3, 4), (2, 4, 5)),
        ((3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (6, 4, 5)),
        ((2, 6, 3, 4), (2, 1, 4, 5)),
    ],
)
def test_products_are_numpys(xp: Any, a: tuple[int, ...], b: tuple[int, ...], kind: Any) -> None:
    left, right = numbers(*a, kind=kind), numbers(*b, seed=1, kind=kind)
    expected = left.astype(np.float64) @ right.astype(np.float64)
    close(products.multiply(xp.asarray(left), xp.asarray(right)), expected, kind)


def views(xp: Any, values: Any) -> list[Any]:
    """The same matrices, lying in memory in many ways."""
    a = xp.asarray(values)
    rows = xp.zeros((*a.shape[:-1], a.shape[-1] + 3), a.dtype)
    rows[..., :-3] = a
    columns = xp.zeros((*a.shape[:-2], a.shape[-1], a.shape[-2] + 2), a.dtype)
    columns[..., :-2] = a.swapaxes(-1, -2)
    pieces = xp.zeros((*a.shape[:-2], a.shape[-2] * 2, a.shape[-1] * 2), a.dtype)
    pieces[..., ::2, ::2] = a
    upwards = xp.ascontiguousarray(a[..., ::-1])
    return [
        a, xp.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2), rows[..., :-3],
        columns[..., :-2].swapaxes(-1, -2), pieces[..., ::2, ::2], upwards[..., ::-1],
    ]  # fmt: skip


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_operands_may_lie_as_they_like(xp: Any, batch: tuple[int, ...]) -> None:
    a, b = numbers(*batch, 4, 6), numbers(*batch, 6, 5, seed=1)
    expected = a.astype(np.float64) @ b
    for left in views(xp, a):
        for right in views(xp, b):
            close(products.multiply(left, right), expected, np.float32)


def test_heads_that_lie_between_the_rows(xp: Any) -> None:
    """Attention's operands: (N, T, H, E) seen as (N, H, T, E)."""
    query, key = numbers(2, 5, 3, 4), numbers(2, 5, 3, 4, seed=1)
    left, right = xp.asarray(query).transpose(0, 2, 1, 3), xp.asarray(key).transpose(0, 2, 3, 1)
    close(products.multiply(left, right), query.transpose(0, 2, 1, 3) @ key.transpose(0, 2, 3, 1), np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leading", [(7,), (2, 7)])
def test_a_bias_is_added_on_the_way(xp: Any, leading: tuple[int, ...], kind: Any) -> None:
    a, weight, bias = numbers(*leading, 4, kind=kind), numbers(3, 4, seed=1, kind=kind), numbers(3, seed=2, kind=kind)
    found = products.multiply(xp.asarray(a), xp.asarray(weight).T, bias=xp.asarray(bias))
    close(found, a.astype(np.float64) @ weight.T.astype(np.float64) + bias.astype(np.float64), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weights_gradient_in_place_with_its_bias_gradient(xp: Any, kind: Any) -> None:
    g, input = numbers(7, 3, kind=kind), numbers(7, 4, seed=1, kind=kind)
    storage = xp.zeros(20, kind)
    dest, sums = storage[2:14].reshape(3, 4), storage[15:18]
    assert products.multiply(xp.asarray(g).T, xp.asarray(input), out=dest, row_sums=sums) is dest
    close(storage[2:14].reshape(3, 4), g.astype(np.float64).T @ input.astype(np.float64), kind)
    close(sums, g.astype(np.float64).sum(0), kind)
    assert not to_numpy(storage[[0, 1, 14, 18, 19]]).any()


def test_a_library_that_cannot_be_loaded_is_no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "device_lack", lambda: "")
    assert products.lack() == ""

    def missing() -> Any:
        raise RuntimeError("no libcuda.so.1")

    monkeypatch.setattr(products, "_library", missing)
    assert "no libcuda.so.1" in products.lack()
    monkeypatch.setattr(products, "device_lack", lambda: "no GPU")
    assert products.lack() == "no GPU"


def test_halves_into_single_precision(xp: Any) -> None:
    a, b = (numbers(3, 3, seed=seed, kind=ml_dtypes.bfloat16) for seed in (0, 1))
    out = products.multiply(xp.asarray(a), xp.asarray(b), out=xp.zeros((3, 3), np.float32))
    close(out, a.astype(np.float64) @ b.astype(np.float64), np.float32)


def test_what_is_not_taken(xp: Any) -> None:
    a = xp.asarray(numbers(3, 3))
    none = NotImplemented
    assert products.multiply(a, a.astype(np.float64)) is none
    assert products.multiply(a.astype(np.int32), a.astype(np.int32)) is none
    assert products.multiply(a[:, :0], a[:0]) is none
    assert products.multiply(a, a[:2]) is none
    assert products.multiply(a, a, out=xp.zeros((3, 3), np.float32).T) is none
    assert products.multiply(a, a, out=xp.zeros((2, 3), np.float32)) is none
    assert products.multiply(a, a, bias=a[0].astype(np.float64)) is none
    assert products.multiply(a, a, bias=a[:, 0]) is none
    assert products.multiply(xp.zeros((2, 3, 3), np.float32), a, row_sums=a[0]) is none


def test_what_is_computed_does_not_depend_on_where_operands_lie(xp: Any) -> None:
    """One algorithm per shape, for addresses that are multiples of 16 bytes: others are copied, as they are laid."""
    found = []
    for offset in (0, 1, 64, 3):
        places = [xp.zeros(400, np.float32) for _ in range(4)]
        a = places[0][offset : offset + 15].reshape(3, 5)
        b = places[1][offset : offset + 60].reshape(4, 15)[:, :5].T
        out = places[2][offset : offset + 12].reshape(3, 4)
        bias = places[3][offset : offset + 4]
        for each, seed in ((a, 0), (b, 1), (bias, 2)):
            each[...] = xp.asarray(numbers(*each.shape, seed=seed))
        assert products.multiply(a, b, out=out, bias=bias) is out
        assert not to_numpy(places[2][:offset]).any()
        sums = bias[:3]
        again = products.multiply(a, b, out=None, row_sums=sums)
        close(sums, to_numpy(a).astype(np.float64).sum(1), np.float32)
        found.append([to_numpy(each).tobytes() for each in (out, again, sums)])
    assert found[1:] == found[:1] * 3
    assert len(products._plans) == 2
    if "cupy_stand_in" in str(xp.__file__):
        told = cublaslt_stand_in.products
        assert {each["wishes"]["reduction"] for each in told} == {2}  # never in place, nor rounded
        assert {each["wishes"][f"align_{x}"] for each in told for x in "abcd"} == {16}


def test_sums_of_rows_for_which_there_is_no_algorithm_are_a_product_of_their_own(
    xp: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "cupy_stand_in" not in str(xp.__file__):
        pytest.skip("the stand-in refuses what it is told to refuse")
    monkeypatch.setattr(cublaslt_stand_in, "refuse", [products._BGRADB])
    g, input = numbers(7, 3), numbers(7, 4, seed=1)
    sums, out = xp.zeros(3, np.float32), xp.zeros((3, 4), np.float32)
    assert products.multiply(xp.asarray(g).T, xp.asarray(input), out=out, row_sums=sums) is out
    close(out, g.astype(np.float64).T @ input, np.float32)
    close(sums, g.astype(np.float64).sum(0), np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_matrix_multiplies_any_number_of_rows(xp: Any, kind: Any) -> None:
    b = numbers(5, 3, kind=kind)
    times: Any = products.multiplier(xp.asarray(b))
    for rows in (1, 4):
        a, out = (
            numbers(rows, 5, seed=1, kind=kind),
            xp.empty((rows, 3), np.float64 if kind == np.float64 else np.float32),
        )
        times(xp.asarray(a), out)
        close(out, a.astype(np.float64) @ b.astype(np.float64), kind)
    assert products.multiplier(xp.asarray(b.astype(np.int32))) is NotImplemented


def test_tf32_is_asked_for_where_it_is_allowed_and_for_single_precision_only(xp: Any) -> None:
    if "cupy_stand_in" not in str(xp.__file__):
        pytest.skip("the stand-in notes what it was told")
    before = get_tf32()
    try:
        for allowed in (True, False):
            set_tf32(allowed)
            for kind in KINDS:
                products.multiply(xp.asarray(numbers(2, 2, kind=kind)), xp.asarray(numbers(2, 2, kind=kind)))
        told = [each["compute"] for each in cublaslt_stand_in.products]
        assert told == [77, 70, 68, 68, 68, 70, 68, 68]
        assert ("tf32" in products.identity()) == get_tf32()
    finally:
        set_tf32(before)


def test_plans_do_not_pile_up(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_MAX_PLANS", 3)
    before = len(cublaslt_stand_in.alive)
    for length in range(1, 9):
        products.multiply(xp.asarray(numbers(2, length)), xp.asarray(numbers(length, 2)))
    assert len(products._plans) == 3
    if "cupy_stand_in" in str(xp.__file__):
        assert len(cublaslt_stand_in.alive) - before == 3 * 4  # a description and three layouts each


def test_the_stand_ins_functions_and_numbers_are_nvmaths() -> None:
    if importlib.util.find_spec("nvmath") is None:
        pytest.skip("nvmath-python is not installed")
    library: Any = importlib.import_module("nvmath.bindings.cublasLt")
    for name in cublaslt_stand_in.__all__:
        if name.startswith(("matmul_", "matrix_", "create", "get_version", "matmul")) and name != "products":
            told = getattr(library, name).__doc__.split("(", 1)[1].split(")")[0]
            own = inspect.signature(getattr(cublaslt_stand_in, name)).parameters
            assert [each.split()[-1] for each in told.split(", ") if each] == list(own)
    desc, layout, preference = (
        library.MatmulDescAttribute,
        library.MatrixLayoutAttribute,
        library.MatmulPreferenceAttribute,
    )
    assert (products._TRANSA, products._TRANSB, products._EPILOGUE) == (desc.TRANSA, desc.TRANSB, desc.EPILOGUE)
    assert (products._BIAS_POINTER, products._BIAS_DATA_TYPE) == (desc.BIAS_POINTER, desc.BIAS_DATA_TYPE)
    epilogue = library.Epilogue
    assert (products._DEFAULT, products._BIAS, products._BGRADB) == (epilogue.DEFAULT, epilogue.BIAS, epilogue.BGRADB)
    assert (products._BATCH_COUNT, products._STRIDED_BATCH_OFFSET) == (layout.BATCH_COUNT, layout.STRIDED_BATCH_OFFSET)
    assert products._MAX_WORKSPACE_BYTES == preference.MAX_WORKSPACE_BYTES
    assert products._REDUCTION_SCHEME_MASK == preference.REDUCTION_SCHEME_MASK
    assert products._REDUCTION_IN_COMPUTE_TYPE == library.ReductionScheme.COMPUTE_TYPE
    assert tuple(getattr(preference, f"MIN_ALIGNMENT_{x}_BYTES") for x in "ABCD") == products._MIN_ALIGNMENT
    compute: Any = importlib.import_module("nvmath.bindings.cublas").ComputeType
    numbered = (products._COMPUTE_32F, products._COMPUTE_64F, products._COMPUTE_32F_FAST_TF32)
    assert numbered == (compute.COMPUTE_32F, compute.COMPUTE_64F, compute.COMPUTE_32F_FAST_TF32)
