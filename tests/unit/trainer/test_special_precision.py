"""The special functions are as precise as SciPy's, to the last digits, over their whole range and at its edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer.array import as_array, to_numpy

scipy_special = pytest.importorskip("scipy.special")  # scikit-learn, for the tests, brings it

ALL = np.concatenate([np.linspace(-30, 30, 4001), np.logspace(-10, 2.8, 500), -np.logspace(-10, 2, 200)])
POSITIVE = np.concatenate([np.linspace(0.01, 30, 4001), np.logspace(-10, 6, 500)])
WHOLE_LINE = np.concatenate([POSITIVE, np.linspace(-8.9, -0.1, 88) + 0.017])
INSIDE = np.concatenate([np.linspace(-0.999, 0.999, 2001), 1 - np.logspace(-15, -1, 100)])

# name: (inputs, relative, absolute error); SciPy's own tails of erfc are good to 6e-14, its digamma to 1e-15 absolute
CASES: dict[str, tuple[Any, float, float]] = {
    "erf": (ALL, 1e-15, 0.0),
    "erfc": (ALL[ALL < 26], 1e-13, 0.0),
    "erfinv": (INSIDE, 2e-15, 0.0),
    "lgamma": (WHOLE_LINE, 3e-15, 3e-15),
    "digamma": (WHOLE_LINE, 3e-14, 3e-15),
    "i0": (ALL[np.abs(ALL) < 700], 5e-15, 0.0),
    "i1": (ALL[np.abs(ALL) < 700], 5e-15, 0.0),
    "i0e": (ALL, 5e-15, 0.0),
    "i1e": (ALL, 5e-15, 0.0),
    "erfcx": (ALL[ALL > -5], 2e-14, 0.0),
    "log_ndtr": (ALL, 1e-13, 1e-15),
    "ndtr": (ALL[ALL > -20], 2e-13, 0.0),
}
THEIRS = {"lgamma": "gammaln"}


def _ours(name: str) -> Callable[[Any], Any]:
    return getattr(ct, name, None) or getattr(ct.special, name)  # type: ignore[no-any-return]


def _apply(function: Callable[[Any], Any], x: Any) -> Any:
    return to_numpy(function(ct.Tensor(as_array(x, x.dtype))).data)


@pytest.mark.parametrize("name", CASES)
def test_double_precision_is_scipys(name: str) -> None:
    x, relative, absolute = CASES[name]
    theirs = getattr(scipy_special, THEIRS.get(name, name))(x)
    np.testing.assert_allclose(_apply(_ours(name), x), theirs, rtol=relative, atol=absolute)


@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith("ndtr")])  # made of several steps
def test_single_precision_is_double_precision_rounded(name: str) -> None:
    x = CASES[name][0].astype(np.float32)
    x = x[np.abs(x) < 80]
    ours = _apply(_ours(name), x)
    assert ours.dtype == np.float32
    exact = getattr(scipy_special, THEIRS.get(name, name))(x.astype(np.float64))
    np.testing.assert_allclose(ours, exact, rtol=2e-6 if name == "erf" else 2e-7, atol=1e-37)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_polygamma_is_scipys(n: int) -> None:
    x = POSITIVE[(POSITIVE > 1e-4) & (POSITIVE < 1e3)]
    ours = _apply(lambda t: ct.polygamma(n, t), x)
    np.testing.assert_allclose(ours, scipy_special.polygamma(n, x), rtol=2e-14)


def test_the_first_polygamma_holds_far_below_zero() -> None:
    x = np.linspace(-50.3, -0.3, 51)  # by its recurrence, upwards from a place where SciPy knows it
    expected = scipy_special.polygamma(1, x + 60) + ((x[:, None] + np.arange(60)) ** -2.0).sum(1)
    np.testing.assert_allclose(_apply(lambda t: ct.polygamma(1, t), x), expected, rtol=1e-12)


def test_the_edges_are_pytorchs() -> None:
    inf, nan = np.inf, np.nan
    edges = {
        "erfinv": ([1.0, -1.0, 2.0, 0.0, nan], [inf, -inf, nan, 0.0, nan]),
        "erfc": ([inf, -inf, nan, 30.0], [0.0, 2.0, nan, 0.0]),
        "lgamma": ([0.0, -1.0, inf, -inf, nan, 1.0, 2.0], [inf, inf, inf, inf, nan, 0.0, 0.0]),
        "digamma": ([0.0, -0.0, -1.0, inf, nan], [-inf, inf, nan, inf, nan]),
        "i0": ([0.0, inf, -inf, nan], [1.0, inf, inf, nan]),
    }
    for name, (x, expected) in edges.items():
        np.testing.assert_array_equal(_apply(_ours(name), np.array(x)), expected, err_msg=name)


def test_shapes_and_whole_numbers_are_taken() -> None:
    assert ct.lgamma(ct.tensor([[3, 4]])).dtype == ct.float32
    assert ct.lgamma(ct.tensor(5.0)).shape == ()
    assert ct.erfc(ct.zeros(0, 3)).shape == (0, 3)
    expected = [scipy_special.multigammaln(a, 3) for a in (3.0, 4.5)]
    np.testing.assert_allclose(to_numpy(ct.mvlgamma(ct.tensor([3.0, 4.5]), 3).data), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="at least 1"):
        ct.mvlgamma(ct.tensor([3.0]), 0)
    with pytest.raises(ValueError, match="at least 0"):
        ct.polygamma(-1, ct.tensor([3.0]))
