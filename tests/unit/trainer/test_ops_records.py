"""Every op's record is complete, and what it says of itself holds: values, first and second gradients, error sentences.

These are factories over the registry: an op that is declared is tested, and one that lacks a field fails here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer.array import as_array, bfloat16, device_name, to_numpy
from cordee.trainer.autograd import gradcheck, gradgradcheck
from cordee.trainer.autograd.record import NO_ERRORS, REGISTRY, Op, Sample, Sampler, op

OPS = [pytest.param(record, id=name) for name, record in sorted(REGISTRY.items())]
SAMPLES = [
    pytest.param(record, sample, id=f"{name}-{i}")
    for name, record in sorted(REGISTRY.items())
    for i, sample in enumerate(record.samples(Sampler(7)))
]
ERRORS = [
    pytest.param(record, sample, id=f"{name}-{i}")
    for name, record in sorted(REGISTRY.items())
    if record.errors is not None
    for i, sample in enumerate(record.errors(Sampler(7)))
]


def _differentiable(record: Op) -> list[bool]:
    if record.vjp is not None:
        return [True] * max(len(record.inputs), 8)
    return [rule is not None for rule in record.vjps]


def _tensors(record: Op, sample: Sample, dtype: Any = np.float64) -> list[Any]:
    """The sample's arrays as tensors; the differentiable ones require a gradient."""
    made: list[Any] = []
    for value, differentiable in zip(sample.inputs, _differentiable(record), strict=False):
        if isinstance(value, (np.ndarray, np.generic)):
            kind = np.asarray(value).dtype.kind
            wanted = dtype if kind == "f" else np.result_type(dtype, np.complex64) if kind == "c" else None
            array = as_array(np.asarray(value, wanted))
            made.append(ct.Tensor(array, requires_grad=kind in "fc" and differentiable))
        else:
            made.append(value)
    return made


def _on_device(params: dict[str, Any]) -> dict[str, Any]:
    """Arrays among the params (targets, masks, parts of an index), where the tensors live."""
    return {name: _moved(value) for name, value in params.items()}


def _moved(value: Any) -> Any:
    if type(value) is tuple:
        return tuple(_moved(part) for part in value)
    return as_array(value) if isinstance(value, np.ndarray) else value


def _run(record: Op, sample: Sample, tensors: list[Any]) -> Any:
    return record.run(*tensors, **_on_device(sample.params))


def _outputs(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def _as_one(result: Any) -> Any:
    """All outputs that a gradient can come from in one real tensor: several one after the other, complex as pairs."""
    outputs = [ct.view_as_real(x) if x.is_complex() else x for x in _outputs(result) if x.dtype.kind not in "iub"]
    if not outputs:
        return _outputs(result)[0]
    return outputs[0] if len(outputs) == 1 else ct.cat([x.reshape(-1) for x in outputs])


def _run_as_one(record: Op, sample: Sample, tensors: list[Any]) -> Any:
    return _as_one(_run(record, sample, tensors))


def _as_pairs(tensors: list[Any]) -> tuple[list[Any], list[bool]]:
    """Complex tensors as pairs of real numbers, which finite differences can move; and which ones these are."""
    which = [isinstance(t, ct.Tensor) and t.is_complex() for t in tensors]
    pairs = [ct.view_as_real(t.detach()).requires_grad_() if c else t for t, c in zip(tensors, which, strict=True)]
    return pairs, which


@pytest.mark.parametrize("record", OPS)
def test_a_record_is_complete(record: Op) -> None:
    assert record.doc
    assert callable(record.forward)
    assert callable(record.reference)
    assert record.samples(Sampler(1))
    assert bool(record.vjps) != (record.vjp is not None), "either one rule per input, or one joint rule"
    if not record.variadic:
        assert len(record.saves) == len(record.inputs)
        assert record.vjp is not None or len(record.vjps) == len(record.inputs)
        assert not record.writes or len(record.writes) == len(record.inputs)
    if record.elementwise:
        assert record.expr, "an elementwise op needs its scalar expression"


@pytest.mark.parametrize("missing", ["samples", "reference", "forward", "saves", "shape", "errors"])
def test_a_record_without_a_required_field_cannot_be_declared(missing: str) -> None:
    fields: dict[str, Any] = {
        "forward": lambda xp, a: a,
        "saves": ("",),
        "samples": lambda s: [],
        "reference": np.positive,
        "vjps": (None,),
        "shape": lambda a: a,
        "errors": NO_ERRORS,
    }
    del fields[missing]
    with pytest.raises(TypeError, match=missing):
        op("incomplete", "lacks a field", **fields)
    assert "incomplete" not in REGISTRY


def test_a_record_that_saves_what_it_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="wrong"):
        op("bad", "b", forward=lambda xp, a: a, saves=("wrong",), samples=lambda s: [], reference=np.positive)


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="declared already"):
        op("add", "again")


@pytest.mark.parametrize(("record", "sample"), SAMPLES)
def test_values_are_the_references(record: Op, sample: Sample) -> None:
    result = _outputs(_run(record, sample, _tensors(record, sample)))
    for out, expected in zip(result, _outputs(record.reference(*sample.inputs, **sample.params)), strict=True):
        assert out.shape == np.shape(expected)
        np.testing.assert_allclose(to_numpy(out.data), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("record", "sample"), SAMPLES)
def test_single_precision_stays_single(record: Op, sample: Sample) -> None:
    if record.name == "cast":
        pytest.skip("choosing the dtype is what it is for")
    tensors = _tensors(record, sample, np.float32)
    result = _run(record, sample, tensors)
    for out, expected in zip(
        _outputs(result), _outputs(record.reference(*sample.inputs, **sample.params)), strict=True
    ):
        assert out.dtype in (np.float32, np.complex64, np.bool_) or out.dtype.kind in "iu"
        np.testing.assert_allclose(to_numpy(out.data), expected, rtol=2e-5, atol=1e-5)
    joined = _as_one(result)
    if joined.requires_grad:
        joined.backward(1.0)
        for tensor in tensors:
            if isinstance(tensor, ct.Tensor) and tensor.requires_grad and tensor.grad is not None:
                assert tensor.grad.dtype == tensor.dtype
                assert tensor.grad.shape == tensor.shape


def _shape_of(value: Any) -> Any:
    return None if value is None else np.shape(value)


@pytest.mark.parametrize(("record", "sample"), SAMPLES)
def test_the_shape_rule_tells_the_results_shape(record: Op, sample: Sample) -> None:
    assert record.shape is not None
    told = record.shape(*map(_shape_of, sample.inputs), **sample.params)
    outputs = _outputs(_run(record, sample, _tensors(record, sample)))
    for shape, out in zip(told if record.many else (told,), outputs, strict=True):
        assert len(shape) == out.ndim
        for size, actual in zip(shape, out.shape, strict=True):
            assert size is None or size == actual  # None: it depends on the values


def _dtype_of(value: Any) -> Any:
    return value.dtype if isinstance(value, ct.Tensor) else None if value is None else type(value)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, bfloat16], ids=str)
@pytest.mark.parametrize("record", OPS)
def test_the_dtype_rule_tells_the_results_dtype(record: Op, dtype: Any) -> None:
    for sample in record.samples(Sampler(7)):
        tensors = _tensors(record, sample, np.dtype(dtype))
        try:
            outputs = _outputs(_run(record, sample, tensors))
        except TypeError as error:
            assert np.dtype(dtype).itemsize == 2
            assert record.name in str(error)  # noqa: PT017
            continue
        told = record.result_dtype(*map(_dtype_of, tensors), **sample.params)
        assert [out.dtype for out in outputs] == list(told if record.many else (told,))


@pytest.mark.parametrize(("record", "sample"), SAMPLES)
def test_first_and_second_gradients_are_the_finite_differences(record: Op, sample: Sample) -> None:
    tensors = _tensors(record, sample)
    if not any(isinstance(t, ct.Tensor) and t.requires_grad for t in tensors):
        assert not any(_differentiable(record)[: len(tensors)])
        pytest.skip("nothing here is differentiable")

    tensors, which = _as_pairs(tensors)

    def run(*inputs: Any) -> Any:
        made = [ct.view_as_complex(x) if c else x for x, c in zip(inputs, which, strict=True)]
        return _run_as_one(record, sample, made)

    assert gradcheck(run, tensors)
    assert gradgradcheck(run, tensors)


@pytest.mark.parametrize(("record", "sample"), SAMPLES)
def test_the_fast_gradient_is_the_differentiable_one(record: Op, sample: Sample) -> None:
    fast, recorded = _tensors(record, sample), _tensors(record, sample)
    first, second = _run_as_one(record, sample, fast), _run_as_one(record, sample, recorded)
    if not first.requires_grad:
        pytest.skip("nothing here is differentiable")
    first.backward(0.7)
    second.backward(0.7, create_graph=True)
    for a, b in zip(fast, recorded, strict=True):
        if isinstance(a, ct.Tensor) and a.grad is not None:
            assert b.grad is not None
            np.testing.assert_allclose(to_numpy(a.grad.data), to_numpy(b.grad.data), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("record", "sample"), SAMPLES)
def test_non_contiguous_inputs_give_the_same(record: Op, sample: Sample) -> None:
    def spread(value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.ndim == 0:
            return value
        wide = np.zeros((*value.shape[:-1], 2 * value.shape[-1]), value.dtype)
        wide[..., ::2] = value
        return wide[..., ::2]

    plain = _tensors(record, sample)
    strided = _tensors(record, Sample(tuple(map(spread, sample.inputs)), sample.params))
    first, second = _run_as_one(record, sample, plain), _run_as_one(record, sample, strided)
    np.testing.assert_allclose(to_numpy(first.data), to_numpy(second.data), rtol=1e-12, atol=1e-14)
    if first.requires_grad:
        first.backward(1.0)
        second.backward(1.0)
        for a, b in zip(plain, strided, strict=True):
            if isinstance(a, ct.Tensor) and a.grad is not None:
                assert b.grad is not None
                np.testing.assert_allclose(to_numpy(a.grad.data), to_numpy(b.grad.data), rtol=1e-12, atol=1e-14)


CHECKED_BEFORE = {"cross_entropy", "ctc_loss"}
"""Their functions look at the class numbers first; the records leave it to NumPy, and CuPy would wrap them around."""


@pytest.mark.parametrize("record", [param for param in OPS if param.values[0].elementwise])
def test_elementwise_ops_take_tensors_without_elements(record: Op) -> None:
    sample = record.samples(Sampler(7))[0]
    inputs = [np.empty((0, 3), np.asarray(x).dtype) if isinstance(x, np.ndarray) else x for x in sample.inputs]
    tensors = _tensors(record, Sample(tuple(inputs), sample.params))
    for out in _outputs(_run(record, sample, tensors)):
        assert out.shape == (0, 3)
        if out.requires_grad and not out.is_complex():
            out.sum().backward()
    for tensor in tensors:
        if isinstance(tensor, ct.Tensor) and tensor.grad is not None:
            assert tensor.grad.shape == (0, 3)


@pytest.mark.parametrize(("record", "sample"), ERRORS)
def test_bad_inputs_are_refused_in_a_sentence_that_names_the_op(record: Op, sample: Sample) -> None:
    if record.name in CHECKED_BEFORE and device_name() == "cuda":
        pytest.skip("its function checks this on a device; the record alone does not")
    with pytest.raises(ct.TrainerError) as caught:
        _run(record, sample, _tensors(record, sample))
    text = str(caught.value)
    assert text.startswith(f"{record.name}: ")
    for value in sample.inputs:
        if isinstance(value, np.ndarray):
            assert str(value.shape) in text
