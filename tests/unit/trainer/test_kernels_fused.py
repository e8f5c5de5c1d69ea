"""Fused loops, made of the records' formulas: each beside the record's own functions, and what tracing finds."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from cordee.trainer import ops as ops  # declares the records
from cordee.trainer.autograd.fusing import Fused, formulas
from cordee.trainer.autograd.record import REGISTRY, Op, Sampler
from cordee.trainer.autograd.vocabulary import array_vocabulary
from cordee.trainer.kernels.providers import PROVIDERS
from cordee.trainer.kernels.terms import Term, Untraceable, evaluate, listing, parse, size, symbols

needs_llvm = pytest.mark.skipif(bool(PROVIDERS["llvm"].lack()), reason=PROVIDERS["llvm"].lack() or "-")

FORMULAS = sorted(name for name, record in REGISTRY.items() if record.elementwise and record.expr)
SPECIAL = [
    0.0, -0.0, 1.0, -1.0, 0.5, 3.0, -3.0, 1e-30, -1e-6, 20.0, -20.0, 90.0, -90.0, 1e30, -1e30, np.inf, -np.inf, np.nan,
]  # fmt: skip
"""Where formulas overflow, cancel, or are not defined."""


def cases(record: Op) -> list[tuple[list[Any], dict[str, Any]]]:
    """The record's samples as float32 arrays of one shape, and special values in all combinations."""
    found = []
    for sample in record.samples(Sampler()):
        arrays = [x for x in sample.inputs if isinstance(x, np.ndarray)]
        if not arrays or any(x.dtype.kind not in "fb" for x in arrays):
            continue
        shape = np.broadcast_shapes(*(x.shape for x in arrays))
        inputs = [
            np.broadcast_to(x, shape).astype(np.float32) if isinstance(x, np.ndarray) else x for x in sample.inputs
        ]
        found.append((inputs, sample.params))
    if found:
        params = found[0][1]
        grid = np.array(np.meshgrid(*[SPECIAL] * len(record.inputs)), np.float32).reshape(len(record.inputs), -1)
        found.append(([np.array(row) for row in grid], params))
    return found


def close(got: Any, wide: Any, narrow: Any, inputs: list[Any]) -> None:
    """As near to what float64 gives as a few roundings, or as near as NumPy's own passes in float32 are.

    Where these multiply 0 by infinity on the way, without a NaN among the inputs, a formula may know better.
    """
    wide, narrow = (np.broadcast_to(each, got.shape).astype(np.float32) for each in (wide, narrow))
    near = [np.isclose(got, each, rtol=5e-6, atol=2e-6, equal_nan=True) for each in (wide, narrow)]
    made = np.isnan(wide) & ~np.any([np.isnan(x) for x in inputs if isinstance(x, np.ndarray)], axis=0)
    np.testing.assert_array_equal(near[0] | near[1] | made, True, err_msg=f"{got} instead of {wide}")


@needs_llvm
@pytest.mark.parametrize("name", FORMULAS)
def test_a_fused_loop_is_its_record(name: str) -> None:
    record, F = REGISTRY[name], array_vocabulary(np)
    fused = Fused(record, REGISTRY)
    for inputs, params in cases(record):
        wide = [x.astype(np.float64) if isinstance(x, np.ndarray) else x for x in inputs]
        values = dict(zip(record.inputs, inputs, strict=True))
        expected, small = record.forward(np, *wide, **params), record.forward(np, *inputs, **params)
        if (out := fused(-1, values, params)) is not NotImplemented:
            assert out.dtype == np.float32
            close(out, expected, small, inputs)
        g = np.linspace(-1, 2, small.size, dtype=np.float32).reshape(small.shape)
        for i, rule in enumerate(record.vjps):
            slope = fused(i, {"g": g, "out": small, **values}, params) if small.dtype == np.float32 else NotImplemented
            if rule is not None and slope is not NotImplemented:
                close(
                    slope,
                    rule(F, g.astype(np.float64), small.astype(np.float64), *wide, **params),
                    rule(F, g, small, *inputs, **params),
                    inputs,
                )


@needs_llvm
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "sigmoid", "tanh", "exp", "softplus", "mul"])
def test_bfloat16_is_computed_in_float32_and_rounded_once(name: str) -> None:
    record = REGISTRY[name]
    fused = Fused(record, REGISTRY)
    a = np.random.default_rng(0).standard_normal((3, 50)).astype(ml_dtypes.bfloat16)
    values = dict.fromkeys(record.inputs, a)
    params = {"beta": 1.0, "threshold": 20.0} if name == "softplus" else {}
    out = fused(-1, values, params)
    assert out.dtype == ml_dtypes.bfloat16
    wide = [a.astype(np.float32)] * len(record.inputs)
    np.testing.assert_allclose(out.astype(np.float32), record.forward(np, *wide, **params), rtol=2**-8)
    slope = fused(0, {"g": a, "out": out, **values}, params)
    assert slope.dtype == ml_dtypes.bfloat16
    expected = record.vjps[0](array_vocabulary(np), wide[0], out.astype(np.float32), *wide, **params)
    np.testing.assert_allclose(slope.astype(np.float32), expected, rtol=2**-7, atol=1e-6)


def test_large_arrays_take_fused_loops_and_other_layouts_the_same_values() -> None:
    rng = np.random.default_rng(0)
    record = REGISTRY["gelu_tanh"]
    a = rng.standard_normal((200, 300), np.float32)
    expected = record.reference(a.astype(np.float64))
    for each in (a, a[:, ::2], a.T, a[::-1], np.asfortranarray(a)):
        want = record.reference(each.astype(np.float64))
        np.testing.assert_allclose(record.forward(np, each), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(record.forward(np, a.astype(np.float64)), expected, rtol=1e-12)


def test_rules_that_look_at_values_have_no_formula() -> None:
    _, slopes = formulas(REGISTRY["pow"], REGISTRY)
    assert slopes[1] is None
    assert formulas(REGISTRY["quotient"], REGISTRY)[0] is None  # its formula does not speak of its mode
    with pytest.raises(Untraceable):
        bool(Term("a"))


def test_a_rule_becomes_its_formula() -> None:
    _, (slope,) = formulas(REGISTRY["tanh"], REGISTRY)
    assert listing(slope) == "0 = * out out; 1 = - 1.0 %0; 2 = * g %1; %2"
    assert symbols(slope) == {"g", "out"}
    assert size(slope) == 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a + b * 2 - -a", 8.0), ("a > b ? a : b", 3.0), ("a < b && b < 4 ? 1 : 0", 1.0), ("(a + b) / 2", 2.0),
        ("d = a * 10; d - b", 7.0), ("max(a, min(b, 2))", 2.0), ("1.5e1 * a", 15.0),
    ],
)  # fmt: skip
def test_formulas_are_read_as_c(text: str, value: float) -> None:
    def apply(name: str, *args: Any) -> Any:
        if name == "where":
            return args[1] if args[0] else args[2]
        if name in ("max", "min"):
            return {"max": max, "min": min}[name](*args)
        if name == "neg":
            return -args[0]
        first, second = args
        return {
            "+": first + second, "-": first - second, "*": first * second, "/": first / second if second else 0,
            "<": first < second, ">": first > second, "&&": first and second,
        }[name]  # fmt: skip

    term = parse(text, {"a": Term("a"), "b": Term("b")})
    assert evaluate([term], {"a": 1.0, "b": 3.0}, apply) == [value]


@pytest.mark.parametrize("text", ["a +", "a ? b", "c", "a b", "f(a", "a $ b"])
def test_what_is_no_formula(text: str) -> None:
    with pytest.raises(Untraceable):
        parse(text, {"a": Term("a"), "b": Term("b")})
