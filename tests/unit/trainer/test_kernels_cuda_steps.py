"""Recurrent layers on a GPU beside NumPy's: with `--device cuda` on one, else their text on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from cordee.trainer import ops as ops  # declares the kernels
from cordee.trainer.array import to_numpy
from cordee.trainer.kernels import KERNELS
from cordee.trainer.kernels.cuda import launch, rows_text, steps_text
from cordee.trainer.kernels.registry import load

sys.path.insert(0, str(Path(__file__).parent))
from cuda_support import Nvrtc, cupy_of_tests, needs_compiler

pytestmark = needs_compiler

KINDS = [np.float32, ml_dtypes.bfloat16, np.float16]
TOLERANCE: dict[Any, float] = {np.float32: 2e-5, ml_dtypes.bfloat16: 2**-5, np.float16: 2**-8}
SIZES = [(3, 2, 1), (2, 2, 2), (70,), (1,)]


@pytest.fixture(scope="module")
def xp(request: pytest.FixtureRequest) -> Iterator[Any]:
    with cupy_of_tests(request.config.getoption("--device"), launch.function, launch._module) as module:
        yield module


def normal(seed: int, *shape: int) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape) * 0.7


def close(found: Any, expected: Any, kind: Any) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, tuple):
            close(one, other, kind)
        elif other is None:
            assert one is None
        else:
            values, scale = to_numpy(one).astype(np.float64), max(float(np.abs(other).max()), 1.0)
            assert values.shape == other.shape
            np.testing.assert_allclose(values, other, rtol=TOLERANCE[kind], atol=TOLERANCE[kind] * scale)


def compare(xp: Any, name: str, kind: Any, operands: Any, told: str, sizes: Any, reverse: bool, needs: Any) -> None:
    """A layer and its gradients beside the reference's in double precision; `told`: whose gradients arrive.

    `operands`: gates, states, and what the gradient wants of the weights.
    """
    rounded = [None if each is None else each.astype(kind) for each in operands]
    there = [None if each is None else xp.asarray(each) for each in rounded]
    exact = [None if each is None else each.astype(np.float64) for each in rounded]
    options = {"sizes": sizes, "reverse": reverse}
    found, aux = load(name, "nvrtc")(*there, **options)
    expected, exact_aux = KERNELS[name].reference(np, *exact, **options)
    close((found, aux), (expected, exact_aux), kind)
    assert {each.dtype for each in found} == {np.dtype(kind)}
    slopes = [normal(9, *each.shape).astype(kind) for each in expected]
    given = [None if (told == "states") == (i == 0) and told != "all" else each for i, each in enumerate(slopes)]
    weights = (3, 5) if name == "lstm_layer" else (2, 3)
    grads = load(f"{name}_grad", "nvrtc")(
        *(None if each is None else xp.asarray(each) for each in given), *aux, *there[slice(*weights)], **options,
        needs=needs,
    )  # fmt: skip
    wide = [None if each is None else each.astype(np.float64) for each in given]
    others = KERNELS[f"{name}_grad"].reference(np, *wide, *exact_aux, *exact[slice(*weights)], **options, needs=needs)
    close(grads, others, kind)
    assert {each.dtype for each in grads if each is not None} == {np.dtype(kind)}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("told", ["all", "outputs", "states"])
@pytest.mark.parametrize(
    ("sizes", "width", "kind"),
    [*((sizes, 0, np.float32) for sizes in SIZES), *((SIZES[i], 3, np.float32) for i in (0, 1)),
     *((SIZES[i], 0, kind) for i in (0, 1) for kind in KINDS[1:])],
    ids=str,
)  # fmt: skip
def test_an_lstm_layer(xp: Any, sizes: Any, width: int, kind: Any, told: str, reverse: bool) -> None:
    total, batch, units, hidden = sum(sizes), max(sizes), 5, width or 5
    operands = (
        normal(0, total, 4 * units), normal(1, batch, hidden), normal(2, batch, units), normal(3, 4 * units, hidden),
        normal(4, width, units) if width else None,
    )  # fmt: skip
    for needs in ((True, width > 0), (False, False)):
        compare(xp, "lstm_layer", kind, operands, told, sizes, reverse, needs)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("told", ["all", "outputs", "states"])
@pytest.mark.parametrize(
    ("sizes", "kind"),
    [*((sizes, np.float32) for sizes in SIZES), *((SIZES[i], kind) for i in (0, 1) for kind in KINDS[1:])],
    ids=str,
)
def test_a_gru_layer(xp: Any, sizes: Any, kind: Any, told: str, reverse: bool) -> None:
    total, batch, units = sum(sizes), max(sizes), 5
    operands = normal(0, total, 3 * units), normal(1, batch, units), normal(2, 3 * units, units)
    for bias, needs in ((normal(3, 3 * units), (True, True)), (None, (True, False))):
        compare(xp, "gru_layer", kind, (*operands, bias), told, sizes, reverse, needs)


def test_layers_that_are_not_taken(xp: Any) -> None:
    gates, h, weight = (
        xp.asarray(normal(i, *shape).astype(np.float32)) for i, shape in enumerate(((4, 8), (2, 2), (8, 2)))
    )
    options: dict[str, Any] = {"sizes": (2, 2), "reverse": False}
    lstm, gru = load("lstm_layer", "nvrtc"), load("gru_layer", "nvrtc")
    assert lstm(gates, h, h.astype(np.float64), weight, None, **options) is NotImplemented
    assert lstm(gates[:0], h, h, weight, None, **options) is NotImplemented
    assert lstm(gates[:, ::-1], h, h, weight, None, **options) is NotImplemented
    half = [each.astype(np.float16) for each in (gates, h, h, weight, h)]
    assert lstm(*half, **options) is NotImplemented  # a projection in 16 bits
    assert gru(gates[:, :6], h, weight[:6], None, **options) is NotImplemented  # with gaps
    assert gru(gates.astype(np.float64), h, weight, None, **options) is NotImplemented


@pytest.mark.parametrize("kind", rows_text.KINDS)
def test_nvidias_compiler_takes_the_sources(kind: str) -> None:
    text = Nvrtc().compile(steps_text.source(kind))
    assert all(f".entry {name}(" in text for name in steps_text.KERNELS)
    assert text.count(".entry ") == len(steps_text.KERNELS)
